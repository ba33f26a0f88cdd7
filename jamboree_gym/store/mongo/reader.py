"""Reads logs from MongoDB: all batches of a log, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from jamboree_gym.encoding.batch_format import Batch, Head, batch_span, decode_batch
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.log import identity, key_of
from jamboree_gym.store.mongo.documents import KeptBatch, KeptLog
from jamboree_gym.store.mongo.store import MongoStore

__all__ = ["checked_chain", "batches_of", "kept_logs"]

LOGS_PER_QUERY = 200


def kept_logs(
    mongo: MongoStore, keys: Sequence[str]
) -> Iterator[tuple[str, tuple[Head, Iterator[bytes]] | DecodeError | None]]:
    """Read several logs.

    Args:
        mongo: The backup.
        keys: The logs, sorted.

    Yields:
        For each key: the head and the batches, in order; or the error of a damaged document; or
        None if the log is missing. Take the batches before the next log: they come from the same
        stream. A damaged batch raises `DecodeError`.
    """
    for first in range(0, len(keys), LOGS_PER_QUERY):
        part = keys[first : first + LOGS_PER_QUERY]
        logs = mongo.logs(part)
        split = [key for key in part if _is_split(logs.get(key))]
        batches = _SortedBatches(mongo.batches_between(split[0], split[-1]) if split else ())
        for key in part:
            log = logs.get(key)
            if not isinstance(log, KeptLog):
                yield key, log
            else:
                where = f"MongoDB at {mongo.where}: {key}"
                yield key, (log.head, _in_order(log, batches, key, where))


def batches_of(mongo: MongoStore, key: str, log: KeptLog) -> Iterator[bytes]:
    """All batches of one log, in order.

    Raises:
        DecodeError: A batch is damaged.
    """
    batches = _SortedBatches(mongo.batches_between(key, key) if _is_split(log) else ())
    return _in_order(log, batches, key, f"MongoDB at {mongo.where}: {key}")


def _is_split(log: KeptLog | DecodeError | None) -> bool:
    """Whether some of the log's batches have their own documents."""
    if not isinstance(log, KeptLog):
        return False
    return not log.batches or batch_span(log.batches[-1])[1] < log.head.count


def _in_order(log: KeptLog, batches: _SortedBatches, key: str, where: str) -> Iterator[bytes]:
    """Batches that continue each other; a batch that is stored twice is returned once."""
    expected = 0
    for blob in log.batches:
        expected = decode_batch(blob, where=where).stop
        yield blob
    for batch in batches.of(identity(key, log.head.born)):
        if batch.blob is None:
            raise DecodeError(f"{where} at index {batch.start}: checksum does not match")
        if expected <= batch.start < log.head.count:
            expected = decode_batch(batch.blob, where=where).stop
            yield batch.blob


class _SortedBatches:
    """Finds the batches of logs in a stream sorted by log; ask for the logs in the same order."""

    def __init__(self, batches: Iterable[tuple[str, KeptBatch]]) -> None:
        self._batches = iter(batches)
        self._next = next(self._batches, None)

    def of(self, log: str) -> Iterator[KeptBatch]:
        """The batches of a log; skips those of the logs before it."""
        key = key_of(log)
        while self._next is not None and key_of(self._next[0]) <= key:
            found, batch = self._next
            self._next = next(self._batches, None)
            if found == log:
                yield batch


def checked_chain(blobs: Iterable[bytes], head: Head, *, where: str) -> Iterator[Batch]:
    """Check that the batches contain every readable record of the log, without a gap.

    Raises:
        DecodeError: A batch is damaged or missing.
    """
    expected: int | None = None
    for blob in blobs:
        batch = decode_batch(blob, where=where)
        if batch.start > (head.first if expected is None else expected):
            raise DecodeError(f"{where} at index {expected or head.first}: a batch is missing")
        expected = batch.stop
        yield batch
    if (head.first if expected is None else expected) < head.count:
        raise DecodeError(f"{where} at index {expected or head.first}: a batch is missing")
