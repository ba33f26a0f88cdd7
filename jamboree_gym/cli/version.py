"""`--version`."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["program"]


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib import metadata  # it takes a while

        typer.echo(f"jamboree-gym {metadata.version('jamboree-gym')}")
        raise typer.Exit


def program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Every step of a Gymnasium environment, kept."""
