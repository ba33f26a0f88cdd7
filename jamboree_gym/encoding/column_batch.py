"""Batches of rows: rows -> columns <-> bytes, one way for every schema.

A body is:

    16 bytes            digest of the schema, number of infos, number of schema changes
    for each column     count x its bytes in a row, in the order of the schema
    for each encoded    the bytes of its values, one after the other
    infos               their rows, where each ends, then their bytes
    changes             their rows, then the digests of the schemas

Numbers are little-endian uint32; rows count from the start of the batch. Schema and count say where
each column lies. A column of fixed size has the values' own bytes; bools are bits, and those of
each row begin with a new byte. A column of encoded values says where each of them ends.

Nearly all batches have neither infos nor changes: then both numbers are 0, and nothing follows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from operator import lt
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.layout import Leaf
from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.compiled import compiled_core
from jamboree_gym.encoding.batch_format import (
    ARRAY_REWARDS,
    BATCH_BODY,
    CODEC_STEPS,
    blank_header,
    encode_batch,
    encode_batches,
)
from jamboree_gym.encoding.row_format import ANNOTATED, TERMINATED, TRUNCATED, row_format

__all__ = [
    "DIGEST_BYTES",
    "NO_TAIL",
    "PREFIX",
    "Alike",
    "ColumnValues",
    "Numbered",
    "Tail",
    "batch_version",
    "decode_tail",
    "encode_columns",
    "encode_step_batch",
    "encode_step_batches",
    "infos_in",
    "join_columns",
    "row_columns",
    "rows_in",
]

PREFIX = struct.Struct("<8sII")  # digest of the schema, number of infos, number of changes
_BEGIN = PREFIX.size
DIGEST_BYTES = 8
_UINT32_BYTES = 4
_AT_ONCE_BYTES = 1 << 17
_core = compiled_core()

ColumnValues: TypeAlias = npt.NDArray[Any] | Sequence[bytes]
"""An array (n, ...) of the column's dtype; of an encoded column, n encoded values."""

Alike: TypeAlias = tuple[Sequence[bytes], int]
"""Checked batches of one size without infos and changes, and the number of rows of each."""

Numbered: TypeAlias = Sequence[tuple[int, bytes]]
"""Content of some rows, each with its row; ascending."""


class Tail(NamedTuple):
    """What follows the columns.

    Attributes:
        values: Of each encoded column the value of every row: bytes, until they are decoded.
        infos: Infos that are not empty, by row: bytes, until they are decoded.
        changes: Digests of the schemas that hold from a row on.
    """

    values: Sequence[Sequence[Any]]
    infos: Sequence[tuple[int, Any]]
    changes: Numbered


NO_TAIL = Tail((), (), ())
"""That of nearly all batches."""


# -- rows -> columns -> bytes -------------------------------------------------------------------


def row_columns(
    rows: npt.NDArray[Any], schema: StepSchema, block: bytes | memoryview = b""
) -> list[ColumnValues]:
    """The columns of rows as they lie in a block: views, except for flags and encoded values.

    Args:
        rows: Of the dtype of `row_format`.
        schema: Has these columns.
        block: Where the encoded values are.
    """
    leading, annotation = row_format(schema).fields
    flags = rows["flags"]
    columns = [_values(rows[name], is_encoded, block) for name, is_encoded in leading]
    columns += [rows["reward"], flags & TERMINATED != 0, flags & TRUNCATED != 0, rows["timestamp"]]
    if schema.is_annotated:
        columns.append(flags & ANNOTATED != 0)
        columns += [_values(rows[name], is_encoded, block) for name, is_encoded in annotation]
    return columns


def _values(values: npt.NDArray[Any], is_encoded: bool, block: bytes | memoryview) -> ColumnValues:
    if not is_encoded:
        return values
    return [bytes(block[at : at + size]) for at, size in values.tolist()]


