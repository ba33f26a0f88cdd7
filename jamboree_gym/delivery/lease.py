"""The sign of life of a process that records: one key in Redis that expires unless it is renewed.

An episode is `running` as long as its writer holds a lease. No process has to notice a death and
record it: each reader looks whether the lease is there. While no episode is running here, there is
nothing to renew.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import threading
import time
from collections.abc import Callable

from jamboree_gym.delivery.pacing import Bell
from jamboree_gym.store.read_through import ReadThroughStore

__all__ = ["LEASE_S", "Lease"]

LEASE_S = 10.0
RENEW_S = LEASE_S / 3
RETRY_S = LEASE_S / 10
LATEST_RENEWAL_S = LEASE_S * 2 / 3  # rows that come later than this bring a renewal with them

log = logging.getLogger(__name__)


class Lease:
    """The lease of one writer; does nothing until `hold`, and while no episode is running.

    It is not given back at the end, but left to expire: a reader that saw the last episode
    running, and then asks for its writer, must not take a process that has just closed for a dead
    one.

    Args:
        store: Where it is kept.
        writer: Names the writer: its eight bytes in hexadecimal digits.
        clock: Gives the time, epoch seconds.
        is_recording: Whether an episode is running in this process. The thread asks it.
    """

    def __init__(
        self,
        store: ReadThroughStore,
        writer: str,
        clock: Callable[[], float],
        is_recording: Callable[[], bool],
    ) -> None:
        self._store = store
        self._clock = clock
        self._is_recording = is_recording
        self._writer = writer
        self._holder = f"{platform.node()} {os.getpid()}".encode(errors="replace").decode()
        self._renewed_at = -math.inf  # by two clocks: one may be set back, one may stand in sleep
        self._renewed_at_monotonic = -math.inf
        self._losses = 0
        self._is_wanted = False
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._begun = Bell()  # an episode has begun, or the thread has to end
        self._is_asleep = False
        self._thread: threading.Thread | None = None

    def hold(self) -> None:
        """An episode begins: a thread keeps the lease while any is running. Asks Redis nothing."""
        if self._is_asleep:
            self._begun.ring()
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        with self._lock:
            self._is_wanted = True
            if self._thread is not None or self._stop.is_set():
                return
            thread = threading.Thread(target=self._run, name="jamboree-lease", daemon=True)
            try:
                thread.start()
                self._thread = thread
            except RuntimeError as error:  # the interpreter is ending, or has no threads left
                log.debug("no thread to renew the lease: %s", error)

    def renew_if_due(self) -> None:
        """Make sure that rows never reach Redis before the lease does.

        To be called before rows are sent. The first rows bring the lease with them; so do those
        after a time in which the thread could not renew it (no Redis, or the machine asleep).

        Raises:
            JamboreeError: Redis does not take it.
        """
        if not self._is_wanted:
            return
        ages_s = self._clock() - self._renewed_at, time.monotonic() - self._renewed_at_monotonic
        if max(ages_s) > LATEST_RENEWAL_S or self._losses != self._store.losses:
            self._renew()

    def _renew(self) -> None:
        losses, now, now_monotonic = self._store.losses, self._clock(), time.monotonic()
        self._store.leases.put(self._writer, self._holder, LEASE_S)
        self._losses, self._renewed_at, self._renewed_at_monotonic = losses, now, now_monotonic

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stop.wait(pause_s):
            if not self._sleep_until_recording():
                return
            try:
                self._renew()
                pause_s = RENEW_S
            except Exception as error:  # noqa: BLE001 - the writer says what is wrong with Redis
                log.debug("the lease is not renewed: %s", error)
                pause_s = RETRY_S

    def _sleep_until_recording(self) -> bool:
        """Return once an episode is running; False if the thread has to end instead."""
        while not (self._is_recording() or self._stop.is_set()):
            self._is_asleep = True
            if not self._is_recording():  # none has begun between the two
                self._begun.wait()
            self._is_asleep = False
        return not self._stop.is_set()

    def close(self, timeout_s: float) -> None:
        """Renew it no longer."""
        self._stop.set()
        self._begun.ring()
        if self._thread is not None:
            self._thread.join(timeout_s)
