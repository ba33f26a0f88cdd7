"""The newest rows that this process holds -> transitions, whose arrays are made when asked for."""

from __future__ import annotations

from functools import partial
from typing import Any

from jamboree_gym.delivery.step_buffer import RowBuffer
from jamboree_gym.encoding.rows import rows_to_arrays
from jamboree_gym.journal.row_parts import window_part
from jamboree_gym.reading.row_arrays import fields_of, to_transitions
from jamboree_gym.records import Transitions

__all__ = ["newest_transitions"]


def newest_transitions(held: RowBuffer, n: int) -> Transitions | None:
    """The newest n, None where memory does not hold them.

    Whoever asks before each step often wants one or two of the ten arrays. So their rows are copied
    in one piece, and looked at later.
    """
    window = held.recent_copy(n)
    if window is not None:
        return Transitions._made_by(partial(_fields, *window))
    rows = held.recent(n)
    return None if rows is None else to_transitions(rows)


def _fields(*window: Any) -> dict[str, Any]:
    return fields_of(rows_to_arrays(window_part(*window)))
