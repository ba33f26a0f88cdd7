"""The newest batches of a log without a script, which costs the server several times as much.

Commands that are sent together are not one step: others may write in between. The head comes last,
and knows count and time of the newest batch. If the batches end with that one, they are its log's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from math import ceil
from typing import Any

from jamboree_gym.encoding.batch_format import batch_span, head_span
from jamboree_gym.store.redis.link import Call

__all__ = ["NewestBatches"]

MAX_BATCHES = 16  # each may have a megabyte
MAX_BYTES = 1 << 20
MAX_LOGS = 1024
SLACK = 32  # so many more records are asked for: the newest batches may be smaller than before


class NewestBatches:
    """Guesses from an answer of a log how many batches the next one takes."""

    def __init__(self) -> None:
        self._records_per_batch: dict[str, float] = {}

    def learn(self, key: str, batches: Sequence[bytes]) -> None:
        """These were the newest batches of a log."""
        known = self._records_per_batch
        known.pop(key, None)
        if len(known) >= MAX_LOGS:
            known.clear()
        if batches and sum(map(len, batches)) <= MAX_BYTES:
            with suppress(struct.error):  # whoever decodes them says what is damaged
                start, stop = batch_span(batches[0])[0], batch_span(batches[-1])[1]
                known[key] = (stop - start) / len(batches)

    def calls(self, key: str, how: Sequence[Any]) -> list[Call]:
        """What to ask for a read of the script `READ`; nothing where it is for the script."""
        size = self._records_per_batch.get(key)
        if how[0] != "last" or not size or size <= 0:
            return []
        count = ceil((how[1] + SLACK) / size)
        if count > MAX_BATCHES:
            return []
        return [("LRANGE", key, str(-count), "-1"), ("LINDEX", key, "0")]

    @staticmethod
    def found(n: int, answers: Sequence[Any]) -> tuple[bytes, list[bytes]] | None:
        """Head, and the batches that hold any of the newest n records; None = ask the script."""
        batches, head = answers
        if not isinstance(head, bytes) or not isinstance(batches, list):
            return None
        if batches and batches[0].startswith(head[:2]):  # a head: there are no more batches
            del batches[0]
        try:
            first, count, t_last = head_span(head)
            spans = [batch_span(batch) for batch in batches]
        except struct.error:
            return None
        start = max(first, count - n)
        if not spans or spans[0][0] > start or (spans[-1][1], spans[-1][3]) != (count, t_last):
            return None
        skipped = sum(stop <= start for _, stop, *_ in spans)
        return head, batches[skipped:]
