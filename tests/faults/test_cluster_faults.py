"""Primaries of a cluster are killed, and slots moved, while something is recorded and followed.

Servers answer before they copy to replicas. So a failover may lose what was acknowledged a moment
before. A slot that moves loses nothing.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from cluster_servers import Cluster
from conftest import redis7_program, valkey_program
from processes import NoteHandler, wait_until
from recorded_envs import ACTION, CountingEnv
from redis.crc import key_slot
from stored import at

from jamboree_gym import Jamboree
from jamboree_gym.errors import EpisodeNotFound, StoreUnavailable, UnsavedRecords

pytestmark = [pytest.mark.faults, pytest.mark.once, pytest.mark.long, pytest.mark.timeout(600)]

OpenJamboree = Callable[..., Jamboree]
KILLS = 4
MOVES = 10
AWAY_S = 8.0
STEPS = 20
LOSS_WINDOW_S = 3.0  # a delivery may take a second, and a copy to the replicas as long
PROGRAMS = [
    pytest.param(valkey_program, id="valkey9"),
    pytest.param(redis7_program, id="redis7", marks=pytest.mark.redis7),
]


@pytest.fixture
def own_cluster(short_directory: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    started = Cluster(
        short_directory / f"cluster-{uuid4().hex[:8]}",
        node_timeout_ms=2000,
        program=request.param(),
    )
    yield started
    started.stop()


def is_flushed(jam: Jamboree) -> bool:
    try:
        jam.flush(timeout_s=1.0)
    except UnsavedRecords:
        return False
    return True


class Load:
    """Episodes and records that are saved one after the other, and a follower of all episodes.

    Attributes:
        ended: When each episode has ended, by its id.
        saved: When each record was saved.
        followed: The steps that the follower has seen of each episode, in order.
    """

    def __init__(self, open_jamboree: OpenJamboree, cluster: Cluster) -> None:
        self.jam = open_jamboree(cluster.url())
        self.reader = open_jamboree(cluster.url())
        self.ended: dict[str, float] = {}
        self.saved: list[float] = []
        self.followed: dict[str, list[int]] = defaultdict(list)
        self._is_over = False
        self._follower = threading.Thread(target=self._follow)
        self._follower.start()
        wait_until(lambda: any(self.reader._connection.redis_store.feed._renew_at))

    def _follow(self) -> None:
        for episode, step in self.reader.tail(since=0, timeout_s=20):
            self.followed[episode.id].append(step.index)

    def record_while(self, action: Callable[[], None]) -> None:
        """Record until an action on another thread is done."""
        errors: list[BaseException] = []

        def act() -> None:
            try:
                action()
            except (RuntimeError, TimeoutError, LookupError, redis.RedisError) as error:
                errors.append(error)

        thread = threading.Thread(target=act)
        thread.start()
        env, notes = self.jam.record(CountingEnv(length=STEPS)), NoteHandler(self.jam, "n")
        while thread.is_alive():
            env.reset()
            for _ in range(STEPS):
                env.step(ACTION)
            self.ended[env.episode_id] = time.monotonic()
            notes.save({"n": len(self.saved)})
            self.saved.append(time.monotonic())
            time.sleep(0.01)  # a few thousand episodes are enough
        thread.join()
        env.close()
        assert not errors, errors
        wait_until(lambda: is_flushed(self.jam))
        self._follower.join()

    def lost_episodes(self) -> list[float]:
        """When the episodes ended that are not there as they were."""
        lost = []
        for id, ended_at in self.ended.items():
            try:
                found = self.reader.episode(id).data().observations[:, 0].tolist()
            except EpisodeNotFound:
                found = []
            if found != [*range(STEPS + 1)]:
                lost.append(ended_at)
        return lost

    def lost_records(self) -> list[float]:
        """When the records were saved that are not there, once each and in order."""
        found = [one["n"] for one in NoteHandler(self.reader, "n").many(10**6)]
        assert found == sorted(set(found))
        return [at for n, at in enumerate(self.saved) if n not in set(found)]

    def check_followed(self) -> None:
        """Each episode was followed without a gap, and no step came twice."""
        for id, steps in self.followed.items():
            assert steps == [*range(len(steps))], id


def slots_of(jam: Jamboree) -> list[int]:
    """The slots of all buckets."""
    buckets = jam._connection.redis_store.buckets.all
    return [int(key_slot(bucket.feed.encode())) for bucket in buckets]


@pytest.mark.parametrize("own_cluster", PROGRAMS, indirect=True)
def test_primaries_that_are_killed_lose_nothing_but_what_their_replicas_lacked(
    own_cluster: Cluster, open_jamboree: OpenJamboree, soon_again: None
) -> None:
    load = Load(open_jamboree, own_cluster)
    failovers: list[tuple[float, float]] = []

    def kill() -> None:
        for turn in range(KILLS):
            own_cluster.wait_for_replicas()
            killed = own_cluster.primaries()[turn % 3]
            began = time.monotonic()
            own_cluster.servers[killed].kill()
            wait_until(lambda killed=killed: killed not in own_cluster.primaries())
            own_cluster.servers[killed].start()
            wait_until(own_cluster.is_well)
            failovers.append((began, time.monotonic()))

    load.record_while(kill)
    assert len(failovers) == KILLS
    for lost in (*load.lost_episodes(), *load.lost_records()):
        assert any(-LOSS_WINDOW_S < lost - began < over - began for began, over in failovers)
    assert len(load.reader.episodes()) <= len(load.ended)
    load.check_followed()


@pytest.mark.parametrize("own_cluster", PROGRAMS, indirect=True)
def test_slots_that_move_key_by_key_lose_nothing(
    own_cluster: Cluster, open_jamboree: OpenJamboree, soon_again: None
) -> None:
    load = Load(open_jamboree, own_cluster)
    slots = slots_of(load.jam)

    def move() -> None:
        for turn in range(MOVES):
            for slot in slots[turn % 4 :: 4]:
                source = own_cluster.owner_of(slot)
                others = [one for one in own_cluster.primaries() if one != source]
                own_cluster.move_slot(slot, others[turn % len(others)])

    load.record_while(move)
    assert load.lost_episodes() == []
    assert load.lost_records() == []
    assert len(load.reader.episodes()) == len(load.ended)
    load.check_followed()
    assert {id: len(steps) for id, steps in load.followed.items()} == dict.fromkeys(
        load.ended, STEPS
    )


@pytest.mark.parametrize("own_cluster", PROGRAMS[:1], indirect=True)
def test_slots_that_move_at_once_lose_nothing(
    own_cluster: Cluster, open_jamboree: OpenJamboree, soon_again: None
) -> None:
    load = Load(open_jamboree, own_cluster)
    slots = slots_of(load.jam)

    def move() -> None:
        for turn in range(MOVES):
            slot = slots[turn % len(slots)]
            source = own_cluster.owner_of(slot)
            to = next(one for one in own_cluster.primaries() if one != source)
            to_id = own_cluster.id_of(to)
            own_cluster.tell(source, "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", to_id)
            wait_until(lambda slot=slot, to=to: own_cluster.owner_of(slot) == to)

    load.record_while(move)
    assert load.lost_episodes() == []
    assert load.lost_records() == []
    load.check_followed()
    assert {id: len(steps) for id, steps in load.followed.items()} == dict.fromkeys(
        load.ended, STEPS
    )


@pytest.mark.parametrize("own_cluster", PROGRAMS[:1], indirect=True)
def test_a_primary_that_is_away_with_its_replica_is_waited_for(
    own_cluster: Cluster, open_jamboree: OpenJamboree, as_processes: None, soon_again: None
) -> None:
    jam, reader = open_jamboree(own_cluster.url()), open_jamboree(own_cluster.url())
    env = jam.record(CountingEnv(length=10**6))
    env.reset()
    wait_until(lambda: is_flushed(jam))
    log = at(jam, jam._connection.keyspace.episode(env.episode_id))
    owner = own_cluster.owner_of(int(key_slot(log.encode())))
    gone = [owner, own_cluster.replica_of(owner)]
    for address in gone:
        own_cluster.servers[address].kill()
    steps, until = 0, time.monotonic() + AWAY_S
    while time.monotonic() < until:
        env.step(ACTION)
        steps += 1
        time.sleep(0.001)
    with pytest.raises(StoreUnavailable):
        reader.episode(env.episode_id).data()
    for address in gone:
        own_cluster.servers[address].start()
    wait_until(lambda: is_flushed(jam))
    data = reader.episode(env.episode_id).data()
    assert data.observations[:, 0].tolist() == [*range(steps + 1)]
