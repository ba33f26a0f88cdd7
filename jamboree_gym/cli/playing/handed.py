"""What a replay is handed over: arguments of the environment, or a function that makes it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from jamboree_gym.cli.typed_values import env_argument
from jamboree_gym.errors import InvalidArgument

__all__ = ["MakeOption", "handed_over"]

MakeOption = Annotated[
    str | None,
    typer.Option(
        "--make",
        metavar="MODULE:FUNCTION",
        help="Your function that makes the environment, if it cannot be rebuilt.",
    ),
]


def handed_over(make: str | None, arguments: Sequence[str] | None) -> dict[str, Any]:
    """The arguments `make` and `env_kwargs` of a replay.

    Raises:
        InvalidArgument: The function cannot be imported, or an argument is not `name=value`.
    """
    handed = dict(map(env_argument, arguments or ()))
    return {"make": None if make is None else _function(make), "env_kwargs": handed or None}


def _function(name: str) -> Any:
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise InvalidArgument(f"--make {name}: give module:function")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: find modules in the working directory
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise InvalidArgument(f"--make {name}: {type(error).__name__}: {error}") from error
    return found
