"""What Redis remembers of those who wait for a change."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import closing

import pytest
from conftest import Server

from jamboree_gym.keys import Keyspace
from jamboree_gym.store.redis.doorbell import Doorbell
from jamboree_gym.store.redis.store import RedisStore

KEYS = [f"key-{n}" for n in range(10)]


@pytest.fixture
def store(own_valkey: Server, namespace: str) -> Iterator[RedisStore]:
    with closing(RedisStore.from_url(own_valkey.url, Keyspace(namespace))) as opened:
        yield opened


@pytest.fixture
def bell(store: RedisStore) -> Iterator[Doorbell]:
    with closing(Doorbell(store.link, lambda: KEYS)) as opened:
        yield opened


def rings(bell: Doorbell, timeout_s: float = 60.0) -> bool:
    return bell.has_rung or bool(select.select(bell.sockets, [], [], timeout_s)[0])


def test_it_rings_once_more_each_time_it_is_armed_and_not_for_what_came_before(
    store: RedisStore, bell: Doorbell
) -> None:
    for n in range(5):
        store.client.set(KEYS[n], "before")
        bell.arm()
        assert not rings(bell, 0)
        store.client.set(KEYS[n], "after")
        store.client.set(KEYS[-1], "after")
        assert rings(bell)


def test_redis_does_not_remember_more_each_time(store: RedisStore, bell: Doorbell) -> None:
    """What it remembers of a closed connection stays until the key changes."""
    for _ in range(20):
        bell.arm()
    assert store.client.info("stats")["tracking_total_items"] == len(KEYS)


def test_it_rings_after_its_connection_was_lost(store: RedisStore, bell: Doorbell) -> None:
    bell.arm()
    store.client.client_kill_filter(_type="normal", skipme=True)
    assert rings(bell)  # who waits has to look
    bell.arm()
    assert not rings(bell, 0)
    store.client.set(KEYS[0], "changed")
    assert rings(bell)


@pytest.mark.parametrize("groups", [[KEYS], [KEYS[:5], KEYS[5:]]], ids=["one", "two"])
def test_a_change_that_comes_with_the_answers_is_not_missed(
    store: RedisStore, bell: Doorbell, monkeypatch: pytest.MonkeyPatch, groups: list[list[str]]
) -> None:
    """A server of a cluster is told the keys of each slot by a command of their own."""
    pool = store.client.connection_pool
    monkeypatch.setattr(store.link, "watched_by_server", lambda _: [(pool, groups)])
    bell.arm()
    (connection,) = bell._connections.values()
    read = connection.read_response

    def read_late(**options: bool) -> object:
        """As if the processor did something else first."""
        store.client.set(KEYS[0], "changed")
        select.select([], [], [], 0.05)
        return read(**options)

    with monkeypatch.context() as slow:
        slow.setattr(connection, "read_response", read_late)
        bell.arm()
    assert rings(bell, 0)
    bell.arm()
    assert not rings(bell, 0)
    store.client.set(KEYS[0], "changed again")
    assert rings(bell)
