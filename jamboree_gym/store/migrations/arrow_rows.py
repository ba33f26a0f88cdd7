"""A batch of rows of version 1, an Arrow record batch -> one of version 2. Nothing else reads them.

The body of version 1: digest of the schema (8 bytes), length of the Arrow message (4 bytes), the
message, and a MessagePack pair of `[row, info]` and `[row, digest of a schema]`. The schema was an
Arrow schema, with the layouts as JSON in its metadata.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jamboree_gym.arrays.layout import Column, Leaf
from jamboree_gym.arrays.step_schema import DAMAGED, StepSchema
from jamboree_gym.encoding.batch_format import CODEC_STEPS, decode_batch, encode_batch
from jamboree_gym.encoding.column_batch import (
    ColumnValues,
    Numbered,
    decode_tail,
    encode_columns,
    join_columns,
)
from jamboree_gym.errors import DecodeError

__all__ = ["FindBlob", "Upgraded", "is_arrow_batch", "is_arrow_schema", "upgraded"]

_HEADER = struct.Struct("<2sBBIQ8sddI")
_HEADER_BYTES = 40  # without the checksum
_PREFIX = struct.Struct("<8sI")
_MAGIC = b"JB\x01\x02"  # a batch, of version 1, of rows
_SCHEMA_MAGIC = b"\xff\xff\xff\xff"
_ODD = (*DAMAGED, pa.ArrowException, OSError, EOFError, struct.error, msgspec.MsgspecError)

_Content = tuple[Sequence[ColumnValues], Numbered, Numbered]
"""Columns, infos and schema changes of a batch, as `encode_columns` takes them."""

FindBlob = Callable[[str], bytes]
"""Gives the content of a digest; a `DecodeError` if it is not there."""

_decode_pair = msgspec.msgpack.Decoder(
    tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]]
).decode


@dataclass(frozen=True, slots=True, eq=False)
class Upgraded:
    """A batch of version 2.

    Attributes:
        batch: The batch, as it is stored.
        blobs: The schemas that it refers to, by digest.
    """

    batch: bytes
    blobs: Mapping[str, bytes]


def is_arrow_batch(raw: bytes) -> bool:
    """Whether a stored batch holds rows of version 1."""
    return raw.startswith(_MAGIC)


def is_arrow_schema(blob: bytes) -> bool:
    """Whether a blob is a schema of version 1."""
    return blob.startswith(_SCHEMA_MAGIC)


def upgraded(raw: bytes, find_blob: FindBlob, *, where: str) -> Upgraded:
    """The same rows as a batch of version 2, which has been read again and compared.

    Args:
        raw: A batch for which `is_arrow_batch` is true.
        find_blob: Gives the schema of a digest, as version 1 has it.
        where: Key of the log, for the error message.

    Raises:
        DecodeError: The batch or its schema is damaged.
    """
    if len(raw) < _HEADER.size:
        raise DecodeError(f"{where}: a batch of {len(raw)} bytes is shorter than its header")
    _, _, _, count, start, writer, t_first, t_last, crc = _HEADER.unpack_from(raw)
    at, body = f"{where} at index {start}", raw[_HEADER.size :]
    if zlib.crc32(body, zlib.crc32(raw[:_HEADER_BYTES])) != crc:
        raise DecodeError(f"{at}: checksum does not match, the batch of {count} is damaged")
    try:
        schemas, old = _decoded(body, count, find_blob)
        batch = encode_batch(
            codec=CODEC_STEPS,
            start=start,
            count=count,
            writer=writer,
            t_first=t_first,
            t_last=t_last,
            body=encode_columns(schemas[0], *old),
        )
        read = decode_batch(batch, where=where)
        tail = decode_tail(read.body, schemas[0], count)
        columns = join_columns([(read.body, count)], schemas[0], [tail])
        if not _is_same((columns, tail.infos, tail.changes), old):
            raise DecodeError("it would not be the same afterwards")  # no such case is known
    except _ODD as error:
        raise DecodeError(f"{at}: {error}") from error
    return Upgraded(batch, {schema.digest: schema.blob for schema in schemas})


def _is_same(new: _Content, old: _Content) -> bool:
    pairs = zip(new[0], old[0], strict=True)
    return all(_bits(one) == _bits(other) for one, other in pairs) and (
        list(map(list, new[1:])) == list(map(list, old[1:]))
    )


def _bits(column: ColumnValues) -> Any:
    if isinstance(column, np.ndarray):
        native = column.astype(column.dtype.newbyteorder("="), copy=False)
        return native.dtype, native.shape, native.tobytes()
    return list(column)


def _decoded(body: bytes, count: int, find_blob: FindBlob) -> tuple[Sequence[StepSchema], _Content]:
    """The schemas of a body of version 1, that of the first row first; and what it holds."""
    name, size = _PREFIX.unpack_from(body)
    arrow, schema = _schema(find_blob(name.hex()))
    stop = _PREFIX.size + size
    batch = pa.ipc.read_record_batch(pa.py_buffer(body[_PREFIX.size : stop]), arrow)
    batch.validate(full=True)
    if len(batch) != count:
        raise ValueError(f"{len(batch)} rows where its header says {count}")
    infos, changes = _decode_pair(body[stop:])
    changed = [(row, _schema(find_blob(digest.hex()))[1]) for row, digest in changes]
    if not all(one.shares_columns_with(schema) for _, one in changed):
        raise ValueError("rows of other columns than the first")
    pairs = zip(batch.columns, schema.columns, strict=True)
    columns = [_values(values, column) for values, column in pairs]
    digests = [(row, one.digest_bytes) for row, one in changed]
    return [schema, *(one for _, one in changed)], (columns, infos, digests)


@lru_cache(maxsize=256)
def _schema(blob: bytes) -> tuple[pa.Schema, StepSchema]:
    arrow = pa.ipc.read_schema(pa.py_buffer(blob))
    schema = StepSchema.from_json(json.loads(arrow.metadata[b"jamboree"].decode()))
    if arrow.types != list(map(_type_of, schema.columns)):
        raise ValueError("the columns of its schema are not those of its layout")
    return arrow, schema


def _type_of(column: Column) -> pa.DataType:
    """Arrow has native byte order and no empty lists."""
    if not isinstance(column, Leaf):
        return pa.binary()
    if column.size == 0:
        return pa.null()
    element = pa.from_numpy_dtype(column.dtype.newbyteorder("="))
    return element if column.shape == () else pa.list_(element, column.size)


def _values(values: pa.Array, column: Column) -> npt.NDArray[Any] | list[bytes]:
    """A column of an Arrow batch as `encode_columns` takes it."""
    if not isinstance(column, Leaf):
        encoded = values.to_pylist()
        if None in encoded:
            raise ValueError("a value is missing")
        return list(encoded)
    shape = (len(values), *column.shape)
    if column.size == 0:
        return np.empty(shape, column.dtype)
    flat = values if column.shape == () else values.flatten()
    if values.null_count or flat.null_count:
        raise ValueError("a value is missing")
    array: npt.NDArray[Any] = flat.to_numpy(zero_copy_only=False)
    return array.astype(column.dtype).reshape(shape)
