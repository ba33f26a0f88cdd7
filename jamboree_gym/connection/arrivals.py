"""Connections that come from other processes: each is opened once for all that comes with it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

__all__ = ["Arrivals"]


class Closable(Protocol):
    """What may have been closed."""

    @property
    def is_closed(self) -> bool:
        """Whether it is."""


One = TypeVar("One", bound=Closable)


class Arrivals(Generic[One]):
    """The connections of this process by their origin, and those that were opened on arrival.

    What was opened for something that arrived stays open until the process ends: nobody else
    could close it.
    """

    def __init__(self) -> None:
        self._open: weakref.WeakValueDictionary[str, One] = weakref.WeakValueDictionary()
        self._arrived: dict[str, One] = {}
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """The thread that held the lock is not in this process."""
        self._lock = threading.RLock()

    def add(self, origin: str, connection: One) -> None:
        """It is open."""
        self._open[origin] = connection

    def open_here(self, origin: str) -> One | None:
        """The open connection of that origin, if this process has one."""
        known = self._open.get(origin)
        return None if known is None or known.is_closed else known

    def connection_from(self, origin: str, open_one: Callable[[], One]) -> One:
        """The one connection of this process for all that comes from an origin."""
        with self._lock:
            known = self.open_here(origin)
            if known is None:
                known = open_one()
                self._open[origin] = self._arrived[origin] = known
            return known