def encode_step_batch(
    schema: StepSchema, start: int, times: npt.NDArray[np.float64], writer: bytes, body: bytes
) -> bytes:
    """A batch of rows.

    Args:
        schema: That of the first.
        start: Row number of the first.
        times: Timestamps of all rows, epoch seconds.
        writer: Eight bytes that mark its writer.
        body: As `encode_columns` makes it.
    """
    first, last = float(times[0]), float(times[-1])
    version = batch_version(schema)
    return encode_batch(CODEC_STEPS, start, len(times), writer, first, last, body, version)


def batch_version(schema: StepSchema) -> int | None:
    """Version of a batch of rows, None for the usual one."""
    return None if schema.has_one_number else ARRAY_REWARDS


def encode_step_batches(
    schema: StepSchema,
    rows: npt.NDArray[Any],
    starts: Sequence[int],
    counts: Sequence[int],
    blocks: Sequence[bytes | memoryview | None],
    writer: bytes,
) -> list[bytes]:
    """The batches of many episodes without changes, a batch of each.

    Args:
        schema: Of all of them; has no encoded columns.
        rows: Of all, as they lie in a block; one episode behind the other.
        starts: Of each episode the number of its first row here.
        counts: Of each episode the number of rows here.
        blocks: Of each episode the block that has its infos; None if it has none.
        writer: Of all of them.
    """
    version = batch_version(schema)
    if _core is not None and schema.plain_columns is not None:
        fixed, header = row_format(schema), blank_header(CODEC_STEPS, writer, version)
        prefix, parts = _prefix(schema), tuple(zip(starts, counts, blocks, strict=True))
        places = fixed.places, fixed.time_at, fixed.info_at
        batches: list[bytes] = _core.encode_batches(
            rows, fixed.nbytes, *places, header, prefix, parts
        )
        return batches
    bounds = list(pairwise(accumulate(counts, initial=0)))
    columns, times = row_columns(rows, schema), rows["timestamp"]
    stored = zip(_stored_columns(schema, columns), schema.column_bytes, strict=True)
    pieces = [
        [content[first * size : stop * size] for first, stop in bounds] for content, size in stored
    ]
    infos = [
        () if block is None else infos_in(rows[first:stop], block)
        for (first, stop), block in zip(bounds, blocks, strict=True)
    ]
    prefixes = [_prefix(schema, one) for one in infos]
    tails = [b"".join(_info_parts(one)) for one in infos]
    bodies = list(map(b"".join, zip(prefixes, *pieces, tails, strict=True)))
    stops = np.cumsum(counts)
    first_times, last_times = times[stops - counts].tolist(), times[stops - 1].tolist()
    between = list(zip(first_times, last_times, strict=True))
    return encode_batches(CODEC_STEPS, starts, counts, writer, between, bodies, version)


def encode_columns(
    schema: StepSchema,
    columns: Sequence[ColumnValues | bytes],
    infos: Numbered = (),
    changes: Numbered = (),
) -> bytes:
    """The body of a batch.

    Args:
        schema: The schema of its first row.
        columns: In the order of `schema.columns`: for a column of fixed size an array (count, ...)
            of its dtype, or the bytes that it is stored as; for an encoded column the bytes of each
            value.
        infos: Encoded infos that are not empty, by row.
        changes: Digests of the schemas that hold from a row on.

    Raises:
        ValueError: A column has another dtype or number of rows than it should.
    """
    parts = [_prefix(schema, infos, changes), *_stored_columns(schema, columns)]
    for position in schema.encoded_columns:
        parts += columns[position]  # type: ignore[arg-type]
    parts += _info_parts(infos)
    if changes:
        rows, digests = zip(*changes, strict=True)
        parts += (_packed(rows), *digests)
    return b"".join(parts)


def _prefix(schema: StepSchema, infos: Numbered = (), changes: Numbered = ()) -> bytes:
    return PREFIX.pack(schema.digest_bytes, len(infos), len(changes))


def _info_parts(infos: Numbered) -> Sequence[bytes]:
    """The infos of a body."""
    if not infos:
        return ()
    rows, contents = zip(*infos, strict=True)
    return _packed(rows), _ends(contents), *contents


