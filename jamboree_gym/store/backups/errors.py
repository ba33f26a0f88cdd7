"""Errors of backups, and the check whether one can be opened that needs threads."""

from __future__ import annotations

import threading

from jamboree_gym.errors import StoreUnavailable

__all__ = ["BackupUnavailable", "InterpreterEnds", "check_threads"]


class BackupUnavailable(StoreUnavailable):
    """The backup does not answer, or cannot be read or written now."""


class InterpreterEnds(BackupUnavailable):
    """pymongo needs threads, and Python 3.12 and newer starts none while the interpreter ends."""

    def __init__(self) -> None:
        super().__init__(
            "MongoDB cannot be opened while the interpreter ends; a Jamboree that is closed "
            "before, by `close()` or `with`, waits for its backup"
        )


def check_threads() -> None:
    """Check that threads can start (else `InterpreterEnds`): a new client would wait in vain."""
    try:
        threading.Thread(target=int).start()
    except RuntimeError as error:
        raise InterpreterEnds from error
