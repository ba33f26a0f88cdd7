"""Episodes that are over -> a folder of Parquet files; a killed export is continued."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from jamboree_gym.connection import Connection
from jamboree_gym.errors import ExportError
from jamboree_gym.progress import Progress
from jamboree_gym.reading.bulk_read import Block, read_blocks
from jamboree_gym.reading.finding.filters import Found
from jamboree_gym.reading.part_folder import PartFolder, aside_of, whole
from jamboree_gym.tables.arrow_table import (
    Columns,
    ColumnsOf,
    Inexact,
    TablePart,
    conform,
    empty_part,
    join,
    table_part_of,
)
from jamboree_gym.tables.columns import to_columns_or_none
from jamboree_gym.tables.table_file import Spool

__all__ = ["pieces_of", "write_parts"]

PART_BYTES = 64 << 20  # in memory; as files a fifth to a half of it
_NOTE = b"jamboree"  # in a part's metadata: what its columns cannot tell
_COMPRESSION = "zstd"


def pieces_of(
    connection: Connection, found: Found, columns_of: ColumnsOf = to_columns_or_none
) -> Iterator[tuple[int, TablePart]]:
    """The steps of these episodes as parts of a table, in their order.

    Yields:
        How many episodes are read to their end now, and the next part.
    """
    first = 0
    for done, blocks in read_blocks(connection, found):
        table_parts = [
            table_part_of(one.transitions(), one.ids, one.steps, columns_of) for one in blocks
        ]
        order = None if len(blocks) == 1 else _order(blocks, found[first : done + 1])
        yield done, join(table_parts, order)
        first = done


def _order(blocks: Sequence[Block], found: Found) -> npt.NDArray[np.int64]:
    """The place of the episode of each transition."""
    places = {one.id: place for place, one in enumerate(found)}
    order = [np.array([places[id] for id in one.ids]).repeat(one.steps) for one in blocks]
    return np.concatenate(order)


def write_parts(
    connection: Connection,
    found: Found,
    folder: Path,
    progress: bool | Progress,
    columns_of: ColumnsOf = to_columns_or_none,
    prefix: str = "part",
) -> list[Path]:
    """Write the episodes that are over, and are not there yet, into Parquet files.

    An episode is in one file with all of its steps. In the end all files have the same columns;
    until then each has those of the episodes in it.

    Args:
        connection: Where the episodes are.
        found: The episodes.
        folder: Where to.
        progress: Who is told how many are written.
        columns_of: The columns that they get.
        prefix: Of the files' names; another one for other columns.

    Returns:
        All files, in order.

    Raises:
        ColumnConflict: No one column holds the values of two episodes; names both. What was
            written before stays.
        ExportError: Another process writes there, or other files are there.
    """
    parts = PartFolder(folder, f"{prefix}-*.parquet")
    with parts.locked():
        table_parts = parts.rest(
            found,
            _lengths(parts),
            lambda wanted: _ending(pieces_of(connection, wanted, columns_of)),
            progress,
        )
        _write_new(parts, table_parts)
        _make_alike(parts)
        return parts.paths()


def _ending(
    table_parts: Iterable[tuple[int, TablePart]],
) -> Iterator[tuple[int, tuple[bool, TablePart]]]:
    """The parts, and whether an episode ends with each."""
    last = 0
    for done, table_part in table_parts:
        yield done, (done > last, table_part)
        last = done


def _lengths(parts: PartFolder) -> dict[str, int]:
    """Number of steps of the episodes that are written, by their ids.

    Raises:
        ExportError: Other files are there.
    """
    lengths: dict[str, int] = {}
    own = set(parts.paths())
    for path in parts.path.glob("[!.]*.parquet"):
        is_own = path in own and _NOTE in (pq.read_schema(path).metadata or {})
        if not is_own:
            raise ExportError(f"{path} was written by something else: choose another folder")
        column = pq.read_table(path, columns=["episode_id"], read_dictionary=["episode_id"])
        counts = column["episode_id"].value_counts()
        ids, steps = counts.field("values").to_pylist(), counts.field("counts").to_pylist()
        lengths.update(zip(ids, steps, strict=True))
    return lengths


# -- new parts --------------------------------------------------------------------------------


def _write_new(parts: PartFolder, table_parts: Iterable[tuple[bool, TablePart]]) -> None:
    spool = _new_spool(parts)
    try:
        for is_end, table_part in table_parts:
            if len(table_part.table):
                spool.add(table_part)
            if is_end and spool.nbytes >= PART_BYTES:
                _write_part(parts.next(), spool)
                spool = _new_spool(parts)
        if not spool.nbytes and not parts.paths():
            spool.add(empty_part())
        if spool.columns.kinds:
            _write_part(parts.next(), spool)
    finally:
        spool.discard()


def _new_spool(parts: PartFolder) -> Spool:
    return Spool(aside_of(parts.path / "spool"))


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


def _make_alike(parts: PartFolder) -> None:
    """Give all parts the same columns, part by part; after a kill, the next call continues."""
    columns, schemas = Columns(), {}
    for path in parts.paths():
        schemas[path] = schema = pq.read_schema(path)
        note = json.loads(schema.metadata[_NOTE])
        columns.see(
            schema, TablePart(schema.empty_table(), note["owners"], frozenset(note["unfit"]))
        )
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
