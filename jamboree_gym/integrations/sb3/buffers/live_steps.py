"""Recorded steps and new ones, in the form of Stable-Baselines3's buffers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jamboree_gym.connection import Connection
from jamboree_gym.integrations.sb3.buffers.conversion import (
    Conversions,
    Converted,
    Spaces,
    joined,
    provenances_of,
)
from jamboree_gym.reading.bulk_read import read_blocks
from jamboree_gym.reading.finding.filters import EpisodeFilter
from jamboree_gym.reading.follow_all import NewSteps, NewStepsTail
from jamboree_gym.reading.query import EpisodeQuery, found_by

__all__ = ["Batch", "LiveSteps"]

OWN_DELIVERY_S = 2.0  # how long a read waits for the delivery of this process's own steps


class Batch(NamedTuple):
    """Steps of several episodes, one after the other.

    Attributes:
        ids: The episodes.
        counts: Number of steps of each, may be 0.
        is_over: Whether the episode ends with them.
        steps: The steps; None if there are none.
    """

    ids: Sequence[str]
    counts: Sequence[int]
    is_over: Sequence[bool]
    steps: Converted | None


class LiveSteps:
    """Follows the episodes that match a filter: first those recorded so far, then new steps.

    Args:
        connection: The store.
        wanted: The filter.
        of_buffer: The spaces of the buffer that gets the steps.
        forks: Whether forks of an episode of the same run count, too.
        max_steps: About how many of the steps recorded so far to read, the newest.
    """

    def __init__(
        self,
        connection: Connection,
        wanted: EpisodeFilter,
        of_buffer: Spaces,
        max_steps: int,
        *,
        forks: bool,
    ) -> None:
        self._connection = connection
        self._wanted = wanted
        self._conversions = Conversions(connection, of_buffer)
        self._max_steps = max_steps
        self._has_forks = forks
        self._tail: NewStepsTail | None = None

    def read_new(self, for_s: float, add_batch: Callable[[Batch], None]) -> None:
        """Pass on all new steps in batches; the first call passes on everything.

        Args:
            for_s: Return after about this many seconds if others write faster than this reads.
            add_batch: Gets each batch.

        Raises:
            BufferMismatch: The spaces of an episode are not the buffer's, or it was recorded above
                `VecNormalize`.
            UnsavedRecords: Steps of this process could not be delivered to Redis.
            StoreUnavailable: Redis is away.
            DecodeError: Stored bytes are damaged.
        """
        if self._tail is None:
            tail = NewStepsTail(self._connection, self._wanted, forks=self._has_forks)
            tail.begin()
            for batch in list(self._past(tail)):
                add_batch(batch)
            self._tail = tail
        elif not self._connection.writer.backpressure.has_outage:
            self._connection.flush(OWN_DELIVERY_S)
        until = time.monotonic() + for_s
        while growths := self._tail.look(0.0):
            add_batch(self._batch(growths))
            if time.monotonic() > until:
                return

    def _past(self, tail: NewStepsTail) -> Iterator[Batch]:
        """The newest steps of episodes that are over."""
        past = tail.not_followed
        query = EpisodeQuery(self._connection, wait=True, forks=self._has_forks)
        query = query.where(run=self._wanted.run)
        _, found = found_by(query, is_complete=False)
        found = [one for one in self._wanted.among(found) if one.steps and one.id in past]
        steps = np.array([one.steps for one in found][::-1], np.int64).cumsum()
        needed = int(steps.searchsorted(self._max_steps)) + 1
        found = found[-needed:]
        digests = dict(provenances_of(self._connection, [one.id for one in found]))
        for id, digest in digests.items():
            self._conversions.of(id, digest)
        lengths = {one.id: one.steps for one in found}
        for _, blocks in read_blocks(self._connection, found):
            for block in blocks:
                convert = self._conversions.of(block.ids[0], digests[block.ids[0]])
                counts = block.steps.tolist()
                ends = [block.start + counts[0]] if block.start else counts
                is_over = [end >= lengths[id] for id, end in zip(block.ids, ends, strict=True)]
                yield Batch(block.ids, counts, is_over, convert(block.transitions()))

    def _batch(self, growths: Sequence[NewSteps]) -> Batch:
        converted = [
            self._conversions.of(one.episode_id, one.origin.provenance)(one.steps)
            for one in growths
            if one.steps is not None and len(one.steps)
        ]
        return Batch(
            [one.episode_id for one in growths],
            [0 if one.steps is None else len(one.steps) for one in growths],
            [one.is_over for one in growths],
            joined(converted) if converted else None,
        )
