"""Columns of several episodes -> one Arrow table, or one Arrow file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jamboree_gym.errors import ColumnConflict
from jamboree_gym.frame import Column, to_columns_or_none
from jamboree_gym.records import Transitions

__all__ = ["Piece", "join", "no_piece", "piece_of", "to_table", "write_arrow"]

_INFO = "info_"


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A part of a table.

    Attributes:
        table: Its rows.
        owners: By column, an episode that has it.
        unfit: Columns that are none, because there are values that fit into no column.
    """

    table: pa.Table
    owners: Mapping[str, str]
    unfit: frozenset[str]


def to_table(steps: Transitions) -> pa.Table:
    """Transitions of one episode as a table."""
    columns = to_columns_or_none(steps)
    return pa.table({name: _arrow(one) for name, one in columns.items() if one is not None})


def piece_of(steps: Transitions, ids: Sequence[str], counts: npt.NDArray[np.int64]) -> Piece:
    """Transitions of several episodes.

    Args:
        steps: The transitions.
        ids: The episodes that they are of.
        counts: Number of transitions of each.
    """
    columns = to_columns_or_none(steps)
    unfit = frozenset(name for name, column in columns.items() if column is None)
    positions = pa.array(np.arange(len(ids), dtype=np.int32).repeat(counts))
    episode_id = pa.array(ids, pa.string()).take(positions)
    found = {name: _arrow(column) for name, column in columns.items() if column is not None}
    table = pa.table({"episode_id": episode_id, **found})
    return Piece(table, dict.fromkeys(table.column_names, ids[0] if ids else ""), unfit)


def _arrow(column: Column) -> pa.Array:
    """A column as an Arrow array; elements of more than one number as (nested) lists."""
    if isinstance(column, pa.Array):
        return column
    array = np.ascontiguousarray(column, column.dtype.newbyteorder("="))
    arrow = pa.array(array.reshape(-1))
    for size in reversed(array.shape[1:]):
        arrow = pa.FixedSizeListArray.from_arrays(arrow, size)
    return arrow


# -- one schema for all -----------------------------------------------------------------------


@dataclass(slots=True)
class _Columns:
    """What columns there are in all pieces together.

    Attributes:
        kinds: By name, the types that it has, each with an episode that has it so.
        unfit: Those that are none.
    """

    kinds: dict[str, dict[pa.DataType, str]] = field(default_factory=dict)
    unfit: set[str] = field(default_factory=set)

    def see(self, schema: pa.Schema, piece: Piece) -> None:
        """Take note of the columns of a piece."""
        self.unfit |= piece.unfit
        for one in schema:
            self.kinds.setdefault(one.name, {}).setdefault(one.type, piece.owners[one.name])

    def schema(self) -> pa.Schema:
        """The columns of all, each of the type that holds all.

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
        """No type holds a column: an info has none then; whatever else is an error.

        Raises:
            ColumnConflict: It is not of the infos.
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


class _Inexact(Exception):
    """A column has a number that its common type does not hold exactly."""


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of a schema; null where it has none."""
    columns = []
    for one in schema:
        if one.name not in table.column_names:
            columns.append(pa.nulls(len(table), one.type))
            continue
        column = table[one.name]
        try:
            columns.append(column if column.type == one.type else column.cast(one.type))
        except pa.ArrowException as error:
            raise _Inexact(one.name) from error
    return pa.Table.from_arrays(columns, schema=schema)


def join(pieces: Sequence[Piece], order: npt.NDArray[np.int64] | None = None) -> Piece:
    """Pieces, one below the other.

    Args:
        pieces: At least one.
        order: A number for each row of all pieces, by which they are to be sorted; those of equal
            numbers stay as they are.

    Raises:
        ColumnConflict: No one column holds the values of two episodes; names both.
    """
    pieces = list(_with_rows(pieces))
    if len(pieces) == 1 and order is None:
        return pieces[0]
    known = _Columns()
    for piece in pieces:
        known.see(piece.table.schema, piece)
    while True:
        schema = known.schema()
        try:
            tables = [_conform(piece.table, schema) for piece in pieces]
            break
        except _Inexact as error:
            known.refuse(str(error))
    owners = {name: next(iter(known.kinds[name].values())) for name in schema.names}
    table = pa.concat_tables(tables)
    if order is not None and (np.diff(order) < 0).any():
        table = table.take(pa.array(order.argsort(kind="stable")))
    return Piece(table, owners, frozenset(known.unfit))


def _with_rows(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Those that have rows; if none has, the first.

    What an episode without steps would have had for columns is but a guess.
    """
    first, is_empty = None, True
    for piece in pieces:
        first = first or piece
        if len(piece.table):
            is_empty = False
            yield piece
    if is_empty and first is not None:
        yield first


