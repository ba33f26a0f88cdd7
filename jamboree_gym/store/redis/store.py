"""The hot log on Redis or Valkey: batches are appended and read in one round trip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import redis

from jamboree_gym.encoding.batch_format import Batch, Head, decode_batch
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.log import Append, Asked, IndexEntry, LogSlice
from jamboree_gym.store.protocol import LogStore
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.appender import LogAppender
from jamboree_gym.store.redis.backup_state import Acknowledgements, BackupState, Deletions
from jamboree_gym.store.redis.buckets import Buckets
from jamboree_gym.store.redis.cluster.link import ClusterLink
from jamboree_gym.store.redis.eviction import Eviction, Restorer
from jamboree_gym.store.redis.feed import Feed
from jamboree_gym.store.redis.link import RedisLink
from jamboree_gym.store.redis.listings import Listings
from jamboree_gym.store.redis.opening.client import client_from_url
from jamboree_gym.store.redis.opening.cluster import is_of_cluster, nodes_from_url
from jamboree_gym.store.redis.opening.server_check import check_server
from jamboree_gym.store.redis.plain_keys import Blobs, Leases
from jamboree_gym.store.redis.reader import LogReader

__all__ = ["RedisStore"]

_T = TypeVar("_T")


class RedisStore(LogAppender, LogStore):
    """The logs of one namespace on one server, and what belongs to them.

    Attributes:
        buckets: Under which keys Redis has the logs.
        reader: Reads logs undecoded, or many at a time, as Redis itself holds them.
        listings: Summaries of episodes by run.
        blobs: Immutable content by digest.
        leases: Which writers are alive.
        deletions: Deleted logs that the backup has to forget.
        acknowledgements: What the backup holds, as far as Redis knows.
        backup_state: Who copies to the backup, and how far that has come.
        restorer: Puts logs back.
        feed: Tells which episodes grow.
        eviction: What takes up the server's memory, and what may be evicted.
    """

    listings: Listings
    blobs: Blobs

    def __init__(self, link: RedisLink, keyspace: Keyspace) -> None:
        self.blobs = Blobs(link, keyspace)
        self.buckets = Buckets(link, keyspace)
        super().__init__(link, self.buckets, self.blobs, can_ask=False)
        self.keyspace = keyspace
        self.link = link
        self.reader = LogReader(link, self.buckets)
        self.listings = Listings(link, self.buckets)
        self.leases = Leases(link, keyspace)
        self.deletions = Deletions(link, self.buckets)
        self.acknowledgements = Acknowledgements(link, self.buckets)
        self.backup_state = BackupState(link, self.buckets)
        self.restorer = Restorer(link, self.buckets)
        self.feed = Feed(link, self.buckets)
        self.eviction = Eviction(link, self.buckets)

    @classmethod
    def from_url(
        cls, url: str, keyspace: Keyspace, *, revive: Callable[[], None] | None = None
    ) -> RedisStore:
        """Open a separate store by URL: of one server, by Sentinels, or of a cluster.

        `revive` is called once after a lost connection, before the one retry: embedded servers come
        back this way.

        Raises:
            InvalidUrl: Another scheme, or a malformed address.
        """
        if is_of_cluster(url):
            return cls(ClusterLink(nodes_from_url(url)), keyspace)
        return cls(RedisLink(client_from_url(url), revive=revive), keyspace)

    # -- the server -------------------------------------------------------------------------

    @property
    def client(self) -> redis.Redis:
        """The redis-py client of the link."""
        return self.link.client

    @property
    def where(self) -> str:
        """What `RedisLink.where` says; never a user or a password."""
        return self.link.where

    def address(self) -> str:
        """Where the server is that answers now, or the primaries of a cluster."""
        return self.link.address()

    def check(self, *, fsync: bool = False) -> None:
        """Make sure that a server answers that can do what is asked: see `check_server`."""
        check_server(self.link, fsync=fsync)

    def run(self, action: Callable[[], _T]) -> _T:
        """Do something with `client`; repeated once after a lost connection, errors translated."""
        return self.link.run(action)

    def time(self) -> float:
        """The server's clock, epoch seconds; of a cluster that of one server."""
        seconds, microseconds = self.link.run(lambda: cast(Any, self.link.servers()[0].time()))
        return float(seconds + microseconds / 1e6)

    def close(self) -> None:
        """Close the client's connections. Twice is quiet."""
        self.link.close()

    def after_fork_in_child(self) -> None:
        """Leave the connections to the parent process."""
        self.link.after_fork_in_child()

    # -- writing ----------------------------------------------------------------------------

    def ask_for(self, appends: Sequence[Append]) -> Asked:
        """Nothing comes back: there is no backup behind it."""
        del appends
        return Asked("", set())

    def pop(
        self, key: str, n: int, *, first: int | None = None
    ) -> tuple[int, int, list[Batch]] | None:
        """Take the n oldest records off a log: see `LogStore.pop`."""
        bucket = self.buckets.of(key)
        keys = (self.keyspace.in_bucket(key, bucket), bucket.unbacked)
        known = "" if first is None else first
        answer = self.link.script(scripts.POP, keys, (n, known), again=False)
        if answer is None:
            return None
        start, stop, batches = answer
        return start, stop, [decode_batch(batch, where=key) for batch in batches]

    def delete(
        self, key: str, *, entry: IndexEntry | None = None, born: float | None = None
    ) -> float | None:
        """Delete a log and its listing: see `Deletions.delete`."""
        return self.deletions.delete(key, entry=entry, born=born)

    # -- reading ----------------------------------------------------------------------------

    def select(self, key: str, *how: Any) -> LogSlice | None:
        """A part of one log, as Redis itself holds it: see `LogStore.select`."""
        return self.reader.read(key, *how)

    def read_many(
        self, keys: Sequence[str], reads: Sequence[tuple[Any, ...]]
    ) -> list[LogSlice | None]:
        """Slices of several logs in one round trip: see `LogStore.read_many`."""
        return self.reader.read_many(keys, reads)

    def whole(self, keys: Sequence[str]) -> list[list[bytes]]:
        """All that several logs hold, undecoded: see `LogReader.whole`."""
        return self.reader.whole(keys)

    def head(self, key: str) -> Head | None:
        """The head of a log, None when there is no such log."""
        return self.reader.head(key)

    def memory(self, key: str) -> int:
        """Bytes that a log takes up in the server, roughly; 0 when there is no such log."""
        return self.reader.memory(key)

    def log_keys(self) -> Iterator[str]:
        """Keys of all logs of the namespace, in no order."""
        for pattern in self.keyspace.log_patterns():
            yield from sorted(map(self.keyspace.out_of_bucket, self.link.keys(pattern)))
