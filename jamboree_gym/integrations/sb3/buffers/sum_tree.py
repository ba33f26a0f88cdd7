"""Drawing in proportion to priorities, in NumPy: a sum tree."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["SumTree"]


class SumTree:
    """A binary tree over n numbers, each node of which holds the sum of those below it.

    Changing and finding take log2(n) steps, for many numbers at once. As in Schaul et al.,
    "Prioritized Experience Replay", 2015, appendix B.2.1.

    Args:
        size: How many numbers; all are 0 at first.
    """

    def __init__(self, size: int) -> None:
        self._first = 1 << (size - 1).bit_length()  # the node of the first number; the root is 1
        self._sums = np.zeros(2 * self._first)

    @property
    def total(self) -> float:
        """The sum of all."""
        return float(self._sums[1])

    def __getitem__(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The numbers there."""
        numbers: npt.NDArray[np.float64] = self._sums[self._first + positions]
        return numbers

    def __setitem__(self, positions: npt.NDArray[np.int64], numbers: Any) -> None:
        """Change the numbers there."""
        nodes = self._first + positions
        self._sums[nodes] = numbers
        for _ in range(self._first.bit_length() - 1):
            nodes = nodes >> 1
            self._sums[nodes] = self._sums[2 * nodes] + self._sums[2 * nodes + 1]

    def find(self, heights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Where the running sum of the numbers first is above each of these, from 0 to `total`.

        Never a number that is 0, however sums are rounded, unless all are.
        """
        found = self._descend(heights, is_careful=False)
        is_nothing = self[found] <= 0
        if is_nothing.any():  # sums were rounded: these pass by what holds nothing
            found[is_nothing] = self._descend(heights[is_nothing], is_careful=True)
        return found

    def _descend(
        self, heights: npt.NDArray[np.float64], *, is_careful: bool
    ) -> npt.NDArray[np.int64]:
        nodes = np.ones(len(heights), np.int64)
        left = heights.astype(np.float64)
        for _ in range(self._first.bit_length() - 1):
            nodes <<= 1
            below = self._sums[nodes]
            goes_right = left >= below
            if is_careful:
                goes_right = (goes_right & (self._sums[nodes + 1] > 0)) | (below <= 0)
            left -= below * goes_right
            nodes += goes_right
        return nodes - self._first
