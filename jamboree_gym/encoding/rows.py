"""Rows of an episode as arrays, out of batches or of memory: the half that reads.

Row 0 is the reset, row k the k-th step: observation and info are what the call *returned*, action
is the one that led there. So a row is complete the moment `step` returns, an episode of T steps
has T + 1 rows, and a row never has to be written twice.

Body of a batch: digest of the schema (8 bytes), length of the Arrow part (4 bytes), one Arrow
record batch, then what is empty in most batches: a msgpack pair of [row offset, encoded info] for
the infos that are not empty, and [row offset, digest of a schema] wherever Python numbers go over
to NumPy scalars or back. A replay has to know, because NumPy computes differently with the two.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import lt
from typing import Any, Literal, cast

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jamboree_gym.arrays.layout import Column, Layout, Leaf
from jamboree_gym.arrays.packing import (
    Arrays,
    LayoutAt,
    as_objects,
    concatenate,
    filler,
    grouped,
    item,
    rows_of,
    stack,
    unsaid,
)
from jamboree_gym.arrays.step_columns import NUMBER_COLUMNS, take
from jamboree_gym.arrays.step_schema import (
    DAMAGED,
    FindSchema,
    SchemaChanges,
    StepSchema,
    schema_at,
)
from jamboree_gym.arrays.values import decode_value
from jamboree_gym.encoding.batch_format import CODEC_STEPS, Batch
from jamboree_gym.encoding.row_encoder import NO_REST, PREFIX
from jamboree_gym.encoding.row_part import RowPart
from jamboree_gym.errors import DecodeError

__all__ = [
    "Rows",
    "decode_rest",
    "decode_rows",
    "rows_to_arrays",
    "schema_digest",
]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """n consecutive rows as arrays.

    Attributes:
        start: Row number of the first.
        observations: Arrays (n, ...).
        actions: Arrays (n, ...); that of row 0 means nothing.
        rewards: float64 (n,).
        terminations: bool (n,).
        truncations: bool (n,).
        timestamps: float64 (n,), epoch seconds.
        infos: n dicts.
        annotated: bool (n,), whether the agent said something of the step.
        annotations: Arrays (n, ...) by name; where `annotated` is false they mean nothing.
        schemas: What the values were before they became arrays; the first holds from `start` on.
    """

    start: int
    observations: Arrays
    actions: Arrays
    rewards: npt.NDArray[np.float64]
    terminations: npt.NDArray[np.bool_]
    truncations: npt.NDArray[np.bool_]
    timestamps: npt.NDArray[np.float64]
    infos: Sequence[Mapping[str, Any]]
    annotated: npt.NDArray[np.bool_]
    annotations: Arrays
    schemas: SchemaChanges

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rewards)

    def __getitem__(self, rows: slice) -> Rows:
        """A part of the rows."""
        first, stop, _ = rows.indices(len(self))
        return Rows(
            start=self.start + first,
            observations=rows_of(self.observations, rows),
            schemas=self._schemas_of(first, stop),
            **take(self, rows),
        )

    def _schemas_of(self, first: int, stop: int) -> SchemaChanges:
        """Those that hold somewhere from one of the rows to another, and at the first one."""
        if len(self.schemas) == 1:
            return self.schemas
        first, stop = self.start + first, self.start + stop
        inside = [change for change in self.schemas if first < change[0] < stop]
        return [(first, schema_at(self.schemas, first)), *inside]

    def observation(self, row: int) -> Any:
        """An observation as the environment returned it; `row` counts from the first one here."""
        return item(self.observations, row, self._schema(row).observation)

    def action(self, row: int) -> Any:
        """An action as the environment got it."""
        return item(self.actions, row, self._schema(row).action)

    def _schema(self, row: int) -> StepSchema:
        return schema_at(self.schemas, self.start + row)

    def layouts(self, role: Literal["observation", "action"]) -> LayoutAt:
        """Layout of each row's observation or action."""
        return lambda row: cast(Layout, getattr(self._schema(row), role))

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        """Rows of successive batches as one, in memory of their own."""
        return cls(
            start=parts[0].start,
            observations=concatenate(
                [(part.observations, part.layouts("observation"), len(part)) for part in parts]
            ),
            actions=concatenate(
                [(part.actions, part.layouts("action"), len(part)) for part in parts]
            ),
            infos=[info for part in parts for info in part.infos],
            annotations=_joined_annotations(parts),
            schemas=[change for part in parts for change in part.schemas],
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in NUMBER_COLUMNS
            },
        )

    @classmethod
    def of_columns(
        cls,
        start: int,
        columns: Iterator[npt.NDArray[Any]],
        infos: Sequence[Mapping[str, Any]],
        schemas: SchemaChanges,
    ) -> Rows:
        """Rows out of the columns of a batch, in the order that they have there.

        Args:
            start: Row number of the first.
            columns: An array for each column.
            infos: A dict for each row.
            schemas: The first one holds from `start` on.
        """
        schema = schemas[0][1]
        observations = grouped(columns, schema.observation)
        actions = grouped(columns, schema.action)
        rewards, terminations, truncations, timestamps = (next(columns) for _ in range(4))
        annotated, annotations = np.zeros(len(rewards), np.bool_), cast(Arrays, {})
        if schema.is_annotated:
            annotated = next(columns)
            annotations = grouped(columns, schema.annotation)
            if not annotated.all():
                annotations = unsaid(annotations, ~annotated)
        return cls(
            start,
            *(observations, actions, rewards, terminations, truncations, timestamps),
            *(infos, annotated, annotations, schemas),
        )


