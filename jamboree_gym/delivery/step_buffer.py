"""The rows of one episode, as the environment's thread puts them.

`put` is the hot path: it runs inside `env.step`, so it only checks the layout, copies the arrays to
bytes and extends one list. Columns, Arrow, checksums and Redis are the delivering thread's work.

Two threads meet here. The caller's alone adds rows and counts them; the delivering one alone takes
them. Whatever else both touch (layouts, the trimming of what is kept) is under one lock.
"""

from __future__ import annotations

import math
import threading
from abc import ABC
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from jamboree_gym.arrays.layout import (
    ENCODED,
    Group,
    Layout,
    is_column_name,
    layout_of,
    share_columns,
)
from jamboree_gym.arrays.packing import pack_any, variable_bytes
from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.delivery.outbox import Outbox
from jamboree_gym.encoding.batch_format import CODEC_STEPS
from jamboree_gym.encoding.row_encoder import ROW_WIDTH, TIMESTAMP, RowPart, cut_rows, prepare
from jamboree_gym.encoding.rows import Rows, rows_to_arrays
from jamboree_gym.environment.outcomes import number_of, refusal
from jamboree_gym.errors import InvalidRecord

__all__ = [
    "CHECK_EVERY_BYTES",
    "MAX_BATCH_BYTES",
    "ROWS_PER_BATCH",
    "ROW_OVERHEAD_BYTES",
    "RowBuffer",
]

ROWS_PER_BATCH = 256
MAX_BATCH_BYTES = 1 << 20
ROW_OVERHEAD_BYTES = 200
CHECK_EVERY_BYTES = 1 << 20  # so often the caller checks how much is waiting
_NUMBERS = frozenset({int, bool, np.float64, np.float32, np.int64})
MAX_RELAYOUTS = 16  # after so many changes of columns in an episode, what changes is encoded


