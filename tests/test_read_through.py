"""What Redis has let go of, or has lost, is read from MongoDB as if it were there."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from backed_up import follower_of
from conftest import Server, free_port, start_redis, valkey_program
from lengths import quick_and_long
from msgspec.structs import replace
from processes import NoteHandler, wait_until
from recorded_envs import ACTION, CountingEnv, play
from stored import at, in_buckets, listed, listing_of

from jamboree_gym import Jamboree
from jamboree_gym.encoding.batch_format import batch_span, decode_head
from jamboree_gym.errors import (
    DecodeError,
    EpisodeNotFound,
    JamboreeError,
    StoreFull,
    StoreUnavailable,
)
from jamboree_gym.store import read_through as backed
from jamboree_gym.store import restore as put_back
from jamboree_gym.store.backups import questions
from jamboree_gym.store.log import IndexEntry
from jamboree_gym.store.mongo import client as mongo_client
from jamboree_gym.store.mongo.store import MongoStore
from jamboree_gym.store.redis.eviction import Restorer
from jamboree_gym.store.redis.listings import Listings

OpenJamboree = Callable[..., Jamboree]
EPISODES = int(os.environ.get("JAMBOREE_FLUSHED_EPISODES", "400"))


@pytest.fixture(scope="module")
def module_valkey(short_directory: Path) -> Iterator[Server]:
    """A Valkey that the tests of this module share, one after the other."""
    server = start_redis(valkey_program(), short_directory / "read-through")
    yield server
    server.stop()


@pytest.fixture
def own_valkey(module_valkey: Server) -> Server:
    """It is empty, takes as much as comes, and may be emptied."""
    with redis.Redis.from_url(module_valkey.url) as client:
        client.flushall()
        client.config_set("maxmemory", 0)
    return module_valkey


@pytest.fixture
def jam(own_valkey: Server, mongo: Server, namespace: str) -> Iterator[Jamboree]:
    """On a server of its own, that can be emptied."""
    with Jamboree(own_valkey.url, mongo.url, namespace=namespace) as opened:
        yield opened


@pytest.fixture(params=["put back", "left in MongoDB"])
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether what is read comes back into Redis, or is too large for that."""
    if request.param == "left in MongoDB":
        monkeypatch.setattr(backed, "MAX_PUT_BACK_BYTES", 0)
        monkeypatch.setattr(put_back, "PAGE_BYTES", 0)
    return str(request.param)


def record(jam: Jamboree, steps: int = 3, length: int = 3, **options: Any) -> str:
    env = jam.record(CountingEnv(length=length), **options)
    play(env, [ACTION] * steps)
    jam.flush()
    return env.episode_id


def record_in_batches(jam: Jamboree, batches: int = 9, rows: int = 3, copied: int = 4) -> str:
    """Record an episode in many batches, the first of which are copied before the others."""
    env = jam.record(CountingEnv(length=10**9))
    play(env, [ACTION] * (rows - 1))
    jam.flush()
    for batch in range(1, batches):
        if batch == copied:
            jam.backup.flush()
        for _ in range(rows):
            env.step(ACTION)
        jam.flush()
    env.close()
    jam.backup.flush()
    return env.episode_id


def trim(jam: Jamboree, key: str, batches: int) -> None:
    """Let go of the oldest batches of a log."""
    head = decode_head(jam.redis.lindex(at(jam, key), 0), where=key)
    assert head.acked == head.count
    blobs = jam.redis.lrange(at(jam, key), 1, -1)
    held = batch_span(blobs[batches])[0] if batches < len(blobs) else head.count
    jam.redis.ltrim(at(jam, key), batches, -1)
    jam.redis.lset(at(jam, key), 0, replace(head, held=held).encode())


def is_in_redis(jam: Jamboree, key: str) -> bool:
    """Whether Redis has all of a log."""
    raw = jam.redis.lindex(at(jam, key), 0)
    return raw is not None and decode_head(raw, where=key).held == 0


# -- Redis was emptied ------------------------------------------------------------------------


