"""The backup process of the embedded servers; their supervisor starts and controls it.

The supervisor tells it on standard input which namespaces to copy, one JSON message per line. When
the input ends (the supervisor stops the process, or has died), it copies once more and exits. It
looks up the address of the Mongo server itself, because the port may change.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import threading
from collections.abc import Sequence
from typing import Any

from jamboree_gym.backup.follow import Follower, OpenedMongo
from jamboree_gym.errors import EmbeddedServerError
from jamboree_gym.keys import Keyspace
from jamboree_gym.servers.control import decode
from jamboree_gym.servers.home import Home
from jamboree_gym.servers.programs.mongo import MongoProgram
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.store.urls import EMBEDDED

__all__ = ["main"]


class EmbeddedBackup:
    """Copies the namespaces that the supervisor names, each in its own thread."""

    def __init__(self, home: Home) -> None:
        self._program = MongoProgram(home)
        self._trouble = ""  # why the Mongo server does not run
        self._stop = threading.Event()
        self._threads: dict[str, threading.Thread] = {}

    def handle(self, message: dict[str, Any]) -> None:
        """Handle a message: where Redis is, which namespaces to copy, why Mongo does not run."""
        self._trouble = message["trouble"]
        for namespace in message["namespaces"]:
            if namespace not in self._threads:
                arguments = (message["redis_url"], namespace)
                self._threads[namespace] = threading.Thread(target=self._follow, args=arguments)
                self._threads[namespace].start()

    def end(self) -> None:
        """Copy the last changes, and return."""
        self._stop.set()
        for thread in self._threads.values():
            thread.join()

    def _follow(self, redis_url: str, namespace: str) -> None:
        store = RedisStore.from_url(redis_url, Keyspace(namespace))
        mongo = OpenedMongo(self._mongo_url, namespace)
        with contextlib.closing(store), contextlib.closing(mongo):
            Follower(store, mongo.open, to=EMBEDDED, is_new=False).run(self._stop)

    def _mongo_url(self) -> str:
        if self._trouble:
            raise EmbeddedServerError(self._trouble)
        return self._program.open_to_clients()


def main(arguments: Sequence[str] | None = None) -> None:
    """Copy until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m jamboree_gym.backup.embedded")
    parser.add_argument("--home", required=True, help="directory of the servers")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s [%(process)d] %(message)s")
    backup = EmbeddedBackup(Home.at(options.home))
    try:
        for line in sys.stdin.buffer:
            backup.handle(decode(line))
    finally:
        backup.end()


if __name__ == "__main__":
    main()
