"""Consecutive rows of an episode as columns: what becomes a batch. `rows` reads it again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.layout import Leaf
from jamboree_gym.arrays.packing import packed_columns
from jamboree_gym.arrays.step_schema import SchemaChanges, StepSchema
from jamboree_gym.encoding.column_batch import ColumnValues, encode_columns, encode_step_batch
from jamboree_gym.records import EpisodeStatus

__all__ = ["RowPart", "packed_part"]


@dataclass(slots=True, eq=False)
class RowPart:
    """Consecutive rows with the same columns.

    Attributes:
        start: Row number of the first.
        schema: Layout of the first.
        changes: Other layouts that share its columns, each with the offset of its first row.
        columns: In the order of the schema.
        infos: Encoded infos that are not empty, each with its offset.
    """

    start: int
    schema: StepSchema
    changes: SchemaChanges
    columns: Sequence[ColumnValues]
    infos: Sequence[tuple[int, bytes]]

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.rewards)

    @property
    def stop(self) -> int:
        """Row number after the last."""
        return self.start + self.count

    @property
    def rewards(self) -> npt.NDArray[Any]:
        """Of each row: (n,), or (n, ...) where each is an array."""
        return self._number(0)

    @property
    def terminations(self) -> npt.NDArray[np.bool_]:
        """Of each row."""
        return self._number(1)

    @property
    def truncations(self) -> npt.NDArray[np.bool_]:
        """Of each row."""
        return self._number(2)

    @property
    def timestamps(self) -> npt.NDArray[np.float64]:
        """Of each row, epoch seconds."""
        return self._number(3)

    @property
    def status(self) -> EpisodeStatus:
        """What the flags of the last row say of the episode."""
        if self.terminations[-1]:
            return "terminated"
        return "truncated" if self.truncations[-1] else "running"

    def _number(self, position: int) -> npt.NDArray[Any]:
        values = self.columns[self.schema.first_number + position]
        assert isinstance(values, np.ndarray)
        return values

    @property
    def body(self) -> bytes:
        """That of a batch with these rows."""
        digests = [(offset, changed.digest_bytes) for offset, changed in self.changes]
        return encode_columns(self.schema, self.columns, self.infos, digests)

    def sealed(self, writer: bytes) -> bytes:
        """The batch of these rows."""
        return encode_step_batch(self.schema, self.start, self.timestamps, writer, self.body)

    def __getitem__(self, offsets: slice) -> RowPart:
        """Some of the rows."""
        first, stop, _ = offsets.indices(self.count)
        schemas = [(0, self.schema), *self.changes]
        schema = [one for at, one in schemas if at <= first][-1]
        return RowPart(
            self.start + first,
            schema,
            [(at - first, one) for at, one in schemas if first < at < stop],
            [values[first:stop] for values in self.columns],
            [(at - first, info) for at, info in self.infos if first <= at < stop],
        )

    def cut(self, size: int) -> Iterator[RowPart]:
        """The same rows in parts of no more than `size`."""
        if self.count <= size:
            yield self
            return
        for first in range(0, self.count, size):
            yield self[first : first + size]


def packed_part(
    start: int,
    schema: StepSchema,
    changes: SchemaChanges,
    *,
    observations: Sequence[Any],
    actions: Sequence[Any],
    rewards: Sequence[Any],
    terminations: Sequence[bool],
    truncations: Sequence[bool],
    timestamps: Sequence[float],
    infos: Sequence[bytes | None],
    annotations: Sequence[Any],
) -> RowPart:
    """A part out of rows whose values are packed, each of the layout that holds there.

    Args:
        start: Row number of the first.
        schema: Layout of the first.
        changes: As in `RowPart`.
        observations: Packed.
        actions: Packed.
        rewards: Of each row; packed where each is an array.
        terminations: Of each row.
        truncations: Of each row.
        timestamps: Of each row, epoch seconds.
        infos: Encoded; None = empty.
        annotations: Packed; None = the agent said nothing.
    """
    packed = [*packed_columns(observations, schema.observation)]
    packed += packed_columns(actions, schema.action)
    packed += [rewards, terminations, truncations, timestamps]
    if schema.is_annotated:
        nothing = schema.annotation_filler
        said = [nothing if one is None else one for one in annotations]
        packed.append([one is not None for one in annotations])
        packed += packed_columns(said, schema.annotation)
    columns = [
        column.stack(values) if isinstance(column, Leaf) else values
        for column, values in zip(schema.columns, packed, strict=True)
    ]
    kept = [(offset, info) for offset, info in enumerate(infos) if info]
    return RowPart(start, schema, changes, columns, kept)
