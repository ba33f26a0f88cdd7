"""Records that go into a log's store and come out of it; frozen, without I/O."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import msgspec

from jamboree_gym.encoding.batch_format import Batch, Head, batch_span, decode_batch, decode_head
from jamboree_gym.errors import DecodeError, JamboreeError

__all__ = [
    "Acknowledged",
    "Adoption",
    "Append",
    "AppendResult",
    "Asked",
    "BackupClaim",
    "BackupMark",
    "IndexEntry",
    "LogSlice",
    "BackupIdentity",
    "birth_of",
    "identity",
    "key_of",
    "log_of_identity",
    "or_error",
]

_BORN = struct.Struct(">d")
_T = TypeVar("_T")


def identity(key: str, born: float) -> str:
    """Key and birth of a log: its identity among logs of one key. No quoted key has a `#`."""
    return f"{key}#{_BORN.pack(born).hex()}"


def key_of(identity: str) -> str:
    """The key in an identity."""
    return identity.partition("#")[0]


def log_of_identity(identity: str) -> tuple[str, float]:
    """Key and birth in an identity; a `DecodeError` if it is damaged."""
    key, _, born = identity.partition("#")
    try:
        return key, float(_BORN.unpack(bytes.fromhex(born))[0])
    except (ValueError, struct.error) as error:
        raise DecodeError(f"{identity!r} names no log, it is damaged") from error


def or_error(decode: Callable[[], _T]) -> _T | DecodeError:
    """What a function decodes, or the `DecodeError` that it raises."""
    try:
        return decode()
    except DecodeError as error:
        return error


class IndexEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry of an episode in a listing: one field, `name` (its id), in the summaries of its run.

    Without a name it only names the run, because of its sessions, metrics or checkpoints. `time` is
    that of the last write, epoch seconds.
    """

    name: str
    summary: bytes
    run: str
    time: float


class Append(msgspec.Struct, frozen=True, gc=False):
    """One atomic append: consecutive batches, and optionally a new note.

    Attributes:
        key: The log.
        codec: Codec of the log's batches.
        batches: Encoded batches; each begins where the one before ends.
        after: Number of records in the log after the append.
        note: New note of the head; empty keeps the old one.
        entry: Listing to update in the same step.
        blobs: Content that the batches refer to, by digest; stored before them.
        born: Timestamp of the log's first record, epoch seconds; None if another writer may have
            begun the log.
        is_repeated: Whether an earlier attempt may have been stored.
        may_predate_epoch: Whether that attempt may be from before Redis was emptied: of a dead
            process, the sender does not know that.
        asked_in: The epoch in which the backup was asked for this log.
        is_uncertain: Whether it did not answer then, so that it may have what an earlier attempt
            has stored.
        is_continued: Whether Redis has had records of the log: where it has none any more, the
            backup has to answer first.
    """

    key: str
    codec: int
    batches: Sequence[bytes]
    after: int
    note: bytes = b""
    entry: IndexEntry | None = None
    blobs: Mapping[str, bytes] = MappingProxyType({})
    born: float | None = None
    is_repeated: bool = False
    asked_in: str = ""
    is_uncertain: bool = False
    may_predate_epoch: bool = False
    is_continued: bool = False


def birth_of(append: Append) -> float:
    """Birth of the log that an append begins or continues; -inf if it is unknown."""
    if append.born is not None:
        return append.born
    if append.batches:
        start, _, t_first, _ = batch_span(append.batches[0])
        if start == 0:
            return t_first
    return -math.inf


