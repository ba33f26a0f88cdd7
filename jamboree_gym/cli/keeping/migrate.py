"""`migrate`: updates a store that an older release wrote."""

from __future__ import annotations

from typing import Annotated

import typer

from jamboree_gym.cli.commands import NO, JsonOption, StoreOptions
from jamboree_gym.cli.output import print_json, printable
from jamboree_gym.wording import counted

__all__ = ["migrate"]


def migrate(
    store: StoreOptions,
    redis_only: Annotated[
        bool, typer.Option("--redis-only", help="There is no MongoDB, or nothing in it.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Bring what an older release wrote into the format of this one.

    No process may write to the namespace meanwhile. If the command is interrupted, run it again.
    What is damaged is named and left as it is; then the exit code is 1.

    Example: jamboree-gym migrate --redis-only
    """
    from jamboree_gym.store.migrations import migrate as migrate_store

    with store.open() as jam:
        outcome = migrate_store(
            jam._connection.redis_store, None if redis_only else jam._connection.backup_store
        )
    if json:
        print_json({"changed": outcome.changed, "damaged": outcome.damaged})
    else:
        typer.echo(f"{counted(len(outcome.changed), 'log')} brought up to date")
        for what in outcome.damaged:
            typer.echo(f"left as it is: {printable(what)}", err=True)
    if outcome.damaged:
        raise typer.Exit(NO)
