"""Least, greatest, mean and spread of what LeRobot's policies normalise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["STATS", "Stats"]

STATS = ("min", "max", "mean", "std", "count")


class Stats:
    """Of one feature: for each number of a vector, and each channel of an image, in 0 to 1.

    Means and spreads of several parts are put together as Chan, Golub and LeVeque do it
    ("Algorithms for Computing the Sample Variance", 1983). The spread is that of all, not of a
    sample.
    """

    def __init__(self) -> None:
        self.count = 0
        self._min: Any = np.inf
        self._max: Any = -np.inf
        self._mean: Any = 0.0
        self._squares: Any = 0.0  # of the distances from the mean

    @np.errstate(all="ignore")  # of infinite values, or too large ones, they are none
    def add(self, values: npt.NDArray[Any]) -> None:
        """Count values (n, ...); images are of four dimensions."""
        is_image = values.ndim == 4
        scaled = values.reshape(len(values), -1).astype(np.float64)
        if is_image:
            scaled = values.reshape(-1, values.shape[-1]) / 255
        mean = scaled.mean(0)
        self._join(len(values), scaled.min(0), scaled.max(0), mean, ((scaled - mean) ** 2).mean(0))

    @np.errstate(all="ignore")
    def add_stats(self, known: Mapping[str, Any]) -> None:
        """Count what `to_json` gave of other values."""
        flat = {name: np.asarray(known[name], np.float64).reshape(-1) for name in STATS}
        self._join(int(flat["count"][0]), flat["min"], flat["max"], flat["mean"], flat["std"] ** 2)

    def _join(self, count: int, low: Any, high: Any, mean: Any, variance: Any) -> None:
        total = self.count + count
        apart = mean - self._mean
        self._squares = self._squares + variance * count + apart**2 * self.count * count / total
        self._mean = self._mean + apart * count / total
        self._min, self._max = np.minimum(self._min, low), np.maximum(self._max, high)
        self.count = total

    @np.errstate(all="ignore")
    def to_json(self, *, is_image: bool) -> dict[str, Any]:
        """As LeRobot keeps them: lists of one number for each, of an image (3, 1, 1)."""
        spread = np.sqrt(self._squares / self.count)
        values = (self._min, self._max, self._mean, spread)
        found: dict[str, Any] = {
            name: (value[:, None, None] if is_image else value).tolist()
            for name, value in zip(STATS, values, strict=False)
        }
        return {**found, "count": [self.count]}
