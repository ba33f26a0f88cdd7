"""What lies in no bucket: immutable content under its own digest, and leases of writers."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from jamboree_gym.encoding.batch_format import decode_note, encode_note
from jamboree_gym.errors import DecodeError
from jamboree_gym.keys import Keyspace, digest
from jamboree_gym.store.log import or_error
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.link import Call, RedisLink

__all__ = ["Blobs", "Leases"]


class Blobs:
    """Content that many episodes share; each is asked for once, as it never changes."""

    def __init__(self, link: RedisLink, keyspace: Keyspace) -> None:
        self._link = link
        self._keyspace = keyspace
        self._known: dict[str, bytes] = {}

    def put(self, name: str, content: bytes) -> None:
        """Store immutable content under its own digest, also over what is damaged there."""
        self._link.call("SET", self._keyspace.blob(name), encode_note(content))
        self._known[name] = content

    def put_call(self, name: str, content: bytes) -> Call:
        """The command that stores content unless it is there."""
        return ("SET", self._keyspace.blob(name), encode_note(content), "NX")

    def get(self, name: str) -> bytes:
        """Content stored by `put`; a `DecodeError` where it is gone, or damaged."""
        if name not in self._known:
            self._known[name] = self._read(name)
        return self._known[name]

    def all(self) -> dict[str, bytes | DecodeError]:
        """All immutable content of the namespace, by digest; of what is damaged, what is wrong."""
        prefix = self._keyspace.blob("")
        names = [key.removeprefix(prefix) for key in self._link.keys(f"{prefix}*")]
        return {name: or_error(partial(self._read, name)) for name in names}

    def _read(self, name: str) -> bytes:
        key = self._keyspace.blob(name)
        note: bytes | None = self._link.call("GET", key)
        if note is None:
            raise DecodeError(f"{key} is missing on {self._link.where}: restore it from the backup")
        content = decode_note(note, where=key)
        if digest(content) != name:
            raise DecodeError(f"{key}: the content is not that of its name, it is damaged")
        return content


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
