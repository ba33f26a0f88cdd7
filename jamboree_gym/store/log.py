"""What goes into a log's store and comes out of it: frozen records, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

from jamboree_gym.codec import Frame, Head, decode_frame, decode_head
from jamboree_gym.errors import DecodeError

__all__ = ["Append", "AppendResult", "IndexEntry", "LogSlice"]


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
        note: Replaces the head's note; empty keeps the old one.
        entry: Listing to refresh in the same step.
        blobs: Content that the frames refer to, by digest; stored before them.
    """

    key: str
    codec: int
    frames: Sequence[bytes]
    note: bytes = b""
    entry: IndexEntry | None = None
    blobs: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class AppendResult:
    """What the server decided.

    Attributes:
        stored: How many of the frames, from the first on, are in the log now, from this try or an
            earlier one. The next one does not continue the log: another writer was there first.
        count: Records in the log, counted from its very first.
        t_last: Timestamp of the newest record, epoch seconds.
    """

    stored: int
    count: int
    t_last: float


@dataclass(frozen=True, slots=True, eq=False)
class LogSlice:
    """Head of a log and the frames that overlap what was asked for."""

    head: Head
    frames: list[Frame]

    @classmethod
    def from_answer(cls, answer: Any, *, where: str) -> LogSlice | None:
        """What the script `READ` answers; None when there is no such log.

        Raises:
            DecodeError: Head or frames are damaged, do not continue each other, or go on behind the
                log's end.
        """
        if answer is None:
            return None
        head, raw = answer
        frames = [decode_frame(frame, where=where) for frame in raw]
        for before, after in pairwise(frames):
            if after.start != before.stop:
                raise DecodeError(f"{where} at index {before.stop}: a batch is missing")
        decoded = decode_head(head, where=where)
        if frames and frames[-1].stop > decoded.count:  # who follows the log would never get on
            raise DecodeError(f"{where} at index {frames[-1].start}: a batch beyond the log's end")
        return cls(decoded, frames)
