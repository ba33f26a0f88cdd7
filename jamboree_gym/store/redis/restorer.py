"""Putting logs back into Redis."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from jamboree_gym.encoding.batch_format import Head
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.log import IndexEntry, MongoIdentity
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.epochs import new_epoch
from jamboree_gym.store.redis.link import AccessRefused, RedisLink, as_text
from jamboree_gym.store.redis.listings import listing_arguments

__all__ = ["Restorer"]

NEVER_STANDS = "?"  # nothing can be put back: this user may not write
_BORN = struct.Struct("<d")


class Restorer:
    """Puts back what MongoDB holds, unless Redis has changed since MongoDB was asked.

    Args:
        link: To the server.
        keyspace: Names of all keys.
    """

    def __init__(self, link: RedisLink, keyspace: Keyspace) -> None:
        self._link = link
        self._keyspace = keyspace

    def standing(self) -> str:
        """How things stand: to be asked before MongoDB is, and told when putting back.

        So nothing is put back that was deleted, or that was read before Redis was emptied again.
        """
        keys = (self._keyspace.epoch, self._keyspace.deletions)
        try:
            return as_text(self._link.script(scripts.STANDING, keys, (new_epoch(),)))
        except AccessRefused:
            return NEVER_STANDS

    def restore(
        self,
        key: str,
        head: Head,
        batches: Iterable[bytes],
        entry: IndexEntry | None,
        *,
        standing: str,
        mongo: MongoIdentity,
        instead_of: bytes = b"",
    ) -> bool:
        """Put a log back as it was.

        Args:
            key: The log.
            head: Its head; `held` says which of its batches are not among these.
            batches: The others.
            entry: Where it is listed.
            standing: As it was before MongoDB was asked.
            mongo: Where it was.
            instead_of: A damaged head, whose log is replaced if MongoDB has all of it.

        Returns:
            False when Redis already holds as much or more, or something else, or anything was
            deleted meanwhile, or Redis emptied.
        """
        space = self._keyspace
        summaries = space.summaries(entry.run if entry else "")
        listings = (summaries, space.runs, space.deletions, space.unbacked)
        keys = (key, *listings, space.epoch, space.backup)
        arguments = (
            standing,
            *listing_arguments(entry),
            instead_of,
            head.encode(),
            *mongo,
            *batches,
        )
        return bool(self._link.script(scripts.RESTORE, keys, arguments))

    def replace(
        self, key: str, head: Head, batches: Sequence[bytes], *, instead_of: bytes, epoch: str
    ) -> bool:
        """Replace the head and the batches of a log; False if the log has changed."""
        keys = (key, self._keyspace.unbacked, self._keyspace.epoch)
        arguments = (epoch, instead_of, head.encode(), *batches)
        return bool(self._link.script(scripts.REPLACE, keys, arguments, again=False))

    def refill(self, key: str, head: Head, start: int, batches: Sequence[bytes]) -> bool:
        """Put the batches from `start` to `head.held` back; False when the log has changed."""
        arguments = (_BORN.pack(head.born), head.held, start, *batches)
        return bool(self._link.script(scripts.REFILL, (key,), arguments, again=False))
