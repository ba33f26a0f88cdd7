"""The newest records of a log that this process alone has written, as Redis has confirmed them.

The answer to an append says which log that was, and how many records it holds now. If no other
process has written between two answers, the log holds what was sent. So it need not be read. A log
that was popped, deleted, written by others, or restored after Redis was emptied says so in the next
answer: its first index, its birth, its count or its epoch is another one. After a lost connection,
nothing that was known counts: a Redis that was killed may have lost its newest writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any, Protocol, TypeAlias

from jamboree_gym.arrays.values import are_plain
from jamboree_gym.encoding.batch_format import decode_own_records
from jamboree_gym.errors import DecodeError
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

    Those before `looked_at` are dicts if they are plain, all others are encoded. `copies` of the
    newest n, by n, are for the first who asks for so many.
    """

    log: tuple[str, bytes] | None
    first: int
    start: int
    records: list[dict[str, Any] | _Encoded]
    looked_at: int = 0
    copies: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def stop(self) -> int:
        return self.start + len(self.records)

    def skipped(self, n: int) -> int:
        """How many are older than the newest n that can be read; negative = so many are missing."""
        return max(self.first, self.stop - n) - self.start

    def followed_by(self, stored: Sequence[StoredRecords], most: int) -> _Kept:
        """The newest of these and of those that are stored next."""
        timestamps = chain.from_iterable([one.timestamps for one in stored])
        encoded = chain.from_iterable([one.records for one in stored])
        records = [*self.records, *zip(count(self.stop), timestamps, encoded)]
        dropped = max(0, len(records) - most)
        looked_at = max(0, self.looked_at - dropped)
        return _Kept(self.log, self.first, self.start + dropped, records[dropped:], looked_at)


class NewestRecords:
    """Keeps them once somebody has asked for some, and as many as were asked for at most.

    One thread at a time adds; any may read.

    Args:
        key: The log, for error messages.

    Attributes:
        awaited: How many somebody waits for now.
    """

    __slots__ = ("_ahead", "_kept", "_key", "_read", "_wanted", "awaited")

    def __init__(self, key: str) -> None:
        self._key = key
        self.awaited = self._wanted = 0
        self.forget()

    def forget(self) -> None:
        """The log is not what it was."""
        self._kept = _Kept(None, 0, 0, [])
        self._read: _Kept | None = None
        self._ahead: tuple[Sequence[StoredRecords], _Kept] | None = None

    def expect(self, n: int) -> None:
        """Somebody is about to ask for the newest n, once Redis has all of them."""
        self.awaited = n
        self._wanted = max(self._wanted, min(n, MAX_RECORDS))

    def look_ahead(self, start: int, sent: Sequence[StoredRecords]) -> None:
        """Redis works on these: make the answer for who waits, if nobody else has written."""
        n, self.awaited, self._ahead = self.awaited, 0, None
        kept = self._latest(start)
        if kept.log is None or not _are_small(sent):
            return
        ahead = kept.followed_by(sent, self._wanted)
        if (skipped := ahead.skipped(n)) >= 0:
            with suppress(DecodeError):  # who asks is told
                ahead.copies[n] = self._copies(ahead, skipped)
                self._ahead = sent, ahead

    def add(self, start: int, stored: Sequence[StoredRecords], result: AppendResult) -> None:
        """Redis has these, from this index on; `result` is what it has said of the log."""
        if not self._wanted:
            return
        stop = start + sum([len(one.records) for one in stored])
        if result.log is None or result.was_repeated or result.count != stop:
            self.forget()
            return
        sent, kept = self._ahead or ((), None)
        if kept is None or sent != stored or (kept.log, kept.first) != (result.log, result.first):
            if not _are_small(stored):
                self.forget()
                return
            before = self._latest(start)
            if before.log != result.log:
                before = _Kept(result.log, 0, start, [])
            kept = before.followed_by(stored, self._wanted)
            kept.first = result.first
        self._kept, self._read, self._ahead = kept, None, None

    def _latest(self, start: int) -> _Kept:
        """What is known of the log up to this index."""
        kept, read = self._kept, self._read
        if kept.stop != start:
            return _Kept(None, 0, start, [])
        if read is not None and read.stop == start and read.start < kept.start:
            return read  # of the same log, to which nobody has added anything since
        return kept

    def learn(self, found: LogSlice, records: Sequence[dict[str, Any]]) -> None:
        """The newest ones, as they were just read from Redis: what is added next continues them."""
        kept, batches = self._kept, found.batches
        if kept.log is None or not records or records[-1]["index"] + 1 != kept.stop:
            return
        records = records[-self._wanted :]
        nbytes, count = sum([len(one.body) for one in batches]), sum([one.count for one in batches])
        if nbytes <= LARGEST_BYTES * count and are_plain(records):
            start, first = kept.stop - len(records), found.head.first
            self._read = _Kept(kept.log, first, start, [*map(dict.copy, records)], len(records))

    def last(self, n: int) -> list[dict[str, Any]] | None:
        """The newest n as they were when Redis answered last, None if not all of them are here."""
        self.awaited = 0
        kept = self._kept
        skipped = kept.skipped(n)
        if kept.log is None or skipped < 0:
            return None
        return kept.copies.pop(n, None) or self._copies(kept, skipped)

    def _copies(self, kept: _Kept, skipped: int) -> list[dict[str, Any]]:
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


def _are_small(stored: Sequence[StoredRecords]) -> bool:
    """Whether they are kept here."""
    encoded = chain.from_iterable([one.records for one in stored])
    return max(map(len, encoded), default=0) <= LARGEST_BYTES
