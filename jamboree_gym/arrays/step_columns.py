"""The columns that each record of steps has: some rows of all of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from jamboree_gym.arrays.packing import RowChoice, rows_of

__all__ = ["NUMBER_COLUMNS", "are_empty", "take"]

NUMBER_COLUMNS: Final = ("rewards", "terminations", "truncations", "timestamps", "annotated")


def take(steps: Any, rows: RowChoice) -> dict[str, Any]:
    """Some rows of the columns that `Rows`, `Transitions` and `EpisodeData` share, by their names.

    `steps` has a row for each step in each of them.
    """
    return {
        "actions": rows_of(steps.actions, rows),
        **{name: rows_of(getattr(steps, name), rows) for name in NUMBER_COLUMNS},
        "infos": _infos(steps.infos, rows),
        "annotations": rows_of(steps.annotations, rows),
    }


def are_empty(infos: Sequence[Mapping[str, Any]]) -> bool:
    """Whether no row has an info, as in most environments."""
    # Rows mostly share one empty dict, and counting one looks at nothing but its identity.
    return not infos or (not infos[0] and infos.count(infos[0]) == len(infos))


def _infos(infos: Sequence[Mapping[str, Any]], rows: RowChoice) -> Sequence[Mapping[str, Any]]:
    if isinstance(rows, slice):
        return infos[rows]
    if are_empty(infos):
        return [{}] * len(rows)
    return [infos[row] for row in rows.tolist()]
