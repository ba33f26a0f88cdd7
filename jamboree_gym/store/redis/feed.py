"""Word of what has changed: the feed for followers.

The feed is a capped stream in each bucket, to which the script `APPEND` adds an entry for each
change. It is there only while somebody follows: who does, makes it, and keeps it from expiring.
Writers deliver promptly as long as it is there, and at leisure else.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jamboree_gym.keys import BucketKeys
from jamboree_gym.store.log import LogSlice
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.buckets import BucketPart, Buckets, as_one_text, part_of
from jamboree_gym.store.redis.link import Call, RedisLink, as_text, script_call

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


class Feed(BucketPart):
    """Waits for episodes to grow. Each method is one round trip, whether it waits or not.

    Each bucket has a feed. Who follows one log makes that of its bucket only.
    """

    def __init__(self, link: RedisLink, buckets: Buckets) -> None:
        super().__init__(link, buckets)
        self._renew_at: dict[int, float] = {}

    def position(self, key: str | None = None) -> str:
        """Where it ends now; what grows from here on is told. Makes the feed if there is none.

        That of one log; None = of all.
        """
        return self._begin(self._buckets.some(None if key is None else [key]))

    def _begin(self, buckets: Sequence[BucketKeys]) -> str:
        begin = ("*", "episode", "", "run", "")
        calls: list[Call] = [("XADD", bucket.feed, *begin) for bucket in buckets]
        answers = self._answers([*calls, *_renewals(buckets)])
        return _position(zip(buckets, answers, strict=False))

    def announce(self, keys: Iterable[str]) -> None:
        """Say that somebody looks at some logs: their writers deliver promptly for a while."""
        buckets = self._buckets.some(keys)
        self._due(buckets)
        self._begin(buckets)

    def is_due(self, key: str) -> bool:
        """Whether the feed has to be made, or kept from expiring, while somebody looks at a log."""
        return time.monotonic() >= self._renew_at.get(self._buckets.of(key).at, 0.0)

    def after(self, position: str, *, wait_s: float) -> GrownEpisodes:
        """What grew after a position; waits `wait_s` seconds for it, 0 = not at all."""
        buckets = self._buckets.all
        places = {bucket.feed: part_of(position, bucket) or "0" for bucket in buckets}
        wait = _wait_call(places, wait_s, ENTRIES_AT_ONCE)
        kept = [("XRANGE", feed, "-", place, "COUNT", 1) for feed, place in places.items()]
        grown, *oldest = self._answers([wait, *kept, *_renewals(self._due(buckets))])
        streams = dict(grown or ())  # with RESP 3 it is a dict, with RESP 2 a list of pairs
        for feed, entries in streams.items():
            places[as_text(feed)] = as_text(entries[-1][0])
        entries = sorted((one for some in streams.values() for one in some), key=_order)
        return GrownEpisodes(
            _position((bucket, places[bucket.feed].encode()) for bucket in buckets),
            [(as_text(fields[1]), as_text(fields[3])) for _, fields in entries if fields[1]],
            all(oldest[: len(kept)]),  # the oldest entries are forgotten first
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
        bucket = self._buckets.of(key)
        if after is not None:
            # Those that follow are kept back by the server until the first has its answer.
            places = {bucket.feed: part_of(after, bucket) or "0"}
            waits = [_wait_call(places, wait_s, 1)] if wait_s > 0 else []
            newest = ("XREVRANGE", bucket.feed, "+", "-", "COUNT", 1)
            calls += [*waits, *_renewals(self._due([bucket])), newest]
        if writer:
            calls.append(("EXISTS", self._keyspace.lease(writer)))
        how = ("range", start, stop, scripts.PART_BYTES)
        calls.append(script_call(scripts.READ, (self._buckets.log(key),), how))
        *others, read = self._answers(calls, key=key)
        has_lease = bool(others.pop()) if writer else None
        position = None
        if others and others[-1]:
            position = _position([(bucket, others[-1][0][0])])
        return PolledLog(position, has_lease, LogSlice.from_answer(read, where=key))

    def _due(self, buckets: Sequence[BucketKeys]) -> list[BucketKeys]:
        """Those whose feed has to be kept from expiring now; not again for a while."""
        now = time.monotonic()
        due = [one for one in buckets if now >= self._renew_at.get(one.at, 0.0)]
        self._renew_at |= {one.at: now + RENEW_S for one in due}
        return due

    def _answers(self, calls: Sequence[Call], *, key: str = "") -> list[Any]:
        where = key or self._keyspace.without_bucket("feed")
        return [self._link.checked(one, key=where) for one in self._link.send(calls)]


def _renewals(buckets: Sequence[BucketKeys]) -> list[Call]:
    return [("EXPIRE", bucket.feed, LIFETIME_S) for bucket in buckets]


def _wait_call(places: Mapping[str, str], wait_s: float, count: int) -> Call:
    block = ("BLOCK", max(1, int(wait_s * 1000))) if wait_s > 0 else ()  # BLOCK 0: for ever
    return ("XREAD", "COUNT", count, *block, "STREAMS", *places, *places.values())


def _position(places: Iterable[tuple[BucketKeys, bytes]]) -> str:
    return as_one_text((bucket.at, as_text(place)) for bucket, place in places)


def _order(entry: tuple[bytes, Any]) -> tuple[int, ...]:
    """Entries of all feeds by age."""
    return tuple(map(int, entry[0].split(b"-")))
