"""How much is read at once: pages of a large log, portions of many small logs."""

from __future__ import annotations

from collections.abc import Iterator

from jamboree_gym.encoding.batch_format import Batch
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["FEW_REVISIONS", "FIRST_LOGS", "next_portion", "pages"]

ROUND_TRIP_BYTES = 8 << 20
FIRST_ROWS = 16
FIRST_LOGS = 20  # the first portion, while the size of the logs is unknown
MAX_LOGS = 400
FEW_REVISIONS = 8  # a log with at most this many writes is small


def pages(store: RedisStore, key: str, start: int, stop: int) -> Iterator[list[Batch]]:
    """Batches with indices from `start` to `stop`, a few megabytes at a time, without popped ones.

    One that is damaged or missing raises `DecodeError`.
    """
    rows = FIRST_ROWS
    while start < stop:
        found = store.read(key, start, min(start + rows, stop))
        batches = found.batches if found is not None else []
        if found is not None and start < found.head.first:  # popped: Redis does not answer these
            start = min(found.head.first, stop)
            if start == stop:
                return
            if not batches:
                continue
        if not batches or batches[0].start > start:
            raise DecodeError(f"{key} at index {start}: a batch is missing")
        yield batches
        size = sum(len(batch.blob) for batch in batches)
        read, start = batches[-1].stop - start, batches[-1].stop
        rows = max(1, read * ROUND_TRIP_BYTES // size)


def next_portion(at_once: int, logs: int, size: int) -> int:
    """Number of logs for the next portion, from the number and total size of the last ones."""
    return max(1, min(at_once * 4, MAX_LOGS, logs * ROUND_TRIP_BYTES // max(1, size)))