def no_piece() -> Piece:
    """A table without rows, with the columns that any has."""
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
    return Piece(nothing.empty_table(), dict.fromkeys(nothing.names, ""), frozenset())


# -- a file -----------------------------------------------------------------------------------


class _Spool:
    """Pieces in files beside the one that is asked for, one file for each schema."""

    def __init__(self, path: Path, files: ExitStack) -> None:
        self._path = path
        self._files = files
        self._writers: dict[pa.Schema, Any] = {}
        self.paths: list[Path] = []
        self.order: list[tuple[int, int]] = []  # of each batch its file, and its place there
        self.columns = _Columns()

    def add(self, piece: Piece) -> None:
        schema = piece.table.schema
        if schema not in self._writers:
            self.paths.append(self._path.with_name(f"{self._path.name}.{len(self._writers)}.part"))
            sink = self._files.enter_context(pa.OSFile(str(self.paths[-1]), "wb"))
            self._writers[schema] = [len(self._writers), 0, pa.ipc.new_file(sink, schema)]
        self.columns.see(schema, piece)
        place = self._writers[schema]
        for batch in piece.table.combine_chunks().to_batches():
            place[2].write_batch(batch)
            self.order.append((place[0], place[1]))
            place[1] += 1

    def close(self) -> None:
        for _, _, writer in self._writers.values():
            writer.close()
        self._files.close()

    def batches(self, readers: Sequence[Any], schema: pa.Schema) -> Iterator[pa.Table]:
        for file, place in self.order:
            yield _conform(pa.Table.from_batches([readers[file].get_batch(place)]), schema)


def write_arrow(pieces: Iterable[Piece], path: Path) -> None:
    """Write an Arrow IPC file, of which no more than one piece is in memory.

    Where the pieces differ in their columns, they are written beside it first, as only the last one
    shows which columns there are.

    Raises:
        ColumnConflict: No one column holds the values of two episodes; names both. There is no
            file then.
    """
    with ExitStack() as files:
        spool = _Spool(path, files)
        try:
            for piece in _with_rows(pieces):
                spool.add(piece)
            spool.close()
            _put_together(spool, path)
        finally:
            files.close()
            for part in spool.paths:
                part.unlink(missing_ok=True)


def _put_together(spool: _Spool, path: Path) -> None:
    if len(spool.paths) == 1 and not spool.columns.unfit.intersection(spool.columns.kinds):
        os.replace(spool.paths[0], path)
        return
    whole = path.with_name(f"{path.name}.whole.part")
    spool.paths.append(whole)
    with ExitStack() as maps:
        sources = [maps.enter_context(pa.memory_map(str(part))) for part in spool.paths[:-1]]
        readers = [pa.ipc.open_file(source) for source in sources]
        while True:
            schema = spool.columns.schema()
            try:
                with pa.OSFile(str(whole), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                    for table in spool.batches(readers, schema):
                        writer.write_table(table)
                break
            except _Inexact as error:
                spool.columns.refuse(str(error))
    os.replace(whole, path)
