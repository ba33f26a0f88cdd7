"""The rows of one episode on their way to Redis.

`put` is the hot path: it runs inside `env.step`, so it only checks the layout, copies the arrays to
bytes and appends one tuple. Columns, Arrow, checksums and Redis are the delivering thread's work.

Two threads meet here. The caller's alone appends rows and counts them; the delivering one alone
takes them. Whatever else both touch (layouts, the trimming of what is kept) is under one lock.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jamboree_gym.codec import CODEC_STEPS, encode_frame
from jamboree_gym.errors import EpisodeInUse, EpisodeNotFound, InvalidRecord, JamboreeError
from jamboree_gym.notes import encode_episode_note, encode_origin, encode_summary
from jamboree_gym.outbox import MAX_FRAMES_PER_APPEND, Batch, Outbox
from jamboree_gym.records import EpisodeOrigin, EpisodeStatus, EpisodeSummary
from jamboree_gym.row_parts import RowPart, cut_rows
from jamboree_gym.spaces import Leaf, leaf_of, plain
from jamboree_gym.steps import Row, Rows, StepSchema, encode_rows, rows_to_arrays
from jamboree_gym.store.redis import AppendResult, IndexEntry

__all__ = ["StepOutbox"]

ROWS_PER_FRAME = 256
MAX_FRAME_BYTES = 1 << 20
ROW_OVERHEAD_BYTES = 200
LOOK_EVERY_BYTES = 1 << 20  # so often the caller looks at how much is waiting

_ndarray = np.ndarray
_PYTHON_CLASSES: dict[str, type] = {"b": bool, "i": int, "f": float}


class StepOutbox(Outbox):
    """Outbox of one episode; this process is its only writer, one thread its only caller.

    Args:
        key: The episode's log.
        writer_id: Eight bytes that mark this process's batches.
        mark: Tells the writer that there is something to deliver.
        summary: As it is before the first row.
        origin: What the episode can be begun with again.
        schema: Layout of the rows, as far as it can be guessed.
        keep: So many of the newest rows stay in memory for `recent`.
        blobs: What `origin` refers to, by digest.

    Raises:
        InvalidRecord: Something in summary or origin cannot be kept; names it.
    """

    def __init__(
        self,
        key: str,
        writer_id: bytes,
        mark: Callable[[Outbox], None],
        *,
        summary: EpisodeSummary,
        origin: EpisodeOrigin,
        schema: StepSchema,
        keep: int,
        blobs: Mapping[str, bytes] | None = None,
    ) -> None:
        super().__init__(key, CODEC_STEPS, writer_id, mark)
        self.summary = summary
        self._origin = encode_origin(origin)
        self._keep = max(1, keep)
        self._rows: list[Row] = []
        self._first_kept = 0  # row number of self._rows[0]
        self._sealed = 0  # row number of the first row that is in no batch yet
        self._seal_lock = threading.Lock()
        self._status: EpisodeStatus = "running"
        self._stored_status: EpisodeStatus = "running"
        self._schemas: list[tuple[int, StepSchema]] = []  # first row number of each layout
        self._columns_since = 0  # row number from which on all rows fit into one frame
        self._t_last = summary.started_at
        self._info_bytes_put = 0
        self._info_bytes_sealed = 0
        self._summaries: deque[EpisodeSummary] = deque()  # after each of self._batches
        self._note_sent: EpisodeSummary | None = None
        self._note_stored: EpisodeSummary | None = None
        self._blobs_used = dict(blobs or {})
        self._use(0, schema)

    @property
    def schema(self) -> StepSchema:
        """Layout of the newest row."""
        return self._schemas[-1][1]

    @property
    def status(self) -> EpisodeStatus:
        """How it ended, or `running`."""
        return self._status

    @property
    def unsaved(self) -> int:
        """Number of rows that the server has not acknowledged; an end that it has not is one."""
        return (self._put_count - self._stored_count) or int(self._status != self._stored_status)

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

    # -- the caller's side ------------------------------------------------------------------

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
        started_at = self.summary.started_at
        self._info_bytes_put += len(info or b"")
        self._rows.append((kept, _filler(self.schema), 0.0, False, False, started_at, info))
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
            reward = float(reward)
        except (TypeError, ValueError):
            reward = _number(reward)
        now = time.time()
        if now <= self._t_last:  # the clock was set back, or is coarse
            now = math.nextafter(self._t_last, math.inf)
        self._t_last = now
        if info is not None:
            self._info_bytes_put += len(info)
        self._rows.append(
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
                    row = self._rows[0]
                    self._rows[0] = (row[0], _filler(schema), *row[2:])
                    first_row = 0
                self._use(first_row, schema)
        self._observation_class, self._action_class = observation.__class__, action.__class__
        self._observation_dtype = getattr(observation, "dtype", self._observation_dtype)
        self._action_dtype = getattr(action, "dtype", self._action_dtype)
        return observation, action

    def end(self, status: EpisodeStatus) -> None:
        """The episode is over: its summary is written with the next delivery. Once only."""
        if self._status == "running":
            self._status = status
            self._announce()

    def recent(self, n: int) -> Rows | None:
        """The newest n steps and the row before them, None where memory holds fewer."""
        rows = self._rows[-(max(n, 0) + 1) :]
        first_row = self._put_count - len(rows)
        if (len(rows) <= n and first_row > 0) or self._columns_since > first_row or not rows:
            return None
        return rows_to_arrays(rows, self.schema, start=first_row)

    # -- the delivering thread's side -------------------------------------------------------

    @property
    def pending_bytes(self) -> int:
        """Memory held by what is not acknowledged, roughly."""
        if self.error is not None:
            return 0
        waiting = (self._put_count - self._sealed) * self._row_bytes
        waiting += self._info_bytes_put - self._info_bytes_sealed
        return waiting + sum(len(batch.frame) for batch in list(self._batches))

    def seal(self) -> None:
        """Turn what has been put so far into batches, and bring the summary up to date."""
        with self._seal_lock:
            self._marked = False
            status = self._status  # before the rows: an end comes after the last of them
            start = self._sealed
            rows = self._rows[start - self._first_kept :]
            self._sealed = start + len(rows)
            parts = cut_rows(start, rows, self._schemas, self._rows_per_frame)
            self._forget()
        self._info_bytes_sealed += sum(len(row[6]) for row in rows if row[6] is not None)
        if self.error is not None:
            return
        for part in parts:
            self._batches.append(self._batch(part))
            self._summarise(part, status if part is parts[-1] else "running")
            self._summaries.append(self.summary)
        if status != self.summary.status:
            self.summary = replace(self.summary, status=status)

    def _forget(self) -> None:
        """Let go of rows and layouts that neither a batch nor `recent` needs any more."""
        surplus = self._sealed - self._first_kept - self._keep
        if surplus >= ROWS_PER_FRAME:
            del self._rows[:surplus]
            self._first_kept += surplus
        while len(self._schemas) > 1 and self._schemas[1][0] <= self._sealed:
            del self._schemas[0]

    @property
    def _rows_per_frame(self) -> int:
        return max(1, min(ROWS_PER_FRAME, MAX_FRAME_BYTES // self._row_bytes))

    def _batch(self, part: RowPart) -> Batch:
        rows, schema = part.rows, part.schema
        self._blobs_used.setdefault(schema.digest, schema.blob)
        frame = encode_frame(
            codec=CODEC_STEPS,
            start=part.start,
            count=len(rows),
            writer=self._writer_id,
            t_first=rows[0][5],
            t_last=rows[-1][5],
            body=encode_rows(rows, schema, part.kinds),
        )
        return Batch(frame, len(rows), [], [])

    def _summarise(self, part: RowPart, status: EpisodeStatus) -> None:
        """Bring the summary up to the end of this part."""
        known = self.summary
        total = known.episode_return
        for row in part.rows:  # one by one: the same sum however the rows were cut
            total += row[2]
        self.summary = EpisodeSummary(  # dataclasses.replace takes four times as long
            known.id,
            known.env_id,
            known.run,
            status,
            part.start + len(part.rows) - 1,
            total,
            known.started_at,
            part.rows[-1][5] - known.started_at,
            known.seed,
            known.tags,
        )

    def _note(self) -> tuple[bytes, IndexEntry | None]:
        """The summary as it is after the batches of the next append: never ahead of the rows."""
        summary = self.summary
        if len(self._batches) > MAX_FRAMES_PER_APPEND:
            summary = self._summaries[MAX_FRAMES_PER_APPEND - 1]
        if summary is self._note_stored:
            return b"", None
        self._note_sent = summary
        content = encode_summary(summary)
        written_at = summary.started_at + summary.elapsed_s
        entry = IndexEntry(summary.id, content, summary.run, written_at)
        return encode_episode_note(content, self._origin), entry

    def _blobs(self) -> Mapping[str, bytes]:
        return self._blobs_used

    def settle(self, result: AppendResult) -> None:
        """Take the server's answer to the last `next_append`."""
        for _ in range(result.stored):
            self._summaries.popleft()
        super().settle(result)
        if self.error is None and self._note_sent is not None:
            self._note_stored = self._note_sent
            self._stored_status = self._note_sent.status

    def refuse(self, error: JamboreeError) -> None:
        """It can never be written: keep the reason, and no longer what waits."""
        super().refuse(error)
        self._batches.clear()
        self._summaries.clear()

    def _continue_at(self, result: AppendResult) -> None:
        expected = self._stored_count
        if result.count < expected:
            self.refuse(
                EpisodeNotFound(
                    f"episode {self.summary.id!r}: the first {expected} rows are no longer in "
                    "Redis, so the next ones cannot be added. Was it emptied? Restore the backup."
                )
            )
        else:
            self.refuse(
                EpisodeInUse(
                    f"episode {self.summary.id!r} has another writer: Redis holds {result.count} "
                    "rows that this process did not write. Give the episode another id."
                )
            )


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
