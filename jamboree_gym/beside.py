"""Logs that lie beside an episode: for some of its steps something that is no part of them."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from jamboree_gym.connection import Connection
from jamboree_gym.handlers import DBHandler

__all__ = ["BesideHandler"]


class BesideHandler(DBHandler):
    """Records with a `step` each, in ascending order: 0 for the reset, k for the k-th step."""

    def __init__(self, jam: Connection | None = None) -> None:
        super().__init__(jam)
        self.required = {"episode": str}

    def _first_of(self, step: int) -> int:
        """Index of the first record of this step or a later one."""
        count = min(self.count(), max(0, step))  # a record's index is never above its step
        return bisect_left(range(count), step, key=lambda index: self._page(index)[0]["step"])

    def _page(self, index: int) -> list[dict[str, Any]]:
        """The record with this index, and those that are stored together with it behind it."""
        found = self.event.store.read(self._settled_key(), index, index + 1)
        return [record for record in self._records(found) if record["index"] >= index]
