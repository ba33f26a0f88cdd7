"""What lies in a home has to be ours: no other user's file is opened, and no link followed.

A directory may have been open to others before we closed it. What they left there looks like ours.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from jamboree_gym.errors import EmbeddedServerError

__all__ = [
    "check_entry",
    "check_tree",
    "foreign",
    "open_own",
    "read_own",
]

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe would block us
_ADVICE = (
    "remove it if you do not know it, or name another directory: home=... or JAMBOREE_HOME=..."
)


def foreign(path: Path | str, uid: int) -> EmbeddedServerError:
    """The error for what belongs to somebody else."""
    return _refused(path, f"belongs to another user (uid {uid})")


def check_entry(path: Path) -> None:
    """Make sure that a path is free, or ours, and no link. What it is shows where it is used.

    Raises:
        EmbeddedServerError: It is not; names it.
    """
    _check(path)


def check_tree(directory: Path) -> None:
    """Make sure that a directory of ours holds files and directories of ours, and no links.

    Raises:
        EmbeddedServerError: It does not; names what is in the way.
    """
    with os.scandir(directory) as entries:
        for entry in entries:
            path = Path(entry.path)
            _check(path, may_have_names=True)  # as backups by hard links give them
            if entry.is_dir(follow_symlinks=False):
                check_tree(path)


def open_own(path: Path, flags: int) -> int:
    """Open a file of ours, which is made (for us alone) if the flags say so.

    Raises:
        EmbeddedServerError: It is somebody else's, or no file.
        OSError: It cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | _NO_LINK | getattr(os, "O_CLOEXEC", 0), 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR):
            check_entry(path)
        raise
    try:
        found = os.fstat(descriptor)
        _check_found(path, found)
        if not stat.S_ISREG(found.st_mode):
            raise _refused(path, "is not a file")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_own(path: Path) -> str:
    """The text in a file of ours.

    Raises:
        EmbeddedServerError: It is somebody else's, or no file.
        OSError: It cannot be read.
        ValueError: It is no text.
    """
    with os.fdopen(open_own(path, os.O_RDONLY), encoding="utf-8") as file:
        return file.read()


def _check(path: Path, *, may_have_names: bool = False) -> None:
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    _check_found(path, found, may_have_names=may_have_names)


def _check_found(path: Path, found: os.stat_result, *, may_have_names: bool = False) -> None:
    if found.st_uid != os.geteuid():
        raise foreign(path, found.st_uid)
    if stat.S_ISLNK(found.st_mode):
        raise _refused(path, "is a symbolic link, which is not followed")
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1 and not may_have_names:
        raise _refused(path, "has another name elsewhere (a hard link)")


def _refused(path: Path | str, why: str) -> EmbeddedServerError:
    return EmbeddedServerError(f"{path} {why}: the embedded servers do not use it\n{_ADVICE}")
