"""Reads the episodes of a run again and again, each that is over once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from jamboree_gym.connection import Connection
from jamboree_gym.reading.finding.filters import Found
from jamboree_gym.reading.finding.known_ids import IdsOfPart, KnownIds
from jamboree_gym.reading.finding.packed import PackedSummaries, Portion
from jamboree_gym.reading.finding.summaries import mark_interrupted, read_some_summaries
from jamboree_gym.store.protocol import ListingPart

__all__ = ["RunReader"]

PORTION: Final = 4096  # summaries
_MAY_CHANGE: Final = ("running", "interrupted")


class RunReader:
    """Reads the episodes of a run. For one thread at a time.

    Args:
        connection: The store.
        ids: The ids of its episodes.
        run: Name of the run.
    """

    def __init__(self, connection: Connection, ids: KnownIds, run: str) -> None:
        self._connection = connection
        self._ids = ids
        self._run = run
        self._forget()

    def _forget(self) -> None:
        self._parts: Mapping[ListingPart, IdsOfPart] = {}
        self._full: Sequence[Portion] = ()  # of episodes that are over
        self._rest = Portion.of(())  # those that are over, and too few for another one
        self._open: Sequence[str] = ()  # ids of those that may change, and that could not be read
        self._found = PackedSummaries()

    def read(self) -> PackedSummaries:
        """The episodes now; the same object if there are no new ones, and none may change."""
        parts = self._ids.of(self._run)
        if not all(_has_only_grown(known, parts.get(part)) for part, known in self._parts.items()):
            self._forget()
        unread = [*self._open, *self._new_ids(parts)]
        if unread:
            self._read(unread)
        self._parts = parts
        return self._found

    def _new_ids(self, parts: Mapping[ListingPart, IdsOfPart]) -> Iterator[str]:
        for part, now in parts.items():
            known = self._parts.get(part)
            if known is not now:
                new = now.ids if known is None else np.setdiff1d(now.ids, known.ids)
                yield from (id.decode() for id in new.tolist())

    def _read(self, ids: Sequence[str]) -> None:
        full, over = [*self._full], self._rest.summaries()
        others: Found = []
        unread = set(ids)
        for found in read_some_summaries(self._connection, self._run, ids):
            final = [one for one in found if one.status not in _MAY_CHANGE]
            unread -= {one.id for one in final}
            over += [one for one in final if one.run == self._run]
            others += [one for one in found if one.status in _MAY_CHANGE and one.run == self._run]
            while len(over) >= PORTION:
                full.append(Portion.of(over[:PORTION]))
                del over[:PORTION]
        mark_interrupted(self._connection, others)
        self._rest = Portion.of(over)
        self._full, self._open = full, sorted(unread)
        self._found = PackedSummaries([*full, self._rest, Portion.of(others)])


def _has_only_grown(known: IdsOfPart, now: IdsOfPart | None) -> bool:
    """Whether nothing can have gone from a part since it was read."""
    return now is not None and bool(now.state.life) and now.state.life == known.state.life
