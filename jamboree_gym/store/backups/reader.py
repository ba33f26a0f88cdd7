"""Reads logs from the backup: whole logs in order, or the batches that a read of one log needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from jamboree_gym.encoding.batch_format import Batch, Head, batch_span, decode_batch
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.backups.records import StoredBatch, StoredLog
from jamboree_gym.store.log import LogSlice, identity, key_of
from jamboree_gym.store.urls import backup_name

__all__ = ["StoredBatches", "batches_of", "checked_chain", "is_lacking", "stored_logs"]

LOGS_PER_QUERY = 200

Span = tuple[int, int, float, float]
"""Start, stop, first and last time of a batch."""


def stored_logs(
    backup: BackupStore, keys: Sequence[str]
) -> Iterator[tuple[str, tuple[Head, Iterator[bytes]] | DecodeError | None]]:
    """Read several logs, sorted by key.

    Yields:
        For each key: the head and the batches, in order; or the error of a damaged document; or
        None if the log is missing. Take the batches before the next log: they come from the same
        stream. A damaged batch raises `DecodeError`.
    """
    for first in range(0, len(keys), LOGS_PER_QUERY):
        part = keys[first : first + LOGS_PER_QUERY]
        logs = backup.logs(part)
        split = [key for key in part if _is_split(logs.get(key))]
        batches = _SortedBatches(backup.batches_between(split[0], split[-1]) if split else ())
        for key in part:
            log = logs.get(key)
            if not isinstance(log, StoredLog):
                yield key, log
            else:
                where = f"{backup_name(backup.where)}: {key}"
                yield key, (log.head, _in_order(log, batches, key, where))


def batches_of(backup: BackupStore, key: str, log: StoredLog) -> Iterator[bytes]:
    """All batches of one log, in order; a damaged one raises `DecodeError`."""
    batches = _SortedBatches(backup.batches_between(key, key) if _is_split(log) else ())
    return _in_order(log, batches, key, f"{backup_name(backup.where)}: {key}")


def _is_split(log: StoredLog | DecodeError | None) -> bool:
    """Whether some of the log's batches have their own documents."""
    if not isinstance(log, StoredLog):
        return False
    return not log.batches or batch_span(log.batches[-1])[1] < log.head.count


def _in_order(log: StoredLog, batches: _SortedBatches, key: str, where: str) -> Iterator[bytes]:
    """Batches that continue each other; a batch that is stored twice is returned once."""
    expected = 0
    for blob in log.batches:
        expected = decode_batch(blob, where=where).stop
        yield blob
    for batch in batches.of(identity(key, log.head.born)):
        blob = _blob_of(batch, where)
        if expected <= batch.start < log.head.count:
            expected = decode_batch(blob, where=where).stop
            yield blob


class _SortedBatches:
    """Finds the batches of logs in a stream sorted by log; ask for the logs in the same order."""

    def __init__(self, batches: Iterable[tuple[str, StoredBatch]]) -> None:
        self._batches = iter(batches)
        self._next = next(self._batches, None)

    def of(self, log: str) -> Iterator[StoredBatch]:
        key = key_of(log)
        while self._next is not None and key_of(self._next[0]) <= key:
            found, batch = self._next
            self._next = next(self._batches, None)
            if found == log:
                yield batch


def checked_chain(blobs: Iterable[bytes], head: Head, *, where: str) -> Iterator[Batch]:
    """Check that the batches contain every readable record of the log, without a gap.

    A batch that is damaged or missing raises `DecodeError`, here and in what follows.
    """
    expected = head.first
    for blob in blobs:
        batch = decode_batch(blob, where=where)
        if batch.start > expected:
            raise _missing(where, expected)
        expected = max(expected, batch.stop)  # popped ones may be left, with a gap behind them
        yield batch
    if expected < head.count:
        raise _missing(where, expected)


def _missing(where: str, index: int) -> DecodeError:
    return DecodeError(f"{where} at index {index}: a batch is missing")


def _blob_of(batch: StoredBatch, where: str) -> bytes:
    if batch.blob is None:
        raise DecodeError(f"{where} at index {batch.start}: checksum does not match")
    return batch.blob


def is_lacking(found: LogSlice, how: tuple[Any, ...]) -> bool:
    """Whether Redis' answer to such a read may lack batches that only the backup holds."""
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


class StoredBatches:
    """Batches of one log below `held`: those that Redis has evicted."""

    def __init__(self, backup: BackupStore, key: str, log: StoredLog, held: int) -> None:
        self._backup = backup
        self._key = key
        self._log = log
        self._held = held
        self._inline: list[tuple[Span, bytes]] = [(batch_span(one), one) for one in log.batches]
        self._where = f"{backup_name(backup.where)}: {key}"

    def selected(self, found: LogSlice, how: tuple[Any, ...]) -> list[Batch]:
        """The batches that Redis' answer to such a read lacks."""
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
        """Batches that contain any index in `[start, stop)`."""
        stop = min(stop, self._held)
        if start >= stop:
            return []
        blobs = [one for span, one in self._inline if span[1] > start and span[0] < stop]
        if self._inline_stop < stop:
            first = self._span_at(max(start, self._inline_stop))[0]
            later = self._backup.batches_from(self._key, self._log.head.born, first, stop)
            blobs += [_blob_of(one, self._where) for one in later]
        wanted = replace(self._log.head, first=start, count=stop)
        return list(checked_chain(blobs, wanted, where=self._where))

    @property
    def _inline_stop(self) -> int:
        return self._inline[-1][0][1] if self._inline else 0

    def _span_at(self, index: int) -> Span:
        """Start, stop and times of the batch that contains an index."""
        span = next((span for span, _ in self._inline if span[0] <= index < span[1]), None)
        if span is None:
            span = self._backup.batch_at(self._key, self._log.head.born, index)
        if span is None or not span[0] <= index < span[1]:
            raise _missing(self._where, index)
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
