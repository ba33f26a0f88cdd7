"""Parts -> batches: the half that writes. `rows` is the one that reads.

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
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from jamboree_gym.arrays.layout import Column, Leaf
from jamboree_gym.arrays.packing import filler
from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.encoding.batch_format import CODEC_STEPS, encode_batch
from jamboree_gym.encoding.row_part import ColumnValues, RowPart

__all__ = [
    "NO_REST",
    "PREFIX",
    "encode_rows",
    "prepare",
    "seal_rows",
    "serialize_batch",
    "template_of",
]

PREFIX = struct.Struct("<8sI")
NO_REST = msgspec.msgpack.encode(([], []))

_TRIED_COUNTS = (9, 4, 17)
MAX_ROW_BYTES = 1 << 20  # beyond it, what pyarrow takes for a header does not matter
_INT64 = struct.Struct("<q")
_PADDING = [bytes(n) for n in range(8)]

WriteMessage = Callable[[int], bytes]
"""pyarrow's own message for so many rows."""


def seal_rows(part: RowPart, writer: bytes) -> bytes:
    """The batch of these rows."""
    times = part.timestamps
    return encode_batch(
        codec=CODEC_STEPS,
        start=part.start,
        count=len(times),
        writer=writer,
        t_first=float(times[0]),
        t_last=float(times[-1]),
        body=encode_rows(part),
    )


def encode_rows(part: RowPart) -> bytes:
    """Body of a batch that holds these rows."""
    message = serialize_batch(part.schema, part.columns)
    prefix = PREFIX.pack(part.schema.digest_bytes, len(message))
    if not part.changes and not part.infos:
        return b"".join((prefix, message, NO_REST))
    digests = [(offset, changed.digest_bytes) for offset, changed in part.changes]
    return b"".join((prefix, message, msgspec.msgpack.encode((part.infos, digests))))


def serialize_batch(schema: StepSchema, columns: Sequence[ColumnValues]) -> bytes:
    """One Arrow IPC message with a record batch."""
    template = template_of(schema)
    if template is None:
        return _by_pyarrow(schema, columns)
    return template.header(len(columns[0])) + _body(columns)


def prepare(schema: StepSchema) -> None:
    """Ask pyarrow now for what batches of this schema will need, rather than at the first one."""
    template_of(schema)


@lru_cache(maxsize=1024)
def template_of(schema: StepSchema) -> HeaderTemplate | None:
    """The headers of a schema's batches; None where pyarrow has to write and read them."""
    return header_template(schema, lambda count: _by_pyarrow(schema, _zeros(schema, count)))


def _zeros(schema: StepSchema, count: int) -> Sequence[ColumnValues]:
    return [
        np.zeros((count, *column.shape), column.dtype)
        if isinstance(column, Leaf)
        else [filler(column)] * count
        for column in schema.columns
    ]


def _by_pyarrow(schema: StepSchema, columns: Sequence[ColumnValues]) -> bytes:
    pairs = zip(schema.columns, columns, strict=True)
    arrays = [_arrow(column, values) for column, values in pairs]
    return bytes(pa.RecordBatch.from_arrays(arrays, schema=schema.arrow).serialize())


def _arrow(column: Column, values: Any) -> pa.Array:
    return column.to_arrow(values) if isinstance(column, Leaf) else _blobs_to_arrow(values)


def _blobs_to_arrow(values: Sequence[bytes]) -> pa.Array:
    """Blobs -> an Arrow array of binary values, without pandas: see `numbers_to_arrow`."""
    offsets = array("i", accumulate(map(len, values), initial=0))
    content = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.binary(), len(values), content, null_count=0)


def _body(columns: Sequence[ColumnValues]) -> bytes:
    """The buffers of all columns, each filled up to a multiple of eight bytes."""
    buffers = map(_buffer, columns)
    return b"".join([part for buffer in buffers for part in (buffer, _PADDING[-len(buffer) % 8])])


def _buffer(values: Any) -> bytes:
    if values.dtype.kind == "b":
        values = np.packbits(values.reshape(-1), bitorder="little")
    content: bytes = values.tobytes()
    return content


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
