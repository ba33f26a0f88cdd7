"""Many episodes as a few points: the curves and the distribution of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from jamboree_gym.tables.histogram import histogram

__all__ = ["Finished", "MAX_POINTS", "curve_of", "histogram_of", "spark_of"]

MAX_POINTS: Final = 800
BINS: Final = 32
SPARK_POINTS: Final = 40

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """The episodes of a run that are over, in the order of their ends.

    Attributes:
        returns: float64 (n,).
        steps: float64 (n,), of each.
        ended_at: float64 (n,), epoch seconds.
        each: float64 (n, k) where a reward is k numbers: each of the returns; else None.
    """

    returns: Numbers
    steps: Numbers
    ended_at: Numbers
    each: Numbers | None = None


def curve_of(finished: Finished, size: int | None = None, start: int = 0) -> dict[str, Any]:
    """Returns and lengths, each point over `size` episodes.

    A point that is full stays as it is. So who has the first points asks only for those from
    `start` on. If the size has become another one, the answer begins at 0 again.

    Returns:
        A dict: `size`, `start`, `episodes` (number of all), and for each point `episode` (number of
        its last one, from 1), `steps` (of all episodes up to its end), `at` (when it ended, epoch
        seconds), `mean`, `low`, `high` of the returns, `length`, and `each`: where a reward is
        several numbers, the mean of each return.
    """
    count = len(finished.returns)
    fitting = _size_for(count)
    if size != fitting or start < 0 or start * fitting > count:
        start = 0
    cuts = np.arange(start * fitting, count, fitting)
    answer: dict[str, Any] = {"size": fitting, "start": start, "episodes": count}
    if not len(cuts):
        names = ("episode", "steps", "at", "mean", "low", "high", "length", "each")
        return answer | dict.fromkeys(names, ())
    ends = np.append(cuts[1:], count) - 1
    counts = ends - cuts + 1
    places = cuts - cuts[0]
    returns, steps = finished.returns[cuts[0] :], finished.steps[cuts[0] :]
    return answer | {
        "episode": ends + 1,
        "steps": finished.steps.cumsum()[ends],
        "at": finished.ended_at[ends],
        "mean": np.add.reduceat(returns, places) / counts,
        "low": np.minimum.reduceat(returns, places),
        "high": np.maximum.reduceat(returns, places),
        "length": np.add.reduceat(steps, places) / counts,
        "each": ()
        if finished.each is None
        else np.add.reduceat(finished.each[cuts[0] :], places) / counts[:, None],
    }


def _size_for(count: int) -> int:
    """Episodes in a point: a power of two, so that it seldom changes while a run grows."""
    return 1 if count <= MAX_POINTS else 2 ** math.ceil(math.log2(count / MAX_POINTS))


def histogram_of(values: Sequence[float] | Numbers) -> dict[str, Any]:
    """How often values occur: `edges` (n + 1) and `counts` (n); empty without finite values."""
    finite = np.array(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return {"edges": (), "counts": ()}
    distinct = len(np.unique(finite[:10_000]))
    counts, edges = histogram(finite, min(BINS, distinct))
    return {"edges": edges, "counts": counts}


def spark_of(finished: Finished) -> list[float]:
    """The returns of a run in some 40 means, for a curve in a table."""
    returns = finished.returns[np.isfinite(finished.returns)]
    parts = np.array_split(returns, min(SPARK_POINTS, len(returns)) or 1)
    return [float(part.mean()) for part in parts if len(part)]