def infos_in(rows: npt.NDArray[Any], block: bytes | memoryview) -> Numbered:
    """The infos of rows as they lie in a block, but for empty ones."""
    sizes = rows["info_size"]
    offsets = np.flatnonzero(sizes)
    if not len(offsets):
        return ()
    starts = rows["info_at"][offsets]
    ends, first = starts + sizes[offsets], int(starts.min())
    region = bytes(block[first : int(ends.max())])  # they lie side by side
    places = zip(offsets.tolist(), (starts - first).tolist(), (ends - first).tolist(), strict=True)
    return [(offset, region[start:end]) for offset, start, end in places]


def _stored_columns(schema: StepSchema, columns: Sequence[ColumnValues | bytes]) -> list[bytes]:
    """The columns as they are stored: see `encode_columns`."""
    parts: list[bytes] = []
    for column, leaf in zip(columns, schema.columns, strict=True):
        if column.__class__ is bytes:
            parts.append(column)
        elif isinstance(leaf, Leaf):
            parts.append(_stored(column, leaf))
        else:
            parts.append(_ends(column))
    # A column with a row too few or too many leaves a remainder.
    if sum(map(len, parts)) % schema.stored_row_bytes:
        sizes = list(map(len, parts))
        raise ValueError(f"columns of {sizes} bytes where a row has {schema.column_bytes}")
    return parts


def _stored(column: Any, leaf: Leaf) -> bytes:
    """A column as it is stored; strided ones are copied."""
    if column.dtype != leaf.dtype:
        raise ValueError(f"a column of {column.dtype} where the layout has {leaf.dtype}")
    if leaf.dtype.kind == "b" and leaf.shape:
        bits = column.reshape((len(column), leaf.size))
        return np.packbits(bits, axis=1, bitorder="little").tobytes()
    content: bytes = column.tobytes()
    return content


def _ends(values: Any) -> bytes:
    return _packed(accumulate(map(len, values)))


def _packed(numbers: Iterable[int]) -> bytes:
    """struct.error for a number of 2^32 or more: Redis takes no such batch."""
    known = list(numbers)
    return struct.pack(f"<{len(known)}I", *known)


# -- bytes -> columns ---------------------------------------------------------------------------


def join_columns(
    bodies: Sequence[tuple[bytes | memoryview, int]],
    schema: StepSchema,
    tails: Sequence[Tail],
    alike: Sequence[Alike] = (),
) -> list[npt.NDArray[Any] | list[Any]]:
    """The columns of several batches, one behind the other, in new memory.

    Args:
        bodies: The bodies, each with its number of rows.
        schema: The schema of all of them.
        tails: What `decode_tail` has found in each; the values may be decoded by now.
        alike: Batches that come before these; only where no column is encoded.
    """
    if _core is not None and not alike and schema.plain_columns is not None:
        joined: list[npt.NDArray[Any] | list[Any]]
        joined = _core.join_columns(tuple(bodies), _BEGIN, schema.plain_columns)
        return joined
    first = sum(map(rows_in, alike))
    count = first + sum([rows for _, rows in bodies])
    filled = iter(_columns_of(alike, schema, count) if alike else ())
    columns: list[Any] = []
    start = 0
    encoded = iter(range(len(schema.encoded_columns)))
    for column, size in zip(schema.columns, schema.column_bytes, strict=True):
        stop = start + size
        if isinstance(column, Leaf):
            pieces = [body[_BEGIN + n * start : _BEGIN + n * stop] for body, n in bodies]
            content: Any = bytearray().join(pieces)
            if alike:
                rest, content = content, next(filled)
                content[first * size :] = np.frombuffer(rest, np.uint8)
            columns.append(_array(content, column, count))
        else:
            number = next(encoded)
            columns.append([value for tail in tails for value in tail.values[number]])
        start = stop
    return columns


