"""How many connections a process has does not depend on how many episodes it records or follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import psutil
import pytest
import redis
from conftest import Server
from recorded_envs import CountingEnv

from jamboree_gym import Jamboree

EPISODES = 32


@pytest.fixture(params=["one", "cluster"])
def store(request: pytest.FixtureRequest) -> tuple[str, int, Callable[[], int]]:
    """The URL, how many servers that are, and how many connections this process has to them."""
    if request.param == "one":
        server: Server = request.getfixturevalue("own_valkey")
        admin = redis.Redis.from_url(server.url)
        return server.url, 1, lambda: len(admin.client_list()) - 1
    cluster: Any = request.getfixturevalue("cluster")
    ports = {int(address.partition(":")[2]) for address in cluster.servers}
    return cluster.url(), len(cluster.first), lambda: to_ports(ports)


def to_ports(ports: set[int]) -> int:
    found = psutil.Process().net_connections("tcp")
    return sum(bool(one.raddr) and one.raddr.port in ports for one in found)


def record_all(jam: Jamboree, run: str) -> Iterator[Any]:
    for k in range(EPISODES):
        env = jam.record(CountingEnv(100), run=run)
        env.reset(seed=k)
        env.step(env.action_space.sample())
        yield env
    jam.flush()


def test_many_episodes_need_no_more_connections_than_one(
    store: tuple[str, int, Callable[[], int]], namespace: str
) -> None:
    url, servers, connections = store
    before = connections()
    with Jamboree(url, namespace=namespace, backup=False) as jam:
        envs = list(record_all(jam, "many"))
        of_recorder = connections() - before
        assert of_recorder <= 2 * servers  # the thread that records, and the one that delivers
        tails = [jam.tail(run="many", since=0, timeout_s=5) for _ in range(2)]
        for tail in tails:
            assert len({episode.id for episode, _ in islice(tail, EPISODES)}) == EPISODES
        of_both = connections() - before
        assert of_both <= (2 + len(tails)) * servers
        for env in envs:
            env.close()
    assert connections() == before
