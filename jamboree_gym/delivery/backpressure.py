"""Backpressure: a bound on what waits in memory, and what is said when Redis does not keep up."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Literal, Protocol

from jamboree_gym.delivery.pacing import Schedule
from jamboree_gym.errors import JamboreeError, StoreFull, StoreUnavailable

__all__ = ["Backpressure", "WhenFull"]

WhenFull = Literal["block", "raise"]

CHECK_AFTER_BYTES = 1 << 18
WAIT_S = 0.05
SAY_FULL_EVERY_S = 300.0
CHECK_SHARE = 0.02  # of a thread's own time, at most, goes into adding up what is waiting ...
QUICK_CHECK_S = 1e-4  # ... unless that is soon done

log = logging.getLogger(__name__)


class Waiting(Protocol):
    """What is not in Redis yet."""

    @property
    def pending_bytes(self) -> int:
        """Memory that it holds, roughly."""

    @property
    def unsaved(self) -> int:
        """Number of records."""


class _NextCheck(threading.local):
    """When a thread may add up again, in its own processor time.

    On a busy machine it has a part of a processor: a share of its wall time would be much of that.
    """

    at_s = 0.0


class Backpressure:
    """Blocks or raises while more than `max_pending_bytes` wait.

    Args:
        waiting: What is not in Redis yet.
        where: Host of Redis, for messages.
        schedule: Of the thread that delivers.
        max_pending_bytes: More than this undelivered, and `admit` lets nobody through.
        when_full: Whether it blocks then, or raises.

    Attributes:
        is_on: Whether `admit` does anything: too much waits, or the thread has failed. A hot path
            reads this instead of calling `admit`.
        has_outage: Whether to `check` after each append, because the server does not answer.
    """

    def __init__(
        self,
        waiting: Waiting,
        *,
        where: str,
        schedule: Schedule,
        max_pending_bytes: int,
        when_full: WhenFull,
    ) -> None:
        self.is_on = False
        self.has_outage = False
        self._waiting = waiting
        self._where = where
        self._schedule = schedule
        self._max_pending_bytes = max_pending_bytes
        self._when_full = when_full
        self._next_check = _NextCheck()
        self._checked_at_bytes = 0
        self._closing = False
        self._outage: Exception | None = None
        self._failure: Exception | None = None
        self._has_said_full = self._has_said_redis_full = False
        self._said_store_full_at = -math.inf

    # -- the caller's side ------------------------------------------------------------------

    def check(self, queued_bytes: int = 0) -> None:
        """Wait a moment for a late thread, and turn backpressure on if too much waits.

        If adding up takes long, this is done seldom, unless much was appended since.

        Args:
            queued_bytes: What waits in the outbox of the last append, as far as the caller knows.
        """
        if not self.has_outage and self._schedule.is_late:
            self._schedule.step_aside()
        has_grown = abs(queued_bytes - self._checked_at_bytes) > CHECK_AFTER_BYTES
        began_s = time.thread_time()  # without the time that other threads take meanwhile
        if began_s < self._next_check.at_s and not has_grown:
            return
        self._checked_at_bytes = queued_bytes
        if self._is_full:
            self.is_on = True
        ended_s = time.thread_time()
        took_s = ended_s - began_s
        self._next_check.at_s = ended_s + max(0.0, took_s - QUICK_CHECK_S) / CHECK_SHARE

    @property
    def _is_full(self) -> bool:
        return self._waiting.pending_bytes > self._max_pending_bytes

    def admit(self) -> None:
        """Wait for room; call it before an append, and before the environment moves for one.

        If the server does not answer, it blocks or raises, as `when_full` says. If the server is
        only slow, it blocks.

        Raises:
            StoreUnavailable: Too much waits, and `when_full` is `raise`. Nothing is lost; says what
                to do.
            JamboreeError: The writer thread hit an unexpected error; it keeps retrying.
        """
        if not self.is_on:
            return
        self._raise_failure()
        while self._is_full and not self._closing:
            self._say_full()
            if self._outage is not None and self._when_full == "raise":
                raise self._full_error(self._outage) from self._outage
            self._schedule.wait_for_delivery(WAIT_S)
            self._raise_failure()
        self.is_on = False  # the next check sets it again

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise JamboreeError(
                f"the background writer failed: {failure!r}; {self._waiting.unsaved} records wait "
                "in memory and are tried again; what this call was to save is not among them: "
                "repeat it"
            ) from failure

    def _say_full(self) -> None:
        """Once per outage, and once where it is Redis that is full."""
        is_redis_full = isinstance(self._outage, StoreFull)
        if not self._has_said_full or (is_redis_full and not self._has_said_redis_full):
            self._has_said_full = True
            self._has_said_redis_full |= is_redis_full
            raises = self._outage is not None and self._when_full == "raise"
            log.warning(
                "%.0f MiB wait for Redis at %s: saving %s until it %s (%s)",
                self._waiting.pending_bytes / 2**20,
                self._where,
                "raises StoreUnavailable" if raises else "blocks",
                "has room" if is_redis_full else "answers",
                self._outage or "it is slower than what is saved",
            )

    def _full_error(self, outage: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self._waiting.unsaved} records ({self._waiting.pending_bytes / 2**20:.1f} MiB, "
            f"max_pending_bytes is {self._max_pending_bytes / 2**20:.1f} MiB) wait for Redis at "
            f"{self._where}: {outage}. Nothing is lost, and nothing was done: repeat the call when "
            'Redis is back, or open the Jamboree with when_full="block"'
        )

    def close(self) -> None:
        """Let everybody through: the Jamboree is being closed, and refuses by itself."""
        self._closing = True

    # -- the delivering thread's side -------------------------------------------------------

    def report(self, error: Exception) -> None:
        """A delivery has failed: log it, once per outage, and have the next append check."""
        if not isinstance(error, JamboreeError):
            self._failure = error
        if self._outage is None and self._failure is not None:
            log.error("the background writer failed", exc_info=error)
        elif self._outage is None and not self._was_said_of_full(error):
            log.warning("%s; what is saved meanwhile waits in memory", error)
        self._outage = error
        self.has_outage = True
        if self._is_full or self._failure is not None:
            self.is_on = True

    def _was_said_of_full(self, error: Exception) -> bool:
        """Whether it is known that the server is full: with room made bit by bit it is often so."""
        if not isinstance(error, StoreFull):
            return False
        was_said = self._is_known_full
        if not was_said:
            self._said_store_full_at = time.monotonic()
        return was_said

    @property
    def _is_known_full(self) -> bool:
        return time.monotonic() - self._said_store_full_at < SAY_FULL_EVERY_S

    def recover(self) -> None:
        """A delivery has worked."""
        if isinstance(self._outage, StoreFull):
            log.info("Redis at %s has room again", self._where)
        elif self._outage is not None:
            log.info("Redis at %s answers again", self._where)
        if self._has_said_full and self._waiting.pending_bytes * 2 <= self._max_pending_bytes:
            self._has_said_redis_full &= self._is_known_full
            self._has_said_full = self._has_said_redis_full
        self._outage = self._failure = None
        self.has_outage = self.is_on = False
