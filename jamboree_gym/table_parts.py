"""Episodes that are over -> a folder of Parquet files, gone on with where it was left off."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jamboree_gym.blocks import read_blocks
from jamboree_gym.connection import Connection
from jamboree_gym.errors import ExportError
from jamboree_gym.folder import locked, whole
from jamboree_gym.frame import to_columns_or_none
from jamboree_gym.listing import Found
from jamboree_gym.progress import Progress, reported
from jamboree_gym.table_files import Spool
from jamboree_gym.tables import (
    Columns,
    ColumnsOf,
    Inexact,
    Piece,
    conform,
    join,
    no_piece,
    piece_of,
)

__all__ = ["part_paths", "pieces_of", "write_parts"]

PART_BYTES = 64 << 20  # in memory; as files a fifth to a half of it
_NOTE = b"jamboree"  # in a part's metadata: what its columns cannot tell
_COMPRESSION = "zstd"


def pieces_of(
    connection: Connection, found: Found, columns_of: ColumnsOf = to_columns_or_none
) -> Iterator[tuple[int, Piece]]:
    """The steps of these episodes as pieces of a table, in their order.

    Yields:
        How many episodes are read to their end now, and the next piece.
    """
    positions = {one.id: position for position, one in enumerate(found)}
    for done, blocks in read_blocks(connection, found):
        pieces = [piece_of(one.transitions(), one.ids, one.steps, columns_of) for one in blocks]
        order = [
            np.array([positions[name] for name in one.ids]).repeat(one.steps) for one in blocks
        ]
        yield done, join(pieces, np.concatenate(order))


def write_parts(
    connection: Connection,
    found: Found,
    folder: Path,
    progress: bool | Progress,
    columns_of: ColumnsOf = to_columns_or_none,
) -> None:
    """Write the episodes that are over, and are not there yet, into Parquet files.

    An episode is in one file with all of its steps. In the end all files have the same columns;
    until then each has those of its own episodes.

    Raises:
        ColumnConflict: No one column holds the values of two episodes; names both. What was
            written before stays.
        ExportError: Another process writes there, or other files are there.
    """
    with locked(folder):
        there = _episodes_in(folder)
        over = [one for one in found if one.status != "running"]
        wanted = [one for one in over if one.id not in there]
        before = len(over) - len(wanted)
        pieces = _ending(pieces_of(connection, wanted, columns_of), before)
        _write_new(folder, reported(pieces, len(over), progress, done_is="written"))
        _make_alike(folder)


def _ending(
    pieces: Iterable[tuple[int, Piece]], before: int
) -> Iterator[tuple[int, tuple[bool, Piece]]]:
    """The pieces, and whether an episode ends with each; `before` were written earlier."""
    last = 0
    for done, piece in pieces:
        yield before + done, (done > last, piece)
        last = done


def part_paths(folder: Path) -> list[Path]:
    """The parts in a folder, in order."""
    return sorted(folder.glob("part-*.parquet"))


def _episodes_in(folder: Path) -> set[str]:
    ids: set[str] = set()
    for path in folder.glob("[!.]*.parquet"):
        if _NOTE not in (pq.read_schema(path).metadata or {}):
            raise ExportError(f"{path} was written by something else: choose another folder")
        column = pq.read_table(path, columns=["episode_id"], read_dictionary=["episode_id"])
        ids.update(column["episode_id"].unique().to_pylist())
    return ids


# -- new parts --------------------------------------------------------------------------------


def _write_new(folder: Path, pieces: Iterable[tuple[bool, Piece]]) -> None:
    number = len(part_paths(folder))
    spool = Spool(folder / ".spool.new")
    try:
        for is_end, piece in pieces:
            if len(piece.table):
                spool.add(piece)
            if is_end and spool.nbytes >= PART_BYTES:
                _write_part(folder / f"part-{number:05}.parquet", spool)
                number, spool = number + 1, Spool(folder / ".spool.new")
        if spool.nbytes or not number:
            if not spool.nbytes:
                spool.add(no_piece())
            _write_part(folder / f"part-{number:05}.parquet", spool)
    finally:
        spool.discard()


def _write_part(path: Path, spool: Spool) -> None:
    with whole(path) as aside:
        spool.write(lambda schema: _parquet_file(aside, schema, spool.columns))
    spool.discard()


@contextmanager
def _parquet_file(path: Path, schema: pa.Schema, columns: Columns) -> Iterator[Any]:
    owners = {name: next(iter(columns.kinds[name].values())) for name in schema.names}
    note = json.dumps({"owners": owners, "unfit": sorted(columns.unfit)})
    noted = schema.with_metadata({**(schema.metadata or {}), _NOTE: note.encode()})
    with pq.ParquetWriter(path, noted, compression=_COMPRESSION) as writer:
        yield writer


# -- one schema for all -----------------------------------------------------------------------


def _make_alike(folder: Path) -> None:
    """Give all parts the same columns, part by part; a killed one is gone on with."""
    columns, schemas = Columns(), {}
    for path in part_paths(folder):
        schemas[path] = schema = pq.read_schema(path)
        note = json.loads(schema.metadata[_NOTE])
        columns.see(schema, Piece(schema.empty_table(), note["owners"], frozenset(note["unfit"])))
    while True:
        common = columns.schema()
        try:
            for path, schema in schemas.items():
                if not schema.equals(common, check_metadata=False):
                    _rewrite(path, common, columns)
                    schemas[path] = common
            return
        except Inexact as error:
            columns.refuse(str(error))


def _rewrite(path: Path, schema: pa.Schema, columns: Columns) -> None:
    with (
        pq.ParquetFile(path) as part,
        whole(path) as aside,
        _parquet_file(aside, schema, columns) as writer,
    ):
        for group in range(part.num_row_groups):
            writer.write_table(conform(part.read_row_group(group), schema))
