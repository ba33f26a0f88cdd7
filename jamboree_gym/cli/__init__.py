"""The command line: `jamboree-gym`. One module per group of commands; each parses, calls, shows.

Imports: `backup`, `errors`, `jamboree`, `progress`, `reading`, `replay`, `servers`, `store`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from jamboree_gym.errors import MissingExtra

if TYPE_CHECKING:
    import typer

__all__ = ["app", "main"]

_TOOLKIT = ("typer", "rich")


def build_app() -> typer.Typer:
    """The typer app with all commands.

    Raises:
        MissingExtra: typer or rich is not installed.
    """
    try:
        import typer

        from jamboree_gym.cli import backup, migrate, servers, verify, video
    except ModuleNotFoundError as error:
        if error.name not in _TOOLKIT:
            raise
        raise MissingExtra("the command line needs: pip install 'jamboree-gym[cli]'") from error
    built = typer.Typer(
        help="Every step of a Gymnasium environment, kept.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    servers.register(built)
    verify.register(built)
    video.register(built)
    backup.register(built)
    migrate.register(built)
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
