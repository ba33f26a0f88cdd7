"""What commands that simulate episodes again share: where environments come from, and a bar."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from jamboree_gym.errors import ReplayError
from jamboree_gym.progress import Progress as Told

__all__ = ["ModulesOption", "TrustOption", "import_modules", "progress_bar"]

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
    """Import what registers environments.

    Raises:
        ReplayError: One cannot be imported; says why.
    """
    if modules and "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: modules of the working directory
    for name in modules or ():
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ReplayError(f"--import {name}: {type(error).__name__}: {error}") from error


@contextmanager
def progress_bar(doing: str) -> Iterator[Told]:
    """A progress bar where somebody looks."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns = doing, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
