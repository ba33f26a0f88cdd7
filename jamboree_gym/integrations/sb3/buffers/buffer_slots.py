"""Where in a buffer of several columns the steps of episodes go: decided before any is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["SlotSpan", "ranges", "rows_and_spans"]


class SlotSpan(NamedTuple):
    """Consecutive steps of an episode that are consecutive rows of a column.

    Attributes:
        episode: Position of the episode among all.
        start: Its first step.
        stop: The step after the last.
        column: Which column.
        row: Row of the first one, from 0.
    """

    episode: int
    start: int
    stop: int
    column: int
    row: int


def rows_and_spans(
    steps: Sequence[int], vector_indices: Sequence[int | None], *, columns: int, max_rows: int
) -> tuple[int, list[SlotSpan]]:
    """How many rows are filled, and with what: the newest, where not all fit.

    Where the episodes are those of a vector environment with as many sub-environments as there are
    columns, each gets its own column, as in the buffer of the model that played them. Otherwise an
    episode goes to the column that has the fewest rows so far, so that rows are by age all the
    same; since all columns end in one row, up to `columns - 1` episodes are cut in two.

    Args:
        steps: Number of steps of each episode, the oldest first.
        vector_indices: Which sub-environment each was of.
        columns: How many columns.
        max_rows: How many rows there are.
    """
    totals = [0] * columns
    for count, index in zip(steps, vector_indices, strict=True):
        if index is None or index >= columns:
            return _balanced(steps, columns, max_rows)
        totals[index] += count
    if len(set(totals)) > 1:
        return _balanced(steps, columns, max_rows)
    rows = min(totals[0], max_rows)
    filled = [rows - totals[0]] * columns  # below 0: does not fit
    spans = []
    for episode, (count, index) in enumerate(zip(steps, vector_indices, strict=True)):
        column = index or 0
        start = min(count, max(0, -filled[column]))
        if start < count:
            spans.append(SlotSpan(episode, start, count, column, filled[column] + start))
        filled[column] += count
    return rows, spans


def _balanced(steps: Sequence[int], columns: int, max_rows: int) -> tuple[int, list[SlotSpan]]:
    rows = min(sum(steps) // columns, max_rows)
    left_out = sum(steps) - rows * columns
    filled = [0] * columns
    spans = []
    for episode, count in enumerate(steps):
        start = min(count, left_out)
        left_out -= start
        while start < count:
            column = filled.index(min(filled))
            stop = min(count, start + rows - filled[column])
            spans.append(SlotSpan(episode, start, stop, column, filled[column]))
            filled[column] += stop - start
            start = stop
    return rows, spans


def ranges(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """One after the other: start, start + 1, ... of each."""
    firsts = lengths.cumsum() - lengths
    positions: npt.NDArray[np.int64] = np.arange(lengths.sum()) + (starts - firsts).repeat(lengths)
    return positions
