"""The rows of one episode on their way to Redis: batches, summary, and the server's answers."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import accumulate, pairwise, repeat
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.compiled import compiled_core
from jamboree_gym.delivery.outbox import Outbox, SealedBatch
from jamboree_gym.delivery.row_writer import ROWS_PER_BATCH, rows_per_batch
from jamboree_gym.delivery.step_buffer import RowBuffer
from jamboree_gym.encoding.column_batch import encode_step_batches
from jamboree_gym.encoding.row_format import TERMINATED, TRUNCATED, RowFormat
from jamboree_gym.encoding.row_part import RowPart
from jamboree_gym.encoding.summary_codec import Beginning
from jamboree_gym.errors import EpisodeInUse, EpisodeNotFound, JamboreeError
from jamboree_gym.journal.row_block import ABANDONED, RowLane, Span
from jamboree_gym.journal.vector_block import ColumnSpan, VectorBlock
from jamboree_gym.records import EpisodeStatus, EpisodeSummary, Progress
from jamboree_gym.store.log import AppendResult, IndexEntry

__all__ = ["StepOutbox", "progress_after", "seal_together"]

MAX_PLAIN_BYTES = 1 << 16  # larger batches are sealed by themselves: there is less to save
MAX_GROUP_BYTES = 1 << 18
# With `everysec`, Redis may have answered to what it writes to its file two seconds later.
SENT_AGAIN_S = 5.0
MAX_SENT_AGAIN_BYTES = 1 << 18  # of one episode

_pack = msgspec.msgpack.Encoder().encode

Rewards: TypeAlias = Sequence[float] | npt.NDArray[Any]
"""Of some rows: floats, or an array (n,) or, where each is an array, (n, ...)."""

Earned: TypeAlias = tuple[float, tuple[float, ...] | None]
"""Return of an episode, and the sum of each component where a reward is an array."""

_core = compiled_core()
_copy_of: Callable[[Any], Any] = copy if _core is None else _core.copy_of

log = logging.getLogger(__name__)


class StepOutbox(RowBuffer):
    """Outbox of one episode; this process is its only writer, one thread its only caller.

    Args:
        key: The episode's log.
        writer_id: Eight bytes that mark this process's batches.
        mark: Tells the writer that there is something to deliver; until when is soon enough.
        begun: The episode as it begins.
        schema: Layout of the rows, as far as it can be guessed.
        lane: Where the rows are written.
        keep: How many of the newest rows stay in memory for `recent`.
        blobs: What its origin refers to, by digest.
        clock: Gives the time of each step, epoch seconds.

    Attributes:
        id: Of the episode.
    """

    __slots__ = (
        "_begun",
        "_born_there",
        "_newest_stored",
        "_newest_stored_bytes",
        "_note_sent",
        "_note_stored",
        "_progress",
        "_status",
        "_stored_status",
        "id",
    )

    def __init__(
        self,
        key: str,
        writer_id: bytes,
        mark: Callable[[Outbox], float],
        *,
        begun: Beginning,
        schema: StepSchema,
        lane: RowLane,
        keep: int,
        blobs: Mapping[str, bytes] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(
            key,
            writer_id,
            mark,
            schema=schema,
            lane=lane,
            keep=keep,
            started_at=begun.started_at,
            clock=clock,
        )
        self.id = begun.id
        self._begun = begun
        self._progress = begun.progress  # after the rows that are in batches
        self._status: EpisodeStatus = "running"
        self._stored_status: EpisodeStatus = "running"
        self._note_sent: Progress | None = None
        self._note_stored: Progress | None = None
        self._blobs_used = blobs or {}
        self._born = begun.started_at
        self._born_there = b""  # birth of the log in Redis
        # When Redis has taken what; most episodes need none: they reach it whole.
        self._newest_stored: deque[tuple[float, SealedBatch]] | None = None
        self._newest_stored_bytes = 0

    def fits(self, schema: StepSchema, blobs: Mapping[str, bytes], keep: int) -> bool:
        """Whether it is as it would be with these arguments."""
        is_same = self.schema is schema and self._blobs_used is blobs
        return is_same and self._keep == max(1, keep)

    def another(self, key: str, begun: Beginning) -> StepOutbox:
        """The outbox of another episode, which is written as this one; it has no rows yet.

        Args:
            key: The log of that episode.
            begun: That episode as it begins.
        """
        other: StepOutbox = _copy_of(self)
        other.key, other.id, other._begun = key, begun.id, begun
        other._progress = begun.progress
        other._t_last = other.started_at = other._born = begun.started_at
        other._extents, other._seal_lock = [], threading.Lock()
        return other

    def _title(self, start: int) -> bytes:
        if start == 0:
            return _pack((self.key, self.id, self._begun.note, list(self._blobs_used)))
        return _pack((self.key, self.id, None, ()))

    @property
    def summary(self) -> EpisodeSummary:
        """As it is after the rows that are in batches."""
        return self._begun.summary(self._progress)

    @property
    def status(self) -> EpisodeStatus:
        """How it ended, or `running`."""
        return self._status

    @property
    def unsaved(self) -> int:
        """Number of rows that the server has not acknowledged; an end that it has not is one."""
        if self.is_deleted:
            return 0
        return (self.rows_put - self._stored_count) or int(self._status != self._stored_status)

    def end(self, status: EpisodeStatus) -> None:
        """The episode is over: its summary is written with the next delivery. Once only."""
        if self._status == "running":
            self._status = status
            if status == "abandoned" and self._extents:
                self._extents[-1].set_state(ABANDONED)
            self._announce()

    def drop(self) -> None:
        """The episode has been deleted: drop what waits. No delivery may be in progress."""
        with self._seal_lock:
            self.is_deleted = True
            self._marked = False  # so that the next row looks
            self._drop_rows()
        self._taken = ()
        self._batches = ()
        self._newest_stored = None

    # -- the delivering thread's side -------------------------------------------------------

    @property
    def pending_bytes(self) -> int:
        """Memory held by what is not acknowledged, roughly."""
        if self.error is not None or self.is_deleted:
            return 0
        # Of thousands of outboxes in one go: in few calls.
        extents, batches = self._extents, self._batches
        waiting = extents[-1].stop - self._sealed if extents else 0
        nbytes = waiting * self._row_bytes + self._variable_bytes_put - self._variable_bytes_sealed
        return nbytes + sum([len(batch.encoded) for batch in batches]) if batches else nbytes

    def seal(self) -> None:
        """Turn what has been put so far into batches, and bring the summary up to date."""
        with self._seal_lock:
            self._marked = False
            if self._news is not None:
                self._news.append(self)  # before the rows are counted, so that none is overlooked
            status = self._status  # before the rows: an end comes after the last of them
            self._take()
        if self.error is not None or self.is_deleted:
            self._taken = ()
            self._forget(self.rows_put)
            return
        parts = [span.part(self._schemas) for span in self._taken]
        batches, progress = self._sealed_parts(parts, status)
        all_batches = (*self._batches, *batches)
        self._batches, self._progress, self._taken = all_batches, progress, ()

    def _sealed_parts(
        self, parts: Sequence[RowPart], status: EpisodeStatus
    ) -> tuple[list[SealedBatch], Progress]:
        progress, batches = self._progress, []
        if parts and status == "running":
            status = parts[-1].status  # it may be here a moment before `end` is called
        for part in parts:
            elapsed_s = float(part.timestamps[-1]) - self.started_at
            now = status if part is parts[-1] else "running"
            progress = progress_after(progress, part.stop, part.rewards, elapsed_s, now)
            batches.append(self._batch(part, progress))
        if status not in ("running", progress.status):
            progress = replace(progress, status=status)
        return batches, progress

    def _batch(self, part: RowPart, progress: Progress) -> SealedBatch:
        for used in (part.schema, *[changed for _, changed in part.changes]):
            self._use_blob(used)
        return SealedBatch(part.sealed(self._writer_id), part.count, progress=progress)

    def _use_blob(self, schema: StepSchema) -> None:
        if schema.digest not in self._blobs_used:
            self._blobs_used = {**self._blobs_used, schema.digest: schema.blob}

    def _take(self) -> None:
        """Cut the rows put since the last call into spans; under the lock.

        A Ctrl-C may come at any call: so the last statement alone changes what is taken.
        """
        start, stop, variable_bytes = self._sealed, self._stop, self._variable_bytes_put
        if stop > start:
            new_bytes = variable_bytes - self._variable_bytes_sealed
            size = rows_per_batch(self._row_bytes + new_bytes // (stop - start))
            cut = [span for whole in self._spans_between(start, stop) for span in whole.cut(size)]
            taken = [*self._taken, *cut]
            self._taken, self._sealed, self._variable_bytes_sealed = taken, stop, variable_bytes

    def take_plain(self) -> PlainRows | None:
        """The rows put so far, for `seal_together`; None where this has to `seal` by itself.

        It does not if they are one batch of one schema, and their infos are in one block.
        """
        with self._seal_lock:
            if self.error is not None or self.is_deleted:
                return None
            self._marked = False  # before the rows are counted: one that comes now marks it again
            if self._news is not None:
                self._news.append(self)  # likewise, as in `seal`
            status = self._status  # likewise
            if self._taken or not self._extents or len(self._schemas) != 1 or self._has_encoded:
                return None
            extent, first = self._extents[-1], self._sealed
            stop, variable_bytes = extent.stop, self._variable_bytes_put
            count, info_bytes = stop - first, variable_bytes - self._variable_bytes_sealed
            if (
                count < 1
                or count > ROWS_PER_BATCH
                or count * self._row_bytes + info_bytes > MAX_PLAIN_BYTES
            ):
                return None
            spans: Sequence[Span] = (Span(extent, first, stop),)
            if extent.start > first:  # the first of them are in the block before
                if info_bytes:
                    return None
                spans = self._spans_between(first, stop)
            (schema,) = self._schemas.values()
            self._taken, self._sealed, self._variable_bytes_sealed = spans, stop, variable_bytes
            return PlainRows(self, spans, first, stop, schema, status)

    def add_plain(self, schema: StepSchema, batch: SealedBatch, progress: Progress) -> None:
        """Take the batch of the rows that `take_plain` gave, and how far the episode is then."""
        self._use_blob(schema)
        self._batches, self._progress, self._taken = (*self._batches, batch), progress, ()

    def _note(self, sent: int) -> tuple[bytes, IndexEntry | None]:
        """The summary as it is after the batches of the next append: never ahead of the rows."""
        progress = self._progress
        if self.is_deleted:
            return b"", None
        if sent < len(self._batches):
            progress = self._batches[sent - 1].progress or progress
        if progress is self._note_stored:
            return b"", None
        self._note_sent = progress
        begun = self._begun
        summary, note = begun.encoded(progress)
        newest_at = begun.started_at + progress.elapsed_s
        return note, IndexEntry(self.id, summary, begun.template.run, newest_at)

    @property
    def _is_continued(self) -> bool:
        """What Redis has lost of an episode may have been deleted, or the backup has it."""
        return self._stored_count > 0 or self._is_lost

    def _index_after(self, sent: int) -> int:
        after = self._stored_count
        for batch in self._batches[:sent]:
            after += batch.count
        return after

    def settle(self, result: AppendResult) -> None:
        """Take the server's answer to the last `next_append`."""
        is_end_alone = self._sent == 0
        is_over = self._note_sent is not None and self._note_sent.status != "running"
        if result.stored and result.log is not None and not is_over:
            self._hold(self._batches[: result.stored], result.log[1])
        super().settle(result)
        self._confirm_rows(self._stored_count)
        if is_end_alone and not result.is_deleted and result.count != self._stored_count:
            self._continue_at(result)
        if self.error is None and self._note_sent is not None:
            self._note_stored = self._note_sent
            self._stored_status = self._note_sent.status

    def _hold(self, batches: Sequence[SealedBatch], born: bytes) -> None:
        """Keep for a while what Redis has taken: it may not be in its file yet.

        Args:
            batches: Taken just now.
            born: Birth of the log that has them.
        """
        if self._newest_stored is None:
            self._newest_stored = deque()
        now, held = time.monotonic(), self._newest_stored
        self._born_there = born
        for batch in batches:
            held.append((now, batch))
            self._newest_stored_bytes += len(batch.encoded)
        while held and (
            held[0][0] < now - SENT_AGAIN_S or self._newest_stored_bytes > MAX_SENT_AGAIN_BYTES
        ):
            _, dropped = held.popleft()
            self._newest_stored_bytes -= len(dropped.encoded)

    def _take_back(self, result: AppendResult) -> bool:
        """Send again what Redis has lost of this log; False where it is not held here any more."""
        held = self._newest_stored
        if held is None or (result.log is not None and result.log[1] != self._born_there):
            return False
        lost: list[SealedBatch] = []
        first = self._stored_count
        for _, batch in reversed(held):
            if first <= result.count:
                break
            lost.append(batch)
            first -= batch.count
        if first != result.count:
            return False
        for batch in lost:
            held.pop()
            self._newest_stored_bytes -= len(batch.encoded)
        self._is_lost = result.log is None
        self._batches = (*reversed(lost), *self._batches)
        self._stored_count, self._sent = first, 0
        self._note_sent = self._note_stored = None
        self._stored_status = "running"
        for extent in self._extents:
            extent.confirm(max(first, extent.start))
        return True

    def was_asked_for(self, epoch: str, stored: int = 0) -> None:
        """As `Outbox.was_asked_for`. The summary is sent again: nothing was said of it."""
        self._note_sent = None
        super().was_asked_for(epoch, stored)

    def _confirm_rows(self, row: int) -> None:
        """Redis has all rows below this number: they are not delivered again after a kill."""
        for extent in self._extents:
            if row > extent.start:
                extent.confirm(row)
        if len(self._extents) > 1:
            self._forget(row)

    def _forget(self, row: int) -> None:
        """No row below this number is needed any more, except for `recent`."""
        with self._seal_lock:
            needed_from = min(row, self._sealed, self._stop - self._keep)
            surplus = 0
            while surplus + 1 < len(self._extents) and self._extents[surplus].stop <= needed_from:
                surplus += 1
            del self._extents[:surplus]

    def refuse(self, error: JamboreeError) -> None:
        """It can never be written: keep the reason, and no longer what waits."""
        super().refuse(error)
        self._batches = ()
        self._newest_stored = None
        self._drop_rows()

    def _continue_at(self, result: AppendResult) -> None:
        expected = self._stored_count
        if result.is_deleted:
            log.warning(
                "episode %r was deleted while it was recorded: the rest of it is not kept",
                self.id,
            )
            self.drop()
        elif result.count < expected and self._take_back(result):
            log.warning(
                "episode %r: Redis has lost %d rows that it had acknowledged: they are sent again",
                self.id,
                expected - result.count,
            )
        elif result.count < expected:
            self._refuse_lost(expected)
        else:
            self.refuse(
                EpisodeInUse(
                    f"episode {self.id!r} has another writer: Redis holds {result.count} "
                    "rows that this process did not write. Give the episode another id."
                )
            )

    def _refuse_lost(self, rows: int) -> None:
        self.refuse(
            EpisodeNotFound(
                f"episode {self.id!r}: the first {rows} rows are no longer in "
                "Redis, so the next ones cannot be added. Was it emptied? Restore the backup."
            )
        )


