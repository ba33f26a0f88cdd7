"""Options that choose a command's store, and how commands show errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from jamboree_gym.errors import JamboreeError
from jamboree_gym.jamboree import Jamboree

__all__ = [
    "HomeOption",
    "MongoUrlOption",
    "NamespaceOption",
    "RedisUrlOption",
    "errors_shown",
    "open_store",
    "printable",
]

_PANEL = "Store"

HomeOption = Annotated[
    Path | None,
    typer.Option(
        help="Directory of the servers.",
        envvar="JAMBOREE_HOME",
        show_default="user data",
        rich_help_panel=_PANEL,
    ),
]
RedisUrlOption = Annotated[
    str | None,
    typer.Option(
        help="redis://, rediss:// or unix://.",
        envvar="JAMBOREE_REDIS_URL",
        show_default="embedded",
        rich_help_panel=_PANEL,
    ),
]
MongoUrlOption = Annotated[
    str | None,
    typer.Option(
        help="mongodb:// or mongodb+srv://.",
        envvar="JAMBOREE_MONGO_URL",
        show_default="embedded",
        rich_help_panel=_PANEL,
    ),
]
NamespaceOption = Annotated[
    str, typer.Option(help="Namespace of the project.", rich_help_panel=_PANEL)
]


def open_store(
    home: Path | None, redis_url: str | None, namespace: str, mongo_url: str | None = None
) -> Jamboree:
    """Open the store that the options name."""
    return Jamboree(redis_url, mongo_url, home=home, namespace=namespace)


@contextmanager
def errors_shown(exit_code: int = 1) -> Iterator[None]:
    """Show our own errors as a message instead of a traceback."""
    try:
        yield
    except JamboreeError as error:
        typer.echo(f"error: {printable(str(error))}", err=True)
        raise typer.Exit(exit_code) from error


def printable(text: str) -> str:
    """Stored text without characters that would control the terminal."""
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in text
    )
