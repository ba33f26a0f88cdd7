"""What MongoDB holds, as far as Redis knows."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from jamboree_gym.encoding.batch_format import Head
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.log import Acknowledged, Adoption, MongoIdentity
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.epochs import new_epoch
from jamboree_gym.store.redis.link import RedisLink, as_text

__all__ = ["Acknowledgements"]

_BORN = struct.Struct("<d")


class Acknowledgements:
    """Notes how much of each log MongoDB holds, and which MongoDB that is.

    Args:
        link: To the server.
        keyspace: Names of all keys.
    """

    def __init__(self, link: RedisLink, keyspace: Keyspace) -> None:
        self._link = link
        self._keyspace = keyspace

    def unbacked(self) -> Iterator[tuple[str, int]]:
        """Logs with changes that MongoDB has not acknowledged, and the revision they are at."""
        pairs = self._link.run(
            lambda: cast(
                Any, self._link.client.zrange(self._keyspace.unbacked, 0, -1, withscores=True)
            )
        )
        return ((as_text(key), int(score)) for key, score in pairs)

    def acknowledge(self, heads: Mapping[str, Head], *, epoch: str) -> Acknowledged:
        """Note that MongoDB holds these logs as far as these heads say.

        Args:
            heads: As they are in MongoDB now.
            epoch: In which they were read here.
        """
        if not heads:
            return Acknowledged(set(), set())
        arguments = [
            argument
            for head in heads.values()
            for argument in (head.count, head.revision, _BORN.pack(head.born))
        ]
        keys = (self._keyspace.unbacked, self._keyspace.epoch, *heads)
        answers = self._link.script(scripts.ACKNOWLEDGE, keys, (epoch, *arguments))
        by_answer = list(zip(heads, map(int, answers), strict=True))
        gone = {key for key, answer in by_answer if answer == 0}
        return Acknowledged(gone, {key for key, answer in by_answer if answer < 0})

    def adopt(self, mongo: MongoIdentity, *, to: str) -> Adoption:
        """Say which MongoDB acknowledges from now on.

        Args:
            mongo: Which one.
            to: In which words the namespace is copied there by itself; empty = it is not.
        """
        space = self._keyspace
        keys = (space.epoch, space.backup, space.coverage, space.deleted)
        answer = self._link.script(scripts.ADOPT, keys, (*mongo, new_epoch(), to))
        epoch, unsettled, before = map(as_text, answer)
        return Adoption(epoch, unsettled == "1", before)

    def unacknowledge(self, keys: Sequence[str], *, epoch: str) -> None:
        """Nothing of these logs is acknowledged any more."""
        self._link.script(
            scripts.UNACKNOWLEDGE, (self._keyspace.unbacked, self._keyspace.epoch, *keys), (epoch,)
        )

    def adopted(self, *, epoch: str) -> None:
        """That was done with all logs."""
        keys = (self._keyspace.epoch, self._keyspace.backup)
        self._link.script(scripts.ADOPTED, keys, (epoch,))
