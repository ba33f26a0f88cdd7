"""The rows of one episode, as the environment's thread puts them.

`put` is the hot path: it runs inside `env.step`, so it only checks the layout, copies the arrays to
bytes and extends one list. Columns, Arrow, checksums and Redis are the delivering thread's work.

Two threads meet here. The caller's alone adds rows and counts them; the delivering one alone takes
them. Whatever else both touch (layouts, the trimming of what is kept) is under one lock.
"""

from __future__ import annotations

import math
import threading
import time
from abc import ABC
from collections.abc import Callable
from typing import Any

import numpy as np

from jamboree_gym.codec import CODEC_STEPS
from jamboree_gym.errors import InvalidRecord, JamboreeError
from jamboree_gym.outbox import Outbox
from jamboree_gym.row_parts import RowPart, cut_rows
from jamboree_gym.spaces import Leaf, leaf_of, plain
from jamboree_gym.steps import INFO, ROW_WIDTH, Rows, StepSchema, rows_to_arrays

__all__ = ["LOOK_EVERY_BYTES", "MAX_FRAME_BYTES", "ROWS_PER_FRAME", "RowBuffer"]

ROWS_PER_FRAME = 256
MAX_FRAME_BYTES = 1 << 20
ROW_OVERHEAD_BYTES = 200
LOOK_EVERY_BYTES = 1 << 20  # so often the caller looks at how much is waiting

_ndarray = np.ndarray
_PYTHON_CLASSES: dict[str, type] = {"b": bool, "i": int, "f": float}


