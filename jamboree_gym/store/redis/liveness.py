"""Whether what was true is still true: leases of writers, and names of epochs."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Collection

from jamboree_gym.keys import Keyspace
from jamboree_gym.process_life import follow_forks
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.link import RedisLink

__all__ = ["Leases", "new_epoch"]


class Leases:
    """Leases of writers: each expires unless its writer renews it."""

    def __init__(self, link: RedisLink, keyspace: Keyspace) -> None:
        self._link = link
        self._keyspace = keyspace

    def put(self, writer: str, holder: str, seconds: float) -> None:
        """Say that a writer lives, for so long; also where the server's memory is full."""
        lease = ("SET", holder, "PX", int(seconds * 1000))
        self._link.script(scripts.PUT, (self._keyspace.lease(writer),), lease)

    def drop(self, writer: str) -> None:
        """Say that a writer is dead."""
        self._link.call("DEL", self._keyspace.lease(writer))

    def living(self, writers: Collection[str]) -> set[str]:
        """Which of these writers hold a lease."""
        names = sorted(writers)
        leases = self._link.call("MGET", *map(self._keyspace.lease, names)) if names else []
        return {name for name, lease in zip(names, leases, strict=True) if lease is not None}


class _EpochNames:
    """Names that no other process gives: each begins with random digits of this process."""

    def __init__(self) -> None:
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Draw other digits than the parent process. A process id may come again; they do not."""
        self._process = secrets.token_hex(8)
        self._counter = itertools.count()

    def new(self) -> str:
        return f"{self._process}-{next(self._counter)}"


_epoch_names = _EpochNames()
follow_forks(_epoch_names)


def new_epoch() -> str:
    """A name that no epoch has had."""
    return _epoch_names.new()
