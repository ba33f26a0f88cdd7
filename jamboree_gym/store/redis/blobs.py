"""Immutable content under its own digest: schemas, provenance."""

from __future__ import annotations

from functools import partial

from jamboree_gym.encoding.batch_format import decode_note, encode_note
from jamboree_gym.errors import DecodeError
from jamboree_gym.keys import Keyspace, digest
from jamboree_gym.store.log import or_error
from jamboree_gym.store.redis.link import Call, RedisLink

__all__ = ["Blobs"]


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