class RowBuffer(Outbox, ABC):
    """The caller's half of a `StepOutbox`.

    Args:
        key: The episode's log.
        writer_id: Eight bytes that mark this process's batches.
        mark: Tells the writer that there is something to deliver.
        schema: Layout of the rows, as far as it can be guessed.
        keep: So many of the newest rows stay in memory for `recent`.
        started_at: Timestamp of row 0, epoch seconds.
    """

    def __init__(
        self,
        key: str,
        writer_id: bytes,
        mark: Callable[[Outbox], None],
        *,
        schema: StepSchema,
        keep: int,
        started_at: float,
    ) -> None:
        super().__init__(key, CODEC_STEPS, writer_id, mark)
        self._keep = max(1, keep)
        self._rows: list[Any] = []  # flat: see FlatRows
        self._first_kept = 0  # row number of the first of self._rows
        self._sealed = 0  # row number of the first row that is in no batch yet
        self._seal_lock = threading.Lock()
        self._schemas: list[tuple[int, StepSchema]] = []  # first row number of each layout
        self._columns_since = 0  # row number from which on all rows fit into one frame
        self._t_last = started_at
        self._info_bytes_put = 0
        self._info_bytes_sealed = 0
        self._use(0, schema)

    @property
    def schema(self) -> StepSchema:
        """Layout of the newest row."""
        return self._schemas[-1][1]

    def _use(self, first_row: int, schema: StepSchema) -> None:
        if not self._schemas or not schema.shares_columns_with(self.schema):
            self._columns_since = first_row
        self._schemas = [known for known in self._schemas if known[0] < first_row]
        self._schemas.append((first_row, schema))
        observation, action = schema.observation, schema.action
        self._observation_dtype, self._observation_shape = observation.dtype, observation.shape
        self._observation_class: Any = _class_of(observation)
        self._action_dtype, self._action_shape = action.dtype, action.shape
        self._action_class: Any = _class_of(action)
        self._row_bytes = observation.size * observation.dtype.itemsize + ROW_OVERHEAD_BYTES
        self._look_every = max(1, min(ROWS_PER_FRAME, LOOK_EVERY_BYTES // self._row_bytes))

    def put_reset(self, observation: Any, info: bytes | None) -> None:
        """Queue row 0: what `reset` returned.

        Raises:
            UnsupportedSpace: The observation is not an array of numbers; names it.
        """
        observation = plain(observation, "observation")
        leaf = leaf_of(observation, "observation")
        if leaf != self.schema.observation:
            self._use(0, StepSchema(leaf, self.schema.action))
        kept = observation.tobytes() if leaf.is_array else observation
        self._info_bytes_put += len(info or b"")
        self._rows.extend((kept, _filler(self.schema), 0.0, False, False, self._t_last, info))
        self._put_count += 1
        self._announce()

    def put(
        self,
        action: Any,
        observation: Any,
        reward: Any,
        terminated: bool,
        truncated: bool,
        info: bytes | None,
    ) -> bool:
        """Queue what one step took and returned; `info` encoded, or None if empty.

        Returns:
            Whether this is a good moment to look at how much is waiting.

        Raises:
            UnsupportedSpace: Action or observation is not an array of numbers; names it.
            InvalidRecord: The reward is not a number.
        """
        observation_is_array = observation.__class__ is _ndarray
        action_is_array = action.__class__ is _ndarray
        if (
            observation.__class__ is not self._observation_class
            or action.__class__ is not self._action_class
            or (
                observation_is_array
                and (
                    observation.dtype is not self._observation_dtype
                    or observation.shape != self._observation_shape
                )
            )
            or (
                action_is_array
                and (action.dtype is not self._action_dtype or action.shape != self._action_shape)
            )
        ):
            observation, action = self._relayout(observation, action)
            observation_is_array = observation.__class__ is _ndarray
            action_is_array = action.__class__ is _ndarray
        try:
            reward = float(reward) if reward.__class__ is not _ndarray else _number(reward)
        except (TypeError, ValueError):
            reward = _number(reward)
        now = time.time()
        if now <= self._t_last:  # the clock was set back, or is coarse
            now = math.nextafter(self._t_last, math.inf)
        self._t_last = now
        if info is not None:
            self._info_bytes_put += len(info)
        self._rows.extend(  # one call, so that another thread sees the row whole or not at all
            (
                observation.tobytes() if observation_is_array else observation,
                action.tobytes() if action_is_array else action,
                reward,
                terminated,
                truncated,
                now,
                info,
            )
        )
        self._put_count += 1
        if self._marked:
            return self._put_count % self._look_every == 0 or (
                info is not None and len(info) >= LOOK_EVERY_BYTES
            )
        self._announce()
        return True

    def _announce(self) -> None:
        """Mark, once until the next delivery. The flag goes up first: the writer is quick."""
        if not self._marked:
            self._marked = True
            try:
                self._mark(self)
            except JamboreeError:
                self._marked = False
                raise

    def _relayout(self, observation: Any, action: Any) -> tuple[Any, Any]:
        """Take the layout of these values from the next row on; the values as they can be kept."""
        observation, action = plain(observation, "observation"), plain(action, "action")
        schema = StepSchema(leaf_of(observation, "observation"), leaf_of(action, "action"))
        with self._seal_lock:
            first_row = self._put_count
            if schema != self.schema:
                known = self.schema.observation
                if (
                    first_row == 1
                    and self._sealed == 0
                    and schema.observation.shares_column_with(known)
                ):  # the reset's action is a filler, and takes the layout of the first action
                    self._rows[1] = _filler(schema)
                    first_row = 0
                self._use(first_row, schema)
        self._observation_class, self._action_class = observation.__class__, action.__class__
        self._observation_dtype = getattr(observation, "dtype", self._observation_dtype)
        self._action_dtype = getattr(action, "dtype", self._action_dtype)
        return observation, action

    def recent(self, n: int) -> Rows | None:
        """The newest n steps and the row before them, None where memory holds fewer."""
        rows = self._rows[-(max(n, 0) + 1) * ROW_WIDTH :]
        count = len(rows) // ROW_WIDTH
        first_row = self._put_count - count
        if (count <= n and first_row > 0) or self._columns_since > first_row or not rows:
            return None
        return rows_to_arrays(rows, self.schema, start=first_row)

    # -- the delivering thread's side -------------------------------------------------------

    @property
    def _waiting_bytes(self) -> int:
        """Memory held by rows that are in no batch yet, roughly."""
        waiting = (self._put_count - self._sealed) * self._row_bytes
        return waiting + self._info_bytes_put - self._info_bytes_sealed

    def _take(self) -> list[RowPart]:
        """The rows put since the last call, cut into frames; under the lock."""
        start = self._sealed
        rows = self._rows[(start - self._first_kept) * ROW_WIDTH :]
        self._sealed = start + len(rows) // ROW_WIDTH
        self._info_bytes_sealed += sum(len(info) for info in rows[INFO::ROW_WIDTH] if info)
        size = max(1, min(ROWS_PER_FRAME, MAX_FRAME_BYTES // self._row_bytes))
        parts = cut_rows(start, rows, self._schemas, size)
        self._forget()
        return parts

    def _forget(self) -> None:
        """Let go of rows and layouts that neither a batch nor `recent` needs any more."""
        surplus = self._sealed - self._first_kept - self._keep
        if surplus >= ROWS_PER_FRAME:
            del self._rows[: surplus * ROW_WIDTH]
            self._first_kept += surplus
        while len(self._schemas) > 1 and self._schemas[1][0] <= self._sealed:
            del self._schemas[0]


def _class_of(leaf: Leaf) -> type:
    """The class that values of a layout have."""
    if leaf.is_array:
        return _ndarray
    return leaf.dtype.type if leaf.kind == "numpy" else _PYTHON_CLASSES[leaf.dtype.kind]


def _filler(schema: StepSchema) -> Any:
    """The action of row 0, which means nothing."""
    zero = np.zeros(schema.action.shape, schema.action.dtype)
    return zero.tobytes() if schema.action.is_array else zero.item()


def _number(reward: Any) -> float:
    """A reward that `float` refuses: an array with one element."""
    try:
        return float(np.asarray(reward).item())
    except (TypeError, ValueError) as error:
        raise InvalidRecord(f"the reward {reward!r} is not a number") from error
