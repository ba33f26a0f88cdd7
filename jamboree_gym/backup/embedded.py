"""The backup of the embedded servers: a process that their supervisor starts, and talks to.

It is told on its standard input, a message a line, what to copy, and from where. Where that ends,
because the supervisor lets it go or is no more, it copies once more and ends. It finds the Mongo
server by itself: its port may change.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import threading
from collections.abc import Sequence
from typing import Any

from jamboree_gym.backup.follow import Follower
from jamboree_gym.errors import EmbeddedServerError
from jamboree_gym.keys import Keyspace
from jamboree_gym.servers.control import decode
from jamboree_gym.servers.home import Home
from jamboree_gym.servers.mongo_program import MongoProgram
from jamboree_gym.store.mongo.store import MongoStore
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.store.urls import EMBEDDED

__all__ = ["main"]


class EmbeddedMongo:
    """The Mongo server of a home, wherever it listens just now.

    Attributes:
        trouble: Why it does not run, empty if it does.
    """

    def __init__(self, home: Home) -> None:
        self.trouble = ""
        self._program = MongoProgram(home)

    @property
    def url(self) -> str:
        """Where it listens.

        Raises:
            EmbeddedServerError: Nowhere; says why.
        """
        if self.trouble:
            raise EmbeddedServerError(self.trouble)
        return self._program.url


class EmbeddedBackup:
    """Copies the namespaces that it is told of, each by a thread of its own."""

    def __init__(self, home: Home) -> None:
        self._mongo = EmbeddedMongo(home)
        self._stop = threading.Event()
        self._threads: dict[str, threading.Thread] = {}

    def tell(self, message: dict[str, Any]) -> None:
        """What the supervisor says: where Redis is, which namespaces, what ails the Mongo."""
        self._mongo.trouble = message["trouble"]
        for namespace in message["namespaces"]:
            if namespace not in self._threads:
                arguments = (message["redis_url"], namespace)
                self._threads[namespace] = threading.Thread(target=self._follow, args=arguments)
                self._threads[namespace].start()

    def end(self) -> None:
        """Copy what has come, and return."""
        self._stop.set()
        for thread in self._threads.values():
            thread.join()

    def _follow(self, redis_url: str, namespace: str) -> None:
        store = RedisStore.from_url(redis_url, Keyspace(namespace))
        copies = Copies(self._mongo, namespace)
        with contextlib.closing(store), contextlib.closing(copies):
            Follower(store, copies.open, to=EMBEDDED, is_new=False).run(self._stop)


class Copies:
    """A namespace in the Mongo server of a home; opened again where that has moved."""

    def __init__(self, mongo: EmbeddedMongo, namespace: str) -> None:
        self._server = mongo
        self._namespace = namespace
        self._url = ""
        self._store: MongoStore | None = None

    def open(self) -> MongoStore:
        """The store, where the server is now.

        Raises:
            JamboreeError: It does not run, or does not answer.
        """
        url = self._server.url
        if self._store is None or url != self._url:
            self.close()
            self._store, self._url = MongoStore.from_url(url, self._namespace), url
        return self._store

    def close(self) -> None:
        """Let go of it."""
        if self._store is not None:
            self._store.close()
            self._store = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Copy until nobody is there any more to say what."""
    parser = argparse.ArgumentParser(prog="python -m jamboree_gym.backup.embedded")
    parser.add_argument("--home", required=True, help="directory of the servers")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s [%(process)d] %(message)s")
    backup = EmbeddedBackup(Home.at(options.home))
    try:
        for line in sys.stdin.buffer:
            backup.tell(decode(line))
    finally:
        backup.end()


if __name__ == "__main__":
    main()
