"""Links each row of a ring to the next row of its episode, while episodes arrive mixed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Succession"]

_FEW = 1024


class Succession:
    """The order of the rows of a ring, in which new steps overwrite the oldest.

    A row is overwritten after the rows before it in its episode, so a link never leads to a row
    that was overwritten.

    Args:
        size: Number of rows.

    Attributes:
        following: int64 (size,), the next row of each row's episode; -1 if there is none (yet).
        count: Number of steps so far; step n is in row n % size.
    """

    def __init__(self, size: int) -> None:
        self.following = np.full(size, -1, np.int64)
        self.count = 0
        self._newest: dict[str, int] = {}  # newest step of each unfinished episode
        self._prune_above = _FEW

    def append(
        self, ids: Sequence[str], counts: Sequence[int], is_over: Sequence[bool]
    ) -> npt.NDArray[np.int64]:
        """Append steps of several episodes, one episode after the other.

        Args:
            ids: The episodes.
            counts: Number of steps of each.
            is_over: Whether the episode ends with them.

        Returns:
            The rows of the steps; only of the last ones if not all fit.
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
        self._forget_overwritten(oldest)
        return kept % size

    def _forget_overwritten(self, oldest: int) -> None:
        if len(self._newest) > self._prune_above:
            self._newest = {id: step for id, step in self._newest.items() if step >= oldest}
            self._prune_above = _FEW + 2 * len(self._newest)

    def windows(
        self, rows: npt.NDArray[np.int64], length: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Windows of `length` rows that begin at these rows.

        Returns:
            Rows (n, length), in which the last row is repeated if the episode ends before; and the
            number of different rows in each window, (n,).
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
