"""The stores of the package do on the simulated servers what they do on real ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import mongo_model
import pytest
import redis_model
from redis_model import RedisModel

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))

from contract import Backend, StoreContract, append, batch
from test_contract import empty, evict

from jamboree_gym.backup.follow import Follower
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.mongo.store import MongoStore
from jamboree_gym.store.read_through import ReadThroughStore
from jamboree_gym.store.redis.link import RedisLink
from jamboree_gym.store.redis.store import RedisStore

pytestmark = pytest.mark.once
EXAMPLES = 20


def simulated_redis() -> RedisStore:
    client = redis_model.client_of(RedisModel(redis_model.now))
    return RedisStore(RedisLink(client), Keyspace("contract"))


class TestSimulatedRedis(StoreContract):
    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        store = simulated_redis()
        yield Backend(store, lose=lambda: empty(store), examples=EXAMPLES)
        store.close()


class TestSimulatedReadThrough(StoreContract):
    @pytest.fixture(params=[evict, empty])
    def backend(self, request: pytest.FixtureRequest) -> Iterator[Backend]:
        redis = simulated_redis()
        client = mongo_model.client_of(mongo_model.MongoModel())
        backup = MongoStore(client, "contract", where="simulated")
        follower = Follower(redis, lambda: backup, to="mongodb://simulated", is_new=True)

        def copy_and_forget() -> None:
            follower.copy_once()
            assert follower.trouble is None
            request.param(redis)

        yield Backend(
            ReadThroughStore(redis, lambda: backup),
            lose=lambda: empty(redis),
            disturb=copy_and_forget,
            examples=EXAMPLES,
        )
        redis.close()


@pytest.mark.parametrize("age_s", [-3600.0, 0.0, 3600.0])
def test_popped_batches_are_forgotten_ten_minutes_after_they_were_popped(age_s: float) -> None:
    now = 1.8e9
    client = redis_model.client_of(RedisModel(lambda: now))
    store = RedisStore(RedisLink(client), Keyspace("contract"))
    for n in range(6):
        append(store, "k", batch(n, [now - age_s + n]))
    left = []
    for wait_s in (0.0, 30.0, 560.0, 80.0, 1000.0):
        now += wait_s
        store.pop("k", 1)
        left.append(client.llen(store.keyspace.in_bucket("k", store.buckets.of("k"))) - 1)
    assert left == [6, 6, 6, 4, 2]
    assert [len(one.note) // 16 for one in [store.head("k")] if one is not None] == [1]
    store.close()
