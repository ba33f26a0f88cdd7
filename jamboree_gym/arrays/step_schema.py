"""The layout of an episode's rows: JSON that is stored once for all episodes that share it."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

import numpy as np

from jamboree_gym.arrays.layout import (
    NOTHING,
    Column,
    Encoded,
    Group,
    Layout,
    Leaf,
    columns_of,
    layout_from_json,
    layout_to_json,
    share_columns,
)
from jamboree_gym.arrays.packing import Pack, filler, packer
from jamboree_gym.errors import DecodeError
from jamboree_gym.keys import digest

__all__ = ["DAMAGED", "ONE_NUMBER", "FindSchema", "SchemaChanges", "StepSchema", "schema_at"]

DAMAGED = (
    *(MemoryError, RecursionError, ArithmeticError),
    *(AttributeError, LookupError, TypeError, ValueError),
)
"""What reading damaged bytes raises."""

_END_BYTES = 4  # of an encoded value in its column: a number that says where its bytes end

_DOUBLE, _BIT = Leaf(np.dtype(np.float64), (), "python"), Leaf(np.dtype(np.bool_), (), "python")
_FLAGS_AND_TIME = (_BIT, _BIT, _DOUBLE)  # terminated, truncated, timestamp
_ROLES = ("observation", "action", "annotation")

ONE_NUMBER = _DOUBLE
"""Layout of nearly all rewards. A schema that has it says nothing of rewards in its blob."""


@dataclass(frozen=True)
class StepSchema:
    """Columns of an episode's rows.

    Attributes:
        observation: Layout of an observation.
        action: Layout of an action.
        annotation: Layout of what the agent said of a step; `NOTHING` if it said nothing.
        reward: Layout of a reward: `ONE_NUMBER`, or an array.
    """

    observation: Layout
    action: Layout
    annotation: Group = NOTHING
    reward: Leaf = ONE_NUMBER

    def __getstate__(self) -> dict[str, Any]:
        """Without what is derived: functions cannot be pickled."""
        return {role: getattr(self, role) for role in (*_ROLES, "reward")}

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """All columns of a batch in their order."""
        observation, action, annotation = (
            [column for _, column in columns_of(layout, "")] for layout in self._layouts
        )
        annotated = [_BIT, *annotation] if self.is_annotated else []
        return (*observation, *action, self.reward, *_FLAGS_AND_TIME, *annotated)

    @cached_property
    def first_number(self) -> int:
        """Which of the columns is that of the rewards; flags and timestamps follow it."""
        return sum(1 for layout in self._layouts[:2] for _ in columns_of(layout, ""))

    @cached_property
    def is_annotated(self) -> bool:
        """Whether there is anything that an agent said."""
        return self.annotation != NOTHING

    @cached_property
    def has_one_number(self) -> bool:
        """Whether a reward is one number."""
        return self.reward == ONE_NUMBER

    @property
    def _layouts(self) -> tuple[Layout, Layout, Layout]:
        return self.observation, self.action, self.annotation

    @cached_property
    def column_bytes(self) -> tuple[int, ...]:
        """Bytes of a row in each column of a batch."""
        return tuple(map(_bytes_in_column, self.columns))

    @cached_property
    def stored_row_bytes(self) -> int:
        """Bytes of a row in all columns of a batch."""
        return sum(self.column_bytes)

    @cached_property
    def encoded_columns(self) -> tuple[int, ...]:
        """Positions of the columns whose values are encoded one by one."""
        return tuple(n for n, column in enumerate(self.columns) if isinstance(column, Encoded))

    @cached_property
    def plain_columns(self) -> tuple[tuple[np.dtype[Any], tuple[int, ...]], ...] | None:
        """Dtype and shape of all columns; None where a batch has one in another form than memory.

        Such are encoded values, numbers of the other byte order, and several bools in a row, which
        are bits.
        """
        if not all(map(_is_plain, self.columns)):
            return None
        return tuple((column.dtype, column.shape) for column in cast(Any, self.columns))

    @cached_property
    def pack_observation(self) -> Pack:
        """Packs an observation of this layout."""
        return packer(self.observation)

    @cached_property
    def pack_action(self) -> Pack:
        """Packs an action of this layout."""
        return packer(self.action)

    @cached_property
    def pack_annotation(self) -> Pack:
        """Packs an annotation of this layout."""
        return packer(self.annotation)

    @cached_property
    def action_filler(self) -> Any:
        """What row 0 holds for an action."""
        return filler(self.action)

    @cached_property
    def annotation_filler(self) -> Any:
        """What a row without annotation holds where others have one."""
        return filler(self.annotation)

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of a row's observation, action and annotation, as far as their size is fixed.

        Those of a reward count only where it is an array.
        """
        columns = (column for layout in self._layouts for _, column in columns_of(layout, ""))
        nbytes = sum(column.nbytes for column in columns if isinstance(column, Leaf))
        return nbytes + (0 if self.has_one_number else self.reward.nbytes)

    @cached_property
    def has_encoded(self) -> bool:
        """Whether values of a column are encoded one by one."""
        return not all(isinstance(column, Leaf) for column in self.columns)

    def to_json(self) -> dict[str, Any]:
        """The layouts by their role; that of a reward only where it is an array."""
        layouts = {role: layout_to_json(getattr(self, role)) for role in _ROLES}
        return layouts if self.has_one_number else layouts | {"reward": layout_to_json(self.reward)}

    @classmethod
    def from_json(cls, layouts: Mapping[str, Any]) -> StepSchema:
        """Inverse of `to_json`; ValueError if a layout is none that is ever written."""
        observation, action, annotation = (layout_from_json(layouts[role]) for role in _ROLES)
        if not isinstance(annotation, Group):
            raise ValueError("its annotations have no names")
        reward = layout_from_json(layouts["reward"]) if "reward" in layouts else ONE_NUMBER
        if not isinstance(reward, Leaf) or (reward.size < 2 and reward != ONE_NUMBER):
            raise ValueError("its rewards are no numbers")
        return cls(observation, action, annotation, reward)

    @cached_property
    def blob(self) -> bytes:
        """The schema as stored, once for all episodes that share it."""
        return json.dumps(self.to_json(), sort_keys=True).encode()

    @cached_property
    def digest(self) -> str:
        """Name of the blob."""
        return digest(self.blob)

    @cached_property
    def digest_bytes(self) -> bytes:
        """Name of the blob as a batch holds it."""
        return bytes.fromhex(self.digest)

    @property
    def shared(self) -> StepSchema:
        """The one instance that all equal schemas share: what is derived is made only once."""
        return _shared(self)

    def prepared(self) -> StepSchema:
        """`shared`, with all that its first batch will need: derived now, not at that batch."""
        schema = self.shared
        _ = schema.digest_bytes, schema.column_bytes, schema.encoded_columns
        return schema

    def shares_columns_with(self, other: StepSchema) -> bool:
        """Whether rows of both fit into one batch."""
        is_alike = all(map(share_columns, self._layouts, other._layouts))
        return is_alike and self.reward == other.reward

    @classmethod
    def from_blob(cls, blob: bytes, *, where: str) -> StepSchema:
        """Inverse of `blob`; a `DecodeError` if it is no such schema."""
        try:
            return _schema_from_blob(blob)
        except DAMAGED as error:
            raise DecodeError(f"{where}: not a schema of steps: {error}") from error


