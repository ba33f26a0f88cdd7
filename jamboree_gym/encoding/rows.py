"""Rows of an episode as arrays, out of batches or of memory: the half that reads.

Row 0 is the reset, row k the k-th step: observation and info are what the call *returned*, action
is the one that led there. So a row is complete the moment `step` returns, an episode of T steps
has T + 1 rows, and a row never has to be written twice.

Where Python numbers go over to NumPy scalars or back, a batch says from which row on: a replay has
to know, because NumPy computes differently with the two. Its bytes: `column_batch`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.layout import Layout
from jamboree_gym.arrays.packing import (
    Arrays,
    LayoutAt,
    as_objects,
    concatenate,
    filler,
    grouped,
    item,
    join_arrays,
    rows_of,
    stack,
    unsaid,
)
from jamboree_gym.arrays.step_columns import NUMBER_COLUMNS, take
from jamboree_gym.arrays.step_schema import (
    FindSchema,
    SchemaChanges,
    StepSchema,
    schema_at,
)
from jamboree_gym.arrays.values import decode_value
from jamboree_gym.encoding.batch_format import CODEC_STEPS, Batch
from jamboree_gym.encoding.column_batch import PREFIX, Numbered
from jamboree_gym.encoding.row_part import RowPart
from jamboree_gym.errors import DecodeError

__all__ = [
    "Rows",
    "decode_infos",
    "rows_to_arrays",
    "schemas_of",
    "schema_digest",
]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """n consecutive rows as arrays.

    Attributes:
        start: Row number of the first.
        observations: Arrays (n, ...).
        actions: Arrays (n, ...); that of row 0 means nothing.
        rewards: float64 (n,); where each is an array, (n, ...) of its dtype.
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
    rewards: npt.NDArray[Any]
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

    def cut(self, spans: Sequence[slice]) -> Iterator[Rows]:
        """The rows of each of several episodes, if these are whole ones of one schema."""

        def each(arrays: Arrays) -> list[Any]:
            return [rows_of(arrays, span) for span in spans]

        values = map(each, (self.observations, self.actions, self.rewards))
        ends = map(each, (self.terminations, self.truncations, self.timestamps))
        infos = [self.infos[span] for span in spans]
        annotations = each(self.annotated), each(self.annotations)
        for columns in zip(*values, *ends, infos, *annotations, strict=True):
            yield Rows(0, *columns, self.schemas)  # type: ignore[call-arg]

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
        """Rows of successive batches as one, in new memory."""
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
                if name != "rewards"
            },
            rewards=_joined_rewards(parts),
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
        rewards, terminations, truncations, timestamps = islice(columns, 4)
        annotated = np.zeros(len(rewards), np.bool_)
        annotations: Arrays = {}
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


def _joined_rewards(parts: Sequence[Rows]) -> npt.NDArray[Any]:
    """Those of all parts; that of row 0 means nothing, and takes the form of the others."""
    arrays = [part.rewards for part in parts]
    if parts[0].start == 0 and len(parts[0]) == 1 and arrays[0].shape[1:] != arrays[-1].shape[1:]:
        arrays[0] = np.zeros((1, *arrays[1].shape[1:]), arrays[1].dtype)
    return join_arrays(arrays)


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
        _native(values)
        if isinstance(values, np.ndarray)
        else as_objects([decode_value(value, where="memory") for value in values])
        for values in part.columns
    )
    schemas = [(0, part.schema)]  # as if its batch were read from the first row on
    schemas += [(part.start + offset, changed) for offset, changed in part.changes]
    all_infos = [infos.get(offset, {}) for offset in range(part.count)]
    return Rows.of_columns(part.start, arrays, all_infos, schemas)


def _native(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """In the byte order of this machine, as rows of the store are read."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def schema_digest(batch: Batch, *, where: str) -> str:
    """Digest of the schema that a batch's first row has.

    Raises:
        DecodeError: The batch does not hold rows.
    """
    if batch.codec != CODEC_STEPS or len(batch.body) < PREFIX.size:
        raise DecodeError(f"{where} at index {batch.start}: not a batch of steps")
    return bytes(batch.body[:8]).hex()


def schemas_of(
    start: int, schema: StepSchema, changes: Numbered, find_schema: FindSchema
) -> list[tuple[int, StepSchema]]:
    """The schemas of a batch that begins at `start`, by row of the episode.

    Raises:
        ValueError: One has other columns than the first.
        DecodeError: One is not there.
    """
    schemas = [(start, schema)]
    if not changes:
        return schemas
    schemas += [(start + row, find_schema(digest.hex())) for row, digest in changes]
    if not all(changed.shares_columns_with(schema) for _, changed in schemas):
        raise ValueError("rows of other columns than the first")
    return schemas


def decode_infos(infos: Numbered, *, where: str) -> dict[int, dict[str, Any]]:
    """The infos that are not empty, by row of the batch.

    Raises:
        DecodeError: One is damaged.
    """
    decoded = {row: decode_value(info, where=where) for row, info in infos}
    if not all(info.__class__ is dict for info in decoded.values()):
        raise DecodeError(f"{where}: an info is no dict")
    return decoded
