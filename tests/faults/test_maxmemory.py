"""Redis has no memory left: what is backed up makes room, and if nothing may go, saving waits."""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import gymnasium as gym
import pytest
from backed_up import follower_of
from conftest import Server, StartFollower, StartRedis
from hasty_follower import hasty_follower
from processes import NoteHandler, wait_until
from recorded_envs import ACTION, CountingEnv, play
from redis.exceptions import OutOfMemoryError
from stored import at

from jamboree_gym import Jamboree
from jamboree_gym.delivery import lease
from jamboree_gym.delivery.outbox import MAX_APPEND_BYTES
from jamboree_gym.errors import StoreFull, UnsavedRecords
from jamboree_gym.store.backups.reader import checked_chain, stored_logs
from jamboree_gym.store.listing_recovery import cover
from jamboree_gym.store.mongo import client as mongo_client

pytestmark = [pytest.mark.faults, pytest.mark.once]

STEPS = int(os.environ.get("JAMBOREE_MAXMEMORY_STEPS", "25000"))
MAXMEMORY_MB = 64 if STEPS >= 10**6 else 3
KILLS = int(os.environ.get("JAMBOREE_KILLED_BACKUPS", "2"))
ROOM_BYTES = 2 * 2**20

OpenJamboree = Callable[..., Jamboree]


def limit_memory(jam: Jamboree, room_bytes: int = ROOM_BYTES) -> int:
    """Give the server so much more than it uses now, or less; what it has then.

    Of each command that is called for the first time, it would keep 25 kB on how long it takes. And
    what was deleted counts until a thread of the server has freed it.
    """
    jam.redis.config_set("latency-tracking", "no")
    wait_until(lambda: jam.redis.info("memory")["lazyfree_pending_objects"] == 0)
    limit = jam._connection.redis_store.eviction.memory().used_bytes + room_bytes
    jam.redis.config_set("maxmemory", limit)
    return limit


def is_complete(jam: Jamboree) -> bool:
    return jam.backup.status().pending_logs == 0


def rows_in_mongodb(jam: Jamboree, keys: Sequence[str] | None = None) -> int:
    """Rows of logs there, each log whole and each batch undamaged."""
    rows = 0
    for key, found in stored_logs(
        jam._connection.backup_store, sorted(keys or jam._connection.backup_store.keys())
    ):
        assert isinstance(found, tuple), found
        rows += sum(batch.count for batch in checked_chain(found[1], found[0], where=key))
    return rows


def batched(keys: Iterable[str], size: int, *, every: int = 1) -> Iterator[list[str]]:
    """Every so many-th of them, some at a time."""
    chosen = list(keys)[::every]
    return (chosen[at : at + size] for at in range(0, len(chosen), size))


