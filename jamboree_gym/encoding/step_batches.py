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
import pyarrow as pa

from jamboree_gym.arrays.layout import Column, Group, Layout, Leaf, numbers_to_arrow
from jamboree_gym.arrays.packing import Arrays, as_objects, filler, packed_columns
from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.arrays.values import decode_value
from jamboree_gym.encoding.batch_headers import HeaderTemplate, header_template

__all__ = ["Columns", "arrays_of", "prepare", "serialize_batch", "template_of"]

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
    before, fixed, behind = _buffers(schema, columns)
    rewards, terminations, truncations, timestamps = fixed
    arrays = [
        *(_arrow(column, values) for column, values in before),
        numbers_to_arrow(np.array(rewards, np.float64)),
        numbers_to_arrow(np.array(terminations, np.bool_)),
        numbers_to_arrow(np.array(truncations, np.bool_)),
        numbers_to_arrow(np.array(timestamps, np.float64)),
        *(_arrow(column, values) for column, values in behind),
    ]
    return bytes(pa.RecordBatch.from_arrays(arrays, schema=schema.arrow).serialize())


_ANNOTATED = Leaf(np.dtype(np.bool_), (), "python")
Buffers = list[tuple[Column, Sequence[Any]]]


def _buffers(schema: StepSchema, columns: Columns) -> tuple[Buffers, Columns, Buffers]:
    """The columns in the order of the schema: before the fixed ones, these, and behind them."""
    observations, actions, rewards, terminations, truncations, timestamps, annotations = columns
    fixed = rewards, terminations, truncations, timestamps
    of_observation, of_action, of_annotation = schema.columns
    values = packed_columns(observations, schema.observation)
    values += packed_columns(actions, schema.action)
    before = list(zip((*of_observation, *of_action), values, strict=True))
    if not schema.is_annotated:
        return before, fixed, []
    nothing = schema.annotation_filler
    said = [nothing if one is None else one for one in annotations]
    behind = [
        (_ANNOTATED, [one is not None for one in annotations]),
        *zip(of_annotation, packed_columns(said, schema.annotation), strict=True),
    ]
    return before, fixed, behind


def _arrow(column: Column, values: Sequence[Any]) -> pa.Array:
    if isinstance(column, Leaf):
        return column.to_arrow(column.stack(values))
    return pa.array(values, pa.binary())


def _body(schema: StepSchema, columns: Columns) -> bytes:
    """The buffers of all columns, each filled up to a multiple of eight bytes."""
    before, (rewards, terminations, truncations, timestamps), behind = _buffers(schema, columns)
    buffers = [_leaf_bytes(values, cast(Leaf, column)) for column, values in before]
    buffers += (
        array("d", rewards).tobytes(),
        _end_bits(terminations),
        _end_bits(truncations),
        array("d", timestamps).tobytes(),
    )
    buffers += [_leaf_bytes(values, cast(Leaf, column)) for column, values in behind]
    return b"".join([part for buffer in buffers for part in (buffer, _PADDING[-len(buffer) % 8])])


_PADDING = [bytes(n) for n in range(8)]


def _leaf_bytes(values: Sequence[Any], leaf: Leaf) -> bytes:
    if leaf.dtype.kind == "b":
        return _bits(leaf.stack(values).reshape(-1))
    if leaf.kind == "python":
        return array("q" if leaf.dtype.kind == "i" else "d", values).tobytes()
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


def arrays_of(columns: Iterator[pa.Array], layout: Layout, *, where: str) -> Arrays:
    """The next columns of a batch as the arrays of a layout."""
    if isinstance(layout, Group):
        return layout.build([arrays_of(columns, part, where=where) for part in layout.parts])
    column = next(columns)
    if isinstance(layout, Leaf):
        return layout.from_arrow(column)
    return as_objects([decode_value(value.as_py(), where=where) for value in column])