def _joined_annotations(parts: Sequence[Rows]) -> dict[str, Arrays]:
    """By name; rows of batches that lack a name are filled up."""
    known: dict[Any, Layout] = {}
    for part in parts:
        layout = part.schemas[0][1].annotation
        known = {**dict(zip(layout.names, layout.parts, strict=True)), **known}
    return {
        name: concatenate([_annotation(part, name, layout) for part in parts])
        for name, layout in known.items()
    }


def _annotation(part: Rows, name: str, fallback: Layout) -> tuple[Arrays, LayoutAt, int]:
    layout = part.schemas[0][1].annotation
    if name in part.annotations:
        known = layout.parts[layout.names.index(name)]
        return part.annotations[name], lambda _: known, len(part)
    nothing = stack([filler(fallback)] * len(part), fallback)
    return unsaid(nothing), lambda _: fallback, len(part)


def rows_to_arrays(part: RowPart) -> Rows:
    """Rows that are in no batch yet -> arrays that share the part's memory."""
    infos = {offset: decode_value(info, where="memory") for offset, info in part.infos}
    arrays = (
        values
        if isinstance(values, np.ndarray)
        else as_objects([decode_value(value, where="memory") for value in values])
        for values in part.columns
    )
    schemas = [(0, part.schema)]  # as if its batch were read from the first row on
    schemas += [(part.start + offset, changed) for offset, changed in part.changes]
    all_infos = [infos.get(offset, {}) for offset in range(part.count)]
    return Rows.of_columns(part.start, arrays, all_infos, schemas)


def schema_digest(batch: Batch, *, where: str) -> str:
    """Digest of the schema that a batch's first row has.

    Raises:
        DecodeError: The batch does not hold rows.
    """
    if batch.codec != CODEC_STEPS or len(batch.body) < PREFIX.size:
        raise DecodeError(f"{where} at index {batch.start}: not a batch of steps")
    return bytes(batch.body[:8]).hex()


