"""The newest records of a log that this process alone has written, as Redis has confirmed them.

The answer to an append says which log that was, and how many records it holds now. If no other
process has written between two answers, the log holds what was sent. So it need not be read. A log
that was popped, deleted, written by others, or restored after Redis was emptied says so in the next
answer: its first index, its birth, its count or its epoch is another one. After a lost connection,
nothing that was known counts: a Redis that was killed may have lost its newest writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any, Protocol, TypeAlias

from jamboree_gym.arrays.values import are_plain
from jamboree_gym.encoding.batch_format import decode_own_records
from jamboree_gym.store.log import AppendResult, LogSlice

__all__ = ["NewestRecords"]

MAX_RECORDS = 1024
LARGEST_BYTES = 1024  # a log with larger records is read from Redis


class StoredRecords(Protocol):
    """Successive records that were stored together."""

    @property
    def timestamps(self) -> Sequence[float]:
        """Their times, epoch seconds."""

    @property
    def records(self) -> Sequence[bytes]:
        """Encoded."""


_Encoded: TypeAlias = tuple[int, float, bytes]
"""A record that is decoded for each who asks, as its values can be changed: index, time, bytes."""


@dataclass(slots=True, eq=False)
class _Kept:
    """All records of a log from index `start` on; it can be read from `first` on.

    Those before `looked_at` are dicts if they are plain, all others are encoded.
    """

    log: tuple[str, bytes] | None
    first: int
    start: int
    records: list[dict[str, Any] | _Encoded]
    looked_at: int = 0

    @property
    def stop(self) -> int:
        return self.start + len(self.records)


class NewestRecords:
    """Keeps them once somebody has asked for some, and as many as were asked for at most.

    One thread at a time adds; any may read.

    Args:
        key: The log, for error messages.
    """

    __slots__ = ("_kept", "_key", "_read", "_wanted")

    def __init__(self, key: str) -> None:
        self._key = key
        self._wanted = 0
        self.forget()

    def forget(self) -> None:
        """The log is not what it was."""
        self._kept = _Kept(None, 0, 0, [])
        self._read: _Kept | None = None

    def add(self, start: int, stored: Sequence[StoredRecords], result: AppendResult) -> None:
        """Redis has these, from this index on; `result` is what it has said of the log."""
        wanted = self._wanted
        if not wanted:
            return
        timestamps = chain.from_iterable([one.timestamps for one in stored])
        encoded = list(chain.from_iterable([one.records for one in stored]))
        stop = start + len(encoded)
        is_small = max(map(len, encoded), default=0) <= LARGEST_BYTES
        if result.log is None or result.was_repeated or result.count != stop or not is_small:
            self.forget()
            return
        kept = self._kept
        new = zip(count(start), timestamps, encoded)
        read, self._read = self._read, None
        if kept.log != result.log or kept.stop != start:
            kept = _Kept(result.log, 0, start, [])
        elif read is not None and read.stop == start and read.start < kept.start:
            kept = read  # of the same log, to which nobody has added anything since
        records = [*kept.records, *new][-wanted:]
        first_kept = stop - len(records)
        looked_at = max(0, kept.looked_at - (first_kept - kept.start))
        self._kept = _Kept(result.log, result.first, first_kept, records, looked_at)

    def learn(self, found: LogSlice, records: Sequence[dict[str, Any]]) -> None:
        """The newest ones, as they were just read from Redis: what is added next continues them."""
        kept, batches = self._kept, found.batches
        if kept.log is None or not records or records[-1]["index"] + 1 != kept.stop:
            return
        records = records[-self._wanted :]
        nbytes, count = sum([len(one.body) for one in batches]), sum([one.count for one in batches])
        if nbytes <= LARGEST_BYTES * count and are_plain(records):
            start, first = kept.stop - len(records), found.head.first
            self._read = _Kept(None, first, start, [*map(dict.copy, records)], len(records))

    def last(self, n: int) -> list[dict[str, Any]] | None:
        """The newest n as they were when Redis answered last, None if not all of them are here."""
        self._wanted = max(self._wanted, min(n, MAX_RECORDS))
        kept = self._kept
        skipped = max(kept.first, kept.stop - n) - kept.start
        if kept.log is None or skipped < 0:
            return None
        self._look_at(kept)
        records: list[Any] = kept.records[skipped:]
        try:
            return list(map(dict.copy, records))
        except TypeError:  # not all are decoded
            return [one.copy() if type(one) is dict else self._decoded([one])[0] for one in records]

    def _look_at(self, kept: _Kept) -> None:
        """Decode what is new. Where a Ctrl-C cuts it off, it is decoded for each who asks."""
        looked_at, kept.looked_at = kept.looked_at, len(kept.records)
        new: list[Any] = kept.records[looked_at:]
        if not new or dict in map(type, new):  # another thread has done it meanwhile
            return
        decoded = self._decoded(new)
        if not are_plain(decoded):
            both = zip(new, decoded, strict=True)
            decoded = [one if are_plain((one,)) else raw for raw, one in both]
        kept.records[looked_at:] = decoded

    def _decoded(self, records: Sequence[_Encoded]) -> list[dict[str, Any]]:
        _, timestamps, encoded = zip(*records, strict=True)
        return decode_own_records(records[0][0], timestamps, encoded, where=self._key)
