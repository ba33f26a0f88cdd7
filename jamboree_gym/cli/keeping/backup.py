"""`backup`: compares a project with its backup, copies and restores."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from jamboree_gym.cli.commands import (
    NO,
    JsonOption,
    StoreOptions,
    progress_bar,
)
from jamboree_gym.cli.episode_ids import EpisodesArgument, named_episodes
from jamboree_gym.cli.output import as_plain, print_json, print_lines
from jamboree_gym.wording import counted

__all__ = ["copy", "flush", "restore", "status", "verify"]


def flush(store: StoreOptions, json: JsonOption = False) -> None:
    """Copy what the backup does not hold yet.

    The automatic backup copies what is saved; this command waits until all of it is copied.

    Example: jamboree-gym backup flush
    """
    with store.open() as jam, progress_bar("copying") as progress:
        copied = jam.backup.flush(progress=progress)
    if json:
        print_json({"records": copied})
    else:
        typer.echo(f"{counted(copied, 'record')} copied")


def status(store: StoreOptions, json: JsonOption = False) -> None:
    """Show how far the backup is behind, and who copies. Asks Redis only.

    Example: jamboree-gym backup status
    """
    with store.open() as jam:
        found = jam.backup.status()
    if json:
        print_json(found)
    else:
        print_lines(str(found))


def verify(store: StoreOptions, json: JsonOption = False) -> None:
    """Compare both sides, byte for byte.

    Exit code 0: all is equal and whole. 1: something differs. 2: it could not be compared.

    Example: jamboree-gym backup verify
    """
    with store.open() as jam, progress_bar("comparing") as progress:
        report = jam.backup.verify(progress=progress)
    if json:
        print_json({"equal": bool(report), **as_plain(report)})
    else:
        print_lines(str(report))
    if not report:
        raise typer.Exit(NO)


def restore(
    store: StoreOptions,
    episodes: EpisodesArgument = None,
    from_url: Annotated[
        str | None,
        typer.Option("--from", help="This backup: a folder, or a URL."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Put back into Redis what the backup holds and Redis does not. Overwrites nothing newer.

    On a new machine it makes the home, if --from, --backup-url or a variable names a backup.

    Example: jamboree-gym backup restore
    """
    from jamboree_gym.connection.chosen_urls import chosen_backup_url

    chosen = store if from_url is None else replace(store, backup_url=_url(from_url))
    is_named = chosen_backup_url(chosen.backup_url, None) is not None
    with chosen.open(is_new=is_named) as jam, progress_bar("restoring") as progress:
        only = named_episodes(jam, episodes) if episodes else None
        restored = jam.backup.restore(only, progress=progress)
    if json:
        print_json({"logs": restored})
    else:
        typer.echo(f"{counted(restored, 'log')} put back")


def copy(
    store: StoreOptions,
    to: Annotated[str, typer.Option(help="That backup: a folder, or a URL.")],
    json: JsonOption = False,
) -> None:
    """Copy the backup to another one, which may be of another kind.

    What was deleted here is deleted there, too. Nothing is overwritten.

    Example: jamboree-gym backup copy --to copied
    """
    from jamboree_gym.store.urls import backed_up_to, backup_name, folder_of, is_folder

    url = _url(to)
    is_new = is_folder(url) and not folder_of(url).is_dir()
    with store.open() as jam, progress_bar("copying") as progress:
        copied = jam.backup.copy_to(url, progress=progress)
    if json:
        print_json({"logs": copied})
    else:
        where = backup_name(backed_up_to(url))
        typer.echo(f"{counted(copied, 'log')} copied to {where}{', which is new' * is_new}")


def _url(given: str) -> str:
    """A URL as it is given, or that of a folder."""
    from jamboree_gym.store.urls import folder_url

    return given if "://" in given else folder_url(given)
