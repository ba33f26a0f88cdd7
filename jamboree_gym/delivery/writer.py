"""One background thread that brings every outbox to Redis, with a bounded memory.

Shutdown order: no more puts are taken, what is queued is delivered, the thread ends, and only then
is anything that stayed behind reported.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Literal, NamedTuple

from msgspec import structs

from jamboree_gym.delivery.backpressure import CHECK_AFTER_BYTES, Backpressure, WhenFull
from jamboree_gym.delivery.lease import Lease
from jamboree_gym.delivery.outbox import CHECK_EVERY_BYTES, MAX_APPEND_BYTES, Outbox
from jamboree_gym.delivery.pacing import Bell, Schedule
from jamboree_gym.delivery.step_outbox import seal_together
from jamboree_gym.errors import (
    InvalidRecord,
    JamboreeClosed,
    JamboreeError,
    StoreFull,
    UnsavedRecords,
)
from jamboree_gym.store.log import Append, AppendResult, Asked
from jamboree_gym.store.protocol import LogStore

__all__ = ["Delivery", "WriteMode", "Writer"]

WriteMode = Literal["buffered", "sync", "fsync"]

APPENDS_PER_ROUND_TRIP = 256
LEAST_ROUND_TRIP_BYTES = 1 << 15  # where the server has hardly any room
BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0)
CLOSE_TIMEOUT_S = 10.0
HURRY_BYTES = 1 << 20  # more than this in one log, or in many small ones, is not left to gather
MANY_LOGS = 1024  # each time this many more wait, it is estimated how many bytes they have ...
SAMPLED = 16  # ... from one in so many

log = logging.getLogger(__name__)


class Delivery(NamedTuple):
    """One round trip that brings batches to the server.

    Attributes:
        began: When, seconds of `time.perf_counter`.
        taken: What the server has now, as far as it was asked for here.
        error: Why the server has nothing of the rest; None = it answered.
    """

    began: float
    taken: Sequence[Append]
    error: BaseException | None = None


class Writer:
    """Delivers outboxes: before a flush interval is over, in the background, and on request.

    Args:
        store: Where the batches go.
        lease: Goes there before them.
        background: Whether the thread delivers what is marked; if not, it only repeats what
            `deliver` could not bring there.
        fsync: Whether each delivery waits until the server has it on disk.
        flush_interval_s: A record waits no longer than this for its delivery to begin.
        max_pending_bytes: The bound of `backpressure`.
        when_full: Whether that blocks, or raises.
        is_safe: Whether a killed process leaves what waits to the next one: then records gather
            for longer where nobody looks.
        clock: Gives the time, epoch seconds.
        on_delivery: Called whenever the server has taken something; has to return at once.

    Attributes:
        backpressure: Asked before each put.
        schedule: Of the thread.
        watchers: Each is called with every delivery, on the thread that made it; none may raise.
    """

    def __init__(
        self,
        store: LogStore,
        lease: Lease,
        *,
        background: bool,
        fsync: bool,
        flush_interval_s: float,
        max_pending_bytes: int,
        when_full: WhenFull,
        is_safe: Callable[[], bool],
        clock: Callable[[], float],
        on_delivery: Callable[[], None] | None = None,
    ) -> None:
        self.schedule = Schedule(flush_interval_s, is_safe, clock)
        self._store = store
        self._lease = lease
        self._background = background
        self._fsync = fsync
        self._on_delivery = on_delivery
        self.watchers: tuple[Callable[[Delivery], None], ...] = ()
        self._dirty: dict[Outbox, None] = {}
        self._in_flight: dict[Outbox, None] = {}
        self._refused: dict[Outbox, JamboreeError] = {}
        self._asking: dict[Outbox, Append] = {}  # the backup is asked for these by another thread
        self._dirty_lock = threading.Lock()
        self._delivery_lock = threading.Lock()
        self._round_trip_bytes = MAX_APPEND_BYTES
        self._bell = Bell()
        self._has_work = False
        self._is_urgent = False  # the pause is over
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._asker: threading.Thread | None = None
        self._to_ask: dict[Outbox, Append] = {}  # by the asker, when it has the answer to others
        self._closing = False
        self.backpressure = Backpressure(
            self,
            where=store.where,
            schedule=self.schedule,
            max_pending_bytes=max_pending_bytes,
            when_full=when_full,
        )

    # -- the caller's side ------------------------------------------------------------------

    def mark(self, outbox: Outbox) -> float:
        """There is something to deliver in this outbox.

        Returns:
            When to `check` if it has not been delivered, epoch seconds.

        Raises:
            JamboreeClosed: The writer has been closed.
        """
        return self.mark_all((outbox,))

    def mark_all(self, outboxes: Sequence[Outbox]) -> float:
        """As `mark`, of several outboxes."""
        if self._closing:
            raise JamboreeClosed("this Jamboree is closed: open a new one to save")
        with self._dirty_lock:
            known = len(self._dirty)
            for outbox in outboxes:
                self._dirty[outbox] = None
            is_many = len(self._dirty) // MANY_LOGS > known // MANY_LOGS
        if is_many and not self.backpressure.has_outage and self._has_much():
            self.hurry()
        if self._background and (self._thread is None or not self._has_work):
            self._wake()
        return self.schedule.late_at_epoch

    def _has_much(self) -> bool:
        """Whether many logs have so much in all that it is not left to gather: by a sample."""
        with self._dirty_lock:
            sample = list(islice(self._dirty, 0, None, SAMPLED))
        return sum([outbox.pending_bytes for outbox in sample]) * SAMPLED > HURRY_BYTES

    def _wake(self) -> None:
        self.schedule.expect_round()
        with self._dirty_lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="jamboree-writer", daemon=True)
                try:
                    thread.start()
                    self._thread = thread
                except RuntimeError as error:  # the interpreter is ending, or has no threads left
                    self.schedule.expect_nothing()
                    log.warning("no background thread (%s): saves wait for flush or close", error)
        self._has_work = True
        self._bell.ring()

    def hurry(self) -> None:
        """Deliver now what waits; returns at once."""
        if self._has_work and not self._is_urgent:
            self._is_urgent = True
            self._bell.ring()

    def after_append(self, outbox: Outbox, queued_bytes: int) -> None:
        """Keep the promises of the write mode after something was put.

        Raises:
            JamboreeError: In `sync` and `fsync` mode, the server has not confirmed it; it stays
                queued and is tried again in the background. In any mode: the log cannot be
                written.
        """
        if outbox.error is not None:
            outbox.raise_error()
        # Where the thread is late the caller waits for it; without one it delivers by itself.
        is_late = self._background and self.schedule.is_late
        if queued_bytes > HURRY_BYTES:
            self.hurry()
        is_much = (
            queued_bytes > CHECK_AFTER_BYTES
            and abs(queued_bytes - outbox.checked_bytes) > CHECK_EVERY_BYTES
        )
        if is_late or is_much or self.backpressure.has_outage:
            outbox.checked_bytes = queued_bytes
            self.backpressure.check(queued_bytes)
            outbox.late_at = self.schedule.late_at_epoch
        if not self._background:
            self.deliver(outbox)

    @property
    def pending_bytes(self) -> int:
        """Memory held by undelivered records, roughly."""
        return sum(outbox.pending_bytes for outbox in self._outboxes())

    @property
    def unsaved(self) -> int:
        """Number of records that the server has not acknowledged."""
        return sum(outbox.unsaved for outbox in self._outboxes())

    def _outboxes(self) -> list[Outbox]:
        with self._dirty_lock:
            waiting = {**self._in_flight, **self._dirty, **self._asking}
            return list({**waiting, **self._refused})

    def deliver(self, outbox: Outbox) -> bool:
        """Bring one outbox to the server, on the calling thread.

        Returns:
            Whether the server was asked to take something of it, after the call had begun.

        Raises:
            JamboreeError: It is not there yet; the records stay queued and are tried again.
        """
        unknown, has_answered = self._deliver_one(outbox)
        while unknown:
            self._ask_for(unknown)
            unknown, has_answered = self._deliver_one(outbox)
        outbox.raise_error()
        return has_answered

    def _deliver_one(self, outbox: Outbox) -> tuple[dict[Outbox, Append], bool]:
        with self._delivery_lock:
            answers = outbox.answers
            try:
                unknown = self._deliver([outbox])
            except BaseException:
                with self._dirty_lock:
                    self._dirty[outbox] = None
                self._wake()
                raise
            with self._dirty_lock:
                has_thread = self._background and self._thread is not None
                is_looked_at = has_thread and outbox in self._dirty and outbox.stay_marked()
                if outbox.is_settled and not is_looked_at:
                    self._dirty.pop(outbox, None)
            return unknown, outbox.answers != answers

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While this lasts nothing is delivered."""
        with self._delivery_lock:
            yield

    def forget(self, outbox: Outbox) -> None:
        """Nobody wants to hear of this outbox again."""
        with self._dirty_lock:
            for waiting in (self._dirty, self._asking, self._refused):
                waiting.pop(outbox, None)

    def flush(self, timeout_s: float) -> None:
        """Return once the server has everything that was put before the call.

        Raises:
            UnsavedRecords: It does not, after `timeout_s`; says how many records are missing. Of
                logs that can be written no more it is said once.
        """
        self.settle(timeout_s)
        unsaved = self.unsaved
        with self._dirty_lock:
            refused, self._refused = list(self._refused.values()), {}
        if refused:
            raise self._unsaved_error(refused[0], unsaved, others=len(refused) - 1) from refused[0]

    def settle(self, timeout_s: float) -> None:
        """As `flush`; of logs that can be written no more, nothing is said.

        Raises:
            UnsavedRecords: As above.
        """
        deadline = time.monotonic() + timeout_s
        failures = 0
        while (error := self._try_delivery(self._ask_for, with_asking=True)) is not None:
            pause_s = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
            if time.monotonic() + pause_s > deadline:
                raise self._unsaved_error(error, self.unsaved) from error
            time.sleep(pause_s)
            failures += 1

    def _try_delivery(
        self, ask: Callable[[dict[Outbox, Append]], None], *, with_asking: bool = False
    ) -> Exception | None:
        """Deliver what there is; why it did not work.

        Args:
            ask: Called with what can be delivered when the backup was asked.
            with_asking: Whether to deliver, too, what another thread asks for just now.
        """
        try:
            while unknown := self._deliver_dirty(with_asking=with_asking):
                ask(unknown)
        except Exception as error:  # noqa: BLE001 - whatever it is, flush says what is unsaved
            return error
        return None

    def _unsaved_error(self, error: Exception, unsaved: int, others: int = 0) -> UnsavedRecords:
        what = error if isinstance(error, JamboreeError) else repr(error)
        more = f" (and of {others} more log{'s' * (others > 1)})" if others else ""
        return UnsavedRecords(f"{unsaved} records are not in Redis: {what}{more}", unsaved=unsaved)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Deliver what is queued and end the thread.

        Raises:
            UnsavedRecords: Something could not be delivered within `timeout_s`.
        """
        if self._closing:
            return
        self._closing = True  # from now on `mark` refuses, and `flush` seals what was put before
        self.backpressure.close()
        try:
            self.flush(timeout_s)
        finally:
            self._stopping = True
            self._bell.ring()
            if self._thread is not None:
                self._join(self._thread, timeout_s)
            asker = self._asker
            if asker is not None:
                self._join(asker, timeout_s)

    @staticmethod
    def _join(thread: threading.Thread, timeout_s: float) -> None:
        if thread is not threading.current_thread():
            thread.join(timeout_s)
            if thread.is_alive():
                log.warning("%s did not end within %.0f s", thread.name, timeout_s)

    # -- delivery ---------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while self._wait_for_work(failures):
            failures = 0 if self.deliver_round() else failures + 1

    def deliver_round(self) -> bool:
        """What the thread does each time: deliver what is marked; whether that worked."""
        error = self._try_delivery(self._ask_beside)
        if error is None:
            self.schedule.is_followed = self._store.is_followed
            self.backpressure.recover()
        else:
            self.backpressure.report(error)
            self._has_work = True
        return error is None

    def _wait_for_work(self, failures: int) -> bool:
        """Wait until there is something to deliver, and a while longer; False = it is closed."""
        schedule = self.schedule
        schedule.end_round()
        while not (self._has_work or self._stopping):
            self._bell.wait()
        schedule.begin_pause()
        backoff_s = BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]
        until = time.monotonic() + (backoff_s if failures else schedule.pause_s)
        while not self._stopping and (failures or not self._is_urgent):
            left_s = until - time.monotonic()
            if left_s <= 0:
                break
            self._bell.wait(left_s)
        self._has_work = self._is_urgent = False
        schedule.end_pause()
        return not self._stopping

    def _deliver_dirty(self, *, with_asking: bool = False) -> dict[Outbox, Append]:
        """Deliver what is marked; for which logs the backup has to be asked before."""
        with self._delivery_lock:
            with self._dirty_lock:
                asking = self._asking if with_asking else {}
                self._in_flight, self._dirty = {**dict.fromkeys(asking), **self._dirty}, {}
            try:
                unknown = self._deliver(self._in_flight)
            except BaseException:
                with self._dirty_lock:
                    self._dirty, self._in_flight = {**self._in_flight, **self._dirty}, {}
                raise
            with self._dirty_lock:
                self._asking |= unknown
                self._in_flight = {}
        return unknown

    def _ask_for(self, unknown: dict[Outbox, Append]) -> None:
        """Ask the backup, and have these delivered then. No lock is held: it may take its time."""
        asked = Asked("", set())
        try:
            asked = self._store.ask_for(list(unknown.values()))
        finally:
            with self._delivery_lock:
                for outbox, append in unknown.items():
                    if outbox.is_unanswered(append):
                        self._settle_asked(outbox, append.key, asked)
                with self._dirty_lock:
                    for outbox in unknown:
                        self._asking.pop(outbox, None)
                    self._dirty = {**dict.fromkeys(unknown), **self._dirty}
        for error in asked.failed.values():
            self._wake()  # it is tried again in the background
            raise error

    def _settle_asked(self, outbox: Outbox, key: str, asked: Asked) -> None:
        if key in asked.deleted:
            outbox.settle(AppendResult(0, 0, -math.inf, is_deleted=True))
        elif asked.epoch and key not in asked.failed:
            outbox.is_uncertain = asked.is_uncertain
            outbox.was_asked_for(asked.epoch, asked.stored.get(key, 0))
        if outbox.error is not None:
            self._refuse(outbox, outbox.error)

    def _ask_beside(self, unknown: dict[Outbox, Append]) -> None:
        """The same on a separate thread: the other logs do not wait for it."""
        with self._dirty_lock:
            self._to_ask |= unknown
            if self._asker is not None:
                return
            self._asker = threading.Thread(target=self._ask, name="jamboree-ask", daemon=True)
            try:
                self._asker.start()
            except RuntimeError:  # the interpreter is ending: `close` asks by itself
                self._asker, self._to_ask = None, {}
                log.debug("no thread asks the backup for %d logs: `flush` does", len(unknown))

    def _ask(self) -> None:
        while unknown := self._next_to_ask():
            try:
                self._ask_for(unknown)
            except Exception as error:  # noqa: BLE001 - the delivery that follows says so
                log.debug("the backup could not be asked: %s", error)
            self._wake()

    def _next_to_ask(self) -> dict[Outbox, Append]:
        with self._dirty_lock:
            unknown, self._to_ask = self._to_ask, {}
            if not unknown:
                self._asker = None
            return unknown

    def _deliver(self, outboxes: Collection[Outbox]) -> dict[Outbox, Append]:
        """Deliver all that these hold; what could not be, before the backup is asked for it."""
        for outbox in seal_together(outboxes):
            self._seal(outbox)
        unknown: dict[Outbox, Append] = {}
        waiting = list(outboxes)
        while waiting:
            done = self._deliver_once(waiting, unknown)
            again = [one for one in waiting[:done] if one.has_batches and one not in unknown]
            waiting = again + waiting[done:]
        self.schedule.announce_delivery()
        return unknown

    def _seal(self, outbox: Outbox) -> None:
        try:
            outbox.seal()
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - one log's trouble holds no other back
            self._refuse(outbox, InvalidRecord(f"{outbox.key} cannot be encoded: {error!r}"))

    def _deliver_once(self, outboxes: Sequence[Outbox], unknown: dict[Outbox, Append]) -> int:
        """One round trip for the oldest batches of the first outboxes; how many these are."""
        sent: list[tuple[Outbox, Append]] = []
        done = size = 0
        for outbox in outboxes:
            left_bytes = self._round_trip_bytes - size
            if len(sent) == APPENDS_PER_ROUND_TRIP or left_bytes <= 0:
                break
            done += 1
            append = outbox.next_append(left_bytes)
            if append is not None:
                sent.append((outbox, append))
                size += sum(map(len, append.batches))
        if sent:
            self._send(sent, unknown)
        return done

    def _send(self, sent: Sequence[tuple[Outbox, Append]], unknown: dict[Outbox, Append]) -> None:
        renew = self._lease.renew_if_due
        appends = [append for _, append in sent]
        began = time.perf_counter()
        try:
            results = self._store.append(
                appends, fsync=self._fsync, prepare=renew, meanwhile=lambda: _say_sent(sent)
            )
        except BaseException as error:
            if isinstance(error, StoreFull):
                self._send_less(appends)
            self._tell(Delivery(began, (), error))
            raise
        self.schedule.go_on()
        full: StoreFull | None = None
        for (outbox, append), result in zip(sent, results, strict=True):
            if isinstance(result, StoreFull):
                outbox.was_not_taken(append)
                full = result
            elif isinstance(result, JamboreeError):
                self._refuse(outbox, result)
            elif result.must_ask:
                unknown[outbox] = append
            else:
                outbox.settle(result)
                if outbox.error is not None:
                    self._refuse(outbox, outbox.error)
        if self.watchers:
            self._tell(Delivery(began, _taken(appends, results), full))
        if self._on_delivery is not None and len(unknown) < len(sent):
            self._on_delivery()
        renew()  # again: the server may have been replaced by an empty one
        if full is not None:
            self._send_less(appends)
            raise full
        if self._round_trip_bytes < MAX_APPEND_BYTES and _taken(appends, results):
            self._round_trip_bytes = min(MAX_APPEND_BYTES, 2 * self._round_trip_bytes)

    def _send_less(self, appends: Sequence[Append]) -> None:
        """A server holds what it reads of a round trip beside all that it has stored."""
        sent_bytes = sum(len(batch) for append in appends for batch in append.batches)
        self._round_trip_bytes = max(LEAST_ROUND_TRIP_BYTES, sent_bytes // 4)

    def _tell(self, delivery: Delivery) -> None:
        for watcher in self.watchers:
            watcher(delivery)

    def _refuse(self, outbox: Outbox, error: JamboreeError) -> None:
        """Nothing more of this outbox can be written: say so, and again at `flush`."""
        if outbox.was_refused:
            return
        outbox.refuse(error)
        self._say_refused(outbox, error)

    def _say_refused(self, outbox: Outbox, error: JamboreeError) -> None:
        outbox.was_refused = True
        with self._dirty_lock:
            self._refused[outbox] = error
        log.error("%s", error)


def _say_sent(sent: Sequence[tuple[Outbox, Append]]) -> None:
    for outbox, _ in sent:
        outbox.was_sent()


def _taken(
    appends: Sequence[Append], results: Sequence[AppendResult | JamboreeError]
) -> list[Append]:
    """What of these the server has now."""
    return [
        structs.replace(append, batches=append.batches[: result.stored])
        for append, result in zip(appends, results, strict=True)
        if isinstance(result, AppendResult) and result.stored
    ]
