"""Whether there is a backup at a place; if there is none, which one may have been meant."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from jamboree_gym.keys import database_name
from jamboree_gym.store.backups.errors import BackupUnavailable
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.folder.nearby import folders_nearby
from jamboree_gym.store.urls import backup_name, folder_of, folder_url, is_folder

__all__ = ["check_is_not_gone", "check_is_there", "is_there"]

MOST_NAMED = 3


def is_there(backup: BackupStore) -> bool:
    """Whether something was ever copied there."""
    return bool(backup.identity().id) or next(iter(backup.keys()), None) is not None


def check_is_there(backup: BackupStore, namespace: str) -> None:
    """Check that something was ever copied there; else `BackupUnavailable` names what is near."""
    if not is_there(backup):
        where = backup_name(backup.where)
        if is_folder(backup.where) and not folder_of(backup.where).is_dir():
            where += ", which is not there"
        near = _what_is_near(backup, namespace)
        raise BackupUnavailable(f"there is no backup of {namespace!r} in {where}\n{near}")


def _what_is_near(backup: BackupStore, namespace: str) -> str:
    own = database_name(namespace)
    names = [name for name in backup.namespaces() if name != own]
    if names:
        likely = get_close_matches(own, names, MOST_NAMED, cutoff=0.0)
        more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
        return f"it holds others: {', '.join(likely)}{more}; name one as the namespace"
    near = folders_nearby(folder_of(backup.where)) if is_folder(backup.where) else []
    if near:
        return f"backups near it: {', '.join(map(folder_url, near[:MOST_NAMED]))}"
    return "nothing was ever copied there: is the name right?"


def check_is_not_gone(where: str, namespace: str, known_at: Callable[[], str | None]) -> None:
    """Check that a folder which is the backup of a namespace is there; else `BackupUnavailable`.

    A disk that is not mounted would else get a new backup in the place of the first one.

    Args:
        where: URL of the backup.
        namespace: The namespace.
        known_at: Says where the backup is that has acknowledged; None where none has.
    """
    if not is_folder(where):
        return
    folder = folder_of(where)
    directory = folder / database_name(namespace)
    if not directory.is_dir() and known_at() == folder_url(folder):
        raise BackupUnavailable(
            f"the folder {directory} is the backup, and is not there: mount its disk, and the "
            "backup goes on; or make the folder, for a new backup"
        )
