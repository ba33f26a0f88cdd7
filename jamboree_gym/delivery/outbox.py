"""Records on their way to Redis: one outbox per log and process.

The caller's thread puts records in, and the thread that delivers takes them out. What was taken
stays here as a batch, until the server has confirmed it. Each try sends the same bytes.

A Ctrl-C may come after any call, also in the middle of these methods. So what belongs together is
changed by the last statements of a method, which call nothing.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from jamboree_gym.delivery.newest_records import NewestRecords
from jamboree_gym.encoding.batch_format import CODEC_RECORDS, encode_batch, encode_records
from jamboree_gym.errors import EpisodeInUse, InvalidRecord, JamboreeError
from jamboree_gym.journal.entry_log import RecordPlace, confirm_records, plan_records
from jamboree_gym.records import Progress
from jamboree_gym.store.log import Append, AppendResult, IndexEntry

__all__ = ["SealedBatch", "Outbox", "RecordOutbox"]

MAX_BATCHES_PER_APPEND = 64
MAX_APPEND_BYTES = 8 << 20  # so that one append does not keep the server from others for long
MAX_BATCH_BYTES = 1 << 20
MAX_BATCH_RECORDS = 256  # so that reading the newest few never decodes many
MAX_RECORD_BYTES = 256 << 20  # Redis takes no more than 512 MiB in one piece
RECORD_OVERHEAD_BYTES = 64  # as in native/plain_record.h
CHECK_EVERY_BYTES = 1 << 15  # so often, where much waits in one log, all that waits is added up
ALL = slice(None)

KeepRecord: TypeAlias = Callable[[bytes, float, bytes], RecordPlace | None]
"""Keeps a record in the journal: key of its log, time, encoded record."""

log = logging.getLogger(__name__)


class SealedBatch(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A sealed batch that waits for the server's answer.

    Attributes:
        encoded: Its bytes.
        count: Number of records in it.
        timestamps: Their times, epoch seconds; empty where a batch is never moved.
        records: The encoded records, kept for the case that another writer was first.
        progress: Of an episode, after these rows.
        places: Where the records are in the journal.
    """

    encoded: bytes
    count: int
    timestamps: Sequence[float] = ()
    records: Sequence[bytes] = ()
    progress: Progress | None = None
    places: Sequence[RecordPlace | None] = ()