class RowBuffer(Outbox, ABC):
    """The caller's half of a `StepOutbox`.

    Args:
        key: The episode's log.
        writer_id: Eight bytes that mark this process's batches.
        mark: Tells the writer that there is something to deliver; until when is soon enough.
        schema: Layout of the rows, as far as it can be guessed.
        keep: So many of the newest rows stay in memory for `recent`.
        started_at: Timestamp of row 0, epoch seconds.
        clock: Gives the time of each other row, epoch seconds.
    """

    __slots__ = (
        "_check_every",
        "_columns_since",
        "_first_kept",
        "_has_encoded",
        "_keep",
        "_pack_annotation",
        "_pack_observation",
        "_parts",
        "_relayouts",
        "_row_bytes",
        "_rows",
        "_schemas",
        "_seal_lock",
        "_sealed",
        "_t_last",
        "_variable_bytes_put",
        "_variable_bytes_sealed",
        "pack_action",
        "packed_action",
        "schema",
    )

    def __init__(
        self,
        key: str,
        writer_id: bytes,
        mark: Callable[[Outbox], float],
        *,
        schema: StepSchema,
        keep: int,
        started_at: float,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(key, CODEC_STEPS, writer_id, mark, clock)
        self.schema = schema  # layout of the newest row
        self.packed_action: Any = None  # of the next step
        self._keep = max(1, keep)
        self._rows: list[Any] = []  # flat: see FlatRows
        self._first_kept = 0  # row number of the first of self._rows
        self._sealed = 0  # row number of the first row that is in no batch and no part yet
        self._parts: list[RowPart] = []  # taken, but in no batch yet
        self._seal_lock = threading.Lock()
        self._schemas: list[tuple[int, StepSchema]] = []  # first row number of each
        self._columns_since = 0  # row number from which on all rows fit into one batch
        self._relayouts = 0
        self._t_last = started_at
        self._variable_bytes_put = 0  # infos, and whatever else has no fixed size
        self._variable_bytes_sealed = 0
        self._use(0, schema)

    @property
    def newest_at(self) -> float:
        """Timestamp of the newest row, epoch seconds."""
        return self._t_last

    @property
    def rows_put(self) -> int:
        """Number of rows so far."""
        with self._seal_lock:
            return self._stop

    @property
    def is_settled(self) -> bool:
        """Whether the server has everything, what is written beside the rows included."""
        return not self._marked and not self._batches and self.unsaved == 0

    def _use(self, first_row: int, schema: StepSchema) -> None:
        if not self._schemas or not schema.shares_columns_with(self.schema):
            self._columns_since = first_row
        self._schemas = [known for known in self._schemas if known[0] < first_row]
        self._schemas.append((first_row, schema))
        self.schema = schema
        self.pack_action = schema.pack_action
        self._pack_observation = schema.pack_observation
        self._pack_annotation = schema.pack_annotation
        self._row_bytes = schema.row_bytes + ROW_OVERHEAD_BYTES
        self._has_encoded = schema.has_encoded
        rows = max(1, min(ROWS_PER_BATCH, CHECK_EVERY_BYTES // self._row_bytes))
        self._check_every = rows * ROW_WIDTH

    def add_reset(self, observation: Any, info: bytes | None) -> None:
        """Queue row 0: what `reset` returned.

        Raises:
            InvalidRecord: The observation cannot be encoded; says what of it.
        """
        schema = self.schema
        try:
            packed_observation = self._pack_observation(observation)
        except Exception:  # noqa: BLE001 - whatever it is, the slow way says it
            layout = _layout_of(observation, schema.observation, "observation")
            packed_observation = _packed(observation, layout, "observation")
            if layout != schema.observation:
                self._use(0, _prepared(StepSchema(layout, schema.action, schema.annotation)))
        if info is not None:
            self._variable_bytes_put += len(info)
        if self._has_encoded:
            self._variable_bytes_put += variable_bytes(packed_observation, self.schema.observation)
        nothing = self.schema.action_filler
        self._rows.extend(
            (packed_observation, nothing, 0.0, False, False, self._t_last, info, None)
        )
        self._announce()

    def set_action(self, action: Any) -> None:
        """Keep the action of the step that comes, as it is before the environment gets it.

        Quicker: `packed_action = pack_action(action)`, and this only where that does not work.

        Raises:
            InvalidRecord: It cannot be encoded; says what of it.
        """
        known = self.schema
        layout = self._next_layout(_layout_of(action, known.action, "action"), known.action)
        self.packed_action = _packed(action, layout, "action")
        if layout != known.action:
            self._change(StepSchema(known.observation, layout, known.annotation))

    def add_step(
        self,
        observation: Any,
        reward: Any,
        terminated: bool,
        truncated: bool,
        info: bytes | None,
        annotation: Mapping[str, Any] | None = None,
    ) -> bool:
        """Queue what a step returned beside `packed_action`; `info` is encoded, None if empty.

        Returns:
            Whether this is a good moment to look at how much is waiting.

        Raises:
            InvalidRecord: Something of it cannot be encoded, or the reward is not a number; says
                what.
        """
        try:
            packed_observation = self._pack_observation(observation)
            packed_annotation = None if annotation is None else self._pack_annotation(annotation)
        except Exception:  # noqa: BLE001 - as above
            packed_observation, packed_annotation = self._relayout(observation, annotation)
        kind = reward.__class__
        if kind is not float:
            try:
                reward = float(reward) if kind in _NUMBERS else number_of(reward)
            except OverflowError as error:
                raise refusal("reward", error) from error
        now = self._clock()
        if now <= self._t_last:  # the clock was set back, or is coarse
            now = math.nextafter(self._t_last, math.inf)
            self.late_at = -math.inf  # such a time says nothing of the thread: have it looked at
        self._t_last = now
        if info is not None or self._has_encoded:
            self._count_variable(packed_observation, info)
        rows = self._rows
        rows.extend(  # one call, so that another thread sees the row whole or not at all
            (
                packed_observation,
                self.packed_action,
                reward,
                terminated,
                truncated,
                now,
                info,
                packed_annotation,
            )
        )
        if self._marked:
            return (
                now > self.late_at
                or len(rows) % self._check_every == 0
                or (info is not None and len(info) >= CHECK_EVERY_BYTES)
            )
        self._announce()
        return True

    def add_plain_step(
        self,
        packed_action: Any,
        packed_observation: Any,
        reward: float,
        now: float,
        packed_annotation: Any = None,
    ) -> None:
        """Queue a step of the newest layout that is packed already, is not the last, has no info.

        For recorders of many environments, which pack all of them at once.
        """
        if now <= self._t_last:
            now = math.nextafter(self._t_last, math.inf)
        self._t_last = now
        self._rows.extend(
            (
                packed_observation,
                packed_action,
                reward,
                False,
                False,
                now,
                None,
                packed_annotation,
            )
        )
        if not self._marked:
            self._announce()

    def _count_variable(self, observation: Any, info: bytes | None) -> None:
        size = len(info or b"")
        if self._has_encoded:
            size += variable_bytes(self.packed_action, self.schema.action)
            size += variable_bytes(observation, self.schema.observation)
        self._variable_bytes_put += size

    def _announce(self) -> None:
        """Mark, once until the next delivery. The flag goes up first: the writer is quick."""
        if not self._marked:
            self._marked = True
            try:
                self.late_at = self._mark(self)
            except BaseException:  # a Ctrl-C too: the next step marks it then
                self._marked = False
                raise

    def _relayout(self, observation: Any, annotation: Mapping[str, Any] | None) -> tuple[Any, Any]:
        """Take the layout of these values from the next row on; the values as they are kept."""
        known, new_annotation = self.schema, self.schema.annotation
        layout = _layout_of(observation, known.observation, "observation")
        layout = self._next_layout(layout, known.observation)
        if annotation is not None:
            if not all(map(is_column_name, annotation)):
                raise InvalidRecord(f"the annotation {list(annotation)!r}: a name is a text")
            new_annotation = cast(Group, _layout_of(dict(annotation), new_annotation, "annotation"))
            if new_annotation.names == known.annotation.names:
                new_annotation = cast(Group, self._next_layout(new_annotation, known.annotation))
        packed = (
            _packed(observation, layout, "observation"),
            None if annotation is None else _packed(annotation, new_annotation, "annotation"),
        )
        schema = StepSchema(layout, known.action, new_annotation)
        if schema != known:
            self._change(schema)
        return packed

    def _next_layout(self, new: Layout, known: Layout) -> Layout:
        """The new layout; if columns change all the time, no more columns for what does."""
        if share_columns(new, known):
            return new
        self._relayouts += 1
        return new if self._relayouts <= MAX_RELAYOUTS else _settled(new, known)

    def _change(self, schema: StepSchema) -> None:
        """Another schema from the next row on.

        The reset's action is a filler, and takes the layout of the first action.
        """
        with self._seal_lock:
            first_row = self._stop
            if first_row == 1 and self._sealed == 0 and schema.action != self.schema.action:
                self._rows[1] = schema.action_filler
                first_row = 0
            self._use(first_row, _prepared(schema))

    def recent(self, n: int) -> Rows | None:
        """The newest n steps and the row before them, None where memory does not hold them."""
        with self._seal_lock:
            return self._held(self._stop - max(n, 0) - 1, self._stop)

    def window(self, start: int, stop: int | None = None) -> Rows | None:
        """Rows with these numbers (None = to the newest), None where memory does not hold them."""
        with self._seal_lock:
            return self._held(start, self._stop if stop is None else min(stop, self._stop))

    def between(self, t0: float, t1: float) -> Rows | None:
        """Rows with t0 <= timestamp <= t1 and the row before them, None as above."""
        with self._seal_lock:
            times = self._rows[TIMESTAMP::ROW_WIDTH]
            first = self._first_kept + bisect_left(times, t0)
            stop = self._first_kept + bisect_right(times, t1)
            return self._held(first - 1, max(first, stop))

    def as_of(self, t: float) -> Rows | None:
        """The newest row with timestamp <= t and the row before it, None as above."""
        with self._seal_lock:
            stop = self._first_kept + bisect_right(self._rows[TIMESTAMP::ROW_WIDTH], t)
            return self._held(stop - 2, stop)

    @property
    def _stop(self) -> int:
        return self._first_kept + len(self._rows) // ROW_WIDTH

    def _held(self, start: int, stop: int) -> Rows | None:
        start = max(start, 0)
        if start < max(self._first_kept, self._columns_since) or start >= stop:
            return None
        skipped, taken = start - self._first_kept, stop - self._first_kept
        rows = self._rows[skipped * ROW_WIDTH : taken * ROW_WIDTH]
        return rows_to_arrays(rows, self.schema, start=start, schemas=(*self._schemas,))

    # -- the delivering thread's side -------------------------------------------------------

    @property
    def _waiting_bytes(self) -> int:
        """Memory held by rows that are in no batch yet, roughly."""
        waiting = len(self._rows) // ROW_WIDTH + self._first_kept - self._sealed
        return waiting * self._row_bytes + self._variable_bytes_put - self._variable_bytes_sealed

    def _take(self) -> None:
        """Cut the rows put since the last call into parts; under the lock.

        A Ctrl-C may come at any call: so the last statement alone changes what is taken.
        """
        start, variable_bytes = self._sealed, self._variable_bytes_put
        rows = self._rows[(start - self._first_kept) * ROW_WIDTH :]
        if rows:
            count = len(rows) // ROW_WIDTH
            new_bytes = variable_bytes - self._variable_bytes_sealed
            row_bytes = self._row_bytes + new_bytes // count
            size = max(1, min(ROWS_PER_BATCH, MAX_BATCH_BYTES // row_bytes))
            parts = self._parts + cut_rows(start, rows, self._schemas, size)
            stop = start + count
            self._parts, self._sealed, self._variable_bytes_sealed = parts, stop, variable_bytes
            self._forget()

    def after_fork_in_child(self, writer_id: bytes, mark: Callable[[Outbox], float]) -> None:
        """Leave to the parent process what it has put; here, nothing more can be written."""
        self._seal_lock = threading.Lock()  # whoever held it is not in this process
        super().after_fork_in_child(writer_id, mark)
        self._stored_count = self.rows_put

    def _forget(self) -> None:
        """Let go of rows and layouts that neither a batch nor `recent` needs any more."""
        surplus = self._sealed - self._first_kept - self._keep
        if surplus >= ROWS_PER_BATCH:
            del self._rows[: surplus * ROW_WIDTH]
            self._first_kept += surplus
        needed_from = min(self._sealed, self._first_kept)
        while len(self._schemas) > 1 and self._schemas[1][0] <= needed_from:
            del self._schemas[0]


def _prepared(schema: StepSchema) -> StepSchema:
    """The shared instance of a schema that is new here."""
    prepare(schema.shared)
    return schema.shared


def _settled(new: Any, known: Any) -> Any:
    """The layout of what changes no more: encoded, where the two do not share columns."""
    if share_columns(new, known):
        return new
    if isinstance(new, Group) and isinstance(known, Group) and new.names == known.names:
        return Group(new.kind, new.names, tuple(map(_settled, new.parts, known.parts)))
    return ENCODED


def _layout_of(value: Any, known: Layout, role: str) -> Layout:
    try:
        return layout_of(value, known)
    except Exception as error:
        raise refusal(role, error) from error


def _packed(value: Any, layout: Layout, role: str) -> Any:
    try:
        return pack_any(value, layout, role)
    except InvalidRecord:
        raise
    except Exception as error:
        raise refusal(role, error) from error
