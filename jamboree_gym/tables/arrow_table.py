"""Converts columns of several episodes into one Arrow table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jamboree_gym.errors import ColumnConflict
from jamboree_gym.records import Transitions
from jamboree_gym.tables.columns import Column, to_columns, to_columns_or_none

__all__ = [
    "Columns",
    "ColumnsOf",
    "Inexact",
    "TablePart",
    "conform",
    "join",
    "empty_part",
    "table_part_of",
    "to_table",
    "with_rows",
]

_INFO = "info_"

ColumnsOf: TypeAlias = "Callable[[Transitions], Mapping[str, Column | None]]"
"""Returns the columns of transitions."""


@dataclass(frozen=True, slots=True, eq=False)
class TablePart:
    """A part of a table.

    Attributes:
        table: Rows of the part.
        owners: By column, the id of an episode that has it.
        unfit: Names of values that no column can hold.
    """

    table: pa.Table
    owners: Mapping[str, str]
    unfit: frozenset[str]


def to_table(steps: Transitions) -> pa.Table:
    """Convert transitions of one episode into a table."""
    return pa.table({name: _arrow(one) for name, one in to_columns(steps).items()})


def table_part_of(
    steps: Transitions,
    ids: Sequence[str],
    counts: npt.NDArray[np.int64],
    columns_of: ColumnsOf = to_columns_or_none,
) -> TablePart:
    """Convert transitions of several episodes into a part of a table.

    `counts` has the number of transitions of each episode; `columns_of` returns their columns, and
    None for values that no column can hold.
    """
    columns = columns_of(steps)
    unfit = frozenset(name for name, column in columns.items() if column is None)
    positions = pa.array(np.arange(len(ids), dtype=np.int32).repeat(counts))
    episode_id = pa.array(ids, pa.string()).take(positions)
    found = {name: _arrow(column) for name, column in columns.items() if column is not None}
    table = pa.table({"episode_id": episode_id, **found})
    return TablePart(table, dict.fromkeys(table.column_names, ids[0] if ids else ""), unfit)


def _arrow(column: Column) -> pa.Array:
    """A column as an Arrow array; elements with several numbers become (nested) lists."""
    if isinstance(column, pa.Array):
        return column
    array = np.ascontiguousarray(column, column.dtype.newbyteorder("="))
    arrow = pa.array(array.reshape(-1))
    for size in reversed(array.shape[1:]):
        arrow = pa.FixedSizeListArray.from_arrays(arrow, size)
    return arrow


# -- one schema for all parts -----------------------------------------------------------------


@dataclass(slots=True)
class Columns:
    """Collects the columns of all parts.

    Attributes:
        kinds: By name, the types of the column, each with the id of an episode that has it.
        unfit: Names of values that no column can hold.
    """

    kinds: dict[str, dict[pa.DataType, str]] = field(default_factory=dict)
    unfit: set[str] = field(default_factory=set)

    def see(self, schema: pa.Schema, table_part: TablePart) -> None:
        """Add the columns of a part."""
        self.unfit |= table_part.unfit
        for one in schema:
            self.kinds.setdefault(one.name, {}).setdefault(one.type, table_part.owners[one.name])

    def schema(self) -> pa.Schema:
        """The columns of all parts; each has a type that holds all values.

        Raises:
            ColumnConflict: There is no such type.
        """
        fields = []
        for name in [name for name in self.kinds if name not in self.unfit]:
            kind = _common_type(self.kinds[name])
            if kind is None:
                self.refuse(name)
            else:
                fields.append((name, kind))
        return pa.schema(fields)

    def refuse(self, name: str) -> None:
        """Drop a column of an info that no type can hold; any other column is an error.

        Raises:
            ColumnConflict: The column does not belong to the infos.
        """
        if not name.startswith(_INFO):
            kinds = [f"{kind} in episode {owner}" for kind, owner in self.kinds[name].items()]
            raise ColumnConflict(
                f"no one column holds {name!r}: it is {' and '.join(kinds)}. Ask for episodes that "
                "are alike, by env_id= or run=, or for one at a time"
            )
        self.unfit.add(name)


def _common_type(kinds: Iterable[pa.DataType]) -> pa.DataType | None:
    first, *others = kinds
    if not others:
        return first
    if not all(map(_is_number, (first, *others))):
        return None
    return pa.from_numpy_dtype(
        np.result_type(*(kind.to_pandas_dtype() for kind in (first, *others)))
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )


class Inexact(Exception):
    """A column has a number that its common type cannot hold exactly."""


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of a schema; columns that it lacks are null."""
    columns = []
    for one in schema:
        if one.name not in table.column_names:
            columns.append(pa.nulls(len(table), one.type))
            continue
        column = table[one.name]
        try:
            columns.append(column if column.type == one.type else column.cast(one.type))
        except pa.ArrowException as error:
            raise Inexact(one.name) from error
    return pa.Table.from_arrays(columns, schema=schema)


def join(table_parts: Sequence[TablePart], order: npt.NDArray[np.int64] | None = None) -> TablePart:
    """Join parts, at least one, one below the other.

    `order` has a sort key for each row of all parts; rows with equal keys keep their order.

    Raises:
        ColumnConflict: No single column can hold the values of two episodes; names both.
    """
    table_parts = list(with_rows(table_parts))
    if len(table_parts) == 1 and order is None:
        return table_parts[0]
    known = Columns()
    for table_part in table_parts:
        known.see(table_part.table.schema, table_part)
    while True:
        schema = known.schema()
        try:
            tables = [conform(table_part.table, schema) for table_part in table_parts]
            break
        except Inexact as error:
            known.refuse(str(error))
    owners = {name: next(iter(known.kinds[name].values())) for name in schema.names}
    table = pa.concat_tables(tables)
    if order is not None and (np.diff(order) < 0).any():
        table = table.take(pa.array(order.argsort(kind="stable")))
    return TablePart(table, owners, frozenset(known.unfit))


def with_rows(table_parts: Iterable[TablePart]) -> Iterator[TablePart]:
    """The parts that have rows; the first part if none has.

    The columns of an episode without steps are only a guess.
    """
    first, is_empty = None, True
    for table_part in table_parts:
        first = first or table_part
        if len(table_part.table):
            is_empty = False
            yield table_part
    if is_empty and first is not None:
        yield first


def empty_part() -> TablePart:
    """A table without rows, with the columns that every table has."""
    nothing = pa.schema(
        [
            ("episode_id", pa.string()),
            ("index", pa.int64()),
            ("timestamp", pa.float64()),
            ("reward", pa.float64()),
            ("terminated", pa.bool_()),
            ("truncated", pa.bool_()),
        ]
    )
    return TablePart(nothing.empty_table(), dict.fromkeys(nothing.names, ""), frozenset())
