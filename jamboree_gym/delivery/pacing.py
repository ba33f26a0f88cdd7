"""When the writer's thread is due, and what a caller does where it is late.

CPython gives its lock to a waiting thread on request only after 5 ms in which nobody released it.
NumPy releases it for each random number, and takes it back before the other thread is awake. If an
environment often draws random numbers, the thread might not run for seconds. So callers look at the
clock, and wait for a thread that is late.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Bell", "Schedule"]

LEISURE_S = 1.0  # how long records may gather if nobody reads them and a journal keeps them
PAUSE = 0.6  # of a flush interval: the rest is for the delivery and a busy machine
STEP_ASIDE_S = 1e-3  # if the thread is this late, callers leave it the interpreter for this long


class Bell:
    """Wakes one thread that waits.

    A `threading.Event` has a lock that a Ctrl-C may leave locked: in `set` on the caller's thread.
    """

    def __init__(self) -> None:
        self._rung = threading.Lock()
        self._rung.acquire()

    def ring(self) -> None:
        """Wake it, or have its next `wait` return at once."""
        with suppress(RuntimeError):  # it has been rung already
            self._rung.release()

    def wait(self, timeout_s: float = -1) -> None:
        """Return once it has been rung since the last time, or the time is over; -1 = never."""
        self._rung.acquire(timeout=timeout_s)


class Schedule:
    """The rounds of the writer's thread: a pause in which records gather, then a delivery.

    Args:
        flush_interval_s: How old a record may be when it is delivered, if somebody reads it.
        is_safe: Whether a killed process leaves what waits to the next one.
        clock: Gives the time, epoch seconds.

    Attributes:
        late_at: After this (of `time.monotonic`) the thread is late; infinite while it has not
            begun.
        is_followed: Whether somebody looks at what is written.
    """

    def __init__(
        self,
        flush_interval_s: float,
        is_safe: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._is_safe = is_safe
        self._prompt_s = flush_interval_s * PAUSE
        self.late_at = math.inf
        self.is_followed = False
        self._is_in_round = self._is_in_pause = False
        self._patience_s = STEP_ASIDE_S
        # A lock for each caller that waits. In a Condition a Ctrl-C could come in between, and
        # leave it locked for good.
        self._waiting = deque[threading.Lock]()

    @property
    def pause_s(self) -> float:
        """How long records gather, seconds."""
        if self.is_followed or not self._is_safe():
            return self._prompt_s
        return max(self._prompt_s, LEISURE_S)

    # -- the callers' side ------------------------------------------------------------------

    @property
    def is_late(self) -> bool:
        """Whether the thread should have delivered by now."""
        return time.monotonic() > self.late_at

    @property
    def late_at_epoch(self) -> float:
        """`late_at` in epoch seconds, as the clock is set now."""
        return self._clock() + (self.late_at - time.monotonic())

    def expect_round(self) -> None:
        """There is something to deliver; if the thread sleeps, it is being woken."""
        if not self._is_in_round:
            self.late_at = time.monotonic() + self.pause_s + STEP_ASIDE_S

    def expect_nothing(self) -> None:
        """There is no thread."""
        self.late_at = math.inf

    def step_aside(self) -> None:
        """Leave the interpreter to the thread for a moment.

        More and more seldom as long as nothing comes of it: it may wait for the server, not for us.
        """
        patience_s = self._patience_s
        self._patience_s = min(2 * patience_s, self._prompt_s)
        self.wait_for_delivery(STEP_ASIDE_S)
        self.late_at = max(self.late_at, time.monotonic() + patience_s)

    def wait_for_delivery(self, timeout_s: float) -> None:
        """Sleep until something has been delivered, or the time is over."""
        waiter = threading.Lock()
        waiter.acquire()
        self._waiting.append(waiter)
        if not waiter.acquire(timeout=timeout_s):
            with suppress(ValueError):  # it was woken at this very moment
                self._waiting.remove(waiter)

    # -- the thread's side ------------------------------------------------------------------

    def begin_pause(self) -> None:
        """There is something to deliver: it is time for more to gather."""
        self._is_in_round = self._is_in_pause = True
        self.late_at = time.monotonic() + self.pause_s + STEP_ASIDE_S

    def end_pause(self) -> None:
        """The thread begins to deliver."""
        self._is_in_pause = False
        self.go_on()

    def go_on(self) -> None:
        """The server has answered, and there is more to send.

        It may have answered a caller that reads. A thread that is in its pause is not due for that.
        """
        if self._is_in_pause:
            return
        self._patience_s = STEP_ASIDE_S
        self.late_at = time.monotonic() + STEP_ASIDE_S

    def end_round(self) -> None:
        """The thread goes to sleep, unless more was put meanwhile."""
        self._is_in_round = False

    def announce_delivery(self) -> None:
        """Wake those who wait for it."""
        while self._waiting:
            with suppress(IndexError):  # nobody waits any more
                self._waiting.pop().release()
