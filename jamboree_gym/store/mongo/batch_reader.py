"""Reads parts of one log in MongoDB: finds batches by index or time without reading the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jamboree_gym.encoding.batch_format import Batch, batch_span, decode_batch
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.log import LogSlice
from jamboree_gym.store.mongo.documents import KeptLog
from jamboree_gym.store.mongo.store import MongoStore

__all__ = ["KeptBatches", "is_lacking"]

Span = tuple[int, int, float, float]
"""Start, stop, first and last time of a batch."""


def is_lacking(found: LogSlice, how: tuple[Any, ...]) -> bool:
    """Whether Redis' answer to such a read may lack batches that only MongoDB holds."""
    head, batches = found.head, found.batches
    if head.held <= head.first:
        return False
    match how:
        case ("range", start, stop):
            return bool(max(start, head.first) < min(stop, head.held))
        case ("last", n):
            return bool(n > 0 and head.count - n < head.held)
        case ("between", t0, *_) if not batches:
            return float(t0) <= head.t_last
        case ("as_of", _, 0) if batches:
            return False
        case _:
            return not batches or batches[0].start <= head.held


class KeptBatches:
    """Batches of one log below `held`: those that Redis has evicted.

    Args:
        mongo: The backup.
        key: The log.
        log: The log's document.
        held: Index of the first record that Redis holds.
    """

    def __init__(self, mongo: MongoStore, key: str, log: KeptLog, held: int) -> None:
        self._mongo = mongo
        self._key = key
        self._log = log
        self._held = held
        self._inline: list[tuple[Span, bytes]] = [(batch_span(one), one) for one in log.batches]
        self._where = f"MongoDB at {mongo.where}: {key}"

    def selected(self, found: LogSlice, how: tuple[Any, ...]) -> list[Batch]:
        """The batches that Redis' answer to such a read lacks.

        Raises:
            DecodeError: A batch is damaged or missing.
        """
        head = found.head
        match how:
            case ("range", start, stop):
                return self.covering(max(start, head.first), stop)
            case ("last", n):
                return self.covering(max(head.count - n, head.first), self._held)
            case ("between", t0, t1, before):
                start = self._first(lambda span: span[3] >= float(t0))
                stop = self._first(lambda span: span[2] > float(t1))
                if start >= stop and not found.batches:
                    return []
                return self.covering(self._start_before(start, before), max(start, stop))
            case ("as_of", t, before):
                stop = self._held if found.batches else self._first(lambda span: span[2] > float(t))
                return self.covering(self._start_before(stop, before + (not found.batches)), stop)
        raise TypeError(f"there is no such read: {how!r}")

    def covering(self, start: int, stop: int) -> list[Batch]:
        """Batches that contain any index in `[start, stop)`.

        Raises:
            DecodeError: A batch is damaged or missing.
        """
        stop = min(stop, self._held)
        if start >= stop:
            return []
        blobs = [one for span, one in self._inline if span[1] > start and span[0] < stop]
        batches = [decode_batch(one, where=self._where) for one in blobs]
        if self._inline_stop < stop:
            first = self._span_at(max(start, self._inline_stop))[0]
            for kept in self._mongo.batches_from(self._key, self._log.head.born, first, stop):
                if kept.blob is None:
                    raise DecodeError(
                        f"{self._where} at index {kept.start}: checksum does not match"
                    )
                batches.append(decode_batch(kept.blob, where=self._where))
        self._check(batches, start, stop)
        return batches

    def _check(self, batches: list[Batch], start: int, stop: int) -> None:
        expected = start
        for batch in batches:
            if batch.start > expected:
                break
            expected = batch.stop
        if expected < stop:
            raise DecodeError(f"{self._where} at index {expected}: a batch is missing")

    @property
    def _inline_stop(self) -> int:
        return self._inline[-1][0][1] if self._inline else 0

    def _span_at(self, index: int) -> Span:
        """Start, stop and times of the batch that contains an index."""
        span = next((span for span, _ in self._inline if span[0] <= index < span[1]), None)
        if span is None:
            span = self._mongo.batch_at(self._key, self._log.head.born, index)
        if span is None or not span[0] <= index < span[1]:
            raise DecodeError(f"{self._where} at index {index}: a batch is missing")
        return span

    def _first(self, is_at_or_after: Callable[[Span], bool]) -> int:
        """Start of the first batch that passes the test, as all later ones do; else `held`."""
        low, high = self._log.head.first, self._held
        while low < high:
            span = self._span_at((low + high) // 2)
            if is_at_or_after(span):
                high = max(low, span[0])
            else:
                low = span[1]
        return min(low, self._held)

    def _start_before(self, index: int, batches: int) -> int:
        """Start of the batch that is this number of batches before an index."""
        for _ in range(batches):
            if index <= self._log.head.first:
                break
            index = self._span_at(index - 1)[0]
        return index
