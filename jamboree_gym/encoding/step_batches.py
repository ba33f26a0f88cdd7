"""Columns of rows <-> one Arrow record batch; written in a third of the time that pyarrow takes.

Short episodes make small batches, for which pyarrow spends most of its time on the message's
header. So that comes from `batch_headers`, and is followed by the columns as they are. A batch that
is not laid out as expected, or holds values without a fixed size, is left to pyarrow.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jamboree_gym.arrays.layout import Column, Leaf
from jamboree_gym.arrays.packing import as_objects, filler, packed_columns
from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.arrays.values import decode_value
from jamboree_gym.encoding.batch_headers import HeaderTemplate, header_template

__all__ = ["Columns", "column_array", "column_values", "prepare", "serialize_batch", "template_of"]

Columns = Sequence[Sequence[Any]]
"""Observations, actions, rewards, terminations, truncations, timestamps, annotations, as rows keep
them; a row without annotation has None."""


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
    return pa.array(values, pa.binary())


def _body(schema: StepSchema, columns: Columns) -> bytes:
    """The buffers of all columns, each filled up to a multiple of eight bytes."""
    pairs = column_values(schema, columns)
    buffers = [_leaf_bytes(values, cast(Leaf, column)) for column, values in pairs]
    return b"".join([part for buffer in buffers for part in (buffer, _PADDING[-len(buffer) % 8])])


_PADDING = [bytes(n) for n in range(8)]
_TYPECODES = {"i": "q", "f": "d"}


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


def column_array(values: pa.Array, column: Column, *, where: str) -> npt.NDArray[Any]:
    """A column of a batch as an array."""
    if isinstance(column, Leaf):
        return column.from_arrow(values)
    return as_objects([decode_value(value.as_py(), where=where) for value in values])
