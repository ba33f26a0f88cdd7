"""Keeps the backup process of a home running: starts it on first need, restarts it if it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from jamboree_gym.errors import EmbeddedServerError, MissingExtra
from jamboree_gym.servers.control import encode
from jamboree_gym.servers.home import Home, last_line, trim_log
from jamboree_gym.servers.own_files import append_to
from jamboree_gym.servers.process_end import first_of, until_ended
from jamboree_gym.servers.programs.mongo import folder_instead_of_mongo
from jamboree_gym.servers.programs.server_processes import how_it_ended
from jamboree_gym.servers.server_watchdog import ServerWatchdog

__all__ = ["BackupWatchdog"]

NAME = "backup"
LAST_COPY_S = 10.0  # includes the time to load Python and its libraries
MONGO_START_S = 10.0  # it usually starts in one or two seconds
# Restarts: the first one at once, then after 0.5 s, 1 s ... A start costs half a second of CPU.
FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
STABLE_AFTER_S = 10.0
MONGO_AGAIN_S = 60.0  # wait before the next try after the Mongo server failed to start
_ROOT = str(Path(__file__).resolve().parents[2])
_log = logging.getLogger(__name__)


class BackupWatchdog:
    """The one process that copies a home's Redis to its backup. All methods run on one event loop.

    `mongo` watches the Mongo server, which is started together with the process. Between two
    events (a message to send, a process that ends) this class sleeps.

    Attributes:
        restarts: How often the process was restarted.
        last_error: The last error of the process; None while it runs well.
    """

    def __init__(self, home: Home, redis_url: str, mongo: ServerWatchdog) -> None:
        self.restarts = 0
        self.last_error: str | None = None
        self._home = home
        self._redis_url = redis_url
        self._mongo = mongo
        self._mongo_again_at = 0.0
        self._intervals_s: dict[str, float] = {}  # by namespace
        self._process: subprocess.Popen[bytes] | None = None
        self._sent: dict[str, Any] = {}
        self._stopping = asyncio.Event()
        self._news = asyncio.Event()  # something to send, the state of Mongo, or the end
        mongo.on_change = self._news.set
        self._watching: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the live process."""
        return self._process.pid if self._process is not None else None

    def back_up(self, namespace: str, *, interval_s: float) -> None:
        """Copy this namespace, too, from now on, at least so often. Returns at once."""
        known_s = self._intervals_s.get(namespace, interval_s)
        self._intervals_s[namespace] = min(known_s, interval_s)
        self._news.set()
        if self._mongo.gave_up is not None:  # its start may succeed by now
            self._mongo.start()
        if not self._stopping.is_set() and (self._watching is None or self._watching.done()):
            self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Let the process make its last copy; return once it is gone.

        It has `LAST_COPY_S` for the copy. The time begins when Mongo has started, or has failed to.
        """
        self._stopping.set()
        self._news.set()
        if self._watching is None:
            return
        await first_of(self._mongo.until_started(), asyncio.sleep(MONGO_START_S))
        _, unfinished = await asyncio.wait([self._watching], timeout=LAST_COPY_S)
        if self._process is not None:
            _log.warning("the backup did not end within %.0f s: killed", LAST_COPY_S)
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        for task in unfinished:
            task.cancel()

    async def _watch(self) -> None:
        failures = 0
        while True:  # once even after `stop`: something may be waiting to be copied
            is_last, started_at = self._stopping.is_set(), time.monotonic()
            await self._wait_for_mongo()
            try:
                how = await self._run_until_it_ends()
            except (EmbeddedServerError, OSError) as error:
                how = str(error)
            self._process = None
            if is_last or (self._stopping.is_set() and not how):
                return
            self.restarts += 1
            self.last_error = how
            _log.error("%s", how)
            failures = 0 if time.monotonic() - started_at > STABLE_AFTER_S else failures
            await self._pause(failures)
            failures += 1

    async def _wait_for_mongo(self) -> None:
        """Wait until Mongo answers or has given up; the process would only log errors before."""
        if folder_instead_of_mongo(self._home) is not None:
            return
        self._mongo_again_at = time.monotonic() + MONGO_AGAIN_S
        self._mongo.start()
        await self._mongo.until_started()

    async def _run_until_it_ends(self) -> str:
        """Run the process; return how it ended, empty if as planned."""
        log = self._home.server_log(NAME)
        trim_log(log)
        process = self._process = self._spawn(log)
        self._sent = {}
        _log.info("%s started (pid %d)", NAME, process.pid)
        while process.poll() is None and not self._stopping.is_set():
            self._news.clear()
            await self._send_message(process)
            await first_of(
                until_ended(process.pid, lambda: process.poll() is None),
                self._news.wait(),
                self._until_mongo_is_tried_again(),
            )
        await self._send_message(process)
        if process.stdin is not None:
            await asyncio.to_thread(process.stdin.close)
        code = await asyncio.to_thread(process.wait)
        if code == 0 and self._stopping.is_set():
            _log.info("%s stopped", NAME)
            return ""
        how = f"the backup (pid {process.pid}) {how_it_ended(code)}"
        return f"{how}: {last_line(log)}\nsee {log}"

    def _spawn(self, log: Path) -> subprocess.Popen[bytes]:
        program = (sys.executable, "-P", "-m", "jamboree_gym.backup.embedded")
        paths = filter(None, (_ROOT, os.environ.get("PYTHONPATH")))
        with append_to(log) as output:
            return subprocess.Popen(
                [*program, "--home", str(self._home.path)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._home.path,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            )

    async def _send_message(self, process: subprocess.Popen[bytes]) -> None:
        """Send the process the messages that it has not received."""
        message = {
            "redis_url": self._redis_url,
            "intervals_s": dict(self._intervals_s),
            "trouble": str(self._mongo.gave_up or ""),
        }
        if message != self._sent and process.stdin is not None:
            self._sent = message
            await asyncio.to_thread(_write, process.stdin.fileno(), encode(message))

    async def _until_mongo_is_tried_again(self) -> None:
        """Retry the Mongo server, unless it is not installed: the disk may have space again.

        Does not return while there is nothing to retry; when that changes, there are news.
        """
        gave_up = self._mongo.gave_up
        if gave_up is None or isinstance(gave_up, MissingExtra):
            await asyncio.Event().wait()
        await asyncio.sleep(self._mongo_again_at - time.monotonic())
        self._mongo_again_at = time.monotonic() + MONGO_AGAIN_S
        self._mongo.start()

    async def _pause(self, failures: int) -> None:
        if failures:
            pause_s = min(FIRST_BACKOFF_S * 2 ** (failures - 1), MAX_BACKOFF_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)


def _write(descriptor: int, line: bytes) -> None:
    """Write the whole line. A closed pipe is no error: `_run_until_it_ends` notices the end."""
    with contextlib.suppress(BrokenPipeError):
        while line:
            line = line[os.write(descriptor, line) :]
