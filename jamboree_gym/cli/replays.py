"""Options that replay commands share: where environments come from."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from jamboree_gym.errors import ReplayError

__all__ = ["ModulesOption", "TrustOption", "import_modules"]

ModulesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--import", help="A module to import first, as it registers environments; repeatable."
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-entry-point",
        help="Import and call what the store names: whoever writes there runs code here.",
    ),
]


def import_modules(modules: Sequence[str] | None) -> None:
    """Import modules that register environments.

    Raises:
        ReplayError: A module cannot be imported; says why.
    """
    if modules and "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: find modules in the working directory
    for name in modules or ():
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ReplayError(f"--import {name}: {type(error).__name__}: {error}") from error
