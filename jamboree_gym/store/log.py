"""What goes into a log's store and comes out of it: frozen records, no I/O."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

from jamboree_gym.encoding.batch_format import Frame, Head, decode_frame, decode_head, frame_span
from jamboree_gym.errors import DecodeError

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
    "MongoIdentity",
    "birth_of",
    "identity",
    "key_of",
]

_BORN = struct.Struct(">d")


def identity(key: str, born: float) -> str:
    """A log and its birth: what tells it from others of the same key; `#` is in no quoted key."""
    return f"{key}#{_BORN.pack(born).hex()}"


def key_of(identity: str) -> str:
    """The key in it."""
    return identity.partition("#")[0]


class IndexEntry(NamedTuple):
    """Where a log is listed: one field in the summaries of its run.

    Attributes:
        name: The episode's id.
        summary: What a listing shows of it, encoded.
        run: The run it belongs to.
        time: When it was last written, epoch seconds.
    """

    name: str
    summary: bytes
    run: str
    time: float


class Append(NamedTuple):
    """One atomic append: frames that continue each other, and a new note if there is one.

    Attributes:
        key: The log.
        codec: Codec of its frames.
        frames: Encoded frames, each beginning where the one before ends.
        after: Records in the log after it.
        note: Replaces the head's note; empty keeps the old one.
        entry: Listing to refresh in the same step.
        blobs: Content that the frames refer to, by digest; stored before them.
        born: Timestamp of the log's first record, epoch seconds; None where another may have begun
            it.
        is_repeated: Whether an earlier try may have been stored.
        asked_in: The epoch in which MongoDB was asked for this log.
    """

    key: str
    codec: int
    frames: Sequence[bytes]
    after: int
    note: bytes = b""
    entry: IndexEntry | None = None
    blobs: Mapping[str, bytes] = MappingProxyType({})
    born: float | None = None
    is_repeated: bool = False
    asked_in: str = ""


def birth_of(append: Append) -> float:
    """Birth of the log that an append begins, or goes on with; -inf where that is not known."""
    if append.born is not None:
        return append.born
    if append.frames:
        start, _, t_first, _ = frame_span(append.frames[0])
        if start == 0:
            return t_first
    return -math.inf


@dataclass(frozen=True, slots=True)
class AppendResult:
    """What the server decided.

    Attributes:
        stored: How many of the frames, from the first on, are in the log now, from this try or an
            earlier one. The next one does not continue the log: another writer was there first.
        count: Records in the log, counted from its very first.
        t_last: Timestamp of the newest record, epoch seconds.
        is_deleted: Whether the log was deleted after an earlier try had begun it.
        was_repeated: Whether the answer to an earlier try had been lost.
    """

    stored: int
    count: int
    t_last: float
    is_deleted: bool = False
    was_repeated: bool = False

    @property
    def is_absent(self) -> bool:
        """Whether there is no such log in Redis, for whatever reason."""
        return self.count == 0 and not self.is_deleted


class Asked(NamedTuple):
    """What MongoDB said of logs that Redis does not have.

    Attributes:
        epoch: In which it was asked.
        deleted: Those of them that were deleted.
    """

    epoch: str
    deleted: set[str]


class Acknowledged(NamedTuple):
    """Logs of which it could not be noted that MongoDB holds them.

    Attributes:
        gone: They are not there any more, or others are.
        overtaken: Redis was emptied, and holds less of them now, or something else.
    """

    gone: set[str]
    overtaken: set[str]


@dataclass(frozen=True, slots=True)
class BackupMark:
    """What the backup last said of itself.

    Attributes:
        by: Host and process that copies.
        seen_at: When it said so, by Redis' clock, epoch seconds.
        complete_until: All that was stored before this was in MongoDB by then; None = no change.
        error: What kept it from copying, empty if nothing did.
    """

    by: str
    seen_at: float
    complete_until: float | None
    error: str


class MongoIdentity(NamedTuple):
    """One MongoDB among others.

    Attributes:
        id: At random, kept in it; empty where no backup has ever gone there.
        where: Its hosts.
    """

    id: str
    where: str


@dataclass(frozen=True, slots=True)
class BackupClaim:
    """Somebody would copy a namespace to MongoDB.

    Attributes:
        by: Who.
        to: Where to.
        seconds: For how long, if it is not said again.
    """

    by: str
    to: str
    seconds: float


class Adoption(NamedTuple):
    """A MongoDB acknowledges from now on.

    Attributes:
        epoch: In which it does.
        is_unsettled: Whether logs may still be there that another one has acknowledged.
        instead_of: Where that is; empty if it is the same as before.
    """

    epoch: str
    is_unsettled: bool
    instead_of: str


@dataclass(frozen=True, slots=True, eq=False)
class LogSlice:
    """Head of a log and the frames that overlap what was asked for."""

    head: Head
    frames: list[Frame]

    @classmethod
    def from_answer(cls, answer: Any, *, where: str) -> LogSlice | None:
        """What the script `READ` answers; None when there is no such log.

        Raises:
            DecodeError: Head or frames are damaged, or do not continue each other, or go beyond
                the log's end.
        """
        if answer is None:
            return None
        head, raw = answer[:2]
        frames = [decode_frame(frame, where=where) for frame in raw]
        for before, after in pairwise(frames):
            if after.start != before.stop:
                raise DecodeError(f"{where} at index {before.stop}: a batch is missing")
        decoded = decode_head(head, where=where)
        if frames and frames[-1].stop > decoded.count:  # who follows the log would never get on
            raise DecodeError(f"{where} at index {frames[-1].start}: a batch beyond the log's end")
        return cls(decoded, frames)