def _columns_of(
    alike: Sequence[Alike], schema: StepSchema, count: int
) -> list[npt.NDArray[np.uint8]]:
    """The bytes of columns of so many rows, of which these batches have the first ones.

    Some batches at once are the lines of a matrix; one of all batches would not fit into a cache.
    """
    columns = [np.empty(count * size, np.uint8) for size in schema.column_bytes]
    row = 0
    for batches, rows in alike:
        at_once = max(1, _AT_ONCE_BYTES // len(batches[0]))
        for first in range(0, len(batches), at_once):
            some = batches[first : first + at_once]
            lines = np.frombuffer(b"".join(some), np.uint8).reshape(len(some), -1)
            start, next_row = BATCH_BODY + _BEGIN, row + rows * len(some)
            for column, size in zip(columns, schema.column_bytes, strict=True):
                stop = start + rows * size
                part = column[row * size : next_row * size].reshape(len(some), rows * size)
                part[:] = lines[:, start:stop]
                start = stop
            row = next_row
    return columns


def rows_in(alike: Alike) -> int:
    """Number of rows of batches that are alike."""
    batches, rows = alike
    return len(batches) * rows


def decode_tail(body: bytes | memoryview, schema: StepSchema, count: int) -> Tail:
    """What follows the columns of a body, whose length is checked.

    Raises:
        ValueError: The body is damaged.
    """
    start = _BEGIN + count * schema.stored_row_bytes
    if len(body) < start:
        raise ValueError(f"a body of {len(body)} bytes, and {count} rows take {start}")
    _, info_count, change_count = PREFIX.unpack_from(body)
    if not (info_count or change_count or schema.encoded_columns) and start == len(body):
        return NO_TAIL
    values: list[list[bytes]] = []
    infos, changes = NO_TAIL.infos, NO_TAIL.changes
    for position in schema.encoded_columns:
        at = _BEGIN + count * sum(schema.column_bytes[:position])
        column, start = _cut(body, _numbers(body, at, count), start)
        values.append(column)
    if info_count:
        rows = _rows(body, start, info_count, 0, count)
        start += _UINT32_BYTES * info_count
        ends = _numbers(body, start, info_count)
        contents, start = _cut(body, ends, start + _UINT32_BYTES * info_count)
        infos = list(zip(rows, contents, strict=True))
    if change_count:
        rows = _rows(body, start, change_count, 1, count)
        start += _UINT32_BYTES * change_count
        ends = [DIGEST_BYTES * number for number in range(1, change_count + 1)]
        digests, start = _cut(body, ends, start)
        changes = list(zip(rows, digests, strict=True))
    if start != len(body):
        raise ValueError(f"a body of {len(body)} bytes, of which {start} have a meaning")
    return Tail(values, infos, changes)


def _rows(body: bytes | memoryview, at: int, n: int, first: int, stop: int) -> Sequence[int]:
    """Ascending numbers of rows, none below `first`, none at `stop` or above."""
    rows = _numbers(body, at, n)
    if not all(map(lt, (first - 1, *rows), (*rows, stop))):
        raise ValueError("it tells of rows that are not there")
    return rows


def _numbers(body: bytes | memoryview, at: int, n: int) -> Sequence[int]:
    if at + _UINT32_BYTES * n > len(body):
        raise ValueError("it ends before it should")
    return struct.unpack_from(f"<{n}I", body, at)


def _cut(body: bytes | memoryview, ends: Sequence[int], at: int) -> tuple[list[bytes], int]:
    """Values that lie one behind the other, and where the last one ends."""
    if sorted(ends) != list(ends) or at + ends[-1] > len(body):
        raise ValueError("values end where there is nothing")
    starts = (0, *ends[:-1])
    cut = [bytes(body[at + a : at + b]) for a, b in zip(starts, ends, strict=True)]
    return cut, at + ends[-1]


def _array(content: Any, leaf: Leaf, count: int) -> npt.NDArray[Any]:
    """The bytes of a column as an array in native byte order; it may share their memory."""
    shape, dtype = (count, *leaf.shape), leaf.dtype
    if dtype.kind != "b":
        array = np.ndarray(shape, dtype, content)
        return array if dtype.isnative else array.astype(dtype.newbyteorder("="))
    if not leaf.shape:
        return (np.ndarray(shape, np.uint8, content) & 1).view(np.bool_)
    if leaf.size == 0:
        return np.empty(shape, dtype)
    lines = np.frombuffer(content, np.uint8).reshape((count, -1))
    values = np.unpackbits(lines, axis=1, count=leaf.size, bitorder="little")
    return values.view(np.bool_).reshape(shape)