def decode_rows(batch: Batch, find_schema: FindSchema, *, where: str) -> Rows:
    """Rows of a batch as arrays that share its memory.

    Args:
        batch: The batch.
        find_schema: Gives the schema of a digest.
        where: Key of the log, for the error message.

    Raises:
        DecodeError: The body is damaged.
    """
    at = f"{where} at index {batch.start}"
    schema = find_schema(schema_digest(batch, where=where))
    size = PREFIX.unpack_from(batch.body)[1]
    try:
        _refuse_compressed(batch.body[PREFIX.size : PREFIX.size + size])
        body = pa.py_buffer(batch.body)[PREFIX.size : PREFIX.size + size]
        arrow_batch = pa.ipc.read_record_batch(body, schema.arrow)
        arrow_batch.validate(full=True)
        infos, changes = decode_rest(batch.body[PREFIX.size + size :], batch.count, where=at)
        if len(arrow_batch) != batch.count or any(map(_lacks_values, arrow_batch.columns)):
            raise DecodeError(f"{at}: {len(arrow_batch)} rows where its header says {batch.count}")
        schemas = [(batch.start, schema)]
        schemas += [(batch.start + n, find_schema(name.hex())) for n, name in changes]
        if not all(changed.shares_columns_with(schema) for _, changed in schemas):
            raise DecodeError(f"{at}: rows of other columns than the first")
        pairs = zip(arrow_batch.columns, schema.columns, strict=True)
        columns = (_column_array(values, column, where=at) for values, column in pairs)
        all_infos = [infos.get(offset, {}) for offset in range(batch.count)]
        return Rows.of_columns(batch.start, columns, all_infos, schemas)
    except DAMAGED as error:
        raise DecodeError(f"{at}: {error}") from error


def _refuse_compressed(message: memoryview) -> None:
    """Nothing here writes compressed batches, and a few bytes of one may stand for gigabytes.

    So the metadata, a flatbuffer, is looked at before pyarrow does: a message whose third field is
    the header, a RecordBatch whose fourth is the compression. pyarrow checks all else.

    Raises:
        ValueError: It is compressed, or no message.
    """
    try:
        record_batch = _field_at(message, 8 + _INT32.unpack_from(message, 8)[0], 2)
        if record_batch == 0:
            raise ValueError("a message without a header")
        record_batch += _INT32.unpack_from(message, record_batch)[0]
        if _field_at(message, record_batch, 3):
            raise ValueError("the batch is compressed, as none is that is ever stored")
    except struct.error as error:
        raise ValueError("not a message of Arrow") from error


_INT32 = struct.Struct("<i")
_UINT16 = struct.Struct("<H")


def _field_at(content: memoryview, table: int, number: int) -> int:
    """Where in a flatbuffer a field of a table lies; 0 if it has none."""
    known = table - _INT32.unpack_from(content, table)[0]
    if known < 0 or 4 + 2 * number >= _UINT16.unpack_from(content, known)[0]:
        return 0
    offset = _UINT16.unpack_from(content, known + 4 + 2 * number)[0]
    return table + offset if offset else 0


def _lacks_values(column: pa.Array) -> bool:
    """Whether a value is missing; what Arrow knows as nulls are values without elements."""
    return column.null_count > 0 and not pa.types.is_null(column.type)


def decode_rest(
    content: memoryview, count: int, *, where: str
) -> tuple[dict[int, dict[str, Any]], list[tuple[int, bytes]]]:
    """What follows a batch of so many rows: infos and digests of schemas, by row.

    Raises:
        DecodeError: It is damaged, or tells of rows that are not there.
    """
    if content == NO_REST:
        return {}, []
    try:
        kept, changes = _decode_pair(content)
    except (msgspec.MsgspecError, TypeError) as error:  # an older msgspec: unhashable keys
        raise DecodeError(f"{where}: {error}") from error
    of_infos, of_changes = [row for row, _ in kept], [row for row, _ in changes]
    if not (_is_ascending(of_infos, 0, count) and _is_ascending(of_changes, 1, count)):
        raise DecodeError(f"{where}: it tells of rows that are not there")
    infos = {row: decode_value(info, where=where) for row, info in kept}
    if not all(info.__class__ is dict for info in infos.values()):
        raise DecodeError(f"{where}: an info is no dict")
    return infos, changes


def _is_ascending(rows: Sequence[int], start: int, stop: int) -> bool:
    """Whether each is above the one before, none below `start`, none at `stop` or above."""
    return all(map(lt, (start - 1, *rows), (*rows, stop)))


_decode_pair = msgspec.msgpack.Decoder(
    tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]]
).decode


def _column_array(values: pa.Array, column: Column, *, where: str) -> npt.NDArray[Any]:
    """A column of a batch as an array."""
    if isinstance(column, Leaf):
        return column.from_arrow(values)
    return as_objects([decode_value(value.as_py(), where=where) for value in values])
