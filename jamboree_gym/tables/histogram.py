"""How often numbers occur."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["histogram"]


def histogram(
    values: npt.NDArray[np.float64], bins: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Counts (n,) and edges (n + 1,) of finite values, at least one; n is `bins` or less.

    It is less where values are so close to each other that floats cannot tell so many bins apart:
    returns that are equal but for rounding.
    """
    low, high = float(values.min()), float(values.max())
    step = float(np.spacing(max(abs(low), abs(high))))  # between two floats of this size
    if not high > low:
        low, high = low - max(0.5, step), high + max(0.5, step)
    bins = max(1, min(bins, int((high - low) / (2 * step))))
    return np.histogram(values, bins, (low, high))
