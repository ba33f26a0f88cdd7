"""Rows as tuples of packed values -> the part that they make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jamboree_gym.arrays.step_schema import SchemaChanges, StepSchema
from jamboree_gym.encoding.row_part import RowPart, packed_part

Row = tuple[Any, ...]
"""Observation, action, reward, terminated, truncated, timestamp, encoded info or None, annotation
or None."""

NAMES = (
    *("observations", "actions", "rewards", "terminations", "truncations"),
    *("timestamps", "infos", "annotations"),
)


def part(
    rows: Sequence[Row], schema: StepSchema, changes: SchemaChanges = (), *, start: int = 0
) -> RowPart:
    columns = zip(*rows, strict=True)
    return packed_part(start, schema, changes, **dict(zip(NAMES, columns, strict=True)))
