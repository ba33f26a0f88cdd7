"""Cutting the rows of an episode into the parts that become frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jamboree_gym.spaces import Kind
from jamboree_gym.steps import ROW_WIDTH, ActionKinds, FlatRows, StepSchema

__all__ = ["RowPart", "cut_rows"]


@dataclass(frozen=True, slots=True, eq=False)
class RowPart:
    """Consecutive rows that fit into one frame.

    Attributes:
        start: Row number of the first.
        rows: The rows.
        schema: Their layout.
        kinds: Where actions become of another kind than the layout says; in rows from the first.
    """

    start: int
    rows: FlatRows
    schema: StepSchema
    kinds: ActionKinds

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.rows) // ROW_WIDTH


def cut_rows(
    start: int, rows: FlatRows, schemas: Sequence[tuple[int, StepSchema]], size: int
) -> list[RowPart]:
    """Cut rows into parts of no more than `size` rows, each with one set of columns.

    Args:
        start: Row number of the first.
        rows: The rows.
        schemas: Row number from which on a layout holds, ascending; the first is at most `start`.
        size: Most rows of a part.
    """
    stop = start + len(rows) // ROW_WIDTH
    return [
        RowPart(
            at,
            rows[(at - start) * ROW_WIDTH : (min(at + size, end) - start) * ROW_WIDTH],
            schema,
            _kinds(schemas, schema, at, min(at + size, end)) if len(schemas) > 1 else (),
        )
        for first, end, schema in _spans(schemas, start, stop)
        for at in range(first, end, size)
    ]


def _spans(
    schemas: Sequence[tuple[int, StepSchema]], start: int, stop: int
) -> Iterator[tuple[int, int, StepSchema]]:
    """From where to where the columns are the same."""
    first, schema = start, schemas[0][1]
    for at, following in schemas[1:]:
        if at <= start:
            schema = following
        elif at < stop and not following.shares_columns_with(schema):
            yield first, at, schema
            first, schema = at, following
    yield first, stop, schema


def _kinds(
    schemas: Sequence[tuple[int, StepSchema]], schema: StepSchema, first: int, end: int
) -> ActionKinds:
    kind = schema.action.kind
    kinds: list[tuple[int, Kind]] = []
    for at, following in schemas:
        if at < end:
            here = (max(at, first) - first, following.action.kind)
            if kinds and kinds[-1][0] == here[0]:
                kinds.pop()
            kinds.append(here)
    changes = []
    for offset, new in kinds:
        if new != kind:
            changes.append((offset, new))
        kind = new
    return changes
