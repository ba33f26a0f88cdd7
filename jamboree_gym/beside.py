"""Logs that lie beside an episode: for some of its steps something that is no part of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from jamboree_gym.connection import Connection
from jamboree_gym.handlers import DBHandler

__all__ = ["BesideHandler", "BesideRecorder"]


class BesideHandler(DBHandler, ABC):
    """Records with a `step` each, in ascending order: 0 for the reset, k for the k-th step."""

    def __init__(self, jam: Connection | None = None) -> None:
        super().__init__(jam)
        self.required = {"episode": str}

    @abstractmethod
    def put(self, step: int, content: Any) -> None:
        """Keep something of a step."""

    def _first_of(self, step: int) -> int:
        """Index of the first record of this step or a later one."""
        count = min(self.count(), max(0, step))  # a record's index is never above its step
        return bisect_left(range(count), step, key=lambda index: self._page(index)[0]["step"])

    def _page(self, index: int) -> list[dict[str, Any]]:
        """The record with this index, and those that are stored together with it behind it."""
        found = self.event.store.read(self._settled_key(), index, index + 1)
        return [record for record in self._records(found) if record["index"] >= index]


class BesideRecorder:
    """Keeps something beside the steps of each episode, at those that are asked for.

    Args:
        handler: Where to.
        take: Gives what is kept, as it is now.
        is_wanted: Of a step's number, 0 for the reset, whether to keep it.
    """

    def __init__(
        self, handler: BesideHandler, take: Callable[[], Any], is_wanted: Callable[[int], bool]
    ) -> None:
        self._handler = handler
        self._take = take
        self._is_wanted = is_wanted
        self._step = 0

    def begin(self, episode_id: str) -> None:
        """An episode has begun: step 0."""
        self._handler["episode"] = episode_id
        self._step = 0
        self._record()

    def step(self) -> None:
        """A step has been taken."""
        self._step += 1
        self._record()

    def _record(self) -> None:
        if self._is_wanted(self._step):
            self._handler.put(self._step, self._take())
