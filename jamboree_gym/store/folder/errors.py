"""Turns errors of files into errors that say what happened to the folder, and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jamboree_gym.errors import StoreFull
from jamboree_gym.store.backups.errors import BackupUnavailable

__all__ = ["gone", "translated"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def translated(folder: Path) -> Iterator[None]:
    """Raise a `JamboreeError` in place of an `OSError`, except a file that is not there."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        where, reason = f"the folder {folder}", error.strerror or str(error)
        if error.errno in _FULL:
            raise StoreFull(
                f"{where} has no disk space left ({reason}): free some, and the backup goes on"
            ) from error
        if error.errno in _REFUSED:
            raise BackupUnavailable(
                f"{where} cannot be used: {reason}; allow this user to read and write it"
            ) from error
        raise BackupUnavailable(f"{where} cannot be used: {reason}") from error


def gone(folder: Path) -> BackupUnavailable:
    """The error for a folder that was there before, or whose place is missing."""
    return BackupUnavailable(
        f"the folder {folder} is not there: mount its disk, or make {folder.parent}, and the "
        "backup goes on"
    )
