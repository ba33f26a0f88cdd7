"""`--version`."""

from __future__ import annotations

from typing import Annotated

import typer

import jamboree_gym

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the option of this module."""
    app.callback()(program)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"jamboree-gym {jamboree_gym.__version__}")
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
