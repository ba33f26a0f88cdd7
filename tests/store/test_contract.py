"""Every store of logs, each on real servers, does what `contract.py` says."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from cluster_servers import Cluster
from conftest import Server, redis7_program
from contract import Backend, StoreContract
from sentinel_servers import Watched

from jamboree_gym.backup.follow import Follower
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.folder.store import FolderStore
from jamboree_gym.store.mongo.store import MongoStore
from jamboree_gym.store.protocol import LogStore
from jamboree_gym.store.read_through import ReadThroughStore
from jamboree_gym.store.redis.eviction import Candidate
from jamboree_gym.store.redis.store import RedisStore


def empty(redis: RedisStore) -> None:
    """Delete all keys of the namespace, as if Redis had been emptied."""
    keys = list(redis.client.scan_iter(match=f"*{redis.keyspace.namespace}*", count=1000))
    redis.client.delete(*keys)


def evict(redis: RedisStore) -> None:
    """Evict all that MongoDB holds, as if memory were needed."""
    for heads in redis.eviction.heads():
        found = [
            Candidate(head.t_last, key, head.born, head.revision) for key, head in heads.items()
        ]
        counts = {key: head.count for key, head in heads.items()}
        redis.eviction.trim(found, counts, before=1e300)


class TestRedis(StoreContract):
    @pytest.fixture
    def backend(self, any_redis: Server, namespace: str) -> Iterator[Backend]:
        store = RedisStore.from_url(any_redis.url, Keyspace(namespace))
        yield Backend(store, lose=lambda: empty(store))
        store.close()


@pytest.fixture(scope="module")
def watched(short_directory: Path) -> Iterator[Watched]:
    service = Watched(short_directory / "contract")
    yield service
    service.stop()


@pytest.mark.long
class TestRedisBySentinels(StoreContract):
    @pytest.fixture
    def backend(self, watched: Watched, namespace: str) -> Iterator[Backend]:
        store = RedisStore.from_url(watched.url(), Keyspace(namespace))
        yield Backend(store, lose=lambda: empty(store))
        store.close()


class TestRedisCluster(StoreContract):
    @pytest.fixture
    def backend(self, cluster: Cluster, namespace: str) -> Iterator[Backend]:
        store = RedisStore.from_url(cluster.url(), Keyspace(namespace))
        yield Backend(store, lose=lambda: empty(store), examples=50)
        store.close()


@pytest.fixture(scope="module")
def cluster_of_redis7(short_directory: Path) -> Iterator[Cluster]:
    started = Cluster(short_directory / "cluster-of-redis7", program=redis7_program())
    yield started
    started.stop()


@pytest.mark.long
@pytest.mark.redis7
class TestRedisClusterOfRedis7(StoreContract):
    @pytest.fixture
    def backend(self, cluster_of_redis7: Cluster, namespace: str) -> Iterator[Backend]:
        store = RedisStore.from_url(cluster_of_redis7.url(), Keyspace(namespace))
        yield Backend(store, lose=lambda: empty(store), examples=100)
        store.close()


class TestReadThrough(StoreContract):
    @pytest.fixture(params=[evict, empty])
    def backend(
        self, request: pytest.FixtureRequest, valkey: Server, mongo: Server, namespace: str
    ) -> Iterator[Backend]:
        redis = RedisStore.from_url(valkey.url, Keyspace(namespace))
        backup = MongoStore.from_url(mongo.url, namespace)
        follower = Follower(redis, lambda: backup, to=mongo.url, is_new=True)

        def copy_and_forget() -> None:
            follower.copy_once()
            assert follower.trouble is None
            mark = redis.backup_state.mark()
            assert mark is not None
            assert mark.error == ""
            request.param(redis)

        yield Backend(
            ReadThroughStore(redis, lambda: backup),
            lose=lambda: empty(redis),
            disturb=copy_and_forget,
            examples=100,
        )
        redis.close()
        backup.close()


class TestReadThroughFolder(StoreContract):
    @pytest.fixture
    def backend(self, valkey: Server, namespace: str, tmp_path: Path) -> Iterator[Backend]:
        redis = RedisStore.from_url(valkey.url, Keyspace(namespace))
        url = (tmp_path / "backup").as_uri()
        backup = FolderStore.from_url(url, namespace)
        follower = Follower(redis, lambda: backup, to=url, is_new=True)

        def copy_and_forget() -> None:
            follower.copy_once()
            assert follower.trouble is None
            evict(redis)

        yield Backend(
            ReadThroughStore(redis, lambda: backup),
            lose=lambda: empty(redis),
            disturb=copy_and_forget,
            examples=50,
        )
        redis.close()
        backup.close()


@pytest.mark.once
@pytest.mark.parametrize("store", [RedisStore, ReadThroughStore])
def test_a_store_takes_the_arguments_of_the_protocol_with_the_same_defaults(
    store: type[LogStore],
) -> None:
    def arguments(method: Any) -> list[Any]:
        return [(of.name, of.kind, of.default) for of in signature(method).parameters.values()]

    names = [name for name, value in vars(LogStore).items() if inspect.isfunction(value)]
    methods = [name for name in names if not name.startswith("_")]
    assert "append" in methods
    for name in methods:
        assert arguments(getattr(store, name)) == arguments(getattr(LogStore, name)), name
