"""A folder of files, each of which is whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from jamboree_gym.errors import ExportError

__all__ = ["aside_of", "locked", "whole"]

_LOCK = ".lock"  # readers of data sets leave names aside that begin with a dot
_ASIDE = ".jamboree-new"  # nobody else's files end so: those that are left behind are removed


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder, and be the only one who writes into it.

    What a process that was killed there had not finished is removed.

    Raises:
        ExportError: Another process writes there, or it is no folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ExportError(
            f"{folder} is a file: name a folder, into which several files go"
        ) from error
    try:
        with FileLock(folder / _LOCK, timeout=0):
            for left in folder.rglob(f".*{_ASIDE}*"):
                left.unlink()
            yield
    except Timeout as error:
        raise ExportError(f"{folder}: another process is writing there; wait for it") from error


def aside_of(path: Path) -> Path:
    """Where what shall be at `path` may lie as long as it is not whole."""
    return path.with_name(f".{path.name}{_ASIDE}")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file that shall be at `path` when it is whole and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
