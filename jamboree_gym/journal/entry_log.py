"""Entries of any size, one after the other, in blocks of memory.

One number in the block's header, the bytes used, publishes an entry that is complete.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from typing import NamedTuple

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
    "decode_entries",
    "decode_record",
    "encode_record",
]

SCHEMA, BLOB, RECORD = 1, 2, 3
_ENTRY = struct.Struct("<II")  # size of what follows, kind
# is confirmed, length of the key, index that it was sent with, time
_RECORD = struct.Struct("<IIQd")
_INDEX = struct.Struct("<Q")
_INDEX_AT = 8
NEVER_SENT = 2**64 - 1


class RecordPlace(NamedTuple):
    """Where a record is in its block: it is marked there once Redis has it.

    The block is kept as long as somebody has the place.
    """

    block: Block
    at: int

    def confirm(self) -> None:
        """Redis has the record, or nobody wants it any more."""
        self.block.words[self.at // 4] = 1

    def plan(self, index: int) -> None:
        """The record is about to be sent as that with this index."""
        first = self.at + _INDEX_AT  # in one piece: `pack_into` writes zeros before
        self.block.content[first : first + _INDEX.size] = _INDEX.pack(index)


class EntryLog:
    """A log of entries. Safe to use from several threads.

    Args:
        segments: Gives blocks.
    """

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._block = segments.block(0, KIND_LOG)
        self._end = FIRST_BYTE
        self._lock = threading.Lock()

    def append(self, kind: int, content: bytes) -> RecordPlace:
        """Write an entry; where its content is."""
        with self._lock:
            needed = _ENTRY.size + len(content)
            needed += -needed % 8
            block, at = self._block, self._end
            if at + needed > block.size:
                size = min(2 * block.size, LARGEST_BYTES) - FIRST_BYTE
                block, at = self._segments.block(max(needed, size), KIND_LOG), FIRST_BYTE
            _ENTRY.pack_into(block.content, at, len(content), kind)
            first = at + _ENTRY.size
            block.content[first : first + len(content)] = content
            end = at + needed
            block.words[LENGTH_WORD] = end - FIRST_BYTE
            self._block, self._end = block, end
            return RecordPlace(block, first)


def encode_record(key: bytes, time_s: float, record: bytes) -> bytes:
    """An entry of kind `RECORD`."""
    return b"".join((_RECORD.pack(0, len(key), NEVER_SENT, time_s), key, record))


class StoredRecord(NamedTuple):
    """A record that a dead process has left: its log, what `encode_record` got, where it is."""

    key: str
    is_confirmed: bool
    planned_index: int | None
    time_s: float
    record: bytes
    place: RecordPlace


def decode_record(content: bytes, place: RecordPlace) -> StoredRecord:
    """Inverse of `encode_record`."""
    is_confirmed, key_size, index, time_s = _RECORD.unpack_from(content)
    split = _RECORD.size + key_size
    key = content[_RECORD.size : split].decode()
    planned = None if index == NEVER_SENT else index
    return StoredRecord(key, bool(is_confirmed), planned, time_s, content[split:], place)


def decode_entries(content: bytes, used: int) -> Iterator[tuple[int, int, bytes]]:
    """Kind, offset and content of each entry of a segment with so many bytes used."""
    at, stop = FIRST_BYTE, min(FIRST_BYTE + used, len(content))
    while at + _ENTRY.size <= stop:
        size, kind = _ENTRY.unpack_from(content, at)
        first = at + _ENTRY.size
        if first + size > stop:
            return
        yield kind, first, content[first : first + size]
        at = first + size + -(_ENTRY.size + size) % 8
