"""The primary of a service is killed or replaced while something is recorded.

Valkey copies to replicas after it has answered. So a failover may lose what it has acknowledged a
moment before: of an episode that is still recorded, the recorder sends that again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from processes import wait_until
from recorded_envs import ACTION, CountingEnv
from sentinel_servers import Watched

from jamboree_gym import Jamboree
from jamboree_gym.arrays.values import encode_mapping
from jamboree_gym.encoding.batch_format import CODEC_RECORDS, encode_batch, encode_records
from jamboree_gym.errors import EpisodeNotFound, StoreUnavailable, UnsavedRecords
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.log import Append, AppendResult
from jamboree_gym.store.redis.store import RedisStore

pytestmark = [pytest.mark.faults, pytest.mark.once]

OpenJamboree = Callable[..., Jamboree]
StartService = Callable[..., Watched]

FAILOVERS = 4
STEPS = 20
LOSS_WINDOW_S = 3.0  # a delivery may take a second, and a copy to the replicas as long


@pytest.fixture
def start_service(short_directory: Path) -> Iterator[StartService]:
    with ExitStack() as stack:

        def start(**options: int) -> Watched:
            service = Watched(short_directory / f"service-{uuid4().hex[:8]}", **options)
            stack.callback(service.stop)
            return service

        yield start


def append_of_a_record(space: Keyspace, at: int) -> Append:
    time_s = 1.0 + at
    body = encode_records([time_s], [encode_mapping({"n": at})])
    batch = encode_batch(
        codec=CODEC_RECORDS,
        start=at,
        count=1,
        writer=b"writer-a",
        t_first=time_s,
        t_last=time_s,
        body=body,
    )
    return Append(space.records("note", {}), CODEC_RECORDS, [batch], at + 1)


def is_flushed(jam: Jamboree) -> bool:
    try:
        jam.flush(timeout_s=1.0)
    except UnsavedRecords:
        return False
    return True


def test_a_recording_goes_on_when_its_primary_is_killed(
    start_service: StartService, open_jamboree: OpenJamboree
) -> None:
    service = start_service(down_after_ms=500)
    jam = open_jamboree(service.url())
    env = jam.record(CountingEnv(length=3 * STEPS))
    env.reset()
    for _ in range(STEPS):
        env.step(ACTION)
    wait_until(lambda: is_flushed(jam))
    service.wait_for_replicas()
    killed = service.primary()
    service.servers[killed].kill()
    for _ in range(STEPS):
        env.step(ACTION)  # nobody takes them now
    wait_until(lambda: is_flushed(jam))
    assert service.primary() != killed
    for _ in range(STEPS):
        env.step(ACTION)
    wait_until(lambda: is_flushed(jam))

    found = open_jamboree(service.url()).episode(env.episode_id)
    assert found.data().observations[:, 0].tolist() == [*range(3 * STEPS + 1)]
    assert (found.status, found.summary.steps) == ("terminated", 3 * STEPS)
    assert jam._connection.redis_store.address() == service.primary()


def test_a_primary_that_became_a_replica_without_closing_connections_is_left(
    start_service: StartService, open_jamboree: OpenJamboree
) -> None:
    service = start_service()
    jam = open_jamboree(service.url())
    env = jam.record(CountingEnv(length=2))
    env.reset()
    env.step(ACTION)
    wait_until(lambda: is_flushed(jam))
    store = RedisStore.from_url(service.url(), jam._connection.keyspace)
    store.append([append_of_a_record(store.keyspace, at=0)])
    service.wait_for_replicas()
    old = service.primary()
    (new,) = (one for one in service.servers if one != old)
    with service.admin(new) as promoted, service.admin(old) as demoted:
        promoted.replicaof("NO", "ONE")
        demoted.replicaof(*new.split(":"))
    service.watch(new)
    with pytest.raises(StoreUnavailable, match="is a replica"):
        store.append([append_of_a_record(store.keyspace, at=1)])
    (appended,) = store.append([append_of_a_record(store.keyspace, at=1)])
    assert isinstance(appended, AppendResult)
    assert appended.count == 2
    store.close()
    env.step(ACTION)
    wait_until(lambda: is_flushed(jam))

    assert jam._connection.redis_store.address() == new
    with service.admin(new) as promoted:
        assert promoted.info("replication")["role"] == "master"
    assert jam.episode(env.episode_id).data().observations[:, 0].tolist() == [0, 1, 2]


def record_until(is_over: Callable[[], bool], jam: Jamboree) -> dict[str, float]:
    """Record episodes one after the other; when each has ended, by its id."""
    ended = {}
    env = jam.record(CountingEnv(length=STEPS))
    while not is_over():
        env.reset()
        for _ in range(STEPS):
            env.step(ACTION)
        ended[env.episode_id] = time.monotonic()
        time.sleep(0.01)  # a few thousand episodes are enough
    return ended


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("is_killed", [False], ids=["told"])  # killed: see docs/past-one-machine.md
def test_failover_after_failover_loses_nothing_but_what_replicas_lacked(
    start_service: StartService, open_jamboree: OpenJamboree, is_killed: bool
) -> None:
    service = start_service(replicas=2, sentinels=3, down_after_ms=1000)
    jam = open_jamboree(service.url())
    failovers: list[tuple[float, float]] = []
    errors: list[BaseException] = []

    def fail_over() -> None:
        try:
            for _ in range(FAILOVERS):
                wait_until(service.replicas_are_up)
                service.wait_for_replicas()
                old = service.primary()
                began = time.monotonic()
                if is_killed:
                    service.servers[old].kill()
                else:
                    service.tell_to_fail_over()
                wait_until(lambda old=old: service.primary() != old)
                if is_killed:
                    service.servers[old].start()
                # While it lives it takes writes, until it is told that it is a replica: they are
                # lost. A Sentinel that has not heard of the failover still names it.
                wait_until(lambda old=old: service.is_replica(old))
                failovers.append((began, time.monotonic()))
            wait_until(service.replicas_are_up)
        except (RuntimeError, TimeoutError, redis.RedisError) as error:
            errors.append(error)

    thread = threading.Thread(target=fail_over)
    thread.start()
    ended = record_until(lambda: not thread.is_alive(), jam)
    thread.join()
    assert not errors, errors
    wait_until(lambda: is_flushed(jam))

    reader = open_jamboree(service.url())
    lost = []
    for id, ended_at in ended.items():
        try:
            found = reader.episode(id).data().observations[:, 0].tolist()
        except EpisodeNotFound:
            found = []
        if found != [*range(STEPS + 1)]:
            lost.append(ended_at)
    assert len(failovers) == FAILOVERS
    for ended_at in lost:
        assert any(-LOSS_WINDOW_S < ended_at - began < over - began for began, over in failovers)
    assert len(reader.episodes()) <= len(ended)
