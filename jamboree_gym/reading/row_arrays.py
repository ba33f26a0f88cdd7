"""Rows of an episode -> the arrays that users get."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.packing import RowChoice, rows_of
from jamboree_gym.arrays.step_columns import take
from jamboree_gym.encoding.rows import Rows
from jamboree_gym.records import EpisodeData, Transitions

__all__ = ["fields_of", "to_episode_data", "to_transitions", "transitions_between"]


def to_episode_data(episode_id: str, rows: Rows) -> EpisodeData:
    """All rows of an episode -> its arrays; the reset's reward, action and so on mean nothing."""
    columns = take(rows, slice(1, None)) | {"infos": rows.infos}
    return EpisodeData(id=episode_id, observations=rows.observations, **columns)


def to_transitions(rows: Rows, skipped: int = 0) -> Transitions:
    """Rows, without the first few -> the transitions between them, one fewer."""
    return Transitions(**fields_of(rows, skipped))


def fields_of(rows: Rows, skipped: int = 0) -> dict[str, Any]:
    """The same, as the fields of `Transitions`."""
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
