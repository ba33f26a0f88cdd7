"""`backup`: compares a project with its copy in MongoDB, copies and restores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from jamboree_gym.backup import Backup
from jamboree_gym.cli import retention
from jamboree_gym.cli.commands import (
    StoreOptions,
    add_store_command,
    errors_shown,
    printable,
    progress_bar,
)

__all__ = ["register"]

DIFFERENT = 1
NOT_DONE = 2


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    commands = typer.Typer(
        help="Copy to MongoDB, compare, restore, make room.", no_args_is_help=True
    )
    for command in (flush, status, verify, restore):
        add_store_command(commands, command)
    retention.register(commands)
    app.add_typer(commands, name="backup")


@contextmanager
def _open_backup(store: StoreOptions) -> Iterator[Backup]:
    with errors_shown(NOT_DONE), store.open() as jam:
        yield jam.backup


def flush(store: StoreOptions) -> None:
    """Copy what MongoDB does not hold yet.

    The automatic backup copies what is saved; this command waits until all of it is copied.

    Example: jamboree-gym backup flush --namespace my-project
    """
    with (
        _open_backup(store) as backup,
        progress_bar("copying") as progress,
    ):
        typer.echo(f"{backup.flush(progress=progress):,} records copied")


def status(store: StoreOptions) -> None:
    """Show how far MongoDB is behind, and who copies. Asks Redis only.

    Example: jamboree-gym backup status --redis-url redis://localhost
    """
    with _open_backup(store) as backup:
        typer.echo(printable(str(backup.status())))


def verify(store: StoreOptions) -> None:
    """Compare both sides, byte for byte.

    Exit code 0: all is equal and whole. 1: something differs. 2: it could not be compared.

    Example: jamboree-gym backup verify --namespace my-project
    """
    with (
        _open_backup(store) as backup,
        progress_bar("comparing") as progress,
    ):
        report = backup.verify(progress=progress)
    typer.echo(printable(str(report)))
    raise typer.Exit(0 if report else DIFFERENT)


def restore(
    store: StoreOptions,
    episode_ids: Annotated[
        list[str] | None, typer.Argument(metavar="EPISODE_ID", help="Only these episodes.")
    ] = None,
) -> None:
    """Put back into Redis what MongoDB holds and Redis does not. Overwrites nothing newer.

    Example: jamboree-gym backup restore --namespace my-project
    """
    with (
        _open_backup(store) as backup,
        progress_bar("restoring") as progress,
    ):
        typer.echo(f"{backup.restore(episode_ids or None, progress=progress):,} logs put back")
