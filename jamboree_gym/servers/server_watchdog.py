"""Keeps one server running: starts it on first need, restarts it if it dies."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from jamboree_gym.errors import EmbeddedServerError, JamboreeError
from jamboree_gym.servers.home import last_line
from jamboree_gym.servers.process_end import first_of, until_ended
from jamboree_gym.servers.programs.server_processes import (
    ServerProcess,
    ServerProgram,
    start_server,
)

__all__ = ["ServerWatchdog"]

RETRY_INTERVAL_S = 0.02  # while a server starts
# Restarts after a death: at once, then after 0.2 s, 0.4 s ... After MAX_FAILURES the next client
# that asks gets one more attempt, and the error if it fails.
FIRST_BACKOFF_S = 0.2
MAX_BACKOFF_S = 5.0
MAX_FAILURES = 5
STABLE_AFTER_S = 10.0
_log = logging.getLogger(__name__)


class ServerWatchdog:
    """Keeps one server of the supervisor running. All methods run on its event loop.

    It sleeps until the server ends: a server that runs well costs the supervisor nothing.

    Attributes:
        program: The kind of server.
        restarts: How often the server was restarted.
        last_error: The last error of the server; None while it runs well.
        gave_up: Why restarts have stopped until a client asks; None while restarts continue.
        on_change: Called when the server has started, and when restarts have stopped.
    """

    def __init__(self, program: ServerProgram) -> None:
        self.program = program
        self.restarts = 0
        self.last_error: str | None = None
        self.gave_up: JamboreeError | None = None
        self.on_change: Callable[[], None] = _do_nothing
        self._server: ServerProcess | None = None
        self._stopping = threading.Event()  # for the thread that starts the server
        self._stop_asked = asyncio.Event()  # the same, for the event loop
        self._is_not_starting = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the live server."""
        return self._server.pid if self._server is not None else None

    @property
    def _is_watched(self) -> bool:
        return self._watching is not None and not self._watching.done()

    def start(self) -> None:
        """Start the server if it does not run; does not wait for it."""
        if not self._stopping.is_set() and not self._is_watched:
            self.gave_up = None
            self._is_not_starting.clear()
            self._watching = asyncio.create_task(self._watch_to_the_end())

    async def up(self, *, timeout_s: float) -> None:
        """Return once the server answers; start it if it does not run.

        Raises:
            JamboreeError: The server cannot be started, or takes longer than `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        self.start()
        while not await self._answers():
            if self.gave_up is not None:
                raise self.gave_up
            if self._stopping.is_set():
                raise EmbeddedServerError(f"{self.program.name} is being stopped")
            if time.monotonic() > deadline:
                raise EmbeddedServerError(self._too_slow(timeout_s))
            if self._watching is not None and self._watching.done():
                self._watching.result()  # a bug of ours: raise it at once
            await asyncio.sleep(RETRY_INTERVAL_S)

    async def until_started(self) -> None:
        """Return once the server runs, or is not being started any more."""
        if self._is_watched:
            await self._is_not_starting.wait()

    async def stop(self) -> None:
        """Stop the server, or its start; return once its process is gone."""
        self._stopping.set()
        self._stop_asked.set()
        if self._watching is not None:
            await asyncio.wait([self._watching])
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)
            _log.info("%s stopped", self.program.name)
            self._server = None

    async def _answers(self) -> bool:
        return self._server is not None and await asyncio.to_thread(self._server.answers)

    async def _watch_to_the_end(self) -> None:
        try:
            await self._watch()
        finally:
            self._is_not_starting.set()
            self.on_change()

    async def _watch(self) -> None:
        failures = 0
        while True:  # once even after `stop`: there may be an orphan to stop
            started_at = time.monotonic()
            try:
                error: JamboreeError = await self._run_until_it_dies()
                self.restarts += 1
            except JamboreeError as start_error:
                error = start_error
                failures = failures or MAX_FAILURES  # it has never started: report that at once
            if self._stopping.is_set():
                return
            if self.last_error != str(error):  # else it was logged before
                _log.error("%s", error)
            self.last_error = str(error)
            if time.monotonic() - started_at > STABLE_AFTER_S:
                failures = 0
            if failures >= MAX_FAILURES:
                self.gave_up = error
                return
            await self._pause(failures)
            if self._stopping.is_set():
                return
            failures += 1

    async def _run_until_it_dies(self) -> EmbeddedServerError:
        server = await asyncio.to_thread(start_server, self.program, self._stopping)
        self._server = server
        self._is_not_starting.set()
        self.on_change()
        await first_of(until_ended(server.pid, server.is_alive), self._stop_asked.wait())
        if not self._stopping.is_set():
            self._server = None
            self._is_not_starting.clear()
        log = self.program.home.server_log(self.program.name)
        return EmbeddedServerError(
            f"{self.program.name} (pid {server.pid}) {server.how_it_ended()}:"
            f" {last_line(log)}\nsee {log}"
        )

    async def _pause(self, failures: int) -> None:
        if failures:
            pause_s = min(FIRST_BACKOFF_S * 2 ** (failures - 1), MAX_BACKOFF_S)
            await first_of(asyncio.sleep(pause_s), self._stop_asked.wait())

    def _too_slow(self, timeout_s: float) -> str:
        log = self.program.home.server_log(self.program.name)
        words = (self.last_error or last_line(log) or "it printed nothing").partition("\n")[0]
        return f"{self.program.name} does not answer after {timeout_s:.3g} s: {words}\nsee {log}"


def _do_nothing() -> None:
    """Nobody wants to know."""
