"""Which writers are alive."""

from __future__ import annotations

from collections.abc import Collection

from jamboree_gym.keys import Keyspace
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.link import RedisLink

__all__ = ["Leases"]


class Leases:
    """Leases of writers: each expires unless its writer renews it.

    Args:
        link: To the server.
        keyspace: Names of all keys.
    """

    def __init__(self, link: RedisLink, keyspace: Keyspace) -> None:
        self._link = link
        self._keyspace = keyspace

    def put(self, writer: str, holder: str, seconds: float) -> None:
        """Say that a writer lives, for so long; also where the server's memory is full."""
        lease = ("SET", holder, "PX", int(seconds * 1000))
        self._link.script(scripts.PUT, (self._keyspace.lease(writer),), lease)

    def living(self, writers: Collection[str]) -> set[str]:
        """Which of these writers hold a lease."""
        names = sorted(writers)
        leases = self._link.call("MGET", *map(self._keyspace.lease, names)) if names else []
        return {name for name, lease in zip(names, leases, strict=True) if lease is not None}
