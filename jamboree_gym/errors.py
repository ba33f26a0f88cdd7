"""The error tree. Every error that this package raises on purpose derives from `JamboreeError`.

Messages say what happened, where (host and key, never a password) and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = [
    "BackupMismatch",
    "BufferMismatch",
    "CheckpointNotFound",
    "ColumnConflict",
    "DecodeError",
    "EmbeddedServerError",
    "EpisodeInUse",
    "EpisodeNotFound",
    "ExportError",
    "InvalidArgument",
    "InvalidExpression",
    "InvalidRecord",
    "InvalidUrl",
    "JamboreeClosed",
    "JamboreeError",
    "MissingExtra",
    "NotCopyable",
    "NotReset",
    "ReplayArgument",
    "ReplayError",
    "ReplayMismatch",
    "RunNotFound",
    "StoreFull",
    "StoreUnavailable",
    "UnknownKey",
    "UnsavedRecords",
    "UnsupportedServer",
    "UnsupportedSpace",
]


class JamboreeError(Exception):
    """Base of every error raised by jamboree-gym.

    Attributes:
        returned: What the environment returned, where `step` or `reset` of a recorded environment
            raises after it has moved; None where it has not moved.
    """

    returned: Any = None


class StoreUnavailable(JamboreeError):
    """Redis or the backup could not be reached, refused the login, or did not answer in time."""


class StoreFull(JamboreeError):
    """The server answered that it has no memory or disk left for a write."""


class UnsupportedServer(JamboreeError):
    """The server is not the kind, or not the version, that the request needs."""


class EmbeddedServerError(JamboreeError):
    """The embedded servers of a home directory could not be started, joined or stopped."""


class MissingExtra(JamboreeError, ImportError):
    """An optional dependency is not installed; the message holds the pip command."""


class InvalidUrl(JamboreeError, ValueError):
    """A store URL has a scheme or a shape that is not supported."""


class InvalidArgument(JamboreeError, ValueError, TypeError):
    """An argument of a call is wrong; the message names it and says what to give."""


class InvalidRecord(JamboreeError, ValueError):
    """A record cannot be stored; the message names the key and the value."""


class InvalidExpression(JamboreeError, ValueError):
    """An expression over columns cannot be parsed; the message shows where."""


class UnknownKey(JamboreeError, LookupError):
    """A handler was given a key that it does not declare in `required`, or one is not set yet."""


class NotCopyable(JamboreeError, TypeError):
    """A value cannot be copied or pickled, a password for example; says what to do instead."""


class NotReset(UnknownKey, AttributeError):
    """A recorded environment was asked for its episode before it was reset; `hasattr` is False."""


class UnsupportedSpace(JamboreeError, TypeError):
    """A Gymnasium space cannot be recorded; the message names the space."""


class EpisodeNotFound(JamboreeError, LookupError):
    """No episode of that id is in the store."""


class RunNotFound(JamboreeError, LookupError):
    """No run of that name is in the store, or no training of it."""


class CheckpointNotFound(JamboreeError, LookupError):
    """No such checkpoint is in the store, or not all of it."""


class EpisodeInUse(JamboreeError):
    """Another writer appends to the same episode, or to a run that is to be deleted."""


class DecodeError(JamboreeError, ValueError):
    """Stored bytes are damaged or of an unknown format; the message names key and offset."""


class ColumnConflict(JamboreeError, ValueError):
    """The values of two episodes do not fit into one column; the message names both episodes."""


class ExportError(JamboreeError, ValueError):
    """Episodes cannot be written in another format; names the leaf, or the file in the way."""


class BackupMismatch(JamboreeError):
    """The backup holds other bytes under a key than Redis does."""


class BufferMismatch(JamboreeError, ValueError):
    """A replay buffer cannot hold what was recorded; the message says what is different."""


class ReplayError(JamboreeError):
    """An episode cannot be replayed or re-simulated; the message says what is missing."""


class ReplayArgument(ReplayError, InvalidArgument):
    """An argument of a replay is wrong: there is no such step, or no such kind of file."""


class ReplayMismatch(ReplayError):
    """A replay got or returned something else than was recorded; names both values."""


class JamboreeClosed(JamboreeError):
    """The object was used after `close()`."""


class UnsavedRecords(JamboreeError):
    """`flush()` or `close()` could not bring everything to Redis.

    Attributes:
        unsaved: Number of records (episode rows included) that Redis has not acknowledged.
    """

    def __init__(self, message: str, *, unsaved: int) -> None:
        super().__init__(message)
        self.unsaved = unsaved


@contextmanager
def closing_after(error: BaseException | None) -> Iterator[None]:
    """Close something in a block; what that raises becomes a note of an `error` before it."""
    try:
        yield
    except JamboreeError as second:
        if error is None:
            raise
        notes = getattr(second, "__notes__", [])
        error.add_note("\n".join([f"{type(second).__name__} at its close: {second}", *notes]))
