"""What a replay is handed over: arguments of the environment, or a function that makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from jamboree_gym.cli.commands import imported
from jamboree_gym.cli.typed_values import named_values
from jamboree_gym.errors import InvalidArgument

__all__ = ["MakeOption", "handed_over", "named"]

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
    handed = named_values("--arg", arguments)
    return {"make": None if make is None else named("--make", make), "env_kwargs": handed or None}


def named(option: str, name: str) -> Any:
    """What the user names by `module:name`; the module is imported.

    Raises:
        InvalidArgument: The text does not have this form, or that cannot be imported.
    """
    module, _, path = name.partition(":")
    if not (module and path):
        raise InvalidArgument(f"{option} {name}: give module:function")
    return imported(option, name)
