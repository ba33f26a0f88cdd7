"""The rows of one episode: the caller puts steps, and finds those that are held here.

`add_step` takes every step; `RowWriter` writes its row, and takes most of the steps by itself.
Columns, checksums and Redis are the delivering thread's work.

Two threads meet here. The caller's alone adds rows and counts them; the delivering one alone takes
them. Whatever else both touch (layouts, the trimming of what is kept) is under one lock.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.layout import (
    ENCODED,
    Group,
    Layout,
    Leaf,
    is_column_name,
    layout_of,
    share_columns,
)
from jamboree_gym.arrays.packing import filler, held_exactly, pack_any, packer, variable_bytes
from jamboree_gym.arrays.step_schema import ONE_NUMBER, StepSchema
from jamboree_gym.delivery.outbox import Outbox
from jamboree_gym.delivery.row_writer import CHECK_EVERY_BYTES, NO_SCHEMAS, RowWriter
from jamboree_gym.encoding.row_format import TERMINATED, TRUNCATED
from jamboree_gym.encoding.row_part import RowPart
from jamboree_gym.encoding.rows import Rows, rows_to_arrays
from jamboree_gym.environment.outcomes import other_reward, refusal, reward_of
from jamboree_gym.errors import InvalidRecord
from jamboree_gym.journal.row_block import DROPPED, RowLane, Span, private_lane
from jamboree_gym.journal.row_parts import RowWindow, joined
from jamboree_gym.journal.vector_block import ColumnSpan

__all__ = ["RowBuffer", "announce_together"]

MAX_RELAYOUTS = 16  # after this many changes of columns in an episode, what changes is encoded


class RowBuffer(RowWriter):
    """The caller's half of a `StepOutbox`.

    Args are those of a `RowWriter`, and `keep`: how many of the newest rows stay for `recent`.
    """

    __slots__ = (
        "_keep",
        "_news",
        "_relayouts",
        "_reset_row",
        "_seal_lock",
        "_sealed",
        "_taken",
        "_variable_bytes_sealed",
    )

    def __init__(
        self,
        key: str,
        writer_id: bytes,
        mark: Callable[[Outbox], float],
        *,
        schema: StepSchema,
        lane: RowLane,
        keep: int,
        started_at: float,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(
            key,
            writer_id,
            mark,
            schema=schema,
            lane=lane,
            started_at=started_at,
            clock=clock,
        )
        self._keep = max(1, keep)
        self._news: deque[RowBuffer] | None = None  # of who writes the newest rows into a block
        self._sealed = 0  # row number of the first row that is in no batch and no part yet
        self._taken: Sequence[Span] = ()  # in no batch yet
        self._seal_lock = threading.Lock()
        self._reset_row: tuple[Any, bytes | None] = (None, None)  # packed observation and info
        self._relayouts = 0
        self._variable_bytes_sealed = 0

    @property
    def newest_at(self) -> float:
        """Timestamp of the newest row, epoch seconds."""
        newest = self._extents[-1] if self._news is not None else None
        if newest is not None and newest.count:
            return float(newest.rows(newest.stop - 1, newest.stop)["timestamp"][0])
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
                self._use(replace(schema, observation=layout).prepared())
        self._reset_row = packed_observation, info
        self._add_reset_row()
        self._announce()

    def _add_reset_row(self) -> None:
        observation, info = self._reset_row
        schema, room = self.schema, len(info or b"")
        action = schema.action_filler
        if self._has_encoded:
            room += variable_bytes(observation, schema.observation)
            room += variable_bytes(action, schema.action)
            room += variable_bytes(schema.annotation_filler, schema.annotation)
        self._open_extent(0, room)
        reward = 0.0 if self._reward is None else filler(self._reward)
        self._add_row(0, reward, self.started_at, observation, action, info)

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
            self._change(replace(known, action=layout))

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
            InvalidRecord: Something of it cannot be encoded, or the reward is neither a number nor
                an array as the rewards before it; says what.
        """
        # First: it may write the reset anew, whose observation has the layout that is known now.
        if reward.__class__ is not float or self._reward is not None:
            reward = self._packed_reward(reward)
        try:
            packed_observation = self._pack_observation(observation)
            packed_annotation = None if annotation is None else self._pack_annotation(annotation)
        except Exception:  # noqa: BLE001 - as above
            packed_observation, packed_annotation = self._relayout(observation, annotation)
        now = self._clock()
        if now <= self._t_last:  # the clock was set back, or is coarse
            now = math.nextafter(self._t_last, math.inf)
            self.late_at = -math.inf  # such a time says nothing of the thread: have it looked at
        self._t_last = now
        count = self._add_row(
            terminated * TERMINATED + truncated * TRUNCATED,
            reward,
            now,
            packed_observation,
            self.packed_action,
            info,
            packed_annotation,
        )
        if self._marked:
            return (
                now > self.late_at
                or (count - 1) % self._check_every == 0
                or (info is not None and len(info) >= CHECK_EVERY_BYTES)
            )
        self._announce()
        return True

    # -- rows that a recorder of many environments writes ------------------------------------

    def enter_block(self, span: ColumnSpan, news: deque[RowBuffer]) -> None:
        """The next rows come into this span, until `leave_block`.

        Args:
            span: It has no rows yet.
            news: Gets this, whenever a row that comes has to be announced.
        """
        block = span.block
        if self._schemas is NO_SCHEMAS:
            self._schemas = block.schemas
        elif block.number not in self._schemas:
            self._schemas = {**self._schemas, **block.schemas}
        # The next row that is put here opens an extent.
        self._last_at, self._takes_common = -1, False
        self._words, self._count_at = block.words, 0
        self._first_at = self._nbytes = 0
        self._use_format(block.row_format)
        self._extents.append(span)
        self._news = news
        if not self._marked:
            news.append(self)

    def leave_block(self, newest_at: float) -> None:
        """No more rows come into the span.

        Args:
            newest_at: Timestamp of the newest row that is in it, or of a later one.
        """
        span = self._extents[-1]
        if isinstance(span, ColumnSpan):
            span.close()
        self._t_last = max(self._t_last, newest_at)
        self._news = None
        self._announce()

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
        schema = replace(known, observation=layout, annotation=new_annotation)
        if schema != known:
            self._change(schema)
        return packed

    def _packed_reward(self, reward: Any) -> float | bytes:
        """A reward as its row keeps it. That of the first step says what all are.

        Later ones may be of another dtype, if there is one that holds both.
        """
        value, known = reward_of(reward), self.schema.reward
        is_number = isinstance(value, float)
        if is_number and self._reward is None:
            return cast(float, value)
        leaf = ONE_NUMBER if is_number else Leaf(value.dtype, value.shape, "array")
        if leaf != known and self._stop > 1:
            if leaf.shape != known.shape:
                raise other_reward(reward, known.shape)
            leaf = Leaf(np.result_type(leaf.dtype, known.dtype), leaf.shape, "array")
        if leaf == ONE_NUMBER:
            self._change(replace(self.schema, reward=leaf))
            return cast(float, value)
        kept: npt.NDArray[Any] | None = held_exactly(value, leaf.dtype)
        if kept is None:
            raise other_reward(reward, known.shape, known.dtype)
        if leaf != known:
            self._change(replace(self.schema, reward=leaf))
        return kept.tobytes()

    def _next_layout(self, new: Layout, known: Layout) -> Layout:
        """The new layout; if columns change all the time, no more columns for what does."""
        if share_columns(new, known):
            return new
        self._relayouts += 1
        return new if self._relayouts <= MAX_RELAYOUTS else _settled(new, known)

    def _change(self, schema: StepSchema) -> None:
        """Another schema from the next row on.

        The reset's action and reward are fillers, and take the layouts of the first step.
        """
        known = self.schema
        with self._seal_lock:
            stop = self._stop
            self._use(schema.prepared())
            is_other = (schema.action, schema.reward) != (known.action, known.reward)
            if stop == 1 and self._sealed == 0 and is_other:
                replaced = self._extents[0]
                if isinstance(replaced, ColumnSpan):
                    self._reset_row = _observation_in(replaced), None
                self._add_reset_row()
                del self._extents[0]
                replaced.set_state(DROPPED)
            elif schema.shares_columns_with(known):
                self._number = self._lane.number_of(self.schema)
                self._schemas = {**self._schemas, self._number: self.schema}
            else:
                self._open_extent(stop, 0)

    def recent(self, n: int) -> Rows | None:
        """The newest n steps and the row before them, None where memory does not hold them."""
        with self._seal_lock:
            return self._held(self._stop - max(n, 0) - 1, self._stop)

    def recent_copy(self, n: int) -> RowWindow | None:
        """The rows of `recent` as they lie in one block; None too where they do not.

        No lock: rows that are published do not change, and their block stays while it is referred
        to.
        """
        extents = self._extents
        if not extents or self._variable_bytes_put:
            return None
        extent = extents[-1]
        if isinstance(extent, ColumnSpan):
            return None
        stop, row_format = extent.words[extent.count_at], extent.row_format
        first = stop - n - 1
        if first < 0:
            first = 0
            if extent.start or not stop:
                return None
        at, nbytes = extent.first_at, row_format.nbytes
        content = extent.content[at + first * nbytes : at + stop * nbytes].tobytes()
        return content, row_format.dtype, extent.start + first, self._schemas

    def window(self, start: int, stop: int | None = None) -> Rows | None:
        """Rows with these numbers (None = to the newest), None where memory does not hold them."""
        with self._seal_lock:
            return self._held(start, self._stop if stop is None else min(stop, self._stop))

    def between(self, t0: float, t1: float) -> Rows | None:
        """Rows with t0 <= timestamp <= t1 and the row before them, None as above."""
        with self._seal_lock:
            first_kept, times = self._times()
            first = first_kept + int(np.searchsorted(times, t0, "left"))
            stop = first_kept + int(np.searchsorted(times, t1, "right"))
            return self._held(first - 1, max(first, stop))

    def as_of(self, t: float) -> Rows | None:
        """The newest row with timestamp <= t and the row before it, None as above."""
        with self._seal_lock:
            first_kept, times = self._times()
            stop = first_kept + int(np.searchsorted(times, t, "right"))
            return self._held(stop - 2, stop)

    def _times(self) -> tuple[int, npt.NDArray[np.float64]]:
        """Number of the first row that is held, and the timestamps of all that are."""
        extents = self._extents
        times = [extent.rows(extent.start, extent.stop)["timestamp"] for extent in extents]
        return extents[0].start, np.concatenate(times)

    @property
    def _stop(self) -> int:
        return self._extents[-1].stop if self._extents else 0

    def _held(self, start: int, stop: int) -> Rows | None:
        start = max(start, 0)
        if not self._extents or start < self._extents[0].start or start >= stop:
            return None
        parts = self._parts_between(start, stop)
        schema = parts[0].schema
        if not all(part.schema.shares_columns_with(schema) for part in parts):
            return None
        return rows_to_arrays(joined(parts))

    def _parts_between(self, start: int, stop: int) -> list[RowPart]:
        """The rows with these numbers, a part for each extent; views of the blocks."""
        return [span.part(self._schemas) for span in self._spans_between(start, stop)]

    def _spans_between(self, start: int, stop: int) -> list[Span]:
        spans = []
        for extent in self._extents:
            first, end = max(start, extent.start), min(stop, extent.stop)
            if first < end:
                spans.append(Span(extent, first, end))
                start = end
        return spans

    def _drop_rows(self) -> None:
        """Nobody wants the rows any more, nor those that still come: not after a kill either."""
        self.may_be_common = self._takes_common = False  # so that the next row looks
        if self._news is not None:
            self._news.append(self)
        for extent in self._extents:
            extent.set_state(DROPPED)

    def after_fork_in_child(self, writer_id: bytes, mark: Callable[[Outbox], float]) -> None:
        """Leave to the parent process what it has put; here, nothing more can be written.

        The files are the parent's: what is put here all the same, goes into memory.
        """
        self._seal_lock = threading.Lock()  # the thread that held it is not in this process
        self._lane = private_lane()
        self._extents = [extent.copy() for extent in self._extents]
        if self._extents:
            newest = self._extents[-1]
            self._news = None
            self._words, self._content = newest.words, newest.content
            self._last_at = -1  # the next row opens an extent
        super().after_fork_in_child(writer_id, mark)
        self._stored_count = self.rows_put
        self._taken = ()


def announce_together(
    buffers: Iterable[RowBuffer], mark_all: Callable[[Sequence[Outbox]], float]
) -> None:
    """There are rows to deliver in these. Those that are marked already are left as they are.

    Args:
        buffers: Of one process.
        mark_all: As `mark`, of several.
    """
    waiting = [one for one in buffers if not (one._marked or one.is_deleted)]
    for one in waiting:  # first, as the writer is quick
        one._marked = True
    try:
        late_at = mark_all(waiting)
    except BaseException:  # a Ctrl-C too: the next step marks them then
        for one in waiting:
            one._marked = False
        raise
    for one in waiting:
        one.late_at = late_at


def _settled(new: Any, known: Any) -> Any:
    """The layout of what changes no more: encoded, where the two do not share columns."""
    if share_columns(new, known):
        return new
    if isinstance(new, Group) and isinstance(known, Group) and new.names == known.names:
        return Group(new.kind, new.names, tuple(map(_settled, new.parts, known.parts)))
    return ENCODED


def _observation_in(span: ColumnSpan) -> Any:
    """The observation of the first row, packed."""
    observation = cast(Leaf, span.block.schema.observation)
    value = span.rows(span.start, span.start + 1)["column0"][0]
    return packer(observation)(observation.restore(value))


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