SchemaChanges = Sequence[tuple[int, StepSchema]]
"""Row number from which on a schema holds; ascending."""


def schema_at(schemas: SchemaChanges, row: int) -> StepSchema:
    """The schema that holds at a row."""
    position = bisect_right(schemas, row, key=lambda change: change[0])
    return schemas[max(0, position - 1)][1]


FindSchema = Callable[[str], StepSchema]
"""Gives the schema of a digest."""


def _bytes_in_column(column: Column) -> int:
    """The bits of a value begin with a new byte, so that each row has the same number of bytes."""
    if isinstance(column, Encoded):
        return _END_BYTES
    return (column.size + 7) // 8 if column.dtype.kind == "b" else column.nbytes


def _is_plain(column: Column) -> bool:
    if isinstance(column, Encoded) or column.size == 0:
        return False
    return column.dtype.isnative and (column.dtype.kind != "b" or not column.shape)


@lru_cache(maxsize=1024)
def _shared(schema: StepSchema) -> StepSchema:
    return schema


@lru_cache(maxsize=256)
def _schema_from_blob(blob: bytes) -> StepSchema:
    schema = StepSchema.from_json(json.loads(blob.decode()))
    if schema.blob != blob:
        raise ValueError("it is written in another way than schemas are")
    return schema
