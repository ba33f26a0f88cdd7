"""Rows of an episode <-> the body of a frame.

Row 0 is the reset, row k the k-th step: observation and info are what the call *returned*, action
is the one that led there. So a row is complete the moment `step` returns, an episode of T steps
has T + 1 rows, and a row never has to be written twice.

Body of a frame: digest of the schema (8 bytes), length of the Arrow part (4 bytes), one Arrow
record batch, then what most frames do not have: a msgpack pair of [row offset, encoded info] for
the infos that are not empty, and [row offset, kind] wherever actions go over from Python numbers to
NumPy scalars or back. A replay has to know, because NumPy computes differently with the two.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jamboree_gym.codec import CODEC_STEPS, Frame, digest
from jamboree_gym.errors import DecodeError
from jamboree_gym.spaces import Kind, Leaf, join_arrays
from jamboree_gym.values import decode_value

__all__ = [
    "ActionKinds",
    "Row",
    "Rows",
    "StepSchema",
    "decode_rows",
    "encode_rows",
    "rows_to_arrays",
    "schema_digest",
]

Row = tuple[Any, Any, float, bool, bool, float, "bytes | None"]
"""observation, action, reward, terminated, truncated, timestamp, encoded info or None if empty.

Observation and action are the bytes of an array, or a scalar as it came.
"""

ActionKinds = Sequence[tuple[int, Kind]]
"""Row number from which on actions are of a kind, and the kind; ascending."""

_PREFIX = struct.Struct("<8sI")
_FLOAT64 = pa.float64()
_DAMAGED = (
    *(pa.ArrowException, OSError, EOFError),  # what pyarrow raises
    *(AttributeError, LookupError, TypeError, ValueError),
)


@dataclass(frozen=True)
class StepSchema:
    """Columns of an episode's rows.

    Attributes:
        observation: Layout of an observation.
        action: Layout of an action.
    """

    observation: Leaf
    action: Leaf

    @cached_property
    def arrow(self) -> pa.Schema:
        """The Arrow schema, layouts in its metadata."""
        layout = {"observation": self.observation.to_json(), "action": self.action.to_json()}
        return pa.schema(
            [
                ("observation", self.observation.arrow_type()),
                ("action", self.action.arrow_type()),
                ("reward", pa.float64()),
                ("terminated", pa.bool_()),
                ("truncated", pa.bool_()),
                ("timestamp", pa.float64()),
            ],
            metadata={"jamboree": json.dumps(layout, sort_keys=True)},
        )

    @cached_property
    def blob(self) -> bytes:
        """The schema as stored, once for all episodes that share it."""
        return bytes(self.arrow.serialize())

    @cached_property
    def digest(self) -> str:
        """Name of the blob."""
        return digest(self.blob)

    def shares_columns_with(self, other: StepSchema) -> bool:
        """Whether rows of both fit into one frame."""
        return self.observation.shares_column_with(
            other.observation
        ) and self.action.shares_column_with(other.action)

    @classmethod
    def from_blob(cls, blob: bytes, *, where: str) -> StepSchema:
        """Inverse of `blob`.

        Raises:
            DecodeError: It is not such a schema.
        """
        try:
            return _schema_from_blob(blob)
        except _DAMAGED as error:
            raise DecodeError(f"{where}: not a schema of steps: {error}") from error


@lru_cache(maxsize=256)
def _schema_from_blob(blob: bytes) -> StepSchema:
    arrow = pa.ipc.read_schema(pa.py_buffer(blob))
    layout = json.loads(arrow.metadata[b"jamboree"])
    schema = StepSchema(*(Leaf.from_json(layout[name]) for name in ("observation", "action")))
    if not schema.arrow.equals(arrow):
        raise ValueError("its columns are not those of its layout")
    return schema


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """n consecutive rows as arrays.

    Attributes:
        start: Row number of the first.
        observations: (n, ...).
        actions: (n, ...); that of row 0 means nothing.
        rewards: float64 (n,).
        terminations: bool (n,).
        truncations: bool (n,).
        timestamps: float64 (n,), epoch seconds.
        infos: n dicts.
        action_kinds: What the actions were before they became arrays.
    """

    start: int
    observations: npt.NDArray[Any]
    actions: npt.NDArray[Any]
    rewards: npt.NDArray[np.float64]
    terminations: npt.NDArray[np.bool_]
    truncations: npt.NDArray[np.bool_]
    timestamps: npt.NDArray[np.float64]
    infos: Sequence[Mapping[str, Any]]
    action_kinds: ActionKinds

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rewards)

    def __getitem__(self, rows: slice) -> Rows:
        """A part of the rows."""
        return Rows(
            self.start + rows.indices(len(self))[0],
            self.observations[rows],
            self.actions[rows],
            self.rewards[rows],
            self.terminations[rows],
            self.truncations[rows],
            self.timestamps[rows],
            self.infos[rows],
            self.action_kinds,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        """Rows of successive frames as one, in memory of their own."""
        return cls(
            parts[0].start,
            join_arrays([part.observations for part in parts]),
            join_arrays([part.actions for part in parts]),
            np.concatenate([part.rewards for part in parts]),
            np.concatenate([part.terminations for part in parts]),
            np.concatenate([part.truncations for part in parts]),
            np.concatenate([part.timestamps for part in parts]),
            [info for part in parts for info in part.infos],
            [kind for part in parts for kind in part.action_kinds],
        )


def stack(values: Sequence[Any], leaf: Leaf) -> npt.NDArray[Any]:
    """Values as a row keeps them -> one array (n, ...)."""
    if leaf.is_array:
        content = bytearray().join(values)  # an array on bytes could not be written to
        return np.frombuffer(content, leaf.dtype).reshape((len(values), *leaf.shape))
    return np.array(values, leaf.dtype)


def rows_to_arrays(
    rows: Sequence[Row], schema: StepSchema, *, start: int, action_kinds: ActionKinds = ()
) -> Rows:
    """Rows as they were put -> arrays."""
    observations, actions, rewards, terminations, truncations, timestamps, infos = zip(
        *rows, strict=True
    )
    return Rows(
        start,
        stack(observations, schema.observation),
        stack(actions, schema.action),
        np.array(rewards, np.float64),
        np.array(terminations, np.bool_),
        np.array(truncations, np.bool_),
        np.array(timestamps, np.float64),
        [decode_value(info, where="memory") if info else {} for info in infos],
        action_kinds,
    )


def encode_rows(rows: Sequence[Row], schema: StepSchema, kinds: ActionKinds = ()) -> bytes:
    """Body of a frame that holds these rows.

    Args:
        rows: Rows of one layout.
        schema: The layout.
        kinds: Where actions become of another kind than the schema says; offsets in `rows`.
    """
    observations, actions, rewards, terminations, truncations, timestamps, infos = zip(
        *rows, strict=True
    )
    columns = [
        schema.observation.to_arrow(stack(observations, schema.observation)),
        schema.action.to_arrow(stack(actions, schema.action)),
        _doubles(rewards),
        pa.array(np.array(terminations, np.bool_)),
        pa.array(np.array(truncations, np.bool_)),
        _doubles(timestamps),
    ]
    batch = pa.RecordBatch.from_arrays(columns, schema=schema.arrow).serialize()
    kept = [(offset, info) for offset, info in enumerate(infos) if info]
    prefix = _PREFIX.pack(bytes.fromhex(schema.digest), batch.size)
    rest = msgspec.msgpack.encode((kept, kinds)) if kept or kinds else b""
    return b"".join((prefix, batch, rest))


def _doubles(values: Sequence[float]) -> pa.Array:
    buffer = pa.py_buffer(array("d", values))
    return pa.Array.from_buffers(_FLOAT64, len(values), [None, buffer])


def schema_digest(frame: Frame, *, where: str) -> str:
    """Digest of the schema that a frame's rows have.

    Raises:
        DecodeError: The frame does not hold rows.
    """
    if frame.codec != CODEC_STEPS or len(frame.body) < _PREFIX.size:
        raise DecodeError(f"{where} at index {frame.start}: not a batch of steps")
    return bytes(frame.body[:8]).hex()


def decode_rows(frame: Frame, schema: StepSchema, *, where: str) -> Rows:
    """Rows of a frame as arrays that share its memory.

    Raises:
        DecodeError: The body is damaged.
    """
    at = f"{where} at index {frame.start}"
    size = _PREFIX.unpack_from(frame.body)[1]
    try:
        body = pa.py_buffer(frame.body)[_PREFIX.size : _PREFIX.size + size]
        batch = pa.ipc.read_record_batch(body, schema.arrow)
        batch.validate(full=True)
        infos, kinds = _decode_rest(frame.body[_PREFIX.size + size :], where=at)
        if len(batch) != frame.count or any(column.null_count for column in batch.columns[2:]):
            raise DecodeError(f"{at}: {len(batch)} rows where its header says {frame.count}")
        return Rows(
            frame.start,
            schema.observation.from_arrow(batch.column(0)),
            schema.action.from_arrow(batch.column(1)),
            batch.column(2).to_numpy(),
            batch.column(3).to_numpy(zero_copy_only=False),
            batch.column(4).to_numpy(zero_copy_only=False),
            batch.column(5).to_numpy(),
            [infos.get(offset, {}) for offset in range(frame.count)],
            [(frame.start, schema.action.kind), *((frame.start + n, kind) for n, kind in kinds)],
        )
    except _DAMAGED as error:
        raise DecodeError(f"{at}: {error}") from error


def _decode_rest(
    content: memoryview, *, where: str
) -> tuple[dict[int, dict[str, Any]], list[tuple[int, Kind]]]:
    if not content:
        return {}, []
    try:
        kept, kinds = _decode_pair(content)
    except msgspec.MsgspecError as error:
        raise DecodeError(f"{where}: {error}") from error
    return {offset: decode_value(info, where=where) for offset, info in kept}, kinds


_decode_pair = msgspec.msgpack.Decoder(
    tuple[list[tuple[int, bytes]], list[tuple[int, Kind]]]
).decode
