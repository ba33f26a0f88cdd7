"""Entries of any size, one after the other, in blocks of memory.

One number in the block's header, the bytes used, publishes an entry that is complete.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import NamedTuple, TypeAlias

from jamboree_gym.journal.segments import (
    FIRST_BYTE,
    KIND_LOG,
    LARGEST_BYTES,
    LENGTH_WORD,
    Block,
    Segments,
)

__all__ = [
    "BLOB",
    "RECORD",
    "SCHEMA",
    "EntryLog",
    "RecordPlace",
    "StoredRecord",
    "confirm_records",
    "decode_entries",
    "decode_record",
    "plan_records",
]

SCHEMA, BLOB, RECORD = 1, 2, 3
_ENTRY = struct.Struct("<II")  # size of what follows, kind
# is confirmed, length of the key, index that it was sent with last, time
_RECORD = struct.Struct("<IIQd")
_RECORD_ENTRY = struct.Struct("<IIIIQd")  # both, in one piece: a save has little time
_INDEX_QUAD = 1  # of the content of a record, in pieces of eight bytes
NEVER_SENT = 2**64 - 1

RecordPlace: TypeAlias = tuple[Block, int]
"""Where a record is: its block, and where in it the content begins.

The block is kept as long as somebody has the place.
"""


def plan_records(places: Iterable[RecordPlace | None], start: int) -> None:
    """These are about to be sent, the first with index `start`."""
    for place, index in zip(places, count(start)):
        if place is not None:
            block, at = place
            block.quads[at // 8 + _INDEX_QUAD] = index


def confirm_records(places: Sequence[RecordPlace | None]) -> None:
    """Redis has these, or nobody wants them any more.

    The first is noted last: after a kill in between, those that are left still begin with the
    record by whose time a deletion of their log is known.
    """
    for place in reversed(places):
        if place is not None:
            block, at = place
            block.words[at // 4] = 1


class EntryLog:
    """A log of entries. Safe to use from several threads.

    Args:
        segments: Gives blocks.
    """

    __slots__ = ("_block", "_end", "_lock", "_segments")

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._block = segments.block(0, KIND_LOG)
        self._end = FIRST_BYTE
        self._lock = threading.Lock()

    def append(self, kind: int, content: bytes) -> Block:
        """Write an entry of kind `SCHEMA` or `BLOB`; the block that has it."""
        return self._append(_ENTRY.pack(len(content), kind) + content)[0]

    def append_record(self, key: bytes, time_s: float, record: bytes) -> RecordPlace:
        """Write a record of the log with this key."""
        size = _RECORD.size + len(key) + len(record)
        header = _RECORD_ENTRY.pack(size, RECORD, 0, len(key), NEVER_SENT, time_s)
        return self._append(header + key + record)

    def _append(self, entry: bytes) -> RecordPlace:
        size = len(entry)
        with self._lock:
            block, at = self._block, self._end
            end = at + (size + 7 & -8)
            if end > block.size:
                block = self._larger_block(size)
                at, end = FIRST_BYTE, FIRST_BYTE + (size + 7 & -8)
            block.content[at : at + size] = entry
            block.words[LENGTH_WORD] = end - FIRST_BYTE
            self._block, self._end = block, end
            return block, at + _ENTRY.size

    def _larger_block(self, size: int) -> Block:
        next_size = min(2 * self._block.size, LARGEST_BYTES) - FIRST_BYTE
        return self._segments.block(max(size + 7 & -8, next_size), KIND_LOG)


class StoredRecord(NamedTuple):
    """A record that a dead process has left: its log, what was kept of it, where it is."""

    key: str
    is_confirmed: bool
    planned_index: int | None
    time_s: float
    record: bytes
    place: RecordPlace


def decode_record(content: bytes, place: RecordPlace) -> StoredRecord:
    """Inverse of `EntryLog.append_record`."""
    is_confirmed, key_size, index, time_s = _RECORD.unpack_from(content)
    split = _RECORD.size + key_size
    key = content[_RECORD.size : split].decode()
    planned = None if index == NEVER_SENT else index
    return StoredRecord(key, bool(is_confirmed), planned, time_s, content[split:], place)


def decode_entries(content: bytes, used: int) -> Iterator[tuple[int, int, bytes]]:
    """Kind, offset and content of each entry of the used bytes of a segment."""
    at, stop = FIRST_BYTE, min(FIRST_BYTE + used, len(content))
    while at + _ENTRY.size <= stop:
        size, kind = _ENTRY.unpack_from(content, at)
        first = at + _ENTRY.size
        if first + size > stop:
            return
        yield kind, first, content[first : first + size]
        at = first + size + -(_ENTRY.size + size) % 8
