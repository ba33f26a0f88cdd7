"""What goes into a log's store and comes out of it: frozen records, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from jamboree_gym.codec import Frame, Head

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