@pytest.mark.faults
def test_after_flushall_every_episode_is_read_byte_for_byte(jam: Jamboree) -> None:
    env = jam.record(CountingEnv(length=2))
    for _ in range(EPISODES):
        play(env, [ACTION] * 2)
    env.close()
    jam.backup.flush()
    keys = list(jam._connection.redis_store.log_keys())
    assert len(keys) == EPISODES
    before = {key: jam.redis.lrange(at(jam, key), 1, -1) for key in keys}
    table = jam.episodes().table()

    jam.redis.flushall()

    assert len(jam.episodes()) == EPISODES
    assert jam.episodes().table().equals(table)
    assert {key: jam.redis.lrange(at(jam, key), 1, -1) for key in keys} == before
    assert jam.backup.verify()
    assert jam.backup.flush() == 0


def test_after_flushall_another_process_reads_everything(
    jam: Jamboree, open_jamboree: OpenJamboree, own_valkey: Server, mongo: Server
) -> None:
    ids = [record(jam) for _ in range(3)]
    notes = NoteHandler(jam, "n")
    notes.save_many({"n": n} for n in range(600))
    child = jam.record(CountingEnv())
    wanted = [jam.episode(id).data() for id in ids]
    jam.backup.flush()
    jam.redis.flushall()

    other = open_jamboree(own_valkey.url, mongo_url=mongo.url)
    assert other.episodes().ids() == ids
    for id, data in zip(ids, wanted, strict=True):
        np.testing.assert_array_equal(other.episode(id).data().observations, data.observations)
        assert other.episode(id).provenance == jam.episode(id).provenance
    assert [one["n"] for one in NoteHandler(other, "n").many(600)] == list(range(600))
    assert NoteHandler(other, "n").count() == 600
    child.close()


def test_each_way_to_read_a_lost_episode_brings_it_back(
    jam: Jamboree, room: str, open_jamboree: OpenJamboree, own_valkey: Server, mongo: Server
) -> None:
    def all_ways(id: str) -> list[Any]:
        episode = reader.episode(id)
        times = episode.data().timestamps
        return [
            episode.summary,
            len(episode),
            episode.data().rewards.tolist(),
            episode.recent(4).rewards.tolist(),
            episode.steps(2, 5).rewards.tolist(),
            episode.between(times[3], times[6]).rewards.tolist(),
            episode.as_of(times[4]),
            [step.reward for step in episode.tail(timeout_s=5)],
            [one.rewards.tolist() for one in reader.recent([id], 3)],
            reader.episodes(run=episode.summary.run).table().column("reward").to_pylist(),
        ]

    reader = open_jamboree(own_valkey.url, mongo_url=mongo.url)
    id = record_in_batches(jam)
    first, ways = all_ways(id), len(all_ways(id))
    key = jam._connection.keyspace.episode(id)
    for lost in (
        lambda: jam.redis.delete(at(jam, key)),
        jam.redis.flushall,
        lambda: trim(jam, key, 5),
    ):
        lost()
        for _ in range(2):
            assert str(all_ways(id)) == str(first)
        assert len(first) == ways
        assert is_in_redis(jam, key) == (room == "put back")
        jam.backup.restore()
        assert is_in_redis(jam, key)
        assert jam.backup.verify()


def test_a_listing_after_flushall_is_right_when_something_is_recorded_first(
    jam: Jamboree,
) -> None:
    ids = [record(jam) for _ in range(3)]
    jam.backup.flush()
    jam.redis.flushall()
    ids.append(record(jam))

    assert jam.episodes().ids() == ids


