"""Rows of an episode -> parts -> batches: the half that writes. `rows` is the one that reads."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from jamboree_gym.arrays.layout import Column, Leaf
from jamboree_gym.arrays.packing import packed_columns
from jamboree_gym.arrays.step_schema import SchemaChanges, StepSchema
from jamboree_gym.encoding.batch_format import CODEC_STEPS, encode_batch
from jamboree_gym.encoding.column_batch import encode_columns
from jamboree_gym.records import EpisodeStatus, EpisodeSummary

__all__ = [
    "ANNOTATION",
    "INFO",
    "REWARD",
    "ROW_WIDTH",
    "TERMINATED",
    "TIMESTAMP",
    "TRUNCATED",
    "Columns",
    "FlatRows",
    "RowPart",
    "column_values",
    "columns_of",
    "cut_rows",
    "encode_rows",
    "prepare",
    "seal_rows",
    "single_rows",
    "status_after",
    "summary_after",
]

FlatRows = Sequence[Any]
"""Rows one after the other, each of them eight values: observation, action, reward, terminated,
truncated, timestamp, encoded info or None if empty, annotation or None if there is none.
Observation, action and annotation are packed (see `packing`).

Flat, because a tuple for each row would be one more object for the garbage collector to follow:
that is a fifth of the recorder's time where many short episodes are recorded.
"""

ROW_WIDTH = 8
REWARD, TERMINATED, TRUNCATED = 2, 3, 4  # positions in a row
TIMESTAMP, INFO, ANNOTATION = 5, 6, 7

_TYPECODES = {"i": "q", "f": "d"}

Columns = Sequence[Sequence[Any]]
"""Observations, actions, rewards, terminations, truncations, timestamps, annotations, as rows keep
them; a row without annotation has None."""


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


def seal_rows(part: RowPart, writer: bytes) -> bytes:
    """The batch of these rows."""
    return encode_batch(
        codec=CODEC_STEPS,
        start=part.start,
        count=part.count,
        writer=writer,
        t_first=part.rows[TIMESTAMP],
        t_last=part.rows[TIMESTAMP - ROW_WIDTH],
        body=encode_rows(part.rows, part.schema, part.changes),
    )


def summary_after(
    known: EpisodeSummary, part: RowPart, status: EpisodeStatus = "running"
) -> EpisodeSummary:
    """The summary as it is after these rows."""
    return EpisodeSummary(  # dataclasses.replace takes four times as long
        known.id,
        known.env_id,
        known.run,
        status,
        part.start + part.count - 1,
        # One by one: the sum is the same however the rows were cut.
        reduce(add, part.rows[REWARD::ROW_WIDTH], known.episode_return),
        known.started_at,
        part.rows[TIMESTAMP - ROW_WIDTH] - known.started_at,
        known.seed,
        known.tags,
        known.vector_index,
        known.writer,
        known.parent,
        known.fork_step,
        known.parent_run,
    )


def status_after(part: RowPart) -> EpisodeStatus:
    """What the newest row says of the episode."""
    if part.rows[TERMINATED - ROW_WIDTH]:
        return "terminated"
    return "truncated" if part.rows[TRUNCATED - ROW_WIDTH] else "running"


def encode_rows(rows: FlatRows, schema: StepSchema, changes: SchemaChanges = ()) -> bytes:
    """Body of a batch that holds these rows.

    Args:
        rows: Rows with the same columns.
        schema: The layout of the first.
        changes: Where others hold, by offset in `rows`.
    """
    columns = columns_of(rows)
    infos = columns.pop(INFO)
    contents = [_content(column, values) for column, values in column_values(schema, columns)]
    if not changes and not any(infos):
        return encode_columns(schema, contents)
    kept = [(offset, info) for offset, info in enumerate(infos) if info]
    digests = [(offset, changed.digest_bytes) for offset, changed in changes]
    return encode_columns(schema, contents, kept, digests)


def columns_of(rows: FlatRows) -> list[Sequence[Any]]:
    """The eight values of each row, by position."""
    return [rows[position::ROW_WIDTH] for position in range(ROW_WIDTH)]


def prepare(schema: StepSchema) -> None:
    """Derive now what batches of this schema will need, rather than at the first one."""
    _ = schema.digest_bytes, schema.column_bytes, schema.encoded_columns


def column_values(schema: StepSchema, columns: Columns) -> Iterator[tuple[Column, Sequence[Any]]]:
    """The columns of a batch in the order of the schema, and the values of each."""
    observations, actions, *fixed, annotations = columns
    values = packed_columns(observations, schema.observation)
    values += [*packed_columns(actions, schema.action), *fixed]
    if schema.is_annotated:
        nothing = schema.annotation_filler
        said = [nothing if one is None else one for one in annotations]
        values.append([one is not None for one in annotations])
        values += packed_columns(said, schema.annotation)
    return zip(schema.columns, values, strict=True)


def _content(column: Column, values: Sequence[Any]) -> Any:
    """A column as `encode_columns` takes it."""
    if not isinstance(column, Leaf):
        return values
    dtype, kind = column.dtype, column.kind
    try:
        if kind == "python":
            code = dtype.kind
            return bytes(values) if code == "b" else array(_TYPECODES[code], values).tobytes()
        if dtype.kind == "b" and column.shape:
            return column.stack(values)
        if kind == "array" or dtype.isnative:
            return b"".join(values)  # NumPy's scalars are buffers of their own bytes
    except TypeError:  # numbers of Python and of NumPy
        pass
    return np.array(values, dtype).tobytes()