class Outbox(ABC):
    """Base of all outboxes.

    Args:
        key: The log.
        codec: Codec of its batches.
        writer_id: Eight bytes that mark this process's batches.
        mark: Tells the writer that there is something to deliver; until when is soon enough.
        clock: Gives the time of each record, epoch seconds.

    Attributes:
        key: The log.
        error: Why it can never be written, None as long as it can.
        late_at: After this (epoch seconds) a caller looks whether the writer's thread runs.
        answers: How often the server has answered.
        checked_bytes: What waited here when all that waits was added up because of it.
        is_uncertain: Whether the backup did not answer when it was asked for the log.
        was_refused: Whether the writer knows of `error`.
    """

    __slots__ = (
        "__weakref__",
        "_asked_in",
        "_batches",
        "_blobs_used",
        "_born",
        "_clock",
        "_codec",
        "_is_lost",
        "_mark",
        "_marked",
        "_next_index",
        "_put_count",
        "_sent",
        "_stored_count",
        "_unanswered",
        "_writer_id",
        "answers",
        "checked_bytes",
        "error",
        "is_uncertain",
        "key",
        "late_at",
        "was_refused",
    )

    def __init__(
        self,
        key: str,
        codec: int,
        writer_id: bytes,
        mark: Callable[[Outbox], float],
        clock: Callable[[], float],
    ) -> None:
        self.key = key
        self.error: JamboreeError | None = None
        self.answers = self.checked_bytes = 0
        self.was_refused = self.is_uncertain = False
        self._codec = codec
        self._writer_id = writer_id
        self._mark = mark
        self._clock = clock
        self._marked = False
        self.late_at = math.inf
        self._next_index = 0
        self._batches: tuple[SealedBatch, ...] = ()
        self._sent = 0
        self._unanswered: Append | None = None  # what was sent last, while its fate is not known
        self._is_lost = False  # Redis has none of it any more: it may have been deleted, too
        self._asked_in = ""
        self._blobs_used: Mapping[str, bytes] = {}  # immutable content that batches refer to
        self._born: float | None = None  # first timestamp of the log, where this has begun it
        self._put_count = 0
        self._stored_count = 0

    @property
    def unsaved(self) -> int:
        """Number of records that the server has not acknowledged."""
        return self._put_count - self._stored_count

    @property
    def is_settled(self) -> bool:
        """Whether the server has everything, what is written beside the records included."""
        return not self._marked and not self._batches and self._put_count == self._stored_count

    @property
    @abstractmethod
    def pending_bytes(self) -> int:
        """Memory held by them, roughly."""

    @abstractmethod
    def seal(self) -> None:
        """Turn what has been put so far into batches."""

    def stay_marked(self) -> bool:
        """It was delivered before the writer's thread has looked: the next put need not mark it.

        Returns:
            Whether it stays so. The thread has to look at it then.
        """
        return False

    def take_plain(self) -> Any:
        """What `seal_together` can seal with that of others; None if `seal` has to do it."""
        return None

    @abstractmethod
    def _continue_at(self, result: AppendResult) -> None:
        """Another writer was first: move all batches, or set `error`."""

    def _note(self, sent: int) -> tuple[bytes, IndexEntry | None]:
        """What to write beside that number of batches."""
        return b"", None

    @property
    def _is_continued(self) -> bool:
        """Whether a log that Redis lacks may be continued only when the backup has answered."""
        return False

    @property
    def has_batches(self) -> bool:
        """Whether sealed batches wait to be sent."""
        return bool(self._batches) and self.error is None

    def next_append(self, most_bytes: int = MAX_APPEND_BYTES) -> Append | None:
        """The oldest batches, as one append; None when nothing is left to send.

        As long as it is not known what became of them, it is those of the last time.

        Args:
            most_bytes: No further batch is added to so many bytes.
        """
        if self.error is not None:
            return None
        encoded: list[bytes] = []
        size = 0
        is_repeated = self._is_lost or self._unanswered is not None
        limit = MAX_BATCHES_PER_APPEND
        if is_repeated and self._sent:
            limit, most_bytes = self._sent, MAX_APPEND_BYTES
        for batch in self._batches:
            if len(encoded) == limit or size >= most_bytes:
                break
            encoded.append(batch.encoded)
            size += len(batch.encoded)
        note, entry = self._note(len(encoded))
        if not encoded and not note:
            return None
        append = Append(
            self.key,
            self._codec,
            encoded,
            self._index_after(len(encoded)),
            note,
            entry,
            self._blobs_used,
            self._born,
            is_repeated,
            "" if is_repeated else self._asked_in,
            self.is_uncertain,
            is_continued=self._is_continued,
        )
        self._sent, self._unanswered = len(encoded), append
        return append

    def _index_after(self, sent: int) -> int:
        """Records in the log once that number of batches is stored."""
        index = self._next_index
        for batch in self._batches[sent:]:
            index -= batch.count
        return index

    def was_sent(self) -> None:  # noqa: B027 - most have nothing to do then
        """The server works on the last `next_append`: time to do what would come after."""

    def settle(self, result: AppendResult) -> None:
        """Take the server's answer to the last `next_append`."""
        # What an earlier try had stored, and somebody deleted then, is not stored again.
        done = self._sent if result.is_deleted else result.stored
        stored = self._stored_count
        for batch in self._batches[:done]:
            stored += batch.count
        self._batches, self._stored_count = self._batches[done:], stored
        self._unanswered = None
        if result.stored:  # a failover may lose the log, in the same epoch: then ask again
            self._asked_in, self._is_lost = "", False
        self.answers += 1
        if result.is_deleted or done < self._sent:
            self._continue_at(result)

    def was_not_taken(self, append: Append) -> None:
        """The server had no room for an append: nothing is stored by this try."""
        if not append.is_repeated:
            self._unanswered = None

    def is_unanswered(self, append: Append) -> bool:
        """Whether these batches were sent last, and their fate is still not known."""
        return self._unanswered is not None and self._unanswered.batches == append.batches

    def was_asked_for(self, epoch: str, stored: int = 0) -> None:
        """The backup was asked for the log: what waits may begin it.

        Args:
            epoch: When it was asked.
            stored: So many batches of what was sent last are stored, and no others.
        """
        if stored:
            self._sent = stored
            self.settle(AppendResult(stored, self._index_after(stored), -math.inf))
        self._asked_in = "" if stored else epoch  # as in `settle`
        self._unanswered, self._is_lost = None, False

    def refuse(self, error: JamboreeError) -> None:
        """This log can never be written: keep the reason for `flush` and `close`."""
        self.error = error

    def raise_error(self) -> None:
        """Raise the reason why this log cannot be written, if there is one."""
        if self.error is not None:
            raise self.error.with_traceback(None)

    def after_fork_in_child(self, writer_id: bytes, mark: Callable[[Outbox], float]) -> None:
        """Leave to the parent process what it has put; here, nothing more can be written."""
        self._writer_id, self._mark, self._marked = writer_id, mark, False
        self._batches, self._unanswered = (), None
        self._stored_count = self._put_count
        self.error = EpisodeInUse(
            f"{self.key} is written by the process that this one was forked from"
        )


