"""Deleted logs, of which MongoDB has to forget its copies."""

from __future__ import annotations

import math
import struct

from jamboree_gym.encoding.batch_format import Head
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.log import IndexEntry, MongoIdentity, identity, key_of
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.link import RedisLink, as_named

__all__ = ["Deletions"]

_BORN = struct.Struct("<d")


class Deletions:
    """Deletes logs, and remembers each deletion until MongoDB has forgotten the log.

    Args:
        link: To the server.
        keyspace: Names of all keys.
    """

    def __init__(self, link: RedisLink, keyspace: Keyspace) -> None:
        self._link = link
        self._keyspace = keyspace

    def delete(
        self, key: str, *, entry: IndexEntry | None = None, born: float | None = None
    ) -> float | None:
        """Delete a log and its listing, and note that MongoDB has to forget it, too.

        Args:
            key: The log.
            entry: Where it is listed.
            born: Its birth, where it is known from elsewhere; else that of the log here.

        Returns:
            Its birth, None where there was no log and none was given.
        """
        run, name = (entry.run, entry.name) if entry else ("", "")
        space = self._keyspace
        keys = (key, space.unbacked, space.summaries(run), space.deleted, space.deletions)
        given = b"" if born is None else _BORN.pack(born)
        answer = self._link.script(scripts.DELETE, keys, (name, given))
        return None if answer is None else float(_BORN.unpack(answer)[0])

    def noted(self) -> set[tuple[str, float]]:
        """Logs that were deleted here and that MongoDB has to forget, and their births."""
        deleted = as_named(self._link.call("HGETALL", self._keyspace.deleted))
        return {(key_of(one), float(_BORN.unpack(born)[0])) for one, born in deleted.items()}

    def forget(self, key: str, born: float, *, mongo: MongoIdentity) -> None:
        """This MongoDB has forgotten a log; those that were the backup before may come back."""
        keys = (self._keyspace.deleted, self._keyspace.backup)
        arguments = (identity(key, born), _BORN.pack(born), mongo.id)
        self._link.script(scripts.FORGET, keys, arguments)

    def bear_anew(self, key: str, head: Head, *, epoch: str) -> bool:
        """Give a log another birth, as one of this birth was deleted; False if it has changed."""
        born = math.nextafter(head.born, math.inf)
        arguments = (epoch, _BORN.pack(head.born), head.revision, _BORN.pack(born))
        keys = (key, self._keyspace.unbacked, self._keyspace.epoch)
        return bool(self._link.script(scripts.BEAR_ANEW, keys, arguments, again=False))
