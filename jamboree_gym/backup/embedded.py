"""The backup process of the embedded servers; their supervisor starts and controls it.

The supervisor tells it on standard input which namespaces to copy, one JSON message per line. When
the input ends (the supervisor stops the process, or has died), it copies once more and exits. It
looks up the address of the Mongo server itself, because the port may change.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from jamboree_gym.backup.follow import Follower, OpenedBackup
from jamboree_gym.backup.waiting import StopSignal
from jamboree_gym.errors import EmbeddedServerError
from jamboree_gym.keys import Keyspace
from jamboree_gym.servers.control import decode
from jamboree_gym.servers.home import Home
from jamboree_gym.servers.programs.mongo import MongoProgram, folder_instead_of_mongo
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.store.urls import EMBEDDED, folder_url

__all__ = ["main"]


class EmbeddedBackup:
    """Copies the namespaces that the supervisor names, each in its own thread."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._program = MongoProgram(home)
        self._trouble = ""  # why the Mongo server does not run
        self._copies: dict[str, _Copy] = {}

    def handle(self, message: dict[str, Any]) -> None:
        """Handle a message: where Redis is, what to copy how often, why Mongo does not run."""
        self._trouble = message["trouble"]
        for namespace, interval_s in message["intervals_s"].items():
            if namespace not in self._copies:
                self._copies[namespace] = _Copy(message["redis_url"], self._backup_url, namespace)
            self._copies[namespace].go_on(interval_s)

    def end(self) -> None:
        """Copy the last changes, and return."""
        for copy in self._copies.values():
            copy.stop.set()
        for copy in self._copies.values():
            copy.thread.join()

    def _backup_url(self) -> str:
        folder = folder_instead_of_mongo(self._home)
        if folder is not None:
            return folder_url(folder)
        if self._trouble:
            raise EmbeddedServerError(self._trouble)
        return self._program.open_to_clients()


class _Copy:
    """The copy of one namespace, on a thread."""

    def __init__(self, redis_url: str, backup_url: Callable[[], str], namespace: str) -> None:
        self.stop = StopSignal()
        self.thread = threading.Thread(target=self._run)
        self._store = RedisStore.from_url(redis_url, Keyspace(namespace))
        self._backup = OpenedBackup(backup_url, namespace)
        self._follower = Follower(
            self._store,
            self._backup.open,
            to=EMBEDDED,
            is_new=False,
            let_go=self._backup.let_go,
        )

    def go_on(self, interval_s: float) -> None:
        """Copy at least so often; the first call starts the thread."""
        self._follower.interval_s = interval_s
        if self.thread.ident is None:
            self.thread.start()

    def _run(self) -> None:
        with closing(self.stop), closing(self._store), closing(self._backup):
            self._follower.run(self.stop)


def main(arguments: Sequence[str] | None = None) -> None:
    """Copy until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m jamboree_gym.backup.embedded")
    parser.add_argument("--home", required=True, help="directory of the servers")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s [%(process)d] %(message)s")
    gc.freeze()  # what was imported stays: the collector need not look at it again and again
    backup = EmbeddedBackup(Home.at(options.home))
    try:
        for line in sys.stdin.buffer:
            backup.handle(decode(line))
    finally:
        backup.end()


if __name__ == "__main__":
    main()
