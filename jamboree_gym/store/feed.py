"""What grew: a capped stream that the script `APPEND` adds an entry to for each change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.exceptions import RedisError

from jamboree_gym.keys import Keyspace
from jamboree_gym.store import scripts
from jamboree_gym.store.log import LogSlice
from jamboree_gym.store.redis_link import Call, RedisLink, script_call

__all__ = ["BEGINNING", "Feed", "Grown", "Look"]

BEGINNING = "0-0"  # comes before every entry
# So few at once that a reader who gets less has missed nothing: the feed keeps many more.
ENTRIES_AT_ONCE = scripts.FEED_ENTRIES // 10


class Grown(NamedTuple):
    """What the feed said.

    Attributes:
        position: Where to go on from.
        episodes: Id and run of each episode that grew, the oldest change first; an episode may be
            there several times.
        is_complete: Whether nothing between this and the position before has been forgotten.
    """

    position: str
    episodes: Sequence[tuple[str, str]]
    is_complete: bool


class Look(NamedTuple):
    """One look at a log that may grow.

    Attributes:
        position: Place in the feed before the log was read.
        has_lease: Whether its writer held a lease before the log was read; None: not asked for.
        found: What was read; None when there is no such log.
    """

    position: str
    has_lease: bool | None
    found: LogSlice | None


class Feed:
    """Waits for episodes to grow. Each method is one round trip, whether it waits or not.

    Args:
        link: To the server.
        keyspace: Names of all keys.
    """

    def __init__(self, link: RedisLink, keyspace: Keyspace) -> None:
        self._link = link
        self._keyspace = keyspace

    def position(self) -> str:
        """Where it ends now."""
        return _newest(self._answers([self._newest_call()])[0])

    def after(self, position: str, *, wait_s: float) -> Grown:
        """What grew after a position; waits for it, so long.

        Args:
            position: As it was given before.
            wait_s: Seconds; 0 = do not wait.
        """
        kept = ("XRANGE", self._keyspace.feed, "-", position, "COUNT", 1)
        answer, before = self._answers([self._wait_call(position, wait_s, ENTRIES_AT_ONCE), kept])
        streams = dict(answer or ())  # with RESP 3 it is a dict, with RESP 2 a list of pairs
        entries: list[Any] = next(iter(streams.values()), [])
        return Grown(
            entries[-1][0].decode() if entries else position,
            [(fields[1].decode(), fields[3].decode()) for _, fields in entries],
            len(entries) < ENTRIES_AT_ONCE or bool(before),
        )

    def look(
        self, key: str, start: int, stop: int, *, after: str | None, wait_s: float, writer: str
    ) -> Look:
        """Read a log once anything has grown, or the time is up.

        Args:
            key: The log.
            start: The first index wanted.
            stop: The index after the last.
            after: Position of the look before; None does not wait.
            wait_s: Seconds; 0 = do not wait.
            writer: Whose lease to look for; `""` = nobody's.
        """
        calls = [self._newest_call(), script_call(scripts.READ, (key,), ("range", start, stop))]
        if writer:
            calls.insert(1, ("EXISTS", self._keyspace.lease(writer)))
        if after is not None and wait_s > 0:
            calls.insert(0, self._wait_call(after, wait_s, 1))  # the server keeps the others back
        answers = self._answers(calls, key=key)
        newest = _newest(answers[-3] if writer else answers[-2])
        has_lease = bool(answers[-2]) if writer else None
        return Look(newest, has_lease, LogSlice.from_answer(answers[-1], where=key))

    def _newest_call(self) -> Call:
        return ("XREVRANGE", self._keyspace.feed, "+", "-", "COUNT", 1)

    def _wait_call(self, position: str, wait_s: float, count: int) -> Call:
        block = ("BLOCK", max(1, int(wait_s * 1000))) if wait_s > 0 else ()  # BLOCK 0: for ever
        return ("XREAD", "COUNT", count, *block, "STREAMS", self._keyspace.feed, position)

    def _answers(self, calls: Sequence[Call], *, key: str = "") -> list[Any]:
        answers = self._link.pipeline(lambda: calls)
        for answer in answers:
            if isinstance(answer, RedisError):
                raise self._link.translated(answer, key=key or self._keyspace.feed) from answer
        return answers


def _newest(answer: Any) -> str:
    position: str = answer[0][0].decode() if answer else BEGINNING
    return position
