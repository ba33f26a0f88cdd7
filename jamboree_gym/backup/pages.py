"""Reads a log that may not fit into memory, some megabytes at a time."""

from __future__ import annotations

from collections.abc import Iterator

from jamboree_gym.encoding.batch_format import Batch
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["ROUND_TRIP_BYTES", "pages"]

ROUND_TRIP_BYTES = 8 << 20
FIRST_ROWS = 16


def pages(store: RedisStore, key: str, start: int, stop: int) -> Iterator[list[Batch]]:
    """Batches with indices from `start` to `stop`, a few megabytes at a time.

    Raises:
        DecodeError: One is damaged or missing.
    """
    rows = FIRST_ROWS
    while start < stop:
        found = store.read(key, start, min(start + rows, stop))
        batches = found.batches if found is not None else []
        if not batches or batches[0].start > start:
            raise DecodeError(f"{key} at index {start}: a batch is missing")
        yield batches
        size = sum(len(batch.blob) for batch in batches)
        read, start = batches[-1].stop - start, batches[-1].stop
        rows = max(1, read * ROUND_TRIP_BYTES // size)
