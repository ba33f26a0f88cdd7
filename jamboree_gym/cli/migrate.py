"""`migrate`: updates a store that an older release wrote."""

from __future__ import annotations

from typing import Annotated

import typer

from jamboree_gym.cli.commands import StoreOptions, add_store_command, errors_shown, printable
from jamboree_gym.store.migrations import migrate as migrate_store

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    add_store_command(app, migrate)


def migrate(
    store: StoreOptions,
    redis_only: Annotated[
        bool, typer.Option("--redis-only", help="There is no MongoDB, or nothing in it.")
    ] = False,
) -> None:
    """Bring what an older release wrote into the format of this one.

    No process may write to the namespace meanwhile. If the command is interrupted, run it again.
    What is damaged is named and left as it is; then the exit status is 1.

    Example: jamboree-gym migrate --namespace my-project
    """
    with errors_shown(), store.open() as jam:
        outcome = migrate_store(
            jam._connection.redis_store, None if redis_only else jam._connection.mongo_store
        )
        typer.echo(f"{len(outcome.changed)} logs brought up to date")
        for what in outcome.damaged:
            typer.echo(f"left as it is: {printable(what)}", err=True)
        if outcome.damaged:
            raise typer.Exit(1)