class RecordOutbox(Outbox):
    """Outbox of free-form records; several processes may write to the same log.

    Args:
        key: The log.
        writer_id: Eight bytes that mark this process's batches.
        mark: Tells the writer that there is something to deliver; until when is soon enough.
        clock: Gives the time of each record, epoch seconds.
        keep_record: Keeps a record of this log in the journal.
        run: The run that is listed because of these records; None = none.
        start: The index that the first of them gets, as far as is known.

    Attributes:
        newest: Those that were stored last.
    """

    __slots__ = (
        "_keep_record",
        "_key_bytes",
        "_lock",
        "_queue",
        "_queued_bytes",
        "_run",
        "_t_last",
        "newest",
    )

    def __init__(
        self,
        key: str,
        writer_id: bytes,
        mark: Callable[[Outbox], float],
        *,
        clock: Callable[[], float] = time.time,
        keep_record: KeepRecord = lambda key, time_s, record: None,
        run: str | None = None,
        start: int = 0,
    ) -> None:
        super().__init__(key, CODEC_RECORDS, writer_id, mark, clock)
        self._next_index = start
        self._run = run
        self.newest = NewestRecords(key)
        self._keep_record = keep_record
        self._key_bytes = key.encode()
        self._lock = threading.Lock()
        self._queue: list[tuple[float, bytes, RecordPlace | None]] = []
        self._queued_bytes = 0
        self._t_last = -math.inf

    def append(self, record: bytes) -> int:
        """Queue one encoded record; the bytes queued since the last seal.

        Raises:
            JamboreeError: The log cannot be written, or the writer is closed; nothing is queued.
        """
        with self._lock:
            queued_bytes = self._queued_bytes + len(record) + RECORD_OVERHEAD_BYTES
            if queued_bytes > MAX_RECORD_BYTES:
                _check_size(record)
            if self.error is not None:
                self.raise_error()
            if not self._marked:
                self.late_at = self._mark(self)
                self._marked = True
            now = self._clock()
            if now <= self._t_last:
                now = math.nextafter(self._t_last, math.inf)
            place = self._keep_record(self._key_bytes, now, record)
            self._t_last = now
            self._queued_bytes = queued_bytes
            self._put_count += 1
            self._queue.append((now, record, place))
            return queued_bytes

    @property
    def is_settled(self) -> bool:
        """Whether the server has every record."""
        return not self._batches and self._put_count == self._stored_count

    def stay_marked(self) -> bool:
        """As `Outbox.stay_marked`: beside the records, nothing is written."""
        self._marked = True
        return True

    def _note(self, sent: int) -> tuple[bytes, IndexEntry | None]:
        return b"", None if self._run is None else IndexEntry("", b"", self._run, self._t_last)

    @property
    def pending_bytes(self) -> int:
        """Memory held by them, roughly."""
        return self._queued_bytes + sum(len(batch.encoded) * 2 for batch in self._batches)

    def seal(self) -> None:
        """Turn what has been put so far into batches."""
        with self._lock:
            self._marked = False
            queued, queued_bytes = self._queue[:], self._queued_bytes
        if not queued:
            return
        batches = list(self._batches)
        next_index = self._next_index
        is_one = len(queued) <= MAX_BATCH_RECORDS and queued_bytes < MAX_BATCH_BYTES
        for cut in (ALL,) if is_one else _cuts([record for _, record, _ in queued]):
            timestamps, records, places = zip(*queued[cut], strict=True)
            batches.append(self._batch(next_index, timestamps, records, places))
            next_index += len(records)
        with self._lock:
            left = self._queue[len(queued) :]
            left_bytes = sum([len(record) + RECORD_OVERHEAD_BYTES for _, record, _ in left])
            self._batches, self._next_index = tuple(batches), next_index
            self._queue, self._queued_bytes = left, left_bytes

    def _batch(
        self,
        start: int,
        timestamps: Sequence[float],
        records: Sequence[bytes],
        places: Sequence[RecordPlace | None],
    ) -> SealedBatch:
        encoded = encode_batch(
            codec=CODEC_RECORDS,
            start=start,
            count=len(records),
            writer=self._writer_id,
            t_first=timestamps[0],
            t_last=timestamps[-1],
            body=encode_records(timestamps, records),
        )
        return SealedBatch(encoded, len(records), timestamps, records, places=places)

    def next_append(self, most_bytes: int = MAX_APPEND_BYTES) -> Append | None:
        """As `Outbox.next_append`; the journal knows then what was sent, and with which index."""
        append = super().next_append(most_bytes)
        if append is not None:
            index = self._index_after(0)
            for batch in self._batches[: self._sent]:
                plan_records(batch.places, index)
                index += batch.count
        return append

    def was_sent(self) -> None:
        """As `Outbox.was_sent`: a reader may wait for it."""
        if self.newest.awaited:
            self.newest.look_ahead(self._index_after(0), self._batches[: self._sent])

    def settle(self, result: AppendResult) -> None:
        """Take the server's answer to the last `next_append`."""
        done = self._batches[: self._sent if result.is_deleted else result.stored]
        start = self._index_after(0)
        super().settle(result)
        for batch in reversed(done):
            confirm_records(batch.places)
        self.newest.add(start, done[: result.stored], result)

    def _continue_at(self, result: AppendResult) -> None:
        """Queue behind the other writer: new indices, and times after its last one."""
        self._warn_if_less(result.count)
        next_index, t_last = result.count, result.t_last
        moved: list[SealedBatch] = []
        for batch in self._batches:
            timestamps = []
            for time_s in batch.timestamps:
                t_last = time_s if time_s > t_last else math.nextafter(t_last, math.inf)
                timestamps.append(t_last)
            moved.append(self._batch(next_index, timestamps, batch.records, batch.places))
            next_index += batch.count
        with self._lock:
            self._t_last = max(self._t_last, t_last)
            self._batches, self._next_index = tuple(moved), next_index

    def _warn_if_less(self, count: int) -> None:
        """Warn if the server has lost what it had acknowledged."""
        known = self._index_after(0)
        if count < known:
            log.warning(
                "%s held %d records and holds %d now: the others were deleted, or the server was "
                "started again without them. What is saved from now on follows these.",
                self.key,
                known,
                count,
            )

    def keep_in(self, keep_record: KeepRecord) -> None:
        """From now on another journal keeps the records."""
        self._keep_record = keep_record

    def start_over(self) -> None:
        """The log has been deleted by this process."""
        with self._lock:
            if not self._batches:
                self._next_index = 0
        self.newest.forget()

    def after_fork_in_child(self, writer_id: bytes, mark: Callable[[Outbox], float]) -> None:
        """Leave to the parent process what it has put, and begin without it."""
        super().after_fork_in_child(writer_id, mark)
        self.error = None
        self._lock = threading.Lock()  # the thread that held it is not in this process
        self._queue, self._queued_bytes, self._next_index = [], 0, 0
        self.newest = NewestRecords(self.key)


def _check_size(record: bytes) -> None:
    if len(record) > MAX_RECORD_BYTES:
        raise InvalidRecord(
            f"a record of {len(record) / 2**20:.0f} MiB is larger than "
            f"{MAX_RECORD_BYTES / 2**20:.0f} MiB: save it in parts"
        )


def _cuts(records: Sequence[bytes]) -> Iterator[slice]:
    """Where to cut records into batches: by count, and earlier where they are large."""
    first, size = 0, 0
    for position, record in enumerate(records):
        size += len(record)
        if size >= MAX_BATCH_BYTES or position + 1 - first == MAX_BATCH_RECORDS:
            yield slice(first, position + 1)
            first, size = position + 1, 0
    if first < len(records):
        yield slice(first, len(records))
