"""Cutting the rows of an episode into the parts that become batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jamboree_gym.arrays.step_schema import SchemaChanges, StepSchema
from jamboree_gym.encoding.rows import ROW_WIDTH, FlatRows

__all__ = ["RowPart", "cut_rows", "single_rows"]


@dataclass(slots=True, eq=False)
class RowPart:
    """Consecutive rows that fit into one batch.

    Attributes:
        start: Row number of the first.
        rows: The rows.
        schema: Layout of the first.
        changes: Where others hold that share its columns, by offset in `rows`.
    """

    start: int
    rows: FlatRows
    schema: StepSchema
    changes: SchemaChanges

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.rows) // ROW_WIDTH


def cut_rows(start: int, rows: FlatRows, schemas: SchemaChanges, size: int) -> list[RowPart]:
    """Cut rows into parts of no more than `size` rows, each with one set of columns.

    Args:
        start: Row number of the first.
        rows: The rows.
        schemas: Row number from which on a schema holds; the first is at most `start`.
        size: Most rows of a part.
    """
    count = len(rows) // ROW_WIDTH
    if len(schemas) == 1 and 0 < count <= size:
        return [RowPart(start, rows, schemas[0][1], ())]
    return [
        _part(start, rows, schemas, at, min(at + size, end))
        for first, end in _spans(schemas, start, start + count)
        for at in range(first, end, size)
    ]


def single_rows(part: RowPart) -> Iterator[RowPart]:
    """The same rows, each as a part of its own."""
    schemas = [(part.start, part.schema), *((part.start + at, one) for at, one in part.changes)]
    for row in range(part.start, part.start + part.count):
        yield _part(part.start, part.rows, schemas, row, row + 1)


def _part(start: int, rows: FlatRows, schemas: SchemaChanges, first: int, end: int) -> RowPart:
    inside = rows[(first - start) * ROW_WIDTH : (end - start) * ROW_WIDTH]
    before = [schema for at, schema in schemas if at <= first]
    changes: list[tuple[int, StepSchema]] = []
    known = before[-1]
    for at, schema in schemas:
        if first < at < end and schema != known:
            changes.append((at - first, schema))
            known = schema
    return RowPart(first, inside, before[-1], changes)


def _spans(schemas: SchemaChanges, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """From where to where the columns are the same."""
    first, schema = start, schemas[0][1]
    for at, following in schemas[1:]:
        if at <= start:
            schema = following
        elif at < stop and not following.shares_columns_with(schema):
            yield first, at
            first, schema = at, following
    yield first, stop
