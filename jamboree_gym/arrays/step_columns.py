"""The columns that each record of steps has: some rows of all of them at once."""

from __future__ import annotations

from itertools import compress
from typing import Any, Final

from jamboree_gym.arrays.packing import RowChoice, rows_of

__all__ = ["NUMBER_COLUMNS", "take"]

NUMBER_COLUMNS: Final = ("rewards", "terminations", "truncations", "timestamps", "annotated")


def take(steps: Any, rows: RowChoice) -> dict[str, Any]:
    """Some rows of the columns that `Rows`, `Transitions` and `EpisodeData` share, by their names.

    `steps` has a row for each step in each of them.
    """
    if isinstance(rows, slice):
        infos = steps.infos[rows]
    else:
        infos = list(compress(steps.infos, rows.tolist()))
    return {
        "actions": rows_of(steps.actions, rows),
        **{name: getattr(steps, name)[rows] for name in NUMBER_COLUMNS},
        "infos": infos,
        "annotations": rows_of(steps.annotations, rows),
    }
