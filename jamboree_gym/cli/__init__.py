"""The command line: `jamboree-gym`. One module per group of commands; each parses, calls, shows.

The library is imported where a command runs, so that `--help` is quick.

Imports: `backup`, `errors`, `integrations`, `jamboree`, `progress`, `reading`, `records`, `replay`,
    `runs`, `servers`, `store`, `tables`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from jamboree_gym.errors import MissingExtra

if TYPE_CHECKING:
    import typer

__all__ = ["app", "main"]


def build_app() -> typer.Typer:
    """The typer app with all commands.

    Raises:
        MissingExtra: typer is not installed.
    """
    try:
        import typer

        from jamboree_gym.cli import (
            backup,
            episodes,
            exchange,
            fork,
            migrate,
            runs,
            servers,
            tail,
            ui,
            verify,
            version,
            video,
        )
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        raise MissingExtra("the command line needs: pip install 'jamboree-gym[cli]'") from error
    built = typer.Typer(
        help="Every step of a Gymnasium environment, kept.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for one in (runs, episodes, tail, verify, fork, video, exchange, ui, backup, migrate, servers):
        one.register(built)
    version.register(built)
    return built


def __getattr__(name: str) -> typer.Typer:
    if name == "app":  # built on demand, so that this module can be imported without the extra
        return build_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command line; entry point of `jamboree-gym`."""
    try:
        run = build_app()
    except MissingExtra as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    run()
