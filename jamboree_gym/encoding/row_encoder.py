"""Rows of an episode -> parts -> batches: the half that writes. `rows` is the one that reads.

Short episodes make small batches, for which pyarrow spends most of its time on the header. But the
header depends on nothing but the schema and the number of rows, and the numbers in it stand at
fixed places. So pyarrow writes three headers, from which these places can be told. Every other
header is a copy with other numbers, and the columns follow as they are. pyarrow would also release
the interpreter lock a dozen times a batch: beside a busy environment, the writer's thread would
wait for it just as often. A batch that is not laid out as expected, or holds values without a fixed
size, is left to pyarrow.

The format is Arrow's IPC message (https://arrow.apache.org/docs/format/Columnar.html): a
RecordBatch holds its length, a (length, null count) for each node, an (offset, length) for each
buffer; the message around it holds the length of the body.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import accumulate
from operator import add
from typing import Any, cast

import msgspec
import numpy as np
import pyarrow as pa

from jamboree_gym.arrays.layout import Column, Leaf
from jamboree_gym.arrays.packing import filler, packed_columns
from jamboree_gym.arrays.step_schema import SchemaChanges, StepSchema
from jamboree_gym.encoding.batch_format import CODEC_STEPS, encode_batch
from jamboree_gym.records import EpisodeStatus, EpisodeSummary

__all__ = [
    "ANNOTATION",
    "INFO",
    "NO_REST",
    "PREFIX",
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
    "serialize_batch",
    "single_rows",
    "status_after",
    "summary_after",
    "template_of",
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

PREFIX = struct.Struct("<8sI")
NO_REST = msgspec.msgpack.encode(([], []))

_TRIED_COUNTS = (9, 4, 17)
MAX_ROW_BYTES = 1 << 20  # beyond it, what pyarrow takes for a header does not matter
_INT64 = struct.Struct("<q")
_PADDING = [bytes(n) for n in range(8)]
_TYPECODES = {"i": "q", "f": "d"}

Columns = Sequence[Sequence[Any]]
"""Observations, actions, rewards, terminations, truncations, timestamps, annotations, as rows keep
them; a row without annotation has None."""

WriteMessage = Callable[[int], bytes]
"""pyarrow's own message for so many rows."""


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
    message = serialize_batch(schema, columns)
    prefix = PREFIX.pack(schema.digest_bytes, len(message))
    if not changes and not any(infos):
        return b"".join((prefix, message, NO_REST))
    kept = [(offset, info) for offset, info in enumerate(infos) if info]
    digests = [(offset, changed.digest_bytes) for offset, changed in changes]
    return b"".join((prefix, message, msgspec.msgpack.encode((kept, digests))))


def columns_of(rows: FlatRows) -> list[Sequence[Any]]:
    """The eight values of each row, by position."""
    return [rows[position::ROW_WIDTH] for position in range(ROW_WIDTH)]


def serialize_batch(schema: StepSchema, columns: Columns) -> bytes:
    """One Arrow IPC message with a record batch."""
    template = template_of(schema)
    if template is None:
        return _by_pyarrow(schema, columns)
    return template.header(len(columns[0])) + _body(schema, columns)


def prepare(schema: StepSchema) -> None:
    """Ask pyarrow now for what batches of this schema will need, rather than at the first one."""
    template_of(schema)


@lru_cache(maxsize=1024)
def template_of(schema: StepSchema) -> HeaderTemplate | None:
    """The headers of a schema's batches; None where pyarrow has to write and read them."""
    return header_template(schema, lambda count: _by_pyarrow(schema, _zeros(schema, count)))


def _zeros(schema: StepSchema, count: int) -> Columns:
    row = (filler(schema.observation), schema.action_filler, 0.0, False, False, 0.0, None)
    return [[value] * count for value in row]


def _by_pyarrow(schema: StepSchema, columns: Columns) -> bytes:
    arrays = [_arrow(column, values) for column, values in column_values(schema, columns)]
    return bytes(pa.RecordBatch.from_arrays(arrays, schema=schema.arrow).serialize())


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


def _arrow(column: Column, values: Sequence[Any]) -> pa.Array:
    if isinstance(column, Leaf):
        return column.to_arrow(column.stack(values))
    return _blobs_to_arrow(values)


def _blobs_to_arrow(values: Sequence[bytes]) -> pa.Array:
    """Blobs -> an Arrow array of binary values, without pandas: see `numbers_to_arrow`."""
    offsets = array("i", accumulate(map(len, values), initial=0))
    content = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.binary(), len(values), content, null_count=0)


def _body(schema: StepSchema, columns: Columns) -> bytes:
    """The buffers of all columns, each filled up to a multiple of eight bytes."""
    pairs = column_values(schema, columns)
    buffers = [_leaf_bytes(values, cast(Leaf, column)) for column, values in pairs]
    return b"".join([part for buffer in buffers for part in (buffer, _PADDING[-len(buffer) % 8])])


def _leaf_bytes(values: Sequence[Any], leaf: Leaf) -> bytes:
    if leaf.kind == "python":
        kind = leaf.dtype.kind
        return _end_bits(values) if kind == "b" else array(_TYPECODES[kind], values).tobytes()
    if leaf.dtype.kind == "b":
        return _bits(leaf.stack(values).reshape(-1))
    try:
        return b"".join(values)  # NumPy scalars are buffers of their own bytes
    except TypeError:  # Python numbers among them
        return np.array(values, leaf.dtype).tobytes()


