"""Opens, checks and locks files of a home: no file of another user is opened, no link is followed.

A directory may have been open to others before we made it private, with files that look like ours:
such a file, or one that is none, raises `EmbeddedServerError`.

A server process holds the lock on its data for as long as it lives: the supervisor takes the lock,
and the server inherits it, so that two servers never run on the same data.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from jamboree_gym.errors import EmbeddedServerError

if sys.platform != "win32":
    import fcntl

__all__ = [
    "append_to",
    "check_entry",
    "check_tree",
    "foreign",
    "is_lock_held",
    "open_own",
    "read_own",
    "take_lock",
]

LOCK_POLL_S = 0.01
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe would block us
_ADVICE = (
    "remove it if you do not know it, or name another directory: home=... or JAMBOREE_HOME=..."
)


def foreign(path: Path | str, uid: int) -> EmbeddedServerError:
    """The error for a file of another user."""
    return _refused(path, f"belongs to another user (uid {uid})")


def check_entry(path: Path, *, may_have_names: bool = False) -> None:
    """Check that nothing is at a path, or something of ours that is no link; the error names it.

    What kind of file it is, shows when it is used. With `may_have_names` it may be a hard link.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        _check_found(path, path.lstat(), may_have_names=may_have_names)


def check_tree(directory: Path) -> None:
    """Check that a directory of ours holds only files and directories of ours, and no links.

    The error names the path in question.
    """
    with os.scandir(directory) as entries:
        for entry in entries:
            path = Path(entry.path)
            # Backups by hard links give a file several names.
            check_entry(path, may_have_names=True)
            if entry.is_dir(follow_symlinks=False):
                check_tree(path)


def open_own(path: Path, flags: int) -> int:
    """Open a file of ours; with O_CREAT in the flags, make it readable for us alone.

    Raises:
        EmbeddedServerError: It belongs to another user, or is no file.
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
    """The text of a file of ours; the errors of `open_own`, and ValueError if it is no text."""
    with os.fdopen(open_own(path, os.O_RDONLY), encoding="utf-8") as file:
        return file.read()


def append_to(log: Path) -> BinaryIO:
    """A log of ours, opened for the output of a process; the errors are those of `open_own`."""
    return os.fdopen(open_own(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab")


def take_lock(path: Path, *, timeout_s: float = 0.0) -> int | None:
    """Take the lock; return the descriptor to inherit, or None if a live process holds the lock."""
    deadline = time.monotonic() + timeout_s
    descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
        time.sleep(LOCK_POLL_S)


def is_lock_held(path: Path) -> bool:
    """Whether a live process holds the lock. Makes no file."""
    try:
        descriptor = open_own(path, os.O_RDWR)
    except OSError:  # no server has run here yet, or the home is not ours
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def _check_found(path: Path, found: os.stat_result, *, may_have_names: bool = False) -> None:
    if found.st_uid != os.geteuid():
        raise foreign(path, found.st_uid)
    if stat.S_ISLNK(found.st_mode):
        raise _refused(path, "is a symbolic link, which is not followed")
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1 and not may_have_names:
        raise _refused(path, "has another name elsewhere (a hard link)")


def _refused(path: Path | str, why: str) -> EmbeddedServerError:
    return EmbeddedServerError(f"{path} {why}: the embedded servers do not use it\n{_ADVICE}")
