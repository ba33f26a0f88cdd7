"""What grew: a capped stream that the script `APPEND` adds an entry to for each change.

It is there only while somebody follows: who does, makes it, and keeps it from expiring. Writers
deliver promptly as long as it is there, and at leisure else.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from jamboree_gym.keys import Keyspace
from jamboree_gym.store.log import LogSlice
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.link import Call, RedisLink, RedisPart, as_text, script_call

__all__ = ["Feed", "GrownEpisodes", "PolledLog"]

ENTRIES_AT_ONCE = scripts.FEED_ENTRIES // 10
LIFETIME_S = 60
RENEW_S = LIFETIME_S / 3


class GrownEpisodes(NamedTuple):
    """The episodes that the feed named after a position.

    Attributes:
        position: Where to continue.
        episodes: Id and run of each episode that grew, the oldest change first; an episode may be
            there several times.
        is_complete: Whether nothing between this and the position before can have been forgotten.
    """

    position: str
    episodes: Sequence[tuple[str, str]]
    is_complete: bool


class PolledLog(NamedTuple):
    """What `Feed.poll` has found of a log that may grow.

    Attributes:
        position: Place in the feed before the log was read; None: there is no feed.
        has_lease: Whether its writer held a lease before the log was read; None: not asked for.
        found: What was read; None when there is no such log.
    """

    position: str | None
    has_lease: bool | None
    found: LogSlice | None


class Feed(RedisPart):
    """Waits for episodes to grow. Each method is one round trip, whether it waits or not."""

    def __init__(self, link: RedisLink, keyspace: Keyspace) -> None:
        super().__init__(link, keyspace)
        self._renew_at = 0.0

    def position(self) -> str:
        """Where it ends now; what grows from here on is told. Makes the feed if there is none."""
        feed = self._keyspace.feed
        begin = ("XADD", feed, "*", "episode", "", "run", "")
        return as_text(self._answers([begin, ("EXPIRE", feed, LIFETIME_S)])[0])

    def announce(self) -> None:
        """Say that somebody looks: writers deliver promptly for a while."""
        self._renew_at = time.monotonic() + RENEW_S
        self.position()

    @property
    def is_due(self) -> bool:
        """Whether the feed has to be made, or kept from expiring, while somebody looks."""
        return time.monotonic() >= self._renew_at

    def after(self, position: str, *, wait_s: float) -> GrownEpisodes:
        """What grew after a position; waits `wait_s` seconds for it, 0 = not at all."""
        kept = ("XRANGE", self._keyspace.feed, "-", position, "COUNT", 1)
        wait = self._wait_call(position, wait_s, ENTRIES_AT_ONCE)
        answers = self._answers([wait, kept, *self._renewal()])
        streams = dict(answers[0] or ())  # with RESP 3 it is a dict, with RESP 2 a list of pairs
        entries: list[Any] = next(iter(streams.values()), [])
        return GrownEpisodes(
            as_text(entries[-1][0]) if entries else position,
            [(as_text(fields[1]), as_text(fields[3])) for _, fields in entries if fields[1]],
            bool(answers[1]),  # the oldest entries are forgotten first
        )

    def poll(
        self, key: str, start: int, stop: int, *, after: str | None, wait_s: float, writer: str
    ) -> PolledLog:
        """Read a log once anything has grown, or the time is up.

        Args:
            key: The log.
            start: The first index wanted.
            stop: The index after the last.
            after: Position of the poll before; None does not wait, and leaves the feed alone.
            wait_s: Seconds; 0 = do not wait.
            writer: Whose lease to look for; `""` = nobody's.
        """
        calls: list[Call] = []
        if after is not None:
            # Those that follow are kept back by the server until the first has its answer.
            waits = [self._wait_call(after, wait_s, 1)] if wait_s > 0 else []
            newest = ("XREVRANGE", self._keyspace.feed, "+", "-", "COUNT", 1)
            calls += [*waits, *self._renewal(), newest]
        if writer:
            calls.append(("EXISTS", self._keyspace.lease(writer)))
        calls.append(script_call(scripts.READ, (key,), ("range", start, stop, scripts.PART_BYTES)))
        *others, read = self._answers(calls, key=key)
        has_lease = bool(others.pop()) if writer else None
        position = as_text(others[-1][0][0]) if others and others[-1] else None
        return PolledLog(position, has_lease, LogSlice.from_answer(read, where=key))

    def _renewal(self) -> list[Call]:
        """Now and then: keep it from expiring."""
        if time.monotonic() < self._renew_at:
            return []
        self._renew_at = time.monotonic() + RENEW_S
        return [("EXPIRE", self._keyspace.feed, LIFETIME_S)]

    def _wait_call(self, position: str, wait_s: float, count: int) -> Call:
        block = ("BLOCK", max(1, int(wait_s * 1000))) if wait_s > 0 else ()  # BLOCK 0: for ever
        return ("XREAD", "COUNT", count, *block, "STREAMS", self._keyspace.feed, position)

    def _answers(self, calls: Sequence[Call], *, key: str = "") -> list[Any]:
        where = key or self._keyspace.feed
        return [self._link.checked(one, key=where) for one in self._link.send(calls)]