def _end_bits(flags: Sequence[Any]) -> bytes:
    """Bits of a flag that hardly ever is set before the last row."""
    count = len(flags)
    if True not in flags:
        return bytes((count + 7) // 8)
    return _last_bit(count) if flags.index(True) == count - 1 else _bits(flags)


@lru_cache(maxsize=1024)
def _last_bit(count: int) -> bytes:
    return _bits([False] * (count - 1) + [True])


def _bits(flags: Any) -> bytes:
    return np.packbits(np.array(flags, np.bool_), bitorder="little").tobytes()


class HeaderTemplate:
    """Headers of all batches of one schema.

    Args:
        columns: Of each column, whether it is a list, elements of a value, bytes an element (0 =
            a bit).
        content: A header for as many rows as the first of those tried.
        places: Where the length, the nodes, the buffers and the body's length stand in it.
    """

    def __init__(
        self,
        columns: Sequence[tuple[bool, int, int]],
        content: bytes,
        places: tuple[int, int, int, int],
    ) -> None:
        self._columns = columns
        self._content = content
        self._places = places
        self._known: dict[int, bytes] = {}
        self._known_buffers: dict[int, list[tuple[int, int]]] = {}

    def header(self, count: int) -> bytes:
        """The header of a batch of so many rows, at least one."""
        known = self._known.get(count)
        if known is None:
            nodes, buffers, body = _numbers(self._columns, count)
            content = bytearray(self._content)
            parts = (_INT64.pack(count), nodes, buffers, _INT64.pack(body))
            for place, part in zip(self._places, parts, strict=True):
                content[place : place + len(part)] = part
            known = self._known[count] = bytes(content)
        return known

    def buffers(self, count: int) -> list[tuple[int, int]]:
        """Of each column of such a batch, where in the message its values begin and end."""
        known = self._known_buffers.get(count)
        if known is None:
            known, offset = [], len(self.header(count))
            for _, elements, size in self._columns:
                length = count * elements * size if size else (count * elements + 7) // 8
                known.append((offset, offset + length))
                offset += length + -length % 8
            self._known_buffers[count] = known
        return known


def header_template(schema: StepSchema, write: WriteMessage) -> HeaderTemplate | None:
    """The template of a schema; None where its batches are not laid out as expected."""
    if not schema.is_plain or schema.row_bytes > MAX_ROW_BYTES:
        return None
    columns = tuple(map(_shape_of, schema.columns))
    try:
        headers = [_header_of(write(count)) for count in _TRIED_COUNTS]
        places = _places(columns, headers)
    except ValueError:
        return None
    template = HeaderTemplate(columns, headers[0], places)
    return template if headers == list(map(template.header, _TRIED_COUNTS)) else None


def _shape_of(column: Column) -> tuple[bool, int, int]:
    if not isinstance(column, Leaf):
        raise TypeError(f"{column} has no fixed size")
    return column.shape != (), column.size, 0 if column.dtype.kind == "b" else column.dtype.itemsize


@lru_cache(maxsize=4096)
def _numbers(columns: Sequence[tuple[bool, int, int]], count: int) -> tuple[bytes, bytes, int]:
    """Nodes, buffers and the length of the body, of a batch of so many rows."""
    nodes, buffers, offset = list[int](), list[int](), 0
    for is_list, elements, size in columns:
        if is_list:
            nodes += (count, 0)
            buffers += (offset, 0)
        nodes += (count * elements, 0)
        length = count * elements * size if size else (count * elements + 7) // 8
        buffers += (offset, 0, offset, length)
        offset += length + -length % 8
    return (
        struct.pack(f"<{len(nodes)}q", *nodes),
        struct.pack(f"<{len(buffers)}q", *buffers),
        offset,
    )


def _header_of(message: bytes) -> bytes:
    """Four bytes of marker, four that tell the length of the metadata, the metadata."""
    return message[: 8 + int.from_bytes(message[4:8], "little")]


def _places(
    columns: Sequence[tuple[bool, int, int]], headers: Sequence[bytes]
) -> tuple[int, int, int, int]:
    """Where the numbers stand.

    Raises:
        ValueError: They are not there, or it cannot be told where.
    """
    numbers = [_numbers(columns, count) for count in _TRIED_COUNTS]
    nodes, buffers = (headers[0].index(numbers[0][kind]) for kind in (0, 1))
    vectors = range(nodes, nodes + len(numbers[0][0])), range(buffers, buffers + len(numbers[0][1]))
    length = _place_of(_TRIED_COUNTS, headers, vectors)
    body = _place_of([body for _, _, body in numbers], headers, vectors)
    return length, nodes, buffers, body


def _place_of(values: Sequence[int], headers: Sequence[bytes], apart: Sequence[range]) -> int:
    """The one place where each header has its own of these values."""
    found = [
        place
        for place in range(0, len(headers[0]) - 7, 4)
        if all(
            _INT64.unpack_from(header, place)[0] == value
            for header, value in zip(headers, values, strict=True)
        )
        and not any(place in vector for vector in apart)
    ]
    if len(found) != 1:
        raise ValueError(f"{len(found)} places where one was expected")
    return found[0]