class PlainRows(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Rows of an outbox that are one batch, and all of one schema.

    Attributes:
        outbox: Theirs.
        spans: Where they are.
        first: Number of the first.
        stop: Number of the row after the last.
        schema: Of all of them.
        status: Of the episode after them.
    """

    outbox: StepOutbox
    spans: Sequence[Span]
    first: int
    stop: int
    schema: StepSchema
    status: EpisodeStatus

    @property
    def place(self) -> VectorBlock | RowFormat:
        """The vector block that has all of them; elsewhere, their format."""
        extent = self.spans[-1].extent
        if isinstance(extent, ColumnSpan) and len(self.spans) == 1:
            return extent.block
        return extent.row_format


def _packed_rows(span: Span) -> memoryview | bytes:
    """The bytes of the rows."""
    extent, first, stop = span.extent, span.first, span.stop
    if isinstance(extent, ColumnSpan):
        return extent.packed(first, stop)
    nbytes = extent.row_format.nbytes
    at = extent.first_at + (first - extent.start) * nbytes
    return extent.content[at : at + (stop - first) * nbytes]


def seal_together(outboxes: Iterable[Outbox]) -> list[Outbox]:
    """Seal the rows of many short episodes in one pass; a batch costs a fifth then.

    Returns:
        Those that have to `seal` by themselves, because they have anything but plain rows.
    """
    others: list[Outbox] = []
    groups: dict[VectorBlock | RowFormat, list[PlainRows]] = {}
    for outbox in outboxes:
        try:
            rows: PlainRows | None = outbox.take_plain()
        except Exception:  # noqa: BLE001 - `seal` says what is wrong with it
            rows = None
        if rows is None:
            others.append(outbox)
        else:
            groups.setdefault(rows.place, []).append(rows)
    for place, group in groups.items():
        for some in _groups_of_bytes(group):
            try:
                _seal_group(some, place)
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - each by itself says what is wrong with it
                log.debug("%d episodes are sealed one by one: %r", len(some), error)
                others += [rows.outbox for rows in some]
    return others


def _groups_of_bytes(rows: Sequence[PlainRows]) -> Iterator[Sequence[PlainRows]]:
    """The same in groups that take little memory: their rows are copied."""
    first = size = 0
    for position, one in enumerate(rows):
        size += (one.stop - one.first) * one.schema.stored_row_bytes
        if size > MAX_GROUP_BYTES:
            yield rows[first : position + 1]
            first, size = position + 1, 0
    if first < len(rows):
        yield rows[first:]


def _seal_group(group: Sequence[PlainRows], place: VectorBlock | RowFormat) -> None:
    starts, schema = [rows.first for rows in group], group[0].schema
    counts = [rows.stop - rows.first for rows in group]
    spans = [span for rows in group for span in rows.spans]
    if isinstance(place, VectorBlock):
        values = place.rows_of(spans)
    else:
        values = np.frombuffer(b"".join(map(_packed_rows, spans)), place.dtype)
    writer = group[0].outbox._writer_id  # of all outboxes of a process
    blocks = _blocks_with_infos(group, values)
    batches = encode_step_batches(schema, values, starts, counts, blocks, writer)
    newest = values[np.cumsum(counts) - 1]
    ends = zip(newest["timestamp"].tolist(), newest["flags"].tolist(), strict=True)
    earned = _earned_together(group, values, counts)
    for rows, encoded, (episode_return, returns), (t_last, flags) in zip(
        group, batches, earned, ends, strict=True
    ):
        outbox, status = rows.outbox, rows.status
        if status == "running" and flags:  # it is here a moment before `end` is called
            status = _status_of(flags)
        elapsed_s = t_last - outbox.started_at
        progress = Progress(status, rows.stop - 1, episode_return, elapsed_s, returns)
        batch = SealedBatch(encoded, rows.stop - rows.first, progress=progress)
        outbox.add_plain(schema, batch, progress)


def _blocks_with_infos(
    group: Sequence[PlainRows], values: npt.NDArray[Any]
) -> Sequence[memoryview | None]:
    """Of each episode the block that has its infos; None if there are none."""
    if not values["info_size"].any():
        return [None] * len(group)
    blocks: list[memoryview | None] = []
    for rows in group:
        extent = rows.spans[-1].extent
        if isinstance(extent, ColumnSpan) or len(rows.spans) > 1:
            raise ValueError("nobody knows in which block the infos of an episode are")
        blocks.append(extent.content)
    return blocks


def _earned_together(
    group: Sequence[PlainRows], values: npt.NDArray[Any], counts: list[int]
) -> Iterable[Earned]:
    """What each of these episodes has earned after its rows."""
    known, rewards = [rows.outbox._progress for rows in group], values["reward"]
    if _core is not None and group[0].schema.has_one_number:
        fixed = group[0].spans[-1].extent.row_format
        before = [_return_of(one) for one in known]
        sums = _core.add_up(values, fixed.nbytes, fixed.reward_at, counts, before)
        return zip(sums, repeat(None))
    bounds = pairwise(accumulate(counts, initial=0))
    return [
        _earned_after(one, rewards[first:stop])
        for one, (first, stop) in zip(known, bounds, strict=True)
    ]


def _status_of(flags: int) -> EpisodeStatus:
    """What the flags of an episode's newest row say of it."""
    if flags & TERMINATED:
        return "terminated"
    return "truncated" if flags & TRUNCATED else "running"


def progress_after(
    known: Progress,
    rows: int,
    rewards: Rewards,
    elapsed_s: float,
    status: EpisodeStatus = "running",
) -> Progress:
    """How far an episode is after more rows.

    Args:
        known: How far it was before them.
        rows: Number of all rows, theirs included.
        rewards: Theirs.
        elapsed_s: Seconds from the reset to the last of them.
        status: After them.
    """
    episode_return, returns = _earned_after(known, rewards)
    return Progress(status, rows - 1, episode_return, elapsed_s, returns)


def _earned_after(known: Progress, rewards: Rewards) -> Earned:
    if isinstance(rewards, np.ndarray):
        if rewards.ndim > 1:
            return math.nan, _returns_after(known.returns, rewards)
        rewards = rewards.tolist()
    episode_return = _return_of(known)
    for reward in rewards:  # one by one: the sum is the same however the rows were cut
        episode_return += reward
    return episode_return, None


def _return_of(known: Progress) -> float:
    """What rewards are added to. Row 0 may have been of another form than the rows after it."""
    return known.episode_return if known.returns is None else 0.0


@np.errstate(all="ignore")
def _returns_after(known: tuple[float, ...] | None, rewards: npt.NDArray[Any]) -> tuple[float, ...]:
    """The sum of each component; one row after the other, as above."""
    flat = rewards.reshape(len(rewards), -1).astype(np.float64)
    is_alike = known is not None and len(known) == flat.shape[1]
    before = known if is_alike else np.zeros(flat.shape[1])
    return tuple(np.add.accumulate([before, *flat], axis=0)[-1].tolist())
