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
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from jamboree_gym.codec import CODEC_STEPS
from jamboree_gym.errors import InvalidRecord, JamboreeError
from jamboree_gym.layouts import ENCODED, Group, layout_of, share_columns
from jamboree_gym.outbox import Outbox
from jamboree_gym.packing import Misfit, pack_any, variable_bytes
from jamboree_gym.row_parts import RowPart, cut_rows
from jamboree_gym.step_schema import StepSchema
from jamboree_gym.steps import ROW_WIDTH, Rows, rows_to_arrays

__all__ = ["LOOK_EVERY_BYTES", "MAX_FRAME_BYTES", "ROWS_PER_FRAME", "RowBuffer"]

ROWS_PER_FRAME = 256
MAX_FRAME_BYTES = 1 << 20
ROW_OVERHEAD_BYTES = 200
LOOK_EVERY_BYTES = 1 << 20  # so often the caller looks at how much is waiting
MAX_RELAYOUTS = 16  # after so many changes of columns in an episode, what changes is encoded


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
        self._schemas: list[tuple[int, StepSchema]] = []  # first row number of each
        self._columns_since = 0  # row number from which on all rows fit into one frame
        self._relayouts = 0
        self._t_last = started_at
        self._variable_bytes_put = 0  # infos, and whatever else has no fixed size
        self._variable_bytes_sealed = 0
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
        self._pack_observation = schema.pack_observation
        self._pack_action = schema.pack_action
        self._pack_annotation = schema.pack_annotation
        self._row_bytes = schema.row_bytes + ROW_OVERHEAD_BYTES
        self._has_encoded = schema.has_encoded
        self._look_every = max(1, min(ROWS_PER_FRAME, LOOK_EVERY_BYTES // self._row_bytes))

    def put_reset(self, observation: Any, info: bytes | None) -> None:
        """Queue row 0: what `reset` returned.

        Raises:
            InvalidRecord: The observation cannot be encoded; says what of it.
        """
        schema = self.schema
        try:
            kept = self._pack_observation(observation)
        except (InvalidRecord, Misfit):
            layout = layout_of(observation, schema.observation)
            kept = pack_any(observation, layout, "observation")
            if layout != schema.observation:
                self._use(0, StepSchema(layout, schema.action, schema.annotation).shared)
        if info is not None:
            self._variable_bytes_put += len(info)
        if self._has_encoded:
            self._variable_bytes_put += variable_bytes(kept, self.schema.observation)
        nothing = self.schema.action_filler
        self._rows.extend((kept, nothing, 0.0, False, False, self._t_last, info, None))
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
        annotation: Mapping[str, Any] | None = None,
    ) -> bool:
        """Queue what one step took and returned; `info` encoded, or None if empty.

        Returns:
            Whether this is a good moment to look at how much is waiting.

        Raises:
            InvalidRecord: Something of it cannot be encoded, or the reward is not a number; says
                what.
        """
        try:
            kept_action = self._pack_action(action)
            kept = self._pack_observation(observation)
            said = None if annotation is None else self._pack_annotation(annotation)
        except (InvalidRecord, Misfit):
            kept_action, kept, said = self._relayout(action, observation, annotation)
        if reward.__class__ is not float:
            reward = _number(reward)
        now = time.time()
        if now <= self._t_last:  # the clock was set back, or is coarse
            now = math.nextafter(self._t_last, math.inf)
        self._t_last = now
        if info is not None:
            self._variable_bytes_put += len(info)
        if self._has_encoded:
            self._variable_bytes_put += self._encoded_bytes(kept_action, kept)
        self._rows.extend(  # one call, so that another thread sees the row whole or not at all
            (kept, kept_action, reward, terminated, truncated, now, info, said)
        )
        self._put_count += 1
        if self._marked:
            return self._put_count % self._look_every == 0 or (
                info is not None and len(info) >= LOOK_EVERY_BYTES
            )
        self._announce()
        return True

    def put_plain(self, kept_action: Any, kept: Any, reward: float, now: float) -> None:
        """Queue a step of the newest layout that is packed already, is not the last, has no info.

        For recorders of many environments, which pack all of them at once.
        """
        if now <= self._t_last:
            now = math.nextafter(self._t_last, math.inf)
        self._t_last = now
        self._rows.extend((kept, kept_action, reward, False, False, now, None, None))
        self._put_count += 1
        if not self._marked:
            self._announce()

    def _encoded_bytes(self, action: Any, observation: Any) -> int:
        schema = self.schema
        of_action = variable_bytes(action, schema.action)
        return of_action + variable_bytes(observation, schema.observation)

    def _announce(self) -> None:
        """Mark, once until the next delivery. The flag goes up first: the writer is quick."""
        if not self._marked:
            self._marked = True
            try:
                self._mark(self)
            except JamboreeError:
                self._marked = False
                raise

    def _relayout(
        self, action: Any, observation: Any, annotation: Mapping[str, Any] | None
    ) -> tuple[Any, Any, Any]:
        """Take the layout of these values from the next row on; the values as they are kept."""
        schema = self._layout_of_row(action, observation, annotation)
        packed = (
            pack_any(action, schema.action, "action"),
            pack_any(observation, schema.observation, "observation"),
            None if annotation is None else pack_any(annotation, schema.annotation, "annotation"),
        )
        with self._seal_lock:
            first_row = self._put_count
            if schema != self.schema:
                known = self.schema.observation
                if (
                    first_row == 1
                    and self._sealed == 0
                    and share_columns(schema.observation, known)
                ):  # the reset's action is a filler, and takes the layout of the first action
                    self._rows[1] = schema.action_filler
                    self._use(0, StepSchema(known, schema.action, schema.annotation).shared)
                if schema != self.schema:
                    self._use(first_row, schema)
        return packed

    def _layout_of_row(
        self, action: Any, observation: Any, annotation: Mapping[str, Any] | None
    ) -> StepSchema:
        known = self.schema
        said = known.annotation
        if annotation is not None:
            said = cast(Group, layout_of(dict(annotation), said))
        schema = StepSchema(
            layout_of(observation, known.observation), layout_of(action, known.action), said
        )
        if schema.shares_columns_with(known):
            return schema.shared
        self._relayouts += 1
        if self._relayouts <= MAX_RELAYOUTS:
            return schema.shared
        settled = StepSchema(  # it changes all the time: no more columns for what does
            _settled(schema.observation, known.observation),
            _settled(schema.action, known.action),
            said if said.names != known.annotation.names else _settled(said, known.annotation),
        )
        return settled.shared

    def recent(self, n: int) -> Rows | None:
        """The newest n steps and the row before them, None where memory holds fewer."""
        rows = self._rows[-(max(n, 0) + 1) * ROW_WIDTH :]
        count = len(rows) // ROW_WIDTH
        first_row = self._put_count - count
        if (count <= n and first_row > 0) or self._columns_since > first_row or not rows:
            return None
        return rows_to_arrays(rows, self.schema, start=first_row, schemas=(*self._schemas,))

    # -- the delivering thread's side -------------------------------------------------------

    @property
    def _waiting_bytes(self) -> int:
        """Memory held by rows that are in no batch yet, roughly."""
        waiting = (self._put_count - self._sealed) * self._row_bytes
        return waiting + self._variable_bytes_put - self._variable_bytes_sealed

    def _take(self) -> list[RowPart]:
        """The rows put since the last call, cut into frames; under the lock."""
        start = self._sealed
        variable_bytes = self._variable_bytes_put - self._variable_bytes_sealed
        rows = self._rows[(start - self._first_kept) * ROW_WIDTH :]
        count = len(rows) // ROW_WIDTH
        self._sealed = start + count
        self._variable_bytes_sealed += variable_bytes
        row_bytes = self._row_bytes + variable_bytes // max(1, count)
        size = max(1, min(ROWS_PER_FRAME, MAX_FRAME_BYTES // row_bytes))
        parts = cut_rows(start, rows, self._schemas, size)
        self._forget()
        return parts

    def _forget(self) -> None:
        """Let go of rows and layouts that neither a batch nor `recent` needs any more."""
        surplus = self._sealed - self._first_kept - self._keep
        if surplus >= ROWS_PER_FRAME:
            del self._rows[: surplus * ROW_WIDTH]
            self._first_kept += surplus
        needed_from = min(self._sealed, self._first_kept)
        while len(self._schemas) > 1 and self._schemas[1][0] <= needed_from:
            del self._schemas[0]


def _settled(new: Any, known: Any) -> Any:
    """The layout of what changes no more: encoded, where the two do not share columns."""
    if share_columns(new, known):
        return new
    if isinstance(new, Group) and isinstance(known, Group) and new.names == known.names:
        return Group(new.kind, new.names, tuple(map(_settled, new.parts, known.parts)))
    return ENCODED


def _number(reward: Any) -> float:
    """A reward of another type than float: a NumPy scalar, an array with one element, ..."""
    try:
        return float(reward) if reward.__class__ is not np.ndarray else float(reward.item())
    except (TypeError, ValueError):
        try:
            return float(np.asarray(reward).item())
        except (TypeError, ValueError) as error:
            raise InvalidRecord(f"the reward {reward!r} is not a number") from error
