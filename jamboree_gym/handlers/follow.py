"""Following logs that grow, through outages of Redis; for synchronous and for async readers.

Each look reads the new data first, and then checks whether the end has come, so no data is missed.
The position moves only after everything was read, so a failed look can be repeated.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from jamboree_gym.connection import Connection
from jamboree_gym.delivery.lease import LEASE_S
from jamboree_gym.encoding.batch_format import Batch
from jamboree_gym.encoding.rows import Rows
from jamboree_gym.encoding.summary_codec import decode_episode_note
from jamboree_gym.errors import DecodeError, EpisodeNotFound, StoreUnavailable
from jamboree_gym.process_life import StaysHere
from jamboree_gym.records import EpisodeSummary, StepData, Transitions
from jamboree_gym.store.log import LogSlice

__all__ = ["ROWS_PER_LOOK", "EpisodeTail", "StepCursor", "Tail", "is_behind"]

ROWS_PER_LOOK = 256
LONGEST_WAIT_S = 1.0  # then check whether the writer lives, and whether anyone still listens
RETRY_S = 0.1  # between looks while Redis is away
PAUSE_S = 0.002  # between looks that find nothing, even if others write all the time
SETTLE_EVERY_S = 0.1
T = TypeVar("T")

log = logging.getLogger(__name__)


class Tail(StaysHere, ABC, Generic[T]):
    """Base class of followers.

    Attributes:
        is_over: Whether the last look has reached the end.
    """

    _instead = "follow there, with `tail()` of a Jamboree there"

    is_over = False

    @abstractmethod
    def look(self, wait_s: float) -> Sequence[T]:
        """Return what is new; if nothing is, wait for about `wait_s` seconds first.

        Raises:
            StoreUnavailable: Redis is away. The next look returns what this one would have
                returned.
        """

    def follow(self, timeout_s: float | None) -> Iterator[T]:
        """Yield new items, until the end, or until none has come for `timeout_s`."""
        for found in self._looks(timeout_s):
            yield from found

    def afollow(self, timeout_s: float | None) -> AsyncIterator[T]:
        """As `follow`, for an event loop."""
        return _AsyncTail(self._looks(timeout_s))

    def _looks(self, timeout_s: float | None) -> Iterator[Sequence[T]]:
        """Yield the result of each look, at least every few seconds, even if it is empty."""
        patience_s = math.inf if timeout_s is None else timeout_s
        quiet_since = time.monotonic()
        is_away = False
        while True:
            began = time.monotonic()
            left_s = quiet_since + patience_s - began
            try:
                found = self.look(min(max(0.0, left_s), LONGEST_WAIT_S))
            except StoreUnavailable as error:
                if left_s <= 0:
                    raise
                if not is_away:
                    log.warning("%s; followers continue when it is back", error)
                is_away = True
                yield ()
                time.sleep(RETRY_S)
                continue
            if is_away:
                log.info("Redis answers again: following continues")
                is_away = False
            yield found
            if self.is_over:
                return
            now = time.monotonic()
            if found:
                quiet_since = now
            elif now - quiet_since >= patience_s:
                return
            else:
                time.sleep(max(0.0, began + PAUSE_S - now))


class _AsyncTail(AsyncIterator[T]):
    """Looks in its own thread, because waiting followers would block the shared threads.

    A reader that stops waiting for the next item (`asyncio.wait_for`) can continue later, and
    misses no item.
    """

    def __init__(self, looks: Iterator[Sequence[T]]) -> None:
        self._looks = looks
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jamboree-tail")
        self._look: asyncio.Future[Sequence[T] | None] | None = None
        self._found: deque[T] = deque()

    async def __anext__(self) -> T:
        while not self._found:
            if self._look is None:
                loop = asyncio.get_running_loop()
                self._look = loop.run_in_executor(self._thread, next, self._looks, None)
            found = await asyncio.shield(self._look)
            if found is None:
                self._thread.shutdown(wait=False)
                raise StopAsyncIteration
            self._look = None
            self._found.extend(found)
        return self._found.popleft()


@dataclass(frozen=True, slots=True, eq=False)
class StepCursor:
    """Position in the rows of an episode.

    Attributes:
        where: Key of the log.
        decode: Returns the rows of successive batches.
        join: Returns the transitions between rows.
        next_row: Index of the first row that has not been read.
        last: The row before that, which begins the next step; None at the beginning.
    """

    where: str
    decode: Callable[[Sequence[Batch]], Rows]
    join: Callable[[Rows], Transitions]
    next_row: int = 0
    last: Rows | None = None

    def read(self, found: LogSlice) -> tuple[Transitions | None, StepCursor]:
        """The steps that batches from `next_row` on complete, if any, and the cursor after them.

        Raises:
            DecodeError: A batch is missing or damaged.
            EpisodeNotFound: Rows that were read earlier are missing now.
        """
        batches = found.batches
        if found.head.count < self.next_row:
            raise EpisodeNotFound(
                f"{self.where}: of {self.next_row} rows that were read only {found.head.count} are "
                "still in Redis. Was it emptied? Restore the backup."
            )
        if self.next_row < (batches[0].start if batches else found.head.count):
            raise DecodeError(f"{self.where}: rows from {self.next_row} on are missing")
        if not batches:
            return None, self
        rows = self.decode(batches)
        if self.last is not None:
            rows = Rows.concatenate([self.last, rows])
        after = replace(self, next_row=rows.start + len(rows), last=rows[len(rows) - 1 :])
        return self.join(rows), after


def is_behind(cursor: StepCursor, found: LogSlice) -> bool:
    """Whether the log has more rows than were read."""
    return cursor.next_row < found.head.count


class EpisodeTail(Tail[StepData]):
    """Follows one episode, from the position of a cursor on; each look takes one round trip."""

    def __init__(self, connection: Connection, id: str, cursor: StepCursor) -> None:
        self._connection = connection
        self._id = id
        self._cursor = cursor
        self._position: str | None = None
        self._writer = ""
        self._may_wait = False
        self._is_judged = False  # whether its writer has been checked
        self._settled_at = -math.inf
        self._losses = connection.store.losses
        self._lost_at = -math.inf

    def look(self, wait_s: float) -> list[StepData]:
        """The new steps; sets `is_over` once the episode has ended or its writer has died.

        Raises:
            EpisodeNotFound: The episode does not exist, or was deleted.
            DecodeError: Its bytes are damaged.
            StoreUnavailable: Redis is away.
        """
        cursor, store = self._cursor, self._connection.store
        self._settle()
        if self._may_wait and self._position is None:
            self._position = store.feed.position(cursor.where)
        rows = cursor.next_row, cursor.next_row + ROWS_PER_LOOK
        position, has_lease, found = store.feed.poll(
            cursor.where,
            *rows,
            after=self._position,
            wait_s=wait_s if self._may_wait and self._is_judged else 0.0,
            writer=self._writer,
        )
        found = store.completed(cursor.where, found, ("range", *rows))
        if found is None:
            raise EpisodeNotFound(
                f"no episode {self._id!r} in namespace {self._connection.keyspace.namespace!r} on "
                f"{store.where}"
            )
        summary, _ = decode_episode_note(found.head.note, episode_id=self._id, where=cursor.where)
        read, cursor = cursor.read(found)
        steps = list(read or ())
        self._note_losses()
        is_read = not is_behind(cursor, found)
        self.is_over = is_read and (summary.status != "running" or self._is_dead(has_lease))
        self._may_wait = is_read and not self.is_over
        self._is_judged = has_lease is not None or self._is_own(summary)
        self._cursor, self._position = cursor, position
        self._writer = "" if self._is_own(summary) else summary.writer
        return steps

    def _settle(self) -> None:
        """Deliver what this process has recorded; rarely, as its writer delivers by itself."""
        self._connection.check_open()
        now = time.monotonic()
        if now - self._settled_at >= SETTLE_EVERY_S:
            self._connection.settle(self._cursor.where)
            self._settled_at = now

    def _is_own(self, summary: EpisodeSummary) -> bool:
        return self._connection.is_writer_here(summary.writer)

    def _note_losses(self) -> None:
        losses = self._connection.store.losses
        if losses != self._losses:
            self._losses, self._lost_at = losses, time.monotonic()

    def _is_dead(self, has_lease: bool | None) -> bool:
        """Whether the writer is dead. After an outage of Redis it gets time to renew its lease."""
        return has_lease is False and time.monotonic() - self._lost_at > LEASE_S
