"""The rows of one episode on their way to Redis: batches, summary, and the server's answers."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import msgspec

from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.delivery.outbox import Outbox, SealedBatch
from jamboree_gym.delivery.step_buffer import RowBuffer
from jamboree_gym.encoding.row_encoder import seal_rows
from jamboree_gym.encoding.row_part import RowPart, summary_after
from jamboree_gym.encoding.summary_codec import (
    check_summary,
    encode_episode_note,
    encode_origin,
    encode_summary,
)
from jamboree_gym.errors import EpisodeInUse, EpisodeNotFound, JamboreeError
from jamboree_gym.journal.row_block import ABANDONED, RowLane
from jamboree_gym.records import EpisodeOrigin, EpisodeStatus, EpisodeSummary
from jamboree_gym.store.log import AppendResult, IndexEntry

__all__ = ["StepOutbox"]

log = logging.getLogger(__name__)


class StepOutbox(RowBuffer):
    """Outbox of one episode; this process is its only writer, one thread its only caller.

    Args:
        key: The episode's log.
        writer_id: Eight bytes that mark this process's batches.
        mark: Tells the writer that there is something to deliver; until when is soon enough.
        summary: As it is before the first row.
        origin: What the episode can be begun with again; encoded, if the summary is checked, too.
        schema: Layout of the rows, as far as it can be guessed.
        lane: Where the rows are written.
        keep: So many of the newest rows stay in memory for `recent`.
        blobs: What `origin` refers to, by digest.
        clock: Gives the time of each step, epoch seconds.

    Raises:
        InvalidRecord: Something in summary or origin cannot be kept; names it.

    Attributes:
        summary: As it is after the rows that are in batches.
        is_deleted: Whether the episode has been deleted: nothing more of it is kept.
    """

    __slots__ = (
        "_begun",
        "_blobs_used",
        "_note_sent",
        "_note_stored",
        "_origin",
        "_status",
        "_stored_status",
        "is_deleted",
        "summary",
    )

    def __init__(
        self,
        key: str,
        writer_id: bytes,
        mark: Callable[[Outbox], float],
        *,
        summary: EpisodeSummary,
        origin: EpisodeOrigin | bytes,
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
            started_at=summary.started_at,
            clock=clock,
        )
        if isinstance(origin, bytes):
            self._begun, self._origin = b"", origin
        else:
            self._begun, self._origin = check_summary(summary), encode_origin(origin)
        self.summary = summary
        self.is_deleted = False
        self._status: EpisodeStatus = "running"
        self._stored_status: EpisodeStatus = "running"
        self._note_sent: EpisodeSummary | None = None
        self._note_stored: EpisodeSummary | None = None
        self._blobs_used: Mapping[str, bytes] = blobs or {}

    def _title(self, start: int) -> bytes:
        summary = self.summary
        note, digests = None, list[str]()
        if start == 0:
            begun = self._begun or encode_summary(summary)  # no row is in a batch yet
            note = encode_episode_note(begun, self._origin)
            digests = list(self._blobs_used)
        return msgspec.msgpack.encode((self.key, summary.id, note, digests))

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
        """The episode has been deleted: let go of what waits. No delivery may be going on."""
        with self._seal_lock:
            self.is_deleted = True
            self._marked = False  # so that the next row looks
            self._drop_rows()
        self._parts = ()
        self._batches.clear()

    def _announce(self) -> None:
        if not self.is_deleted:
            super()._announce()

    # -- the delivering thread's side -------------------------------------------------------

    @property
    def pending_bytes(self) -> int:
        """Memory held by what is not acknowledged, roughly."""
        if self.error is not None or self.is_deleted:
            return 0
        return self._waiting_bytes + sum(len(batch.encoded) for batch in list(self._batches))

    def seal(self) -> None:
        """Turn what has been put so far into batches, and bring the summary up to date."""
        with self._seal_lock:
            self._marked = False
            if self._news is not None:
                self._news.append(self)  # before the rows are counted, so that none is overlooked
            status = self._status  # before the rows: an end comes after the last of them
            self._take()
        if self.error is not None or self.is_deleted:
            self._parts = ()
            self._forget(self.rows_put)
            return
        batches, summary = self._sealed_parts(self._parts, status)
        all_batches = self._batches + deque(batches)
        self._batches, self.summary, self._parts = all_batches, summary, ()

    def _sealed_parts(
        self, parts: Sequence[RowPart], status: EpisodeStatus
    ) -> tuple[list[SealedBatch], EpisodeSummary]:
        summary, batches = self.summary, []
        if parts and status == "running":
            status = parts[-1].status  # it may be here a moment before `end` is called
        for part in parts:
            summary = summary_after(summary, part, status if part is parts[-1] else "running")
            batches.append(self._batch(part, summary))
        if status not in ("running", summary.status):
            summary = replace(summary, status=status)
        return batches, summary

    def _batch(self, part: RowPart, summary: EpisodeSummary) -> SealedBatch:
        for used in (part.schema, *[changed for _, changed in part.changes]):
            if used.digest not in self._blobs_used:
                self._blobs_used = {**self._blobs_used, used.digest: used.blob}
        return SealedBatch(seal_rows(part, self._writer_id), part.count, summary=summary)

    def _note(self, sent: int) -> tuple[bytes, IndexEntry | None]:
        """The summary as it is after the batches of the next append: never ahead of the rows."""
        summary = self.summary
        if self.is_deleted:
            return b"", None
        if sent < len(self._batches):
            summary = self._batches[sent - 1].summary or summary
        if summary is self._note_stored:
            return b"", None
        self._note_sent = summary
        return seal_note(summary, self._origin)

    def _blobs(self) -> Mapping[str, bytes]:
        return self._blobs_used

    @property
    def _born(self) -> float | None:
        return self.summary.started_at

    def _index_after(self, sent: int) -> int:
        return self._stored_count + sum([one.count for one in islice(self._batches, sent)])

    def settle(self, result: AppendResult) -> None:
        """Take the server's answer to the last `next_append`."""
        is_end_alone = self._sent == 0
        super().settle(result)
        self._confirm_rows(self._stored_count)
        if is_end_alone and not result.is_deleted and result.count != self._stored_count:
            self._continue_at(result)
        if self.error is None and self._note_sent is not None:
            self._note_stored = self._note_sent
            self._stored_status = self._note_sent.status

    def refuse(self, error: JamboreeError) -> None:
        """It can never be written: keep the reason, and no longer what waits."""
        super().refuse(error)
        self._batches.clear()
        self._drop_rows()

    def _continue_at(self, result: AppendResult) -> None:
        expected = self._stored_count
        if result.is_deleted:
            log.warning(
                "episode %r was deleted while it was recorded: the rest of it is not kept",
                self.summary.id,
            )
            self.drop()
        elif result.count < expected:
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


def seal_note(summary: EpisodeSummary, origin: bytes) -> tuple[bytes, IndexEntry]:
    """What is stored beside the batches: the episode's note, and its entry in the listing."""
    content = encode_summary(summary)
    written_at = summary.started_at + summary.elapsed_s
    entry = IndexEntry(summary.id, content, summary.run, written_at)
    return encode_episode_note(content, origin), entry
