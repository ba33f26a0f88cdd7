"""Which row of a ring comes after which in its episode, as episodes come in pieces, mixed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Succession"]

_FEW = 1024


class Succession:
    """Follows n rows of a ring that is written over and over.

    A row comes after those before it in its episode, so it is overwritten after them: what is
    linked to is always there.

    Args:
        size: Number of rows.

    Attributes:
        following: int64 (size,), the row after each in its episode; -1 where there is none (yet).
        count: How many steps there have been; step n went to row n % size.
    """

    def __init__(self, size: int) -> None:
        self.following = np.full(size, -1, np.int64)
        self.count = 0
        self._newest: dict[str, int] = {}  # step of each episode that goes on
        self._prune_above = _FEW

    def append(
        self, ids: Sequence[str], counts: Sequence[int], is_over: Sequence[bool]
    ) -> npt.NDArray[np.int64]:
        """Steps of several episodes, one after the other; each goes on where it was.

        Args:
            ids: The episodes.
            counts: Number of steps of each.
            is_over: Whether it does not go on after them.

        Returns:
            The rows of the steps; of more than fit, those of the last ones.
        """
        size, total = len(self.following), sum(counts)
        after = np.arange(self.count + 1, self.count + 1 + total)
        first = self.count
        self.count += total
        oldest = self.count - size
        links = []
        for id, count, ends in zip(ids, counts, is_over, strict=True):
            before = self._newest.pop(id, -1)
            if count:
                after[first + count - 1 - (self.count - total)] = -1
                if before >= oldest and first >= oldest:
                    links.append((before, first))
                before = first + count - 1
            if not ends and before >= 0:
                self._newest[id] = before
            first += count
        kept = np.arange(max(oldest, self.count - total), self.count)
        following = after[total - len(kept) :]
        self.following[kept % size] = np.where(following < 0, -1, following % size)
        for before, first in links:
            self.following[before % size] = first % size
        self._forget(oldest)
        return kept % size

    def _forget(self, oldest: int) -> None:
        """Episodes whose newest step has been overwritten."""
        if len(self._newest) > self._prune_above:
            self._newest = {id: step for id, step in self._newest.items() if step >= oldest}
            self._prune_above = _FEW + 2 * len(self._newest)

    def windows(
        self, rows: npt.NDArray[np.int64], length: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """So many rows from each of these on.

        Returns:
            (n, length) rows, in which the last is repeated where an episode is over before; and
            how many differ, (n,).
        """
        found = np.empty((len(rows), length), np.int64)
        found[:, 0] = rows
        counts = np.ones(len(rows), np.int64)
        has_next = np.ones(len(rows), np.bool_)
        for step in range(1, length):
            after = self.following[found[:, step - 1]]
            has_next &= after >= 0
            found[:, step] = np.where(has_next, after, found[:, step - 1])
            counts += has_next
        return found, counts
