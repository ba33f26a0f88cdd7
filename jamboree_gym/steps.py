"""Rows of an episode <-> the body of a frame.

Row 0 is the reset, row k the k-th step: observation and info are what the call *returned*, action
is the one that led there. So a row is complete the moment `step` returns, an episode of T steps
has T + 1 rows, and a row never has to be written twice.

Body of a frame: digest of the schema (8 bytes), length of the Arrow part (4 bytes), one Arrow
record batch, then what is empty in most frames: a msgpack pair of [row offset, encoded info] for
the infos that are not empty, and [row offset, kind] wherever actions go over from Python numbers to
NumPy scalars or back. A replay has to know, because NumPy computes differently with the two.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jamboree_gym.codec import CODEC_STEPS, Frame
from jamboree_gym.errors import DecodeError
from jamboree_gym.spaces import Kind, join_arrays
from jamboree_gym.step_batches import serialize_batch, stack
from jamboree_gym.step_schema import DAMAGED, StepSchema
from jamboree_gym.values import decode_value

__all__ = [
    "ActionKinds",
    "INFO",
    "REWARD",
    "ROW_WIDTH",
    "TERMINATED",
    "TIMESTAMP",
    "TRUNCATED",
    "FlatRows",
    "Rows",
    "StepSchema",
    "decode_rows",
    "encode_rows",
    "rows_to_arrays",
    "schema_digest",
]

FlatRows = Sequence[Any]
"""Rows one after the other, each of them seven values: observation, action, reward, terminated,
truncated, timestamp, encoded info or None if empty. Observation and action are the bytes of an
array, or a scalar as it came.

Flat, because a tuple for each row would be one more object for the garbage collector to follow:
that is a fifth of the recorder's time where many short episodes are recorded.
"""

ROW_WIDTH = 7
REWARD, TERMINATED, TRUNCATED, TIMESTAMP, INFO = 2, 3, 4, 5, 6  # positions in a row

ActionKinds = Sequence[tuple[int, Kind]]
"""Row number from which on actions are of a kind, and the kind; ascending."""

_PREFIX = struct.Struct("<8sI")
_NO_REST = msgspec.msgpack.encode(([], []))


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


def rows_to_arrays(
    rows: FlatRows, schema: StepSchema, *, start: int, action_kinds: ActionKinds = ()
) -> Rows:
    """Rows as they were put -> arrays."""
    observations, actions, rewards, terminations, truncations, timestamps, infos = _columns(rows)
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


def _columns(rows: FlatRows) -> list[Sequence[Any]]:
    return [rows[position::ROW_WIDTH] for position in range(ROW_WIDTH)]


def encode_rows(rows: FlatRows, schema: StepSchema, kinds: ActionKinds = ()) -> bytes:
    """Body of a frame that holds these rows.

    Args:
        rows: Rows of one layout.
        schema: The layout.
        kinds: Where actions become of another kind than the schema says; offsets in `rows`.
    """
    *columns, infos = _columns(rows)
    batch = serialize_batch(schema, columns)
    kept = [(offset, info) for offset, info in enumerate(infos) if info] if any(infos) else []
    prefix = _PREFIX.pack(bytes.fromhex(schema.digest), len(batch))
    rest = msgspec.msgpack.encode((kept, kinds)) if kept or kinds else _NO_REST
    return b"".join((prefix, batch, rest))


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
    except DAMAGED as error:
        raise DecodeError(f"{at}: {error}") from error


def _decode_rest(
    content: memoryview, *, where: str
) -> tuple[dict[int, dict[str, Any]], list[tuple[int, Kind]]]:
    if content == _NO_REST:
        return {}, []
    try:
        kept, kinds = _decode_pair(content)
    except msgspec.MsgspecError as error:
        raise DecodeError(f"{where}: {error}") from error
    return {offset: decode_value(info, where=where) for offset, info in kept}, kinds


_decode_pair = msgspec.msgpack.Decoder(
    tuple[list[tuple[int, bytes]], list[tuple[int, Kind]]]
).decode
