"""Delivers the journals of clients that were killed: the supervisor's side.

The supervisor loads neither NumPy nor the rest of the package, so a separate process delivers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from pathlib import Path

from jamboree_gym.errors import EmbeddedServerError
from jamboree_gym.servers.home import Home
from jamboree_gym.servers.own_files import append_to, is_lock_held

__all__ = ["JOURNAL_DIRECTORY", "JournalDelivery"]

JOURNAL_DIRECTORY = "journal"
NAME = "journal"
# The kernel closes the files of a killed process one after the other, its lock perhaps later.
LOOKS_S = (0.05, 1.0)
LAST_DELIVERY_S = 10.0
_ROOT = str(Path(__file__).resolve().parents[2])
_log = logging.getLogger(__name__)


class JournalDelivery:
    """Starts a process when a client has left a journal. All methods run on one event loop.

    Args:
        home: Of the servers.
        redis_url: Of its Redis.
    """

    def __init__(self, home: Home, redis_url: str) -> None:
        self._home = home
        self._redis_url = redis_url
        self._tried: set[str] = set()
        self._delivering: asyncio.Task[None] | None = None

    def look_soon(self) -> None:
        """A client's connection has ended: look for its journal in a moment. Returns at once."""
        loop = asyncio.get_running_loop()
        for delay_s in LOOKS_S:
            loop.call_later(delay_s, self._look)

    def _look(self) -> None:
        if self._dead() and (self._delivering is None or self._delivering.done()):
            self._delivering = asyncio.create_task(self._deliver())

    def _dead(self) -> set[str]:
        """Lock files of journals that nobody holds, and that were not tried yet."""
        directory = self._home.path / JOURNAL_DIRECTORY
        locks = [*directory.glob("*.lock"), *directory.glob("*.dead")]
        return {lock.stem for lock in locks if not is_lock_held(lock)} - self._tried

    async def _deliver(self) -> None:
        while dead := self._dead():
            self._tried |= dead
            command = [sys.executable, "-m", "jamboree_gym.recording.recovery"]
            command += ["--home", str(self._home.path), "--redis-url", self._redis_url]
            path = os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH"))))
            try:
                with append_to(self._home.server_log(NAME)) as output:
                    process = await asyncio.create_subprocess_exec(
                        *command,
                        stdin=asyncio.subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        env=os.environ | {"PYTHONPATH": path},
                        start_new_session=True,
                    )
            except (EmbeddedServerError, OSError) as error:
                _log.error("the journals of killed clients are not delivered: %s", error)
                return
            if await process.wait():
                _log.error("the journals of killed clients: see %s", self._home.server_log(NAME))

    async def stop(self) -> None:
        """Wait for the delivery in progress."""
        if self._delivering is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._delivering, LAST_DELIVERY_S)
