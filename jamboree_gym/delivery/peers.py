"""The other Jamborees of this process: what one has saved, a read of another one sees."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

__all__ = ["Peers", "Place"]

One = TypeVar("One")


class Place(NamedTuple):
    """What a Jamboree writes to: those of one place see the same logs.

    Attributes:
        where: Address of the server.
        database: Its number there.
        namespace: Of the keys.
    """

    where: str
    database: int
    namespace: str


class Peers(Generic[One]):
    """All Jamborees of this process that are open."""

    def __init__(self) -> None:
        self.after_fork_in_child()
        self._all: tuple[tuple[Place, weakref.ref[One]], ...] = ()

    def after_fork_in_child(self) -> None:
        """The thread that held the lock is not in this process."""
        self._lock = threading.Lock()

    def add(self, connection: One, place: Place) -> None:
        """One more is opened."""
        with self._lock:
            there = [(of, ref) for of, ref in self._all if ref() is not None]
            self._all = (*there, (place, weakref.ref(connection)))

    def remove(self, connection: One) -> None:
        """It is closed."""
        with self._lock:
            self._all = tuple(pair for pair in self._all if pair[1]() is not connection)

    def of(self, connection: One, place: Place) -> Iterator[One]:
        """The others of the same place."""
        if len(self._all) > 1:
            for at, ref in self._all:
                peer = ref() if at == place else None
                if peer is not None and peer is not connection:
                    yield peer
