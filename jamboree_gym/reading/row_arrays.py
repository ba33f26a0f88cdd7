"""Rows of an episode -> the arrays that users get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.packing import RowChoice, rows_of
from jamboree_gym.arrays.step_columns import take
from jamboree_gym.compiled import compiled_core
from jamboree_gym.delivery.step_buffer import RowBuffer
from jamboree_gym.encoding.row_format import RowFormat
from jamboree_gym.encoding.rows import Rows, rows_to_arrays
from jamboree_gym.journal.row_block import Extent
from jamboree_gym.journal.row_parts import window_part
from jamboree_gym.records import EpisodeData, Transitions

__all__ = [
    "newest_transitions",
    "reversed_transitions",
    "to_episode_data",
    "to_transitions",
    "transitions_between",
]

BACKWARDS = slice(None, None, -1)


def to_episode_data(episode_id: str, rows: Rows) -> EpisodeData:
    """All rows of an episode -> its arrays; the reset's reward, action and so on mean nothing."""
    columns = take(rows, slice(1, None)) | {"infos": rows.infos}
    return EpisodeData(id=episode_id, observations=rows.observations, **columns)


def to_transitions(rows: Rows, skipped: int = 0) -> Transitions:
    """Rows, without the first few -> the transitions between them, one fewer."""
    return Transitions(**_fields(rows, skipped))


def newest_transitions(held: RowBuffer | None, n: int) -> Transitions | None:
    """The newest n of those that this process holds in memory, None if these are not all.

    A caller that asks before each step often needs one or two of the ten arrays. So the rows are
    copied in one piece, and each array is made when it is used.
    """
    if held is None:
        return None
    found = newest_in_block(held, n)
    if found is not None:
        return found
    rows = held.recent(n)
    return None if rows is None else to_transitions(rows)


def _newest_in_block(held: RowBuffer, n: int) -> Transitions | None:
    """The same, None too where their rows do not lie in one block."""
    window = held.recent_copy(n)
    return None if window is None else Transitions._made_by(_fields_of_window, *window)


def _fields_of_window(*window: Any) -> dict[str, Any]:
    return _fields(rows_to_arrays(window_part(*window)))


def _chosen() -> Callable[[RowBuffer, int], Transitions | None]:
    core = compiled_core()
    classes = (RowBuffer, Extent, RowFormat, Transitions)
    return _newest_in_block if core is None else core.newest_of(*classes, _fields_of_window)


newest_in_block = _chosen()
"""As `_newest_in_block`: it, or the compiled core."""


def _fields(rows: Rows, skipped: int = 0) -> dict[str, Any]:
    if skipped and len(rows.schemas) > 1:
        rows, skipped = rows[skipped:], 0
    start, stop = rows.start + skipped, rows.start + max(0, len(rows) - 1)
    indices = np.arange(start, stop, dtype=np.int64)
    return _fields_between(rows, slice(skipped, -1), slice(skipped + 1, None), indices)


def transitions_between(
    rows: Rows, before: RowChoice, after: RowChoice, indices: npt.NDArray[np.int64]
) -> Transitions:
    """The transitions from some rows to others.

    Args:
        rows: Of one episode or of several.
        before: The rows that the transitions begin at.
        after: The rows that they lead to, as many.
        indices: int64 (n,), position of each transition in its episode.
    """
    return Transitions(**_fields_between(rows, before, after, indices))


def reversed_transitions(steps: Transitions) -> Transitions:
    """The same transitions, newest first."""
    return replace(
        steps,
        indices=steps.indices[::-1],
        observations=rows_of(steps.observations, BACKWARDS),
        next_observations=rows_of(steps.next_observations, BACKWARDS),
        **take(steps, BACKWARDS),
    )


def _fields_between(
    rows: Rows, before: RowChoice, after: RowChoice, indices: npt.NDArray[np.int64]
) -> dict[str, Any]:
    return {
        "indices": indices,
        "observations": rows_of(rows.observations, before),
        "next_observations": rows_of(rows.observations, after),
        "schemas": rows.schemas,
        **take(rows, after),
    }
