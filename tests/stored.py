"""What Redis has, as tests look at it: under which keys (logs and the rest lie in buckets), and its
counters. Of a cluster: on all primaries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

import redis

from jamboree_gym import Jamboree

__all__ = [
    "at",
    "batches_of_all",
    "beside",
    "bytes_sent",
    "calls_by_command",
    "in_buckets",
    "keys_like",
    "listed",
    "listing_of",
    "scripts_run",
    "servers",
]

_Key = TypeVar("_Key", str, bytes)


def at(jam: Jamboree, key: _Key) -> _Key:
    """The key of a log in Redis; any other key as it is."""
    if isinstance(key, bytes) or not any(kind in key for kind in (":episode:{", ":records:{")):
        return key
    return key if key.startswith("{") else jam._connection.redis_store.buckets.log(key)


def batches_of_all(jam: Jamboree) -> dict[str, list[bytes]]:
    """The batches of all logs, byte for byte."""
    keys = jam._connection.redis_store.log_keys()
    found = {key: jam.redis.lrange(at(jam, key), 1, -1) for key in keys}
    assert all(found.values()), found
    return found


def beside(jam: Jamboree, key: str, name: str) -> str:
    """A key of the bucket in which a log is: `unbacked`, for example."""
    return str(getattr(jam._connection.redis_store.buckets.of(key), name))


def in_buckets(jam: Jamboree, name: str) -> list[str]:
    """A key that each bucket has: `unbacked`, for example."""
    return [getattr(bucket, name) for bucket in jam._connection.redis_store.buckets.all]


def listing_of(jam: Jamboree, run: str, id: str) -> str:
    """The key of the listing with an episode."""
    key = jam._connection.keyspace.episode(id)
    return jam._connection.redis_store.buckets.of(key).summaries(run)


def listed(jam: Jamboree, run: str) -> dict[bytes, bytes]:
    """What is listed of a run."""
    found: dict[bytes, bytes] = {}
    for bucket in jam._connection.redis_store.buckets.all:
        found |= jam.redis.hgetall(bucket.summaries(run))
    return found


def keys_like(client: redis.Redis, pattern: str) -> list[bytes]:
    """All keys of a pattern, of a cluster too; its `keys` asks one server alone."""
    return list(client.scan_iter(pattern, count=1000))


def servers(jam: Jamboree) -> Sequence[redis.Redis]:
    """A client of each server that has a part: of one, or of all primaries."""
    return jam._connection.redis_store.link.servers()


def bytes_sent(jam: Jamboree) -> int:
    """By Redis so far, to all."""
    stats: list[Any] = [one.info("stats") for one in servers(jam)]
    return sum(one["total_net_output_bytes"] for one in stats)


def calls_by_command(jam: Jamboree) -> Counter[str]:
    """How often Redis has executed each command so far."""
    counted: Counter[str] = Counter()
    for server in servers(jam):
        stats: Any = server.info("commandstats")
        counted.update({name.removeprefix("cmdstat_"): stats[name]["calls"] for name in stats})
    return counted


def scripts_run(jam: Jamboree) -> int:
    """How many scripts Redis has run so far."""
    return calls_by_command(jam)["evalsha"]
