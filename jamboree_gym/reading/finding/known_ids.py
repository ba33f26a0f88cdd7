"""The ids of a store, read again only where some have come or gone."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from jamboree_gym.connection import Connection
from jamboree_gym.store.protocol import ListingPart, PartState

__all__ = ["IdsOfPart", "KnownIds", "PackedIds", "packed_ids"]

MAX_WIDTH: Final = 64  # bytes; an array of longer ids holds references

PackedIds = npt.NDArray[Any]
"""Ids in UTF-8: 32 bytes each, where they are ours."""


class IdsOfPart(NamedTuple):
    """The ids of a part of a listing.

    Attributes:
        state: How the part stood before they were read.
        ids: Sorted.
    """

    state: PartState
    ids: PackedIds


class KnownIds:
    """Reads the ids of runs. Any thread may ask.

    Args:
        connection: The store.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._known: dict[ListingPart, IdsOfPart] = {}

    def all(self) -> Mapping[ListingPart, IdsOfPart]:
        """The ids of the whole store now; the same object as before if none has come or gone."""
        self._connection.settle_all()
        with self._lock:
            self._keep(self._read(self._connection.store.listings.runs()))
            return self._known

    def of(self, run: str) -> Mapping[ListingPart, IdsOfPart]:
        """The ids of a run now. A part that has not changed is the same object as before."""
        self._connection.settle_all()
        with self._lock:
            found = self._read([run])
            self._keep({part: one for part, one in self._known.items() if part.run != run} | found)
            return found

    def _keep(self, found: dict[ListingPart, IdsOfPart]) -> None:
        before = self._known
        if found.keys() != before.keys() or any(found[part] is not before[part] for part in found):
            self._known = found

    def _read(self, runs: Sequence[str]) -> dict[ListingPart, IdsOfPart]:
        listings, found = self._connection.store.listings, {}
        for part, state in listings.parts(runs).items():
            known = self._known.get(part)
            if known is None or known.state != state or not state.life:
                known = IdsOfPart(state, np.sort(packed_ids(listings.ids_of(part))))
            found[part] = known
        return found


def packed_ids(ids: Collection[str]) -> PackedIds:
    """Ids as one array, in their order."""
    encoded = [id.encode(errors="replace") for id in ids]
    is_long = max(map(len, encoded), default=0) > MAX_WIDTH
    return np.array(encoded, object if is_long else "S" if encoded else f"S{MAX_WIDTH}")