def test_emptied_in_the_middle_of_listing_it_is_listed_again(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [record(jam) for _ in range(3)]
    jam.backup.flush()
    jam.redis.flushall()
    heads, times = MongoStore.heads, []

    def emptied_once(self: MongoStore, run: str | None = None) -> Iterator[Any]:
        yield from heads(self, run)
        times.append(1)
        if len(times) == 1:
            jam.redis.flushall()

    monkeypatch.setattr(MongoStore, "heads", emptied_once)
    assert jam.episodes().ids() == ids
    assert len(times) == 2
    assert jam._connection.redis_store.listings.coverage() == "all"


def test_a_deletion_while_heads_are_put_back_leaves_no_log_of_records_out(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        NoteHandler(jam, name).save_many({"n": n} for n in range(3))
    jam.backup.flush()
    jam.redis.flushall()
    heads, times = MongoStore.heads, list[int]()

    def with_a_deletion(self: MongoStore, run: str | None = None) -> Iterator[Any]:
        for some in heads(self, run):
            times.append(1)
            if len(times) == 1:
                NoteHandler(jam, "a").delete()
            yield some

    monkeypatch.setattr(MongoStore, "heads", with_a_deletion)
    assert jam.episodes().ids() == []
    assert jam._connection.redis_store.listings.coverage() == "all"
    keys = [NoteHandler(jam, name)._key for name in ("b", "c")]
    assert sorted(jam._connection.redis_store.log_keys()) == sorted(keys)


def test_a_backup_lists_again_by_itself_what_an_emptied_redis_lost(jam: Jamboree) -> None:
    id = record(jam)
    jam.backup.flush()
    jam.redis.flushall()
    follower_of(jam).copy_once()

    assert list(jam._connection.redis_store.listings.summaries(jam._connection.own_run)) == [id]
    assert jam._connection.redis_store.listings.coverage() == "all"


def test_what_was_dropped_from_a_listing_is_read_from_mongodb(jam: Jamboree) -> None:
    ids = [record(jam) for _ in range(4)]
    jam.backup.flush()
    assert jam.episodes().ids() == ids
    run = jam.episode(ids[0]).summary.run
    jam._connection.redis_store.listings.put_coverage("part")
    for id in ids[:2]:
        jam.redis.hdel(listing_of(jam, run, id), id)
    ids.append(record(jam))

    assert jam.episodes().ids() == ids
    assert jam._connection.store.listings.ids([run]) == set(ids)
    assert len(listed(jam, run)) == 3
    jam.episode(ids[0]).delete()
    assert jam.episodes().ids() == ids[1:]


# -- a part is in MongoDB only ----------------------------------------------------------------


@pytest.mark.parametrize("trimmed", quick_and_long([1, 3, 4, 6, 9], quick=[1, 9]))
def test_every_read_of_a_trimmed_log_finds_what_was_there(
    jam: Jamboree, room: str, trimmed: int
) -> None:
    id = record_in_batches(jam)
    key, store = jam._connection.keyspace.episode(id), jam._connection.store
    batches = [batch for batch in jam._connection.redis_store.read(key, 0, 10**9).batches]  # type: ignore[union-attr]
    edges = sorted({batch.t_first for batch in batches} | {batch.t_last for batch in batches})
    times = [edges[0] - 1, edges[0], edges[5], edges[9], edges[-1], edges[-1] + 1]
    reads: list[tuple[Any, ...]] = [
        *(("range", a, b) for a, b in product((0, 1, 8, 9, 14, 26), (1, 9, 13, 27, 99)) if a < b),
        *(("last", n) for n in (1, 4, 17, 27, 99)),
        *(
            ("between", repr(a), repr(b), k)
            for a, b, k in product(times, times, (0, 1, 3))
            if a <= b
        ),
        *(("as_of", repr(t), k) for t, k in product(times, (0, 1, 3))),
    ]
    whole = jam.redis.lrange(at(jam, key), 0, -1)
    slices = [jam._connection.redis_store.select(key, *how) for how in reads]
    expected = [[batch.blob for batch in found.batches] for found in slices]  # type: ignore[union-attr]
    trim(jam, key, trimmed)
    rest = jam.redis.lrange(at(jam, key), 0, -1)
    for how, wanted in zip(reads, expected, strict=True):
        if room == "put back":
            with jam.redis.pipeline() as pipe:
                pipe.delete(key).rpush(key, *rest).execute()
        found = [batch.blob for batch in store.select(key, *how).batches]  # type: ignore[union-attr]
        missed = [blob for blob in wanted if blob not in found]
        assert not missed, how
        spans = [batch_span(blob)[:2] for blob in found]
        assert all(a[1] == b[0] for a, b in pairwise(spans)), how
    jam.backup.restore()
    assert jam.redis.lrange(at(jam, key), 1, -1) == whole[1:]
    assert is_in_redis(jam, key)


def test_batches_that_mongodb_keeps_twice_are_read_once(jam: Jamboree, room: str) -> None:
    id = record_in_batches(jam)
    key = jam._connection.keyspace.episode(id)
    wanted = jam.episode(id).data().rewards.tolist()
    inline = jam.mongo.logs.find_one({"_id": key})["frames"]
    born = decode_head(jam.redis.lindex(at(jam, key), 0), where=key).born
    # as a backup leaves it that was killed before it had kept a head
    assert jam._connection.backup_store.insert_batches((key, born, blob) for blob in inline) == {}
    trim(jam, key, 6)

    assert jam.episode(id).data().rewards.tolist() == wanted
    assert jam.episode(id).steps(2, 7).rewards.tolist() == wanted[2:7]


def test_a_trimmed_log_goes_on_and_is_read_from_both(jam: Jamboree, room: str) -> None:
    notes = NoteHandler(jam, "n")
    for part in range(5):
        notes.save_many({"n": part * 4 + n} for n in range(4))
        jam.flush()
    jam.backup.flush()
    trim(jam, notes._key, 4)
    notes.save_many({"n": n} for n in range(20, 30))

    assert [one["n"] for one in notes.many(99)] == list(range(30))
    assert notes.count() == 30
    assert jam.backup.flush() == 10
    assert jam.backup.verify()
    assert is_in_redis(jam, notes._key) == (room == "put back")


def test_records_are_popped_wherever_they_are(jam: Jamboree, room: str) -> None:
    notes = NoteHandler(jam, "n")
    for part in range(6):
        notes.save_many({"n": part * 4 + n} for n in range(4))
        jam.flush()
    jam.backup.flush()
    trim(jam, notes._key, 3)
    popped = [one["n"] for _ in range(8) for one in notes.pop(3)]

    assert popped == list(range(24))
    assert notes.pop(3) == []
    jam.backup.flush()
    assert jam.backup.verify()


def test_two_that_pop_a_trimmed_log_get_each_record_once(
    jam: Jamboree, room: str, open_jamboree: OpenJamboree, own_valkey: Server, mongo: Server
) -> None:
    notes = NoteHandler(jam, "n")
    for part in range(20):
        notes.save_many({"n": part * 4 + n} for n in range(4))
        jam.flush()
    jam.backup.flush()
    trim(jam, notes._key, 15)
    popped: list[int] = []

    def pop_all(handler: NoteHandler) -> None:
        while records := handler.pop(3):
            popped.extend(one["n"] for one in records)

    others = [open_jamboree(own_valkey.url, mongo_url=mongo.url) for _ in range(2)]
    threads = [threading.Thread(target=pop_all, args=(NoteHandler(o, "n"),)) for o in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(popped) == list(range(80))


def test_that_mongodb_had_no_such_log_is_forgotten_once_redis_was_emptied(
    jam: Jamboree, open_jamboree: OpenJamboree, own_valkey: Server, mongo: Server
) -> None:
    other = NoteHandler(open_jamboree(own_valkey.url, mongo_url=mongo.url), "n")
    assert other.many(9) == []
    NoteHandler(jam, "n").save({"n": 0})
    jam.backup.flush()
    jam.redis.flushall()

    assert [one["n"] for one in other.many(9)] == [0]


def test_that_mongodb_had_no_such_log_is_forgotten_once_the_log_was_begun(jam: Jamboree) -> None:
    notes = NoteHandler(jam, "n")
    assert notes.many(9) == []
    notes.save({"n": 0})
    jam.backup.flush()
    jam.redis.delete(at(jam, notes._key))

    assert [one["n"] for one in notes.many(9)] == [0]


def test_after_flushall_a_queue_is_popped_on(jam: Jamboree) -> None:
    notes = NoteHandler(jam, "n")
    notes.save_many({"n": n} for n in range(10))
    assert [one["n"] for one in notes.pop(4)] == [0, 1, 2, 3]
    jam.backup.flush()
    jam.redis.flushall()

    assert [one["n"] for one in notes.pop(4)] == [4, 5, 6, 7]


def test_what_is_large_comes_back_page_by_page(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put_back, "PAGE_BYTES", 40_000)
    notes = NoteHandler(jam, "n")
    for part in range(60):
        notes.save({"n": part, "filler": bytes(8000)})
        jam.flush()
    jam.backup.flush()
    before = jam.redis.lrange(at(jam, notes._key), 1, -1)
    jam.redis.flushall()

    assert [one["n"] for one in notes.many(60)] == list(range(60))
    assert jam.redis.lrange(at(jam, notes._key), 1, -1) == before


# -- no room, no MongoDB, damage --------------------------------------------------------------


def test_a_full_redis_is_read_from_mongodb(jam: Jamboree) -> None:
    id = record_in_batches(jam)
    notes = NoteHandler(jam, "n")
    notes.save_many({"n": n} for n in range(10))
    jam.backup.flush()
    wanted = jam.episode(id).data().observations
    jam.redis.flushall()
    jam.redis.config_set("maxmemory", 1)

    for _ in range(2):
        np.testing.assert_array_equal(jam.episode(id).data().observations, wanted)
        assert jam.episodes().ids() == [id]
        assert jam.episodes().table().num_rows == 26
        assert [one["n"] for one in notes.many(10)] == list(range(10))
    assert list(jam._connection.redis_store.log_keys()) == []
    jam.redis.config_set("maxmemory", 0)
    np.testing.assert_array_equal(jam.episode(id).data().observations, wanted)
    assert len(list(jam._connection.redis_store.log_keys())) == 1


def test_a_full_redis_is_not_filled_by_older_batches(jam: Jamboree) -> None:
    id = record_in_batches(jam)
    key = jam._connection.keyspace.episode(id)
    wanted = jam.episode(id).data().rewards.tolist()
    trim(jam, key, 5)
    jam.redis.config_set("maxmemory", 1)

    assert jam.episode(id).data().rewards.tolist() == wanted
    assert not is_in_redis(jam, key)
    jam.redis.config_set("maxmemory", 0)
    assert jam.episode(id).data().rewards.tolist() == wanted
    assert is_in_redis(jam, key)


def test_a_full_redis_keeps_what_a_restore_would_replace(jam: Jamboree) -> None:
    notes = NoteHandler(jam, "n")
    notes.save_many({"n": n} for n in range(3))
    jam.backup.flush()
    older = jam.redis.lrange(at(jam, notes._key), 0, -1)
    notes.save_many({"n": n} for n in range(3))
    jam.backup.flush()
    jam.redis.delete(at(jam, notes._key))
    jam.redis.rpush(at(jam, notes._key), *older)
    jam.redis.config_set("maxmemory", 1)

    with pytest.raises(StoreFull, match="takes no more writes"):
        jam.backup.restore()
    assert jam.redis.lrange(at(jam, notes._key), 0, -1) == older
    jam.redis.config_set("maxmemory", 0)
    assert jam.backup.restore() == 1
    assert notes.count() == 6


def test_without_mongodb_what_is_missing_is_an_error_and_nothing_else_is(
    own_valkey: Server,
    open_jamboree: OpenJamboree,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 0.2)
    jam = open_jamboree(own_valkey.url, mongo_url=f"mongodb://u:secret@127.0.0.1:{free_port()}")
    id = record(jam)
    notes = NoteHandler(jam, "n")
    assert notes.count() == 0  # no such log: a training goes on
    notes.save({"n": 1})

    assert notes.last()["n"] == 1
    assert jam.episodes().ids() == [id]
    with pytest.raises(StoreUnavailable, match=r"not in Redis at .* and MongoDB at") as caught:
        jam.episode("0" * 32).data()
    assert "secret" not in str(caught.value)
    with pytest.raises(StoreUnavailable):
        jam.episode("1" * 32).data()
    said = [one for one in caplog.messages if "what Redis does not have cannot be read" in one]
    assert len(said) == 1


def test_a_part_that_mongodb_alone_holds_is_never_left_out_in_silence(
    own_valkey: Server,
    mongo: Server,
    open_jamboree: OpenJamboree,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url)
    id = record_in_batches(jam)
    trim(jam, jam._connection.keyspace.episode(id), 5)
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 0.2)

    for url in (None, f"mongodb://127.0.0.1:{free_port()}"):
        reader = open_jamboree(own_valkey.url, mongo_url=url)
        with pytest.raises(JamboreeError, match=r"backup=URL|MongoDB at"):
            reader.episode(id).data()
        assert len(reader.episode(id).recent(3).rewards) == 3


def test_a_trimmed_part_that_mongodb_lost_is_a_decode_error(jam: Jamboree) -> None:
    id = record_in_batches(jam)
    key = jam._connection.keyspace.episode(id)
    trim(jam, key, 6)
    jam.mongo.chunks.delete_one({"key": key})
    with pytest.raises(DecodeError, match="a batch is missing"):
        jam.episode(id).data()
    jam.mongo.logs.delete_one({"_id": key})
    with pytest.raises(DecodeError, match="no backup is known that holds it"):
        jam.episode(id).data()
    assert len(jam.episode(id).recent(3).rewards) == 3


def test_one_damaged_log_in_mongodb_leaves_the_others_readable(jam: Jamboree) -> None:
    ids = [record(jam) for _ in range(3)]
    jam.backup.flush()
    key = jam._connection.keyspace.episode(ids[1])
    jam.mongo.logs.update_one({"_id": key}, {"$set": {"frames_crc": 0}})
    jam.redis.flushall()

    assert jam.episodes().ids() == [ids[0], ids[2]] or jam.episodes().ids() == ids
    with pytest.raises(DecodeError, match="checksum"):
        jam.episode(ids[1]).data()
    assert [len(jam.episode(id).data().rewards) for id in (ids[0], ids[2])] == [3, 3]


def test_without_a_backup_an_unknown_episode_is_not_found(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree()
    with pytest.raises(EpisodeNotFound):
        jam.episode("0" * 32).data()


# -- deleting ---------------------------------------------------------------------------------


def test_what_was_deleted_is_not_read_from_mongodb(jam: Jamboree) -> None:
    ids = [record(jam) for _ in range(2)]
    notes = NoteHandler(jam, "n")
    notes.save_many({"n": n} for n in range(3))
    jam.backup.flush()
    jam.episode(ids[0]).delete()
    notes.delete()

    with pytest.raises(EpisodeNotFound):
        jam.episode(ids[0]).data()
    assert notes.count() == 0
    jam.redis.flushall()
    assert jam.episodes().ids() == ids[1:]
    assert NoteHandler(jam, "n").count() == 0
    with pytest.raises(EpisodeNotFound):
        jam.episode(ids[0]).data()


def test_what_mongodb_has_not_forgotten_yet_is_not_read_either(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [record(jam) for _ in range(2)]
    jam.backup.flush()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MongoStore, "delete", killed)
    with pytest.raises(KeyboardInterrupt):
        jam.episode(ids[0]).delete()
    monkeypatch.undo()

    with pytest.raises(EpisodeNotFound):
        jam.episode(ids[0]).data()
    jam.redis.delete(
        *in_buckets(jam, "coverage"), at(jam, jam._connection.keyspace.episode(ids[1]))
    )
    assert jam.episodes().ids() == ids[1:]
    assert jam.backup.restore() == 1
    assert jam.episodes().ids() == ids[1:]


@pytest.mark.parametrize("is_listing", [False, True])
def test_deleted_while_it_is_being_put_back_it_stays_deleted(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch, is_listing: bool
) -> None:
    ids = [record(jam) for _ in range(2)]
    jam.backup.flush()
    key = jam._connection.keyspace.episode(ids[0])
    entry = IndexEntry(ids[0], b"", jam.episode(ids[0]).summary.run, 0.0)
    jam.redis.delete(at(jam, key), *in_buckets(jam, "coverage"))
    owner, method = (Listings, "list_episodes") if is_listing else (Restorer, "restore")
    put, has_deleted = getattr(owner, method), list[bool]()

    def after_a_deletion(self: Any, *arguments: Any, **options: Any) -> Any:
        if not has_deleted:
            has_deleted.append(True)
            jam._connection.delete_log(key, entry=entry)
        return put(self, *arguments, **options)

    monkeypatch.setattr(owner, method, after_a_deletion)
    with suppress(EpisodeNotFound):
        jam.episode(ids[0]).data() if not is_listing else jam.episodes().ids()
    assert has_deleted
    assert jam.redis.exists(at(jam, key)) == 0
    with pytest.raises(EpisodeNotFound):
        jam.episode(ids[0]).data()
    if is_listing:
        assert jam.episodes().ids() == ids[1:]


@pytest.mark.parametrize("is_known", [False, True], ids=["", "its head is in Redis"])
def test_deleted_while_it_is_read_from_mongodb_it_is_empty(
    jam: Jamboree, room: str, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    notes = NoteHandler(jam, "n")
    for n in range(3):
        notes.save({"n": n})
        jam.backup.flush()
    key = notes._settled_key()
    jam.redis.delete(at(jam, key), *in_buckets(jam, "coverage"))
    if is_known:
        assert jam.episodes().ids() == []
    logs, has_deleted = MongoStore.logs, list[bool]()

    def deleted_then(self: Any, keys: Any) -> Any:
        found = logs(self, keys)
        if not has_deleted:
            has_deleted.append(True)
            jam._connection.delete_log(key)
        return found

    monkeypatch.setattr(MongoStore, "logs", deleted_then)
    assert notes.many(9) == []
    assert has_deleted


# -- writing on -------------------------------------------------------------------------------


def test_a_log_of_records_goes_on_after_flushall(
    jam: Jamboree, open_jamboree: OpenJamboree, own_valkey: Server, mongo: Server
) -> None:
    notes = NoteHandler(jam, "n")
    notes.save_many({"n": n} for n in range(10))
    jam.backup.flush()
    jam.redis.flushall()
    notes.save({"n": 10})
    jam.flush()
    jam.redis.flushall()
    jam.backup.flush()
    other = NoteHandler(open_jamboree(own_valkey.url, mongo_url=mongo.url), "n")
    other.save({"n": 11})
    other.event.flush()

    found = [(one["index"], one["n"]) for one in NoteHandler(jam, "n").many(99)]
    assert found[:10] == [(n, n) for n in range(10)]
    assert [n for _, n in found[10:]][-1] == 11
    jam.backup.flush()
    assert jam.backup.verify()


def test_a_new_process_goes_on_with_a_log_of_records_that_redis_lost(
    jam: Jamboree, open_jamboree: OpenJamboree, own_valkey: Server, mongo: Server
) -> None:
    NoteHandler(jam, "n").save_many({"n": n} for n in range(10))
    jam.backup.flush()
    jam.redis.flushall()
    other = open_jamboree(own_valkey.url, mongo_url=mongo.url)
    notes = NoteHandler(other, "n")
    notes.save_many({"n": n} for n in range(10, 12))

    assert [(one["index"], one["n"]) for one in notes.many(99)] == [(n, n) for n in range(12)]
    assert other.backup.flush() == 2
    assert other.backup.verify()


def test_what_is_saved_last_is_delivered_by_close_to_a_log_that_is_looked_for(
    jam: Jamboree, own_valkey: Server, mongo: Server, namespace: str
) -> None:
    NoteHandler(jam, "n").save_many({"n": n} for n in range(3))
    jam.backup.flush()
    jam.redis.flushall()
    with Jamboree(own_valkey.url, mongo.url, namespace=namespace, flush_interval_s=60) as other:
        NoteHandler(other, "n").save({"n": 3})

    assert [one["n"] for one in NoteHandler(jam, "n").many(9)] == [0, 1, 2, 3]


def test_however_often_the_backup_has_to_be_asked_one_thread_does_it(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, may_answer = jam._connection.writer, threading.Event()
    real, asked = writer._store.ask_for, list[int]()

    def ask_for(appends: Any) -> Any:
        asked.append(len(appends))
        assert may_answer.wait(20)
        return real(appends)

    monkeypatch.setattr(writer._store, "ask_for", ask_for)
    jam.redis.flushall()
    for name in "abcd":
        NoteHandler(jam, name).save({"n": 0})
        writer.deliver_round()
        wait_until(lambda: bool(asked))
    assert sum(one.name == "jamboree-ask" for one in threading.enumerate()) == 1
    may_answer.set()
    jam.flush()
    assert [NoteHandler(jam, name).count() for name in "abcd"] == [1] * 4


def test_an_episode_goes_on_after_flushall(jam: Jamboree) -> None:
    env = jam.record(CountingEnv(length=9))
    play(env, [ACTION] * 4)
    jam.backup.flush()
    jam.redis.flushall()
    for _ in range(5):
        env.step(ACTION)
    jam.flush()

    episode = jam.episode(env.episode_id)
    assert episode.data().rewards.tolist() == [float(n) for n in range(1, 10)]
    assert episode.status == "terminated"
    jam.backup.flush()
    assert jam.backup.verify()


@pytest.mark.parametrize("has_backup", [True, False])
def test_a_young_episode_without_a_copy_goes_on_after_flushall_and_not_once_it_is_deleted(
    own_valkey: Server, mongo: Server, open_jamboree: Callable[..., Jamboree], has_backup: bool
) -> None:
    jam, other = (
        open_jamboree(own_valkey.url, mongo_url=mongo.url if has_backup else None) for _ in range(2)
    )
    env = jam.record(CountingEnv(length=9))
    play(env, [ACTION] * 4)
    jam.flush()
    jam.redis.flushall()
    env.step(ACTION)
    jam.flush()
    episode = other.episode(env.episode_id)
    assert episode.data().rewards.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]

    episode.delete()
    env.step(ACTION)
    jam.flush()
    assert other.episodes().ids() == []


def test_a_young_episode_is_not_begun_again_while_nobody_knows_whether_it_was_deleted(
    own_valkey: Server,
    own_mongo: Server,
    open_jamboree: Callable[..., Jamboree],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(questions, "ASK_AGAIN_S", 0.0)
    jam, other = (open_jamboree(own_valkey.url, mongo_url=own_mongo.url) for _ in range(2))
    env = jam.record(CountingEnv(length=9))
    play(env, [ACTION] * 4)
    jam.flush()
    other.episode(env.episode_id).delete()
    jam.redis.flushall()
    own_mongo.kill()
    env.step(ACTION)
    with pytest.raises(JamboreeError, match="cannot be reached"):
        jam.flush(timeout_s=0.1)
    own_mongo.start()
    jam.flush()
    assert env.handler.was_deleted
    assert other.episodes().ids() == []


@pytest.mark.usefixtures("nothing_held")
def test_an_episode_of_which_rows_are_lost_says_so(
    own_valkey: Server, mongo: Server, namespace: str
) -> None:
    jam = Jamboree(own_valkey.url, mongo.url, namespace=namespace)
    env = jam.record(CountingEnv(length=9))
    play(env, [ACTION] * 2)
    jam.backup.flush()
    env.step(ACTION)
    jam.flush()
    jam.redis.flushall()
    env.step(ACTION)
    with pytest.raises(JamboreeError, match="no longer in Redis"):
        jam.flush()
    jam.close()  # it has been said


def test_embedded_servers_are_read_through_too(tmp_path: Any) -> None:
    with Jamboree(home=tmp_path / "home") as jam:
        assert jam.episodes().ids() == []
        id = record(jam)
        jam.backup.flush()
        jam.redis.flushall()
    with Jamboree(home=tmp_path / "home") as jam:
        assert jam.episodes().ids() == [id]
        assert jam.episode(id).data().rewards.tolist() == [1.0, 2.0, 3.0]


def test_it_is_said_once_that_the_listing_came_back(
    jam: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jamboree_gym")
    record(jam)
    jam.backup.flush()
    jam.episodes().ids()
    assert not caplog.messages  # nothing was missing
    jam.redis.flushall()
    for _ in range(3):
        jam.episodes().ids()
    assert sum("are listed again" in one for one in caplog.messages) == 1