class AppendResult(msgspec.Struct, frozen=True, gc=False):
    """The server's answer to an append.

    Attributes:
        stored: How many of the batches, from the first on, are in the log now, by this attempt or
            an earlier one. The next batch does not continue the log: another writer was faster.
        count: Records in the log, counted from its very first.
        newest_at: Timestamp of the newest record, epoch seconds; also as the server says it.
        is_deleted: Whether the log was deleted after an earlier attempt had begun it.
        was_repeated: Whether an earlier attempt was stored, but its answer was lost.
        must_ask: Whether `LogStore.ask_for` has to be called for this log before it is begun, or
            before it is known what an earlier attempt has stored.
        first: Lowest index that can be read.
        log: Tells the log from all others of its key: lost connections and epoch, and its birth.
            None if there is no log.
    """

    stored: int
    count: int
    newest_at: float | bytes
    is_deleted: bool = False
    was_repeated: bool = False
    must_ask: bool = False
    first: int = 0
    log: tuple[str, bytes] | None = None

    @property
    def t_last(self) -> float:
        """Timestamp of the newest record, epoch seconds."""
        return float(self.newest_at)  # seldom needed, and 17 digits take their time

    @property
    def is_absent(self) -> bool:
        """Whether Redis has no such log, for any reason."""
        return self.count == 0 and not self.is_deleted


class Asked(NamedTuple):
    """What the backup says of logs.

    Attributes:
        epoch: That of the question.
        deleted: Those that were deleted, of the logs that Redis lacks.
        stored: How many batches of an append, from the first on, are in its log already.
        failed: Logs of which this is not known, and why: their appends have to wait.
        is_uncertain: Whether the backup did not answer.
    """

    epoch: str
    deleted: set[str]
    stored: Mapping[str, int] = MappingProxyType({})
    failed: Mapping[str, JamboreeError] = MappingProxyType({})
    is_uncertain: bool = False


class Acknowledged(NamedTuple):
    """Logs whose acknowledgement could not be stored in Redis.

    Those that are `gone` do not exist, or were replaced by others. Of the `overtaken`, Redis holds
    fewer records, or other ones, because it was emptied.
    """

    gone: set[str]
    overtaken: set[str]


@dataclass(frozen=True, slots=True)
class BackupMark:
    """The last status that the backup, a host and process, stored in Redis.

    `seen_at` is its time by Redis' clock, epoch seconds. Everything stored before `complete_until`
    was in the backup then; None = no change. `error` is what stopped the copy; empty = nothing.
    """

    by: str
    seen_at: float
    complete_until: float | None
    error: str


class BackupIdentity(NamedTuple):
    """Identity of a backup at some hosts: a random id, stored in it.

    It is empty if no backup has ever gone there.
    """

    id: str
    where: str


@dataclass(frozen=True, slots=True)
class BackupClaim:
    """A request of the backup `by` for the lease to copy `to` a backup, for some seconds."""

    by: str
    to: str
    seconds: float


class Adoption(NamedTuple):
    """A change of the backup that acknowledges, and the new epoch.

    If it `is_unsettled`, Redis may still have logs that another backup has acknowledged: that at
    the hosts `instead_of`, empty if it is the same one.
    """

    epoch: str
    is_unsettled: bool
    instead_of: str


@dataclass(frozen=True, slots=True, eq=False)
class LogSlice:
    """Head of a log, and the batches that overlap the requested range."""

    head: Head
    batches: list[Batch]

    @classmethod
    def from_answer(cls, answer: Any, *, where: str) -> LogSlice | None:
        """Decode the answer of the script `READ`; None if there is no such log.

        Raises:
            DecodeError: Head or batches are damaged, do not continue each other, or exceed the end
                of the log.
        """
        if answer is None:
            return None
        head, raw = answer[:2]
        batches = [decode_batch(batch, where=where) for batch in raw]
        for before, after in pairwise(batches):
            if after.start != before.stop:
                raise DecodeError(f"{where} at index {before.stop}: a batch is missing")
        decoded = decode_head(head, where=where)
        if batches and batches[-1].stop > decoded.count:  # a follower would wait for ever
            raise DecodeError(f"{where} at index {batches[-1].start}: a batch beyond the log's end")
        return cls(decoded, batches)
