"""Writes the rows of one episode into the journal, on the environment's thread.

`add_common_step` is the hot path: it runs inside each `env.step`. Each of its lines costs every
step of a training, so what is unusual is left to `RowBuffer.add_step`. Both write the same bytes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.delivery.outbox import MAX_BATCH_BYTES, Outbox
from jamboree_gym.encoding.batch_format import CODEC_STEPS
from jamboree_gym.encoding.row_format import ANNOTATED, NOWHERE, RowFormat, pack_leading
from jamboree_gym.environment.outcomes import NUMBERS
from jamboree_gym.journal.row_block import Extent, RowLane
from jamboree_gym.journal.vector_block import ColumnSpan

__all__ = [
    "CHECK_EVERY_BYTES",
    "NO_SCHEMAS",
    "ROWS_PER_BATCH",
    "ROW_OVERHEAD_BYTES",
    "RowWriter",
    "rows_per_batch",
]

NO_SCHEMAS: Mapping[int, StepSchema] = {}
ROWS_PER_BATCH = 256
ROW_OVERHEAD_BYTES = 40
CHECK_EVERY_BYTES = 1 << 20  # so often the caller checks how much is waiting
_ndarray, _float64, _numpy_false = np.ndarray, np.float64, np.False_


def rows_per_batch(row_bytes: int) -> int:
    """How many rows of this size become one batch."""
    return max(1, min(ROWS_PER_BATCH, MAX_BATCH_BYTES // row_bytes))


class RowWriter(Outbox, ABC):
    """An outbox whose rows lie in the journal.

    Attributes:
        schema: Layout of the newest row.
        packed_action: Of the step that comes.
        is_deleted: Whether the episode has been deleted: nothing more of it is kept.
        may_be_common: Whether `add_common_step` may take steps; set it before the reset.
        started_at: Timestamp of row 0, epoch seconds.

    Args:
        key: The episode's log.
        writer_id: Eight bytes that mark this process's batches.
        mark: Tells the writer that there is something to deliver; until when is soon enough.
        schema: Layout of the rows, as far as it can be guessed.
        lane: Where the rows are written.
        started_at: Timestamp of row 0, epoch seconds.
        clock: Gives the time of each other row, epoch seconds.
    """

    __slots__ = (
        "_action_at",
        "_annotation",
        "_annotation_at",
        "_check_every",
        "_content",
        "_count_at",
        "_dtype",
        "_encoded_at",
        "_extents",
        "_fillers",
        "_first_at",
        "_flat",
        "_has_encoded",
        "_lane",
        "_large_arrays",
        "_last_at",
        "_nbytes",
        "_number",
        "_pack_action",
        "_pack_annotation",
        "_pack_into",
        "_pack_observation",
        "_reward",
        "_row_bytes",
        "_schemas",
        "_shape",
        "_t_last",
        "_takes_arrays",
        "_takes_common",
        "_takes_plain",
        "_variable_bytes_put",
        "_words",
        "is_deleted",
        "may_be_common",
        "pack_action",
        "packed_action",
        "schema",
        "started_at",
    )

    def __init__(
        self,
        key: str,
        writer_id: bytes,
        mark: Callable[[Outbox], float],
        *,
        schema: StepSchema,
        lane: RowLane,
        started_at: float,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(key, CODEC_STEPS, writer_id, mark, clock)
        self.packed_action: Any = None  # of the next step
        self.may_be_common = self._takes_common = self.is_deleted = False
        self._lane = lane
        self._extents: list[Extent | ColumnSpan] = []  # the last one is written to
        self._schemas = NO_SCHEMAS  # by the numbers that rows have for them
        self._t_last = self.started_at = started_at
        self._large_arrays: npt.NDArray[Any] | None = None  # the observations in the last extent
        self._variable_bytes_put = 0  # infos, and whatever else has no fixed size
        self._use(schema)

    @abstractmethod
    def _title(self, start: int) -> bytes:
        """Says in the journal of which episode the rows from there on are."""

    def _use(self, schema: StepSchema) -> None:
        self.schema = schema
        self.pack_action = schema.pack_action
        self._pack_observation = schema.pack_observation
        self._pack_annotation = schema.pack_annotation
        self._row_bytes = schema.row_bytes + ROW_OVERHEAD_BYTES
        self._has_encoded = schema.has_encoded
        self._check_every = max(1, min(ROWS_PER_BATCH, CHECK_EVERY_BYTES // self._row_bytes))
        self._reward = None if schema.has_one_number else schema.reward
        self._takes_common = self.may_be_common and self._reward is None

    def _open_extent(self, start: int, room: int) -> None:
        """Begin to write behind what is in the lane, or in a new block where it is full."""
        schema, lane = self.schema, self._lane
        extent = lane.extent(schema, start, self._title(start), room)
        number, row_format = lane.number, extent.row_format
        if self._schemas is NO_SCHEMAS:
            self._schemas = lane.schemas
        elif number not in self._schemas:
            self._schemas = {**self._schemas, number: schema}
        self._extents.append(extent)
        self._number = number
        self._words, self._count_at = extent.words, extent.count_at
        self._content, self._first_at = extent.content, extent.first_at
        self._nbytes, self._pack_into = row_format.nbytes, row_format.pack_into
        self._use_format(row_format)
        if row_format.action_at:
            room = (lane.back - self._first_at) // self._nbytes
            rows = np.ndarray(room, row_format.dtype, self._content, self._first_at)
            self._large_arrays = rows["column0"]
            self._pack_action, self._action_at = row_format.pack_action, row_format.action_at
        self._takes_common = self.may_be_common and self._reward is None
        self._last_at = lane.back - row_format.nbytes

    def _use_format(self, row_format: RowFormat) -> None:
        self._flat, self._encoded_at = row_format.flat, row_format.encoded_at
        self._fillers, self._takes_arrays = row_format.fillers, row_format.takes_arrays
        self._takes_plain, self._annotation_at = row_format.takes_plain, row_format.annotation_at
        self._annotation = row_format.annotation
        self._dtype, self._shape = row_format.observation_dtype, row_format.observation_shape
        self._large_arrays = None

    def add_common_step(
        self,
        observation: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        info: bytes | None,
        annotation: Mapping[str, Any] | None,
    ) -> bool:
        """Queue a step as most are: of the newest layout, and not the last.

        Args:
            observation: What the environment returned, as the next three.
            reward: A number.
            terminated: Whether this was the end.
            truncated: Whether the episode was cut off.
            info: Encoded; None if it is empty.
            annotation: What the agent said of the step.

        Returns:
            Whether it was queued; if not, nothing was.
        """
        if (
            (terminated is not False and terminated is not _numpy_false)
            or (truncated is not False and truncated is not _numpy_false)
            or not self._takes_common
        ):
            return False
        now = self._clock()
        words, count_at = self._words, self._count_at
        count = words[count_at]
        if now <= self._t_last or now > self.late_at or count % self._check_every == 0:
            return False
        if (
            self._takes_arrays
            and annotation is None
            and (reward.__class__ is float or reward.__class__ is _float64)
        ):
            if (
                observation.__class__ is not _ndarray
                or observation.dtype is not self._dtype
                or observation.shape != self._shape
            ):
                return False
            at, info_at, size = self._first_at + count * self._nbytes, 0, 0
            if info:
                size = len(info)
                if size >= CHECK_EVERY_BYTES:
                    return False
            if at > self._last_at - size:
                return False
            content, action = observation.tobytes(), self.packed_action
            if info:
                info_at = self._keep_info(info)
            block, number = self._content, self._number
            self._pack_into(block, at, 0, number, reward, now, info_at, size, content, action)
            words[count_at] = count + 1
        elif not self._add_common_row(observation, reward, now, info, annotation):
            return False
        self._t_last = now
        if not self._marked:
            self._announce()
        return True

    def _add_common_row(
        self,
        observation: Any,
        reward: Any,
        now: float,
        info: bytes | None,
        annotation: Mapping[str, Any] | None,
    ) -> bool:
        """Write the row of a common step; whether all of it is as it has to be."""
        kind = reward.__class__
        if kind is not float and kind is not _float64 and kind not in NUMBERS:
            return False
        if info is not None and len(info) >= CHECK_EVERY_BYTES:
            return False
        try:
            if self._large_arrays is not None and info is None and annotation is None:
                return self._add_large_array(self._large_arrays, observation, reward, now)
            packed = self._pack_observation(observation)
            said = None if annotation is None else self._pack_annotation(annotation)
            self._add_row(0, reward, now, packed, self.packed_action, info, said)
        except Exception:  # noqa: BLE001 - `add_step` says what is wrong, or takes another layout
            self._takes_common = False  # until there is another layout: to raise costs time
            return False
        return True

    def _add_large_array(
        self, arrays: npt.NDArray[Any], observation: Any, reward: Any, now: float
    ) -> bool:
        """Write a row whose observation is large, and is therefore copied only once."""
        count = self._words[self._count_at]
        at = self._first_at + count * self._nbytes
        if (
            at > self._last_at
            or observation.__class__ is not _ndarray
            or observation.dtype != self._dtype
            or observation.shape != self._shape
        ):
            return False
        arrays[count] = observation
        self._pack_action(self._content, at + self._action_at, self.packed_action)
        pack_leading(self._content, at, 0, self._number, reward, now, 0, 0)
        self._words[self._count_at] = count + 1
        return True

    def _add_row(
        self,
        flags: int,
        reward: float | bytes,
        now: float,
        observation: Any,
        action: Any,
        info: bytes | None,
        annotation: Any = None,
    ) -> int:
        """Write a row of packed values; number of rows in its extent then.

        Its last act is to publish the row.
        """
        said = self._fillers
        if annotation is not None:
            flags, said = flags | ANNOTATED, annotation
        columns = self._flat(observation, action, said)
        size = 0 if info is None else len(info)
        for n in self._encoded_at:
            size += len(columns[n])
        words, count_at = self._words, self._count_at
        count = words[count_at]
        at = self._first_at + count * self._nbytes
        if at > self._last_at - size:
            self._open_extent(self._extents[-1].stop, size)
            words, count_at, count, at = self._words, self._count_at, 0, self._first_at
        info_at, info_size = NOWHERE
        if size:
            if self._encoded_at:
                columns = self._with_places(columns)
            if info is not None:
                info_at, info_size = self._lane.keep(info)
            self._last_at -= size
            self._variable_bytes_put += size
        self._pack_into(
            self._content, at, flags, self._number, reward, now, info_at, info_size, *columns
        )
        words[count_at] = count = count + 1
        return count

    def _keep_info(self, info: bytes) -> int:
        """Put an info into the block; where it is."""
        info_at, size = self._lane.keep(info)
        self._last_at -= size
        self._variable_bytes_put += size
        return info_at

    def _with_places(self, columns: Sequence[Any]) -> list[Any]:
        """The values of columns, with the place of each encoded one instead of it."""
        placed: list[Any] = []
        start, keep = 0, self._lane.keep
        for n in self._encoded_at:
            placed += columns[start:n]
            placed += keep(columns[n])
            start = n + 1
        placed += columns[start:]
        return placed

    def add_plain_step(
        self,
        packed_action: Any,
        packed_observation: Any,
        reward: float | bytes,
        now: float,
        packed_annotation: Any = None,
        info: bytes | None = None,
    ) -> None:
        """Queue a step of the newest layout that is packed already, and is not the last.

        For recorders of many environments, which pack all of them at once.
        """
        if now <= self._t_last:
            now = math.nextafter(self._t_last, math.inf)
        self._t_last = now
        self._add_row(0, reward, now, packed_observation, packed_action, info, packed_annotation)
        if not self._marked:
            self._announce()

    def _announce(self) -> None:
        """Mark, once until the next delivery. The flag goes up first: the writer is quick."""
        if not (self._marked or self.is_deleted):
            self._marked = True
            try:
                self.late_at = self._mark(self)
            except BaseException:  # a Ctrl-C too: the next step marks it then
                self._marked = False
                raise
