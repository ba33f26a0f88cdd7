"""Under which keys Redis has what tests look at: logs and the rest lie in buckets."""

from __future__ import annotations

from typing import TypeVar

from jamboree_gym import Jamboree

__all__ = ["at", "batches_of_all", "beside", "in_buckets", "listed", "listing_of"]

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