class Recording:
    """A thread that records steps until it is told to stop; it blocks where saving blocks."""

    def __init__(self, jam: Jamboree, length: int = 22) -> None:
        self._env, self._length = jam.record(CountingEnv(length)), length
        self._stop = threading.Event()
        self.rows = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            play(self._env, [ACTION] * self._length)
            self.rows += self._length + 1

    def rows_when_stuck(self) -> int:
        """Rows as of when half a second has brought no more."""
        seen = -1
        while seen != self.rows:
            seen = self.rows
            self._stop.wait(0.5)
        return seen

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.mark.timeout(120 + STEPS // 1000)
def test_a_training_goes_on_for_as_long_as_mongodb_takes_the_rest(
    start_own_redis: StartRedis,
    mongo: Server,
    open_jamboree: OpenJamboree,
    start_follower: StartFollower,
) -> None:
    """`make faults`: 64 MB, and 10 million steps."""
    server = start_own_redis("valkey9", "--maxmemory", f"{MAXMEMORY_MB}mb")
    jam = open_jamboree(server.url, mongo_url=mongo.url)
    start_follower(jam)
    env = jam.record(gym.make("CartPole-v1"), run="long")
    env.action_space.seed(0)
    rows_of: dict[str, int] = {}
    is_over = True
    for _ in range(STEPS):
        if is_over:
            env.reset()
            key = jam._connection.keyspace.episode(env.episode_id)
            rows_of[key] = 1
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        is_over = terminated or truncated
        rows_of[key] += 1
    env.close()
    jam.flush(timeout_s=300)
    wait_until(lambda: is_complete(jam), timeout_s=300)

    counts = {
        key: there.records
        for keys in batched(rows_of, 1000)
        for key, there in jam._connection.backup_store.counts(keys).items()
    }
    assert counts == rows_of
    for keys in batched(rows_of, 200, every=max(1, len(rows_of) // 4000)):
        assert rows_in_mongodb(jam, keys) == sum(rows_of[key] for key in keys)
    assert jam.backup.status().trimmed_bytes > MAXMEMORY_MB * 2**20 / 4
    assert jam._connection.redis_store.eviction.memory().used_bytes < MAXMEMORY_MB * 2**20


def test_what_is_more_than_there_can_ever_be_room_for_is_sent_in_parts(
    own_valkey: Server, mongo: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url, flush_interval_s=3600)
    env = jam.record(CountingEnv(200))
    play(env, [ACTION] * 200)
    jam.flush()
    limit_memory(jam, 2**20)

    for _ in range(300):
        play(env, [ACTION] * 200)
    with hasty_follower(jam):
        jam.flush(timeout_s=20)

    assert len(list(jam.episodes())) == 301
    jam.redis.config_set("maxmemory", 0)
    for _ in range(9):
        play(env, [ACTION])
        jam.flush()
    assert jam._connection.writer._round_trip_bytes == MAX_APPEND_BYTES


@pytest.mark.long  # the tests above make room; test_admission.py and test_writer.py wait for it
@pytest.mark.parametrize("length", [22, 200])
def test_without_mongodb_saving_waits_says_what_to_do_and_goes_on_when_it_is_back(
    own_valkey: Server,
    own_mongo: Server,
    open_jamboree: OpenJamboree,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    length: int,
) -> None:
    caplog.set_level(logging.INFO, "jamboree_gym")
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(lease, "RENEW_S", 0.2)
    jam = open_jamboree(own_valkey.url, mongo_url=own_mongo.url, max_pending_bytes=2**19)
    reader = open_jamboree(own_valkey.url, mongo_url=own_mongo.url)
    with hasty_follower(jam):
        play(jam.record(CountingEnv(3)), [ACTION] * 3)
        wait_until(lambda: jam.backup.status().follower and is_complete(jam))
        own_mongo.kill()
        limit_memory(jam)
        recording = Recording(jam, length)
        wait_until(lambda: "blocks until it has room" in caplog.text, timeout_s=60)
        recording.rows_when_stuck()
        reader.redis.delete(jam._connection.keyspace.lease(jam._connection.writer_name))
        wait_until(
            lambda: reader._connection.store.leases.living([jam._connection.writer_name])
        )  # renewed, although it is full
        wait_until(lambda: reader.backup.status().last_error)
        assert "MongoDB" in str(reader.backup.status().last_error)
        before = recording.rows_when_stuck()
        own_mongo.start()
        wait_until(lambda: recording.rows > before + 2000, timeout_s=60)
        recording.stop()
        jam.flush(timeout_s=60)
        wait_until(lambda: is_complete(jam), timeout_s=60)

    assert rows_in_mongodb(jam) == recording.rows + 4
    assert jam.backup.verify()
    for said in ("takes no more writes", "blocks until it has room"):
        assert caplog.text.count(said) <= 2  # the second quotes the first
    assert "python -m jamboree_gym.backup --follow" in caplog.text


@pytest.mark.long  # killed: test_backup_follow.py; making room: the first test here
@pytest.mark.timeout(60 + 10 * KILLS)
def test_a_backup_that_is_killed_while_it_makes_room_loses_nothing(
    own_valkey: Server,
    mongo: Server,
    open_jamboree: OpenJamboree,
    start_follower: StartFollower,
) -> None:
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url, max_pending_bytes=2**19)
    limit_memory(jam)
    endless = jam.record(CountingEnv(length=10**9))
    endless.reset()
    recording, steps = Recording(jam), 0
    for _ in range(KILLS):
        trimmed = jam._connection.redis_store.backup_state.trimmed_bytes()
        follower = start_follower(jam)
        while jam._connection.redis_store.backup_state.trimmed_bytes() == trimmed:
            endless.step(ACTION)
            steps += 1
        threading.Event().wait(random.uniform(0, 0.1))
        follower.kill()
        follower.wait()
    start_follower(jam)
    recording.stop()
    jam.flush(timeout_s=60)
    wait_until(lambda: is_complete(jam), timeout_s=60)
    assert rows_in_mongodb(jam) == recording.rows + steps + 1


def evicted(jam: Jamboree, count: int) -> list[str]:
    """Episodes of which Redis has the summaries only."""
    env, ids = jam.record(CountingEnv(length=3), run="evicted"), []
    for _ in range(count):
        play(env, [ACTION] * 3)
        ids.append(env.episode_id)
    jam.flush()
    jam.backup.flush()
    keyspace = jam._connection.keyspace
    jam.redis.delete(*[at(jam, keyspace.episode(id)) for id in ids])
    return ids


def test_listings_are_restored_as_far_as_there_is_room(
    own_valkey: Server, mongo: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url)
    store, ids = jam._connection.redis_store, evicted(jam, 600)
    for bucket in store.buckets.all:
        jam.redis.delete(bucket.coverage, bucket.summaries("evicted"))
    limit_memory(jam, 30_000)
    assert cover(store, jam._connection.backup_store) == "part"
    assert len(store.listings.summaries("evicted")) < len(ids)
    assert sorted(jam.episodes().ids()) == ids


def test_summaries_make_room_also_if_a_backup_was_killed_while_it_listed_them(
    own_valkey: Server, mongo: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url)
    store, ids = jam._connection.redis_store, evicted(jam, 300)
    follower = follower_of(jam)
    follower.copy_once()
    store.listings.put_coverage("of a killed process")
    limit_memory(jam, -10_000)
    with pytest.raises(OutOfMemoryError):
        jam.redis.set("key", "value")

    def has_room() -> bool:
        follower.copy_once()
        return jam.redis.info("memory")["used_memory"] < jam.redis.info("memory")["maxmemory"]

    wait_until(has_room)
    wait_until(lambda: follower.copy_once() and store.listings.coverage() == "part")
    assert sorted(jam.episodes().ids()) == ids


@pytest.mark.parametrize("kind", ["valkey9", "redis8", "redis7"])
def test_a_save_says_what_to_do_on_every_kind_of_server(
    start_own_redis: StartRedis, open_jamboree: OpenJamboree, kind: str
) -> None:
    jam = open_jamboree(start_own_redis(kind).url, write="sync")
    notes = NoteHandler(jam, "n")
    notes.save({"n": 0})
    jam.redis.config_set("maxmemory", 1)
    with pytest.raises(StoreFull, match=r"no more writes: .*`jamboree-gym backup status`"):
        notes.save({"n": 1})
    with pytest.raises(StoreFull, match="raise maxmemory"):
        play(jam.record(CountingEnv(3)), [ACTION] * 3)
    jam.redis.config_set("maxmemory", 0)
    wait_until(lambda: jam._connection.writer.unsaved == 0)
    assert notes.count() == 2


def test_the_backup_works_on_a_full_server_that_may_let_go_of_nothing(
    own_valkey: Server, mongo: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url, flush_interval_s=600)
    jam.backup.retain(keep=[{"min_steps": 0}])
    play(jam.record(CountingEnv(3)), [ACTION] * 3)
    jam.flush()
    jam.redis.config_set("maxmemory", 1)
    follower = follower_of(jam)
    for _ in range(2):
        follower.copy_once()
    status = jam.backup.status()
    assert (status.pending_logs, status.last_error, status.trimmed_bytes) == (0, None, 0)
    assert status.follower
    jam.backup.retain()  # less is kept, told to the full server
    follower._trimmer._check_at = 0.0  # type: ignore[union-attr]
    wait_until(
        lambda: follower.copy_once() and jam._connection.redis_store.backup_state.trimmed_bytes()
    )
    assert list(jam._connection.redis_store.log_keys()) == []
    jam.redis.config_set("maxmemory", 0)


def test_a_log_that_a_full_server_has_lost_is_not_begun_again(
    own_valkey: Server, mongo: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url)
    notes = NoteHandler(jam, "n")
    for number in range(3):
        notes.save({"n": number})
    jam.backup.flush()
    jam.redis.flushall()
    jam.redis.config_set("maxmemory", 1)
    notes.save({"n": 3})
    with pytest.raises(UnsavedRecords, match="could not be put back"):
        jam.flush(timeout_s=0.5)
    jam.redis.config_set("maxmemory", 0)
    jam.flush()
    assert [note["n"] for note in notes.many(10)] == [0, 1, 2, 3]


def test_a_server_of_two_namespaces_is_made_room_in_by_both(
    own_valkey: Server, mongo: Server, open_jamboree: OpenJamboree, namespace: str
) -> None:
    both = [
        open_jamboree(
            own_valkey.url,
            mongo_url=mongo.url,
            namespace=f"{namespace}{number}",
            flush_interval_s=600,
        )
        for number in range(2)
    ]
    for jam in both:
        play(jam.record(CountingEnv(3)), [ACTION] * 3)
        jam.backup.flush()
    limit_memory(both[0], -1)
    for jam in both:
        assert jam.backup.trim().freed_bytes > 0
        assert list(jam._connection.redis_store.log_keys()) == []
