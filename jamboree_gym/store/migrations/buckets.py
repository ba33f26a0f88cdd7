"""Keys of Redis without buckets -> keys in buckets. MongoDB has no buckets, and is not touched.

Each step can be done again, and moves what it moves in one transaction. The keys by which the older
layout is known go in the last one, where the number of buckets is stored. So this release refuses a
namespace of which a part was moved as it refuses one that is as it was; the next migration ends it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

from redis.exceptions import ResponseError, WatchError

from jamboree_gym.errors import JamboreeError
from jamboree_gym.keys import BucketKeys
from jamboree_gym.store.log import key_of
from jamboree_gym.store.migrations.outcome import Outcome
from jamboree_gym.store.redis.buckets import BUCKETS, NUMBER
from jamboree_gym.store.redis.link import as_named, as_text
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["migrate_redis"]

_KINDS = ("records", "episode")  # of logs
LOGS_AT_ONCE = 500
LISTED_AT_ONCE = 1000


def migrate_redis(store: RedisStore, outcome: Outcome) -> None:
    """Move everything into buckets, if it is in none. Several processes may do so at once.

    Raises:
        JamboreeError: An older release has begun a log anew that was moved already.
    """
    is_older, _ = store.buckets.look()
    if not is_older:
        return
    try:
        store.run(_Move(store, outcome).move)
    except JamboreeError:
        is_older, _ = store.buckets.look()
        if is_older:
            raise  # else another process has ended it in the middle of this
    finally:
        store.buckets.forget()


class _Move:
    """One migration of a namespace."""

    def __init__(self, store: RedisStore, outcome: Outcome) -> None:
        self._client: Any = store.client
        self._store = store
        self._space = store.keyspace
        self._buckets = store.keyspace.buckets(BUCKETS)
        self._outcome = outcome

    def move(self) -> None:
        """Do all steps; those that were done find nothing."""
        # Without it the namespace would not be refused until this is over.
        self._client.set(self._old("epoch"), secrets.token_hex(8), nx=True)
        self._move_logs()
        self._move_listings()
        self._move_deletions()
        self._move_coverage()
        self._move_backup()
        while not self._finish():  # another process has written meanwhile
            self._move_logs()
            self._move_listings()

    def _old(self, name: str) -> str:
        return self._space.without_bucket(name)

    def _bucket_of(self, key: str) -> BucketKeys:
        return self._buckets[self._space.bucket_of(key, len(self._buckets))]

    def _in(self, bucket: BucketKeys, log: str) -> str:
        return self._space.in_bucket(log, bucket)

    def _check_free(self, logs: list[str], places: list[str]) -> None:
        with self._together() as pipe:
            for log, stored in zip(logs, places, strict=True):
                pipe.exists(log)
                pipe.exists(stored)
            found = pipe.execute()
        pairs = zip(found[::2], found[1::2], strict=True)
        for log, stored, (is_left, is_taken) in zip(logs, places, pairs, strict=True):
            if is_left and is_taken:
                raise JamboreeError(
                    f"{log} was moved to {stored}, and an older release began it anew meanwhile: "
                    "end that process, keep one of the two keys, and start again"
                )

    def _together(self) -> AbstractContextManager[Any]:
        """A transaction; `execute` it."""
        pipeline: AbstractContextManager[Any] = self._client.pipeline(transaction=True)
        return pipeline

    def _found(self, pattern: str) -> Iterator[str]:
        return map(as_text, self._client.scan_iter(match=pattern, count=1000))

    def _move_logs(self) -> None:
        for kind in _KINDS:
            logs = iter(sorted({*self._found(self._old(f"{kind}:*"))}))  # SCAN may say one twice
            while some := list(islice(logs, LOGS_AT_ONCE)):
                pending = self._client.zmscore(self._old("unbacked"), some)
                places = [(bucket := self._bucket_of(log), self._in(bucket, log)) for log in some]
                self._check_free(some, [stored for _, stored in places])
                with self._together() as pipe:
                    for log, revision, (bucket, stored) in zip(some, pending, places, strict=True):
                        pipe.rename(log, stored)
                        if revision is not None:
                            pipe.zadd(bucket.unbacked, {stored: revision})
                    _raise_unless_moved(pipe.execute(raise_on_error=False))
                self._outcome.changed.update(some)

    def _move_listings(self) -> None:
        for name, newest in self._client.zrange(self._old("runs"), 0, -1, withscores=True):
            run = as_text(name)
            listing = self._space.summaries(run)
            entries = self._client.hscan_iter(listing, count=LISTED_AT_ONCE)
            buckets = set[BucketKeys]()
            while some := list(islice(entries, LISTED_AT_ONCE)):
                with self._together() as pipe:
                    for id, summary in some:
                        bucket = self._bucket_of(self._space.episode(as_text(id)))
                        pipe.hset(bucket.summaries(run), id, summary)
                        buckets.add(bucket)
                    pipe.execute()
            if not buckets and self._client.zscore(self._old("runs"), name) is None:
                continue  # another process has moved it
            with self._together() as pipe:
                for bucket in buckets or self._buckets[:1]:
                    pipe.zadd(bucket.runs, {name: newest}, gt=True)
                pipe.delete(listing)
                pipe.zrem(self._old("runs"), name)
                pipe.execute()

    def _move_deletions(self) -> None:
        """Also what was noted for a MongoDB that was the backup before."""
        plain = self._old("deleted")
        for old in sorted({plain, *self._found(f"{plain}:*")}):
            noted = as_named(self._client.hgetall(old))
            with self._together() as pipe:
                for identity, born in noted.items():
                    bucket = self._bucket_of(key_of(identity))
                    name = self._space.in_bucket(identity, bucket)
                    pipe.hset(bucket.deleted + old.removeprefix(plain), name, born)
                pipe.delete(old)
                pipe.execute()

    def _move_coverage(self) -> None:
        coverage = self._client.get(self._old("coverage"))
        with self._together() as pipe:
            for bucket in self._buckets if coverage in (b"all", b"part") else ():
                pipe.set(bucket.coverage, coverage)
            pipe.delete(self._old("coverage"))
            pipe.execute()

    def _move_backup(self) -> None:
        """Which MongoDB acknowledges is said of each bucket; who copies, and where to, of all."""
        fields = as_named(self._client.hgetall(self._space.backup))
        shared = {name: one for name, one in fields.items() if _is_of_each_bucket(name)}
        trimmed = {name: one for name, one in fields.items() if name == "trimmed_bytes"}
        with self._together() as pipe:
            for bucket in self._buckets:
                if content := shared if bucket.at else shared | trimmed:
                    pipe.hset(bucket.backup, mapping=content)
            for name in shared | trimmed:
                pipe.hdel(self._space.backup, name)
            pipe.execute()

    def _finish(self) -> bool:
        """End the older layout, unless there is a log in it; whether that was done."""
        names = ("epoch", "runs", "unbacked", "deletions", "feed", "backup:holder")
        with self._together() as pipe:
            pipe.watch(self._old("unbacked"), self._old("runs"))
            if any(next(self._found(self._old(f"{kind}:*")), None) for kind in _KINDS):
                return False
            pipe.multi()
            pipe.delete(*map(self._old, names))
            for key in self._space.layout:
                pipe.hset(key, NUMBER, len(self._buckets))
            try:
                pipe.execute()
            except WatchError:
                return False
        return True


def _raise_unless_moved(answers: list[Any]) -> None:
    """Raise the first error; none is that another process has moved a log already."""
    for answer in answers:
        if isinstance(answer, ResponseError) and "no such key" not in str(answer):
            raise answer


def _is_of_each_bucket(name: str) -> bool:
    return name in ("mongo", "mongo_at", "unsettled") or name.startswith("former ")
