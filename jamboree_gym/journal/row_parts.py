"""Rows as they lie in a block -> parts, which become batches or arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.layout import Leaf
from jamboree_gym.arrays.step_schema import SchemaChanges, StepSchema
from jamboree_gym.encoding.column_batch import ColumnValues, infos_in, row_columns
from jamboree_gym.encoding.row_part import RowPart

__all__ = ["RowWindow", "joined", "part_of", "window_part"]

RowWindow: TypeAlias = tuple[bytes, np.dtype[Any], int, Mapping[int, StepSchema]]
"""A copy of rows that have no bytes elsewhere: bytes, dtype, number of the first, schemas."""


def window_part(
    content: bytes, dtype: np.dtype[Any], start: int, schemas: Mapping[int, StepSchema]
) -> RowPart:
    """The rows of a window, in new memory."""
    return joined([part_of(np.frombuffer(content, dtype), b"", start, schemas)])


def part_of(
    rows: npt.NDArray[Any],
    content: bytes | memoryview,
    start: int,
    schemas: Mapping[int, StepSchema],
) -> RowPart:
    """Rows of one format as a part; its arrays share their memory.

    Args:
        rows: Of the format's dtype.
        content: The block that they lie in.
        start: Row number of the first.
        schemas: By the numbers that rows have for them.
    """
    schema, changes = _schemas_of(rows, schemas)
    columns = row_columns(rows, schema, content)
    return RowPart(start, schema, changes, columns, infos_in(rows, content))


def _schemas_of(
    rows: npt.NDArray[Any], schemas: Mapping[int, StepSchema]
) -> tuple[StepSchema, SchemaChanges]:
    numbers = rows["schema"]
    if len(schemas) == 1:
        return next(iter(schemas.values())), ()
    first = schemas[int(numbers[0])]
    changed_at = np.flatnonzero(np.diff(numbers)) + 1
    return first, [(int(at), schemas[int(numbers[at])]) for at in changed_at]


def joined(parts: Sequence[RowPart]) -> RowPart:
    """Successive parts of one format as one, in new memory."""
    first = parts[0]
    columns: list[ColumnValues] = []
    for column, pieces in zip(
        first.schema.columns, zip(*[part.columns for part in parts], strict=True), strict=True
    ):
        if isinstance(column, Leaf):
            columns.append(np.concatenate(pieces))
        else:
            columns.append([value for piece in pieces for value in piece])
    changes: list[tuple[int, StepSchema]] = []
    infos: list[tuple[int, bytes]] = []
    schema = first.schema
    for part in parts:
        skipped = part.start - first.start
        for at, one in ((0, part.schema), *part.changes):
            if one is not schema:
                changes.append((skipped + at, one))
                schema = one
        infos += [(skipped + at, info) for at, info in part.infos]
    return RowPart(first.start, first.schema, changes, columns, infos)
