"""Redis is emptied (FLUSHALL) while others go on: what has a copy comes back, what is new is kept.

Some tests step into a gap between two calls to a server: a hook does there what another process
could do at that moment.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Server
from gymnasium.vector import SyncVectorEnv
from journals import copy_journal
from lengths import quick_and_long
from msgspec import structs
from msgspec.structs import replace
from processes import WAIT_TIMEOUT_S, NoteHandler, raises, wait_until
from proxy import Proxy, direct
from recorded_envs import ACTION, CountingEnv, play
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from stored import at, beside, listing_of

from jamboree_gym import Jamboree
from jamboree_gym.arrays.values import encode_mapping
from jamboree_gym.backup import copy, rejoin
from jamboree_gym.backup.portions import FEW_REVISIONS
from jamboree_gym.delivery import step_outbox
from jamboree_gym.delivery.outbox import RecordOutbox
from jamboree_gym.delivery.step_outbox import StepOutbox
from jamboree_gym.encoding.batch_format import (
    CODEC_RECORDS,
    decode_batch,
    encode_batch,
    encode_records,
)
from jamboree_gym.errors import EpisodeNotFound, JamboreeError, StoreUnavailable, UnsavedRecords
from jamboree_gym.keys import digest
from jamboree_gym.recording import recovery
from jamboree_gym.store import read_through
from jamboree_gym.store.backups import questions
from jamboree_gym.store.log import Append, AppendResult
from jamboree_gym.store.mongo import client as mongo_client
from jamboree_gym.store.mongo.link import MongoLink
from jamboree_gym.store.mongo.store import MongoStore
from jamboree_gym.store.mongo.writer import LogWriter
from jamboree_gym.store.read_through import ReadThroughStore
from jamboree_gym.store.redis import link as redis_link
from jamboree_gym.store.redis.backup_state import Acknowledgements
from jamboree_gym.store.redis.eviction import Restorer
from jamboree_gym.store.redis.link import RedisLink
from jamboree_gym.store.redis.plain_keys import Blobs
from jamboree_gym.store.redis.reader import LogReader
from jamboree_gym.store.redis.store import RedisStore

pytestmark = pytest.mark.usefixtures("as_processes")

Open = Callable[..., Jamboree]


@pytest.fixture
def open_jam(own_valkey: Server, mongo: Server, namespace: str) -> Iterator[Open]:
    """Opens Jamborees on a Redis that may be emptied; nothing copies by itself."""
    opened: list[Jamboree] = []

    def open_one(redis_url: str = own_valkey.url, **options: Any) -> Jamboree:
        options = {"namespace": namespace, "backup": False, **options}
        opened.append(Jamboree(redis_url, mongo.url, **options))
        return opened[-1]

    yield open_one
    for jam in opened:
        jam.close()


@pytest.fixture
def in_the_gap(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has something done once, before or after the next call of a method."""

    def put(owner: Any, name: str, act: Callable[[], object], *, before: bool = False) -> None:
        real, acts = getattr(owner, name), [act]

        def method(*arguments: Any, **options: Any) -> Any:
            if before and acts:
                acts.pop()()
            answer = real(*arguments, **options)
            if not before and acts:
                acts.pop()()
            return answer

        monkeypatch.setattr(owner, name, method)

    return put


def record(jam: Jamboree, steps: int = 3) -> str:
    """Record an episode that ends; its id."""
    env = jam.record(CountingEnv(length=steps), run="a")
    play(env, [ACTION] * steps)
    jam.flush()
    return str(env.episode_id)


def numbers(jam: Jamboree) -> list[int]:
    """What the notes say."""
    return [one["n"] for one in NoteHandler(jam, "n").many(1000)]


# -- what is remembered of a server that was emptied ----------------------------------------------


@pytest.mark.parametrize(
    ("write", "is_copied"),
    quick_and_long(
        product(["buffered", "sync", "fsync"], [True, False]),
        quick=[("buffered", True), ("sync", False)],
    ),
)
def test_what_is_recorded_afterwards_is_whole_and_is_copied(
    open_jam: Open, write: str, is_copied: bool
) -> None:
    jam, other = open_jam(write=write), open_jam()
    env = jam.record(CountingEnv(length=3))
    play(env, [ACTION] * 3)
    jam.flush()
    if is_copied:
        other.backup.flush()
    jam.redis.flushall()
    later = []
    for _ in range(3):
        play(env, [ACTION] * 3)
        later.append(env.episode_id)
    jam.flush()

    assert other.backup.flush() == 12
    assert other.backup.verify()
    other.redis.flushall()
    assert [len(open_jam().episode(one).data()) for one in later] == [3, 3, 3]


@pytest.mark.parametrize("write", quick_and_long(["buffered", "sync"], quick=["buffered"]))
def test_an_episode_goes_on_where_redis_lost_its_newest_row_and_mongo_has_it(
    open_jam: Open, write: str
) -> None:
    jam = open_jam(write=write)
    env = jam.record(CountingEnv(length=9), run="a")
    play(env, [ACTION])
    jam.flush()
    key = at(jam, jam._connection.keyspace.episode(env.episode_id))
    before = jam.redis.dump(key)
    env.step(ACTION)
    jam.flush()
    open_jam().backup.flush()
    jam.redis.restore(key, 0, before, replace=True)  # as a replica has it that was a moment behind

    env.step(ACTION)
    jam.flush()
    assert len(open_jam().episode(env.episode_id).data()) == 3
    open_jam().backup.flush()
    assert open_jam().backup.verify()


@pytest.mark.parametrize(
    ("write", "is_copied", "num_envs"),  # no vector; a row for all at once
    quick_and_long(
        [("buffered", True, 0), ("buffered", False, 8), ("sync", True, 8), ("sync", False, 0)],
        quick=[("buffered", False, 8), ("sync", False, 0)],
    ),
)
def test_rows_that_redis_has_lost_are_sent_again(
    open_jam: Open, write: str, is_copied: bool, num_envs: int
) -> None:
    jam, other = open_jam(write=write), open_jam()
    make = partial(CountingEnv, length=9)
    env: Any = jam.record(SyncVectorEnv([make] * num_envs) if num_envs else make(), run="a")
    action = np.tile(ACTION, (num_envs, 1)) if num_envs else ACTION
    env.reset()
    env.step(action)
    jam.flush()
    ids = env.episode_ids if num_envs else [env.episode_id]
    keys = [at(jam, jam._connection.keyspace.episode(id)) for id in ids]
    keys += [listing_of(jam, "a", id) for id in ids]
    if is_copied:
        other.backup.flush()
    before = {key: jam.redis.dump(key) for key in keys}
    for _ in range(2):
        env.step(action)
        jam.flush()
    for key, content in before.items():  # as it is after a kill that came before a write to disk
        jam.redis.restore(key, 0, content, replace=True)
    for _ in range(6):
        env.step(action)
    jam.flush()

    found = [open_jam().episode(id) for id in ids]
    assert all(one.data().observations[:, 0].tolist() == [*range(10)] for one in found)
    assert all((one.status, one.summary.steps) == ("terminated", 9) for one in found)
    other.backup.flush()
    assert other.backup.verify()
    other.redis.flushall()
    assert [len(open_jam().episode(id).data()) for id in ids] == [9] * len(ids)


def test_a_backup_that_has_copied_a_schema_copies_what_comes_after_it_was_lost(
    open_jam: Open,
) -> None:
    jam = open_jam()
    record(jam)
    jam.backup.flush()
    for key in jam.redis.scan_iter(jam._connection.keyspace.blob("*")):
        jam.redis.delete(at(jam, key))
    episode = record(jam)

    assert open_jam().backup.flush() == 4
    assert len(open_jam().episode(episode).data()) == 3
    assert open_jam().backup.verify()


def test_a_schema_that_was_sent_before_it_is_sent_again_where_another_thread_saw_it_first(
    open_jam: Open, in_the_gap: Callable[..., None]
) -> None:
    jam = open_jam()
    schema = {digest(b"a schema"): b"a schema"}

    def append(number: int, blobs: dict[str, bytes]) -> None:
        key = jam._connection.keyspace.records("note", {"name": number})
        body = encode_records([1.0], [encode_mapping({"n": number})])
        fields: dict[str, Any] = {"codec": CODEC_RECORDS, "start": 0, "count": 1, "body": body}
        batch = encode_batch(**fields, writer=b"writer-a", t_first=1.0, t_last=1.0)
        jam._connection.redis_store.append([Append(key, CODEC_RECORDS, (batch,), 1, blobs=blobs)])

    append(0, {})
    in_the_gap(RedisLink, "pipeline", lambda: (jam.redis.flushall(), append(1, {})))
    append(2, schema)
    append(3, schema)
    assert jam.redis.exists(jam._connection.keyspace.blob(*schema)) == 1


@pytest.mark.parametrize("dropped_by", [RedisTimeoutError, KeyboardInterrupt, "server"])
def test_a_connection_that_was_dropped_may_have_been_the_last_to_that_server(
    open_jam: Open, monkeypatch: pytest.MonkeyPatch, dropped_by: Any
) -> None:
    """The next one reaches another server: a replica that lacks the schema of the episodes."""
    jam, other = open_jam(write="sync"), open_jam()
    NoteHandler(jam, "n").save({"n": 1})
    kept = set(other.redis.keys())
    record(jam)
    if dropped_by == "server":
        other.redis.client_kill_filter(_type="normal", skipme=True)
    else:
        with monkeypatch.context() as patched, suppress(KeyboardInterrupt, StoreUnavailable):
            patched.setattr(redis_link, "answer_of", raises(dropped_by))
            NoteHandler(jam, "n").count()
    other.redis.delete(*set(other.redis.keys()) - kept)
    NoteHandler(jam, "n").pop()
    episode = record(jam)
    assert len(other.episode(episode).data()) == 3


@pytest.mark.usefixtures("nothing_held")
@pytest.mark.parametrize(
    ("num_envs", "write"),  # no vector; one by one; a row for all at once
    quick_and_long(
        product([0, 2, 8], ["buffered", "sync"]),
        quick=[(0, "buffered"), (2, "sync"), (8, "buffered")],
    ),
)
def test_that_an_episode_is_lost_is_said_once_and_the_next_one_is_whole(
    open_jam: Open, num_envs: int, write: str
) -> None:
    jam = open_jam(write=write)
    make = partial(CountingEnv, length=10**6)
    env: Any = jam.record(SyncVectorEnv([make] * num_envs) if num_envs else make())
    env.reset()
    action = np.tile(ACTION, (num_envs, 1)) if num_envs else ACTION
    env.step(action)
    jam.flush()
    jam.redis.flushall()
    said = []

    for _ in range(10):
        try:
            env.step(action)
        except EpisodeNotFound as error:
            said.append(error.returned)
        with suppress(UnsavedRecords):
            jam.flush()

    assert len(said) == 1
    assert said[0] is not None
    env.reset()
    env.step(action)
    jam.flush()
    assert [one.steps for one in jam.episodes().summaries()] == [1] * (num_envs or 1)


def test_who_records_has_a_lease_again_with_the_first_rows_after_it(open_jam: Open) -> None:
    jam, other = open_jam(), open_jam()
    record(jam)
    jam.redis.flushall()
    env = jam.record(CountingEnv(length=100))
    play(env, [ACTION])
    jam.flush()

    assert other.episode(env.episode_id).status == "running"
    assert jam._connection.writer_name in other._connection.store.leases.living(
        [jam._connection.writer_name]
    )


# -- what the backup acknowledges is still that -------------------------------------------------


def test_records_that_a_backup_read_before_are_not_lost_and_new_ones_follow_them(
    open_jam: Open, in_the_gap: Callable[..., None]
) -> None:
    writer, other, copier = open_jam(write="sync"), open_jam(), open_jam()
    notes = NoteHandler(writer, "n")
    notes.save_many({"n": n} for n in range(5))
    copier.backup.flush()
    for n in range(5, 8):
        notes.save({"n": n})
    seen: list[list[int]] = []
    in_the_gap(
        MongoStore,
        "insert_batches",
        lambda: (other.redis.flushall(), seen.append(numbers(other))),
        before=True,
    )
    copier.backup.flush()

    assert seen == [[0, 1, 2, 3, 4]]
    assert numbers(other) == list(range(8))
    for n in range(8, 11):
        notes.save({"n": n})
    copier.backup.flush()
    assert copier.backup.verify()
    other.redis.flushall()
    assert numbers(open_jam()) == list(range(11))


def test_an_episode_that_a_backup_read_before_is_whole_and_goes_on(
    open_jam: Open, in_the_gap: Callable[..., None]
) -> None:
    writer, other, copier = open_jam(write="sync"), open_jam(), open_jam()
    env = writer.record(CountingEnv(length=100))
    play(env, [ACTION] * 4)
    copier.backup.flush()
    for _ in range(3):
        env.step(ACTION)
    in_the_gap(
        MongoStore,
        "insert_batches",
        lambda: (other.redis.flushall(), other.episode(env.episode_id).data()),
        before=True,
    )
    copier.backup.flush()
    env.step(ACTION)

    assert len(other.episode(env.episode_id).data()) == 8
    copier.backup.flush()
    assert copier.backup.verify()


@pytest.mark.parametrize("is_new", quick_and_long([True, False], quick=[True]))
def test_an_episode_that_a_killed_backup_brought_late_is_listed_as_it_is(
    open_jam: Open, in_the_gap: Callable[..., None], is_new: bool
) -> None:
    """It had read it before Redis was emptied, and was killed before it could put it back."""
    writer, other, copier = open_jam(write="sync"), open_jam(), open_jam()
    record(writer)
    copier.backup.flush()
    env = writer.record(CountingEnv(length=7), run="a")
    play(env, [ACTION] * 4)
    if not is_new:
        copier.backup.flush()
    for _ in range(3):
        env.step(ACTION)

    def die() -> None:
        raise KeyboardInterrupt

    def list_what_is_left() -> None:
        other.redis.flushall()
        assert len(other.episodes().ids()) == 2 - is_new

    first = "insert_logs" if is_new else "insert_batches"
    in_the_gap(MongoStore, first, list_what_is_left, before=True)
    in_the_gap(MongoStore, "insert_logs" if is_new else "put_heads", die)
    with pytest.raises(KeyboardInterrupt):
        copier.backup.flush()

    open_jam().backup.flush()

    (_, found) = other.episodes().summaries()
    assert (found.id, found.steps, found.status) == (env.episode_id, 7, "terminated")
    assert len(other.episode(env.episode_id).data()) == 7


def test_records_that_a_killed_backup_brought_late_are_in_redis_after_the_next_copy(
    open_jam: Open, in_the_gap: Callable[..., None]
) -> None:
    writer, other, copier = open_jam(write="sync"), open_jam(), open_jam()
    notes = NoteHandler(writer, "n")
    notes.save_many({"n": n} for n in range(3))
    copier.backup.flush()
    notes.save({"n": 3})
    seen: list[list[int]] = []

    def die() -> None:
        raise KeyboardInterrupt

    in_the_gap(
        MongoStore,
        "put_heads",
        lambda: (other.redis.flushall(), seen.append(numbers(other))),
        before=True,
    )
    in_the_gap(MongoStore, "put_heads", die)
    with pytest.raises(KeyboardInterrupt):
        copier.backup.flush()

    other.backup.flush()

    assert seen == [[0, 1, 2]]
    assert numbers(other) == [0, 1, 2, 3]
    assert other.backup.verify()


@pytest.mark.parametrize(
    ("owner", "method"),
    [(MongoStore, "put_heads"), (LogWriter, "insert_logs")],
    ids=["records", "an episode"],
)
def test_what_a_killed_backup_brought_after_another_had_compared_is_back_a_while_later(
    open_jam: Open,
    in_the_gap: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    method: str,
) -> None:
    writer, other, copier = open_jam(write="sync"), open_jam(), open_jam()
    notes = NoteHandler(writer, "n")
    notes.save({"n": 0})
    copier.backup.flush()
    notes.save({"n": 1})
    episode = record(writer)
    monkeypatch.setattr(copy, "COMPARED_AGAIN_S", 0.0)

    def another_compares() -> None:
        other.redis.flushall()
        other.backup.flush()
        in_the_gap(Acknowledgements, "acknowledge", raises(KeyboardInterrupt), before=True)

    in_the_gap(owner, method, another_compares, before=True)
    with pytest.raises(KeyboardInterrupt):
        copier.backup.flush()

    other.backup.flush()

    assert numbers(other) == ([0, 1] if owner is MongoStore else [0])
    assert other.episodes().ids() == [episode]
    assert other.backup.verify()


def test_both_sides_are_compared_again_ever_more_rarely(
    open_jam: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    jam, now, compared_at = open_jam(), 0.0, list[float]()
    monkeypatch.setattr(copy, "time", SimpleNamespace(time=lambda: now))
    monkeypatch.setattr(copy, "list_again", lambda *_: compared_at.append(now))

    def copy_at(*times: float) -> None:
        nonlocal now
        for now in times:  # noqa: B007 - the clock shows it
            jam.backup.flush()

    record(jam)
    copy_at(0.0, 1e6)
    assert compared_at == []
    jam.redis.flushall()
    copy_at(0.0, 29.0, 30.0, 149.0, 150.0, 629.0, 630.0)
    assert sorted(set(compared_at)) == [30.0, 150.0, 630.0]


def test_records_that_a_backup_brought_late_are_back_if_it_could_not_reach_redis_then(
    open_jam: Open, in_the_gap: Callable[..., None], own_valkey: Server
) -> None:
    writer, other = open_jam(write="sync"), open_jam()
    notes = NoteHandler(writer, "n")
    notes.save_many({"n": n} for n in range(3))
    other.backup.flush()
    notes.save({"n": 3})
    with Proxy(own_valkey.url) as line, open_jam(redis_url=line.url) as copier:

        def copy_and_lose_redis() -> None:
            other.redis.flushall()
            other.backup.flush()
            assert numbers(other) == [0, 1, 2]
            line.lose_server()

        in_the_gap(MongoStore, "put_heads", copy_and_lose_redis, before=True)
        with pytest.raises(StoreUnavailable):
            copier.backup.flush()
        line.find_server()

        copier.backup.flush()

        assert numbers(other) == [0, 1, 2, 3]
        assert other.backup.verify()


def test_a_head_that_is_damaged_then_does_not_stop_the_copy_of_other_logs(open_jam: Open) -> None:
    jam = open_jam()
    NoteHandler(jam, "n").save({"n": 0})
    jam.backup.flush()
    jam.redis.flushall()
    assert numbers(jam) == [0]
    key = jam._connection.keyspace.records("note", {"name": "n"})
    jam.redis.lset(at(jam, key), 0, b"damaged")
    later = record(jam)

    assert open_jam().backup.flush() == 4

    assert open_jam().episodes().ids() == [later]
    assert open_jam().backup.verify().different.keys() == {key}


@pytest.mark.parametrize("write", ["sync", "buffered"])
def test_an_episode_goes_on_if_something_is_deleted_while_it_is_put_back(
    open_jam: Open, in_the_gap: Callable[..., None], write: str
) -> None:
    jam, other = open_jam(write=write), open_jam()
    env = jam.record(CountingEnv(length=9), run="a")
    play(env, [ACTION])
    jam.flush()
    jam.backup.flush()
    keyspace, bucket_of = jam._connection.keyspace, jam._connection.redis_store.buckets.of
    bucket, names = bucket_of(keyspace.episode(env.episode_id)), map(str, count())
    name = next(n for n in names if bucket_of(keyspace.records("note", {"name": n})) == bucket)
    jam.redis.flushall()
    in_the_gap(ReadThroughStore, "_put_back_one", NoteHandler(other, name).delete, before=True)
    env.step(ACTION)
    jam.flush()
    assert len(other.episode(env.episode_id).data()) == 2


@pytest.mark.parametrize(
    ("owner", "method"), [(Blobs, "get"), (ReadThroughStore, "last")], ids=["schema", "newest row"]
)
def test_a_reader_that_found_an_episode_before_redis_was_emptied_calls_nothing_damaged(
    open_jam: Open, in_the_gap: Callable[..., None], owner: Any, method: str
) -> None:
    writer, other = open_jam(), open_jam()
    episode = other.episode(record(writer))
    in_the_gap(owner, method, other.redis.flushall, before=True)

    with pytest.raises(EpisodeNotFound, match="no episode"):
        episode.steps(99)


@pytest.mark.parametrize("steps", [3, 600])  # copied together with others, and by itself
def test_a_backup_that_read_an_episode_before_redis_was_emptied_calls_nothing_damaged(
    open_jam: Open, in_the_gap: Callable[..., None], steps: int
) -> None:
    writer, other, copier = open_jam(write="sync"), open_jam(), open_jam()
    record(writer, steps)
    in_the_gap(Blobs, "get", other.redis.flushall, before=True)

    copier.backup.flush()

    later = record(writer)
    copier.backup.flush()
    assert copier.backup.verify()
    assert other.episodes().ids() == [later]


def test_records_that_were_saved_meanwhile_move_behind_those_that_a_backup_brought(
    open_jam: Open, in_the_gap: Callable[..., None]
) -> None:
    writer, other, copier = open_jam(write="sync"), open_jam(), open_jam()
    notes = NoteHandler(writer, "n")
    notes.save_many({"n": n} for n in range(5))
    copier.backup.flush()
    for n in range(5, 8):
        notes.save({"n": n})

    def empty_and_go_on() -> None:
        other.redis.flushall()
        for n in (100, 101, 102, 103):
            notes.save({"n": n})

    in_the_gap(MongoStore, "insert_batches", empty_and_go_on, before=True)
    copier.backup.flush()
    copier.backup.flush()

    expected = [*range(8), 100, 101, 102, 103]
    assert numbers(other) == expected
    assert [one["index"] for one in NoteHandler(other, "n").many(99)] == list(range(12))
    assert copier.backup.verify()
    notes.save({"n": 104})
    copier.backup.flush()
    assert copier.backup.verify()
    other.redis.flushall()
    assert numbers(open_jam()) == [*expected, 104]


def test_records_begun_anew_while_mongodb_was_away_move_behind_those_that_it_holds(
    own_valkey: Server, mongo_line: Proxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: Any = {"namespace": namespace, "backup": False}
    url = direct(mongo_line)
    with Jamboree(own_valkey.url, url, **options) as jam:
        notes = NoteHandler(jam, "n")
        notes.save_many({"n": n} for n in range(300))
        jam.backup.flush()
    mongo_line.lose_server()
    with monkeypatch.context() as hasty:
        hasty.setattr(mongo_client, "CONNECT_TIMEOUT_S", 0.2)
        with Jamboree(own_valkey.url, url, write="sync", **options) as jam:
            jam.redis.flushall()
            notes = NoteHandler(jam, "n")
            notes.save_many({"n": n} for n in range(300, 305))
            assert numbers(jam) == list(range(300, 305))
            mongo_line.find_server()
    with Jamboree(own_valkey.url, url, **options) as jam:
        assert jam.backup.flush() == 5
        assert jam.backup.verify()
        assert numbers(jam) == list(range(305))
        NoteHandler(jam, "n").save({"n": 305})
        jam.backup.flush()
        jam.redis.flushall()
        assert numbers(jam) == list(range(306))
        assert jam.backup.verify()


@pytest.fixture
def begun_anew(own_valkey: Server, mongo: Server, namespace: str) -> None:
    """Notes 0 to 2 are in MongoDB, and 3 to 5 in an emptied Redis, as another log."""
    with Jamboree(own_valkey.url, mongo.url, namespace=namespace, backup=False) as jam:
        NoteHandler(jam, "n").save_many({"n": n} for n in range(3))
        jam.backup.flush()
        jam.redis.flushall()
    with Jamboree(own_valkey.url, namespace=namespace) as jam:  # knows of no backup
        NoteHandler(jam, "n").save_many({"n": n} for n in range(3, 6))


@pytest.mark.parametrize("times", quick_and_long([1, 5], quick=[5]))
@pytest.mark.usefixtures("begun_anew")
def test_records_that_are_saved_while_others_move_behind_those_of_mongodb_follow_them(
    open_jam: Open, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    jam, writer = open_jam(), open_jam(write="sync")
    notes, replace_log, new = NoteHandler(writer, "n"), Restorer.replace, [*range(6, 6 + times)]

    def replace_later(*arguments: Any, **options: Any) -> bool:
        if new:
            notes.save({"n": new.pop(0)})
        return replace_log(*arguments, **options)

    monkeypatch.setattr(Restorer, "replace", replace_later)
    assert jam.backup.flush() == 3 + times
    assert not new
    assert numbers(jam) == list(range(6 + times))
    assert jam.backup.verify()


@pytest.mark.usefixtures("begun_anew")
def test_two_backups_that_join_a_log_at_once_do_not_refuse_it(
    open_jam: Open, in_the_gap: Callable[..., None]
) -> None:
    jam, other = open_jam(), open_jam()
    in_the_gap(LogReader, "undecoded_head", other.backup.flush)
    jam.backup.flush()
    assert numbers(jam) == list(range(6))
    assert jam.backup.verify()


@pytest.mark.usefixtures("begun_anew")
def test_a_log_that_redis_loses_while_it_is_joined_is_not_refused(
    open_jam: Open, in_the_gap: Callable[..., None]
) -> None:
    jam, other = open_jam(), open_jam()
    in_the_gap(LogReader, "undecoded_head", other.redis.flushall)
    jam.backup.flush()
    assert numbers(jam) == list(range(3))
    assert jam.backup.verify()


def test_an_append_that_is_sent_again_after_its_records_were_moved_adds_nothing(
    open_jam: Open,
) -> None:
    jam = open_jam(write="sync")
    notes = NoteHandler(jam, "n")
    notes.save_many({"n": n} for n in range(3))
    store, key = jam._connection.redis_store, notes._key
    batches = jam.redis.lrange(at(jam, key), 1, -1)
    raw, head = store.reader.undecoded_head(key), store.head(key)
    assert head is not None
    kept = replace(head, count=10, held=0, t_last=head.born - 1)
    (moved, t_last), *_ = rejoin._renumbered(kept, [decode_batch(batches[0], where=key)])
    joined = replace(head, first=10, held=10, newest=10, acked=10, count=13, t_last=t_last)
    assert store.restorer.replace(key, joined, [moved], instead_of=raw, epoch=store.epoch())
    again = Append(key, CODEC_RECORDS, batches, 3, is_repeated=True)

    (result,) = store.append([again])
    assert isinstance(result, AppendResult)
    assert (result.stored, result.count) == (1, 13)
    (result,) = store.append([structs.replace(again, is_repeated=False)])
    assert isinstance(result, AppendResult)
    assert result.stored == 0


def test_a_copy_does_not_count_what_a_failover_has_put_in_the_place_of_another_record(
    open_jam: Open, in_the_gap: Callable[..., None]
) -> None:
    jam, other = open_jam(write="sync"), open_jam(write="sync")
    notes, others = NoteHandler(jam, "n"), NoteHandler(other, "n")
    for n in range(FEW_REVISIONS + 1):  # a log that is copied in pages
        notes.save({"n": n})
    jam.backup.flush()
    key = notes._key
    before = jam.redis.dump(at(jam, key))
    notes.pop()
    notes.save({"n": 10})

    def fail_over() -> None:
        jam.redis.restore(at(jam, key), 0, before, replace=True)
        others.save({"n": 11})

    in_the_gap(MongoStore, "counts", fail_over)
    jam.backup.flush()
    head = jam._connection.redis_store.head(key)
    newest = others.last()
    assert head is not None
    assert newest is not None
    assert (newest["n"], newest["timestamp"]) == (11, head.t_last)
    jam.backup.flush()
    assert jam.backup.verify()
    jam.redis.flushall()
    assert numbers(open_jam()) == [*range(FEW_REVISIONS + 1), 11]  # that 0 was taken off is lost


def test_what_a_failover_lost_and_what_was_saved_since_are_joined_also_if_others_were_popped(
    open_jam: Open,
) -> None:
    jam = open_jam(write="sync")
    notes = NoteHandler(jam, "n")
    notes.save_many({"n": n} for n in range(3))
    notes.save({"n": 3})
    notes.pop(2)
    key = at(jam, notes._key)
    before = jam.redis.dump(key)
    notes.save({"n": 4})
    jam.backup.flush()
    jam.redis.restore(key, 0, before, replace=True)  # as a replica has it that was a moment behind
    NoteHandler(open_jam(write="sync"), "n").save({"n": 5})
    jam.backup.flush()
    assert jam.backup.verify()
    assert numbers(open_jam()) == [2, 3, 4, 5]
    jam.redis.flushall()
    assert numbers(open_jam()) == [2, 3, 4, 5]


def test_a_log_is_not_begun_anew_while_another_process_restores_the_heads(open_jam: Open) -> None:
    jam = open_jam(write="sync")
    NoteHandler(jam, "n").save({"n": 0})
    jam.backup.flush()
    jam.redis.flushall()
    jam._connection.redis_store.listings.put_coverage("of the other process")
    NoteHandler(open_jam(write="sync"), "n").save({"n": 1})
    assert numbers(open_jam()) == [0, 1]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A MongoDB that was away is asked again soon."""
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(questions, "ASK_AGAIN_S", 0.1)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("has_copy", [True, False])
def test_an_episode_waits_for_mongodb_when_redis_is_emptied_and_goes_on_then(
    own_valkey: Server, mongo_line: Proxy, namespace: str, has_copy: bool
) -> None:
    options: Any = {"namespace": namespace, "backup": False, "flush_interval_s": 0.01}
    with Jamboree(own_valkey.url, direct(mongo_line), **options) as jam:
        env = jam.record(CountingEnv(length=20), run="r")
        play(env, [ACTION] * 3)
        jam.flush()
        if has_copy:
            jam.backup.flush()
        jam.redis.flushall()
        mongo_line.lose_server()
        for _ in range(8):
            env.step(ACTION)
        with pytest.raises(JamboreeError, match="cannot be reached"):
            jam.flush(timeout_s=0.1)
        new = jam.record(CountingEnv(length=2), run="r")
        play(new, [ACTION] * 2)
        with Jamboree(own_valkey.url, namespace=namespace) as reader:
            wait_until(lambda: reader.episodes().ids() == [new.episode_id])
        mongo_line.find_server()
        env.step(ACTION)
        jam.flush()
        assert jam.episode(env.episode_id).data().rewards.tolist() == [*range(1, 13)]
        jam.backup.flush()
        assert jam.backup.verify()


def begin_anew(url: str, namespace: str, number: int) -> None:
    """Save a note to a Redis that was emptied, in a process that knows of no backup."""
    with Jamboree(url, namespace=namespace) as jam:
        NoteHandler(jam, "n").save({"n": number})


@pytest.mark.parametrize("ahead_s", [0.0, 60.0])
@pytest.mark.usefixtures("hasty")
def test_records_whose_answer_was_lost_are_not_saved_again_to_a_log_that_others_begin_anew(
    own_valkey: Server,
    open_jam: Open,
    mongo_line: Proxy,
    namespace: str,
    in_the_gap: Callable[..., None],
    ahead_s: float,
) -> None:
    """It is not known what the backup has of them, so they wait until it answers."""
    url, copier = own_valkey.url, open_jam()
    jam = Jamboree(url, direct(mongo_line), namespace=namespace, backup=False)
    notes = NoteHandler(jam, "n")
    notes.save({"n": 0})
    jam.flush()

    def lose_answer() -> None:
        copier.backup.flush()
        copier.redis.flushall()
        mongo_line.lose_server()
        begin_anew(url, namespace, 2)
        raise RedisConnectionError("the answer is lost")

    outbox = notes._outbox
    assert outbox is not None
    outbox._clock = lambda: time.time() + ahead_s  # later than 2, it could follow it
    notes.save({"n": 1})
    in_the_gap(redis_link, "answer_of", lose_answer)
    with pytest.raises(UnsavedRecords, match="1 records are not in Redis"):
        jam.flush(timeout_s=0.5)
    mongo_line.find_server()
    jam.flush()
    copier.backup.flush()
    assert numbers(copier) == [0, 1, 2]
    assert copier.backup.verify()
    jam.close()


@pytest.mark.usefixtures("hasty")
def test_nor_is_what_a_dead_process_has_left_of_them(
    own_valkey: Server,
    valkey: Server,
    mongo: Server,
    mongo_line: Proxy,
    namespace: str,
    in_the_gap: Callable[..., None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    home, left = tmp_path / "home", tmp_path / "left"
    with Jamboree(own_valkey.url, mongo.url, namespace=namespace, backup=False, home=home) as jam:
        NoteHandler(jam, "n").save({"n": 1})
        die = partial(copy_journal, jam, home, left, valkey.url)
        in_the_gap(RecordOutbox, "settle", die, before=True)
        jam.flush()
        jam.backup.flush()
    begin_anew(valkey.url, namespace, 2)  # the same Redis, emptied
    mongo_line.lose_server()
    options: Any = {"namespace": namespace, "backup": False, "home": left}
    with Jamboree(valkey.url, direct(mongo_line), **options) as jam:
        assert numbers(jam) == [2]
    assert "could not be delivered, and stays there" in caplog.text
    mongo_line.find_server()
    with Jamboree(valkey.url, direct(mongo_line), **options) as jam:
        jam.backup.flush()
        assert numbers(jam) == [1, 2]
        assert jam.backup.verify()


@pytest.mark.usefixtures("hasty")
def test_nor_do_they_begin_it_anew_where_somebody_could_take_them_off_before_the_backup_answers(
    own_valkey: Server,
    open_jam: Open,
    mongo_line: Proxy,
    namespace: str,
    in_the_gap: Callable[..., None],
) -> None:
    """What the backup has would bring them back."""
    url, copier = own_valkey.url, open_jam()
    jam = Jamboree(url, direct(mongo_line), namespace=namespace, backup=False)
    notes = NoteHandler(jam, "n")
    notes.save({"n": 0})
    jam.flush()

    def lose_answer() -> None:
        copier.backup.flush()
        copier.redis.flushall()
        mongo_line.lose_server()
        raise RedisConnectionError("the answer is lost")

    notes.save({"n": 1})
    in_the_gap(redis_link, "answer_of", lose_answer)
    with suppress(UnsavedRecords):
        jam.flush(timeout_s=0.1)
    with Jamboree(url, namespace=namespace) as other:  # knows of no backup
        popped = [one["n"] for one in NoteHandler(other, "n").pop(9)]
    mongo_line.find_server()
    jam.flush()
    copier.backup.flush()
    assert [*popped, *numbers(copier)] == [0, 1]
    assert copier.backup.verify()
    jam.close()


def test_nor_does_the_journal_of_a_dead_process(
    own_valkey: Server,
    valkey: Server,
    mongo: Server,
    mongo_line: Proxy,
    namespace: str,
    in_the_gap: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 0.2)
    home, left = tmp_path / "home", tmp_path / "left"
    with Jamboree(own_valkey.url, mongo.url, namespace=namespace, backup=False, home=home) as jam:
        notes = NoteHandler(jam, "n")
        notes.save({"n": 0})
        jam.flush()

        def die() -> None:
            NoteHandler(jam, "m").save({"n": 2})
            copy_journal(jam, home, left, valkey.url)

        notes.save({"n": 1})
        in_the_gap(RecordOutbox, "settle", die, before=True)
        jam.flush()
        jam.backup.flush()
    mongo_line.lose_server()
    options: Any = {"namespace": namespace, "backup": False, "home": left}
    with Jamboree(valkey.url, direct(mongo_line), **options) as jam:  # the same Redis, emptied
        popped = [one["n"] for one in NoteHandler(jam, "n").pop(9)]
        assert NoteHandler(jam, "m").count() == 1  # it had not been sent, so nobody else has it
    mongo_line.find_server()
    with Jamboree(valkey.url, direct(mongo_line), **options) as jam:
        jam.backup.flush()
        assert [*popped, *numbers(jam)] == [0, 1]
        assert jam.backup.verify()


@pytest.mark.parametrize("others", [[], [2]])
def test_a_journal_whose_records_wait_still_knows_which_index_they_were_sent_with(
    own_valkey: Server,
    valkey: Server,
    mongo: Server,
    mongo_line: Proxy,
    open_jam: Open,
    namespace: str,
    in_the_gap: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    others: list[int],
) -> None:
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 0.2)
    home, left = tmp_path / "home", tmp_path / "left"
    with Jamboree(own_valkey.url, mongo.url, namespace=namespace, backup=False, home=home) as jam:
        NoteHandler(jam, "n").save({"n": 1})
        NoteHandler(open_jam(write="sync"), "n").save({"n": 0})  # 1 gets a time after this
        die = partial(copy_journal, jam, home, left, valkey.url)
        answered = partial(in_the_gap, RecordOutbox, "settle", before=True)
        answered(lambda: answered(die))  # the first answer says that 0 was first
        jam.flush()
        jam.backup.flush()
    for number in others:
        begin_anew(valkey.url, namespace, number)  # the same Redis, emptied
    mongo_line.lose_server()
    options: Any = {"namespace": namespace, "backup": False, "home": left}
    Jamboree(valkey.url, direct(mongo_line), **options).close()
    mongo_line.find_server()
    with Jamboree(valkey.url, direct(mongo_line), **options) as jam:
        jam.backup.flush()
        assert numbers(jam) == [0, 1, *others]
        assert jam.backup.verify()


def test_a_record_is_not_taken_for_an_older_one_that_the_backup_has_at_its_index(
    own_valkey: Server,
    valkey: Server,
    mongo: Server,
    open_jam: Open,
    namespace: str,
    in_the_gap: Callable[..., None],
    tmp_path: Path,
) -> None:
    home, left, other = tmp_path / "home", tmp_path / "left", open_jam(write="sync")
    options: Any = {"namespace": namespace, "backup": False}
    with Jamboree(own_valkey.url, mongo.url, home=home, **options) as jam:
        notes = NoteHandler(jam, "n")
        notes.save({"n": 1})
        NoteHandler(other, "n").save({"n": 0})  # 1 gets a time after this, and index 1
        jam.flush()
        (of_others, _) = notes.many(2)
        jam.backup.flush()
        jam.redis.flushall()
        for url in (own_valkey.url, valkey.url):  # the same Redis, before and after 2 arrives
            begin_anew(url, namespace, 3)
        outbox = notes._outbox
        assert outbox is not None
        outbox._t_last, outbox._clock = -math.inf, lambda: of_others["timestamp"]
        notes.save({"n": 2})
        die = partial(copy_journal, jam, home, left, valkey.url)
        answered = partial(in_the_gap, RecordOutbox, "settle", before=True)
        answered(lambda: answered(die))  # the first answer says that 3 was first
        jam.flush()
    with Jamboree(valkey.url, mongo.url, home=left, **options) as jam:
        jam.backup.flush()
        assert numbers(jam) == [0, 1, 3, 2]


@pytest.mark.usefixtures("hasty")
def test_an_episode_that_a_journal_begins_again_in_other_batches_is_no_other_one(
    own_valkey: Server,
    valkey: Server,
    mongo: Server,
    mongo_line: Proxy,
    namespace: str,
    in_the_gap: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    home, left = tmp_path / "home", tmp_path / "left"
    with Jamboree(own_valkey.url, mongo.url, namespace=namespace, backup=False, home=home) as jam:
        env = jam.record(CountingEnv(length=3))
        play(env, [ACTION] * 3)
        die = partial(copy_journal, jam, home, left, valkey.url)
        in_the_gap(StepOutbox, "settle", die, before=True)
        jam.flush()
        jam.backup.flush()
        recorded = jam.episode(env.episode_id).data()
    mongo_line.lose_server()
    monkeypatch.setattr(recovery, "rows_per_batch", lambda _: 1)
    options: Any = {"namespace": namespace, "backup": False, "home": left}
    with Jamboree(valkey.url, direct(mongo_line), **options) as jam:  # the same Redis, emptied
        assert len(jam.episode(env.episode_id).data()) == 3
    mongo_line.find_server()
    with Jamboree(valkey.url, direct(mongo_line), **options) as jam:
        jam.backup.flush()
        assert jam.backup.verify()
        found = jam.episode(env.episode_id).data()
    assert np.array_equal(found.observations, recorded.observations)
    assert np.array_equal(found.timestamps, recorded.timestamps)


@pytest.fixture
def with_leftover(open_jam: Open, in_the_gap: Callable[..., None]) -> Jamboree:
    """MongoDB has notes 0 to 2, and the batch of note 3, which a killed backup has left there."""
    jam = open_jam(write="sync")
    notes = NoteHandler(jam, "n")
    notes.save_many({"n": n} for n in range(3))
    jam.backup.flush()
    notes.save({"n": 3})

    def die() -> None:
        raise KeyboardInterrupt

    in_the_gap(MongoStore, "insert_batches", die)
    with pytest.raises(KeyboardInterrupt):
        jam.backup.flush()
    return jam


def test_batches_that_a_killed_backup_left_are_cleared_where_redis_has_lost_them(
    open_jam: Open, with_leftover: Jamboree
) -> None:
    jam, other = with_leftover, open_jam()
    jam.redis.flushall()
    assert numbers(other) == [0, 1, 2]
    NoteHandler(jam, "n").save({"n": 30})

    assert other.backup.flush() == 1
    assert other.backup.verify()
    other.redis.flushall()
    assert numbers(open_jam()) == [0, 1, 2, 30]


def test_a_batch_that_another_backup_clears_while_it_is_copied_is_copied(
    open_jam: Open, with_leftover: Jamboree, in_the_gap: Callable[..., None]
) -> None:
    in_the_gap(MongoLink, "duplicates", lambda: with_leftover.mongo.chunks.delete_many({}))
    assert open_jam().backup.flush() == 1
    assert open_jam().backup.verify()
    with_leftover.redis.flushall()
    assert numbers(open_jam()) == [0, 1, 2, 3]


def test_a_log_that_was_saved_while_mongodb_was_asked_for_it_is_asked_for_again(
    open_jam: Open, in_the_gap: Callable[..., None]
) -> None:
    jam = open_jam(write="sync")
    in_the_gap(MongoStore, "logs", lambda: NoteHandler(jam, "n").save({"n": 1}))
    NoteHandler(jam, "n").count()
    jam.backup.flush()
    jam.redis.flushall()

    assert numbers(jam) == [1]


def test_nothing_is_acknowledged_of_which_less_is_there(open_jam: Open) -> None:
    jam = open_jam(write="sync")
    notes = NoteHandler(jam, "n")
    notes.save_many({"n": n} for n in range(3))
    store, key, epoch = jam._connection.redis_store, notes._key, jam._connection.redis_store.epoch()
    ((head, _),) = store.reader.unacked([key]).values()
    jam.redis.flushall()
    notes.save({"n": 0})

    for known in (epoch, store.epoch()):
        assert store.acknowledgements.acknowledge({key: head}, epoch=known)[0] | {key} == {key}
        now = store.head(key)
        assert now is not None
        assert now.acked == 0


# -- deletions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_emptied_again", quick_and_long([True, False], quick=[True]))
def test_a_reader_that_was_late_does_not_bring_a_deleted_episode_back(
    open_jam: Open,
    in_the_gap: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    is_emptied_again: bool,
) -> None:
    monkeypatch.setattr(read_through, "ABSENT_S", 0.1)
    jam, other = open_jam(), open_jam()
    episode = record(jam)
    jam.backup.flush()
    jam.redis.flushall()

    def delete() -> None:
        other.episode(episode).delete()
        if is_emptied_again:
            other.redis.flushall()

    in_the_gap(MongoStore, "logs", delete)
    reader = open_jam()
    with suppress(EpisodeNotFound):  # or it was quicker than the deletion
        reader.episode(episode).data()

    time.sleep(0.2)  # what MongoDB did not hold is asked for again
    with pytest.raises(EpisodeNotFound):
        open_jam().episode(episode).data()
    assert open_jam().episodes(run="a", wait=True).ids() == []


@pytest.mark.parametrize("write", ["buffered", "sync"])
def test_a_first_append_that_is_sent_again_does_not_bring_a_deleted_episode_back(
    open_jam: Open, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    jam, other = open_jam(write=write), open_jam()
    env = jam.record(CountingEnv(length=100), run="a")
    env.reset()
    jam.flush()
    real, deleted = redis_link.answer_of, list[str]()

    def answer(connection: Any) -> Any:
        got = real(connection)
        if deleted or not isinstance(got, list):
            return got
        monkeypatch.setattr(redis_link, "answer_of", real)
        deleted.extend(set(other.episodes(run="a").ids()) - {first})
        monkeypatch.setattr(redis_link, "answer_of", answer)
        if deleted:
            other.episode(deleted[0]).delete()
            raise RedisConnectionError("the answer is lost")
        return got

    first = env.episode_id
    monkeypatch.setattr(redis_link, "answer_of", answer)
    env.reset()
    env.step(ACTION)
    jam.flush()
    wait_until(lambda: deleted)
    env.step(ACTION)
    jam.flush()

    assert other.episodes(run="a").ids() == [first]
    other.backup.flush()
    other.redis.flushall()
    assert open_jam().episodes(run="a").ids() == [first]


def test_records_whose_answer_was_lost_are_not_saved_again_after_their_deletion(
    open_jam: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    jam, other = open_jam(write="sync"), open_jam()
    real, acts = redis_link.answer_of, [lambda: NoteHandler(other, "n").delete()]
    jam._connection.store.epoch()

    def answer(connection: Any) -> Any:
        got = real(connection)
        if not acts or not isinstance(got, list):
            return got
        monkeypatch.setattr(redis_link, "answer_of", real)
        is_there = NoteHandler(other, "n").count() > 0
        monkeypatch.setattr(redis_link, "answer_of", answer)
        if is_there:
            acts.pop()()
            raise RedisConnectionError("the answer is lost")
        return got

    monkeypatch.setattr(redis_link, "answer_of", answer)
    NoteHandler(jam, "n").save({"n": 1})
    NoteHandler(jam, "n").save({"n": 2})

    assert numbers(other) == [2]
    other.backup.flush()
    assert other.backup.verify()
    other.redis.flushall()
    assert numbers(open_jam()) == [2]


def test_what_was_deleted_while_redis_was_emptied_stays_deleted_or_was_not_found(
    open_jam: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is emptied before each of the requests of the deletion; its writer goes on."""
    writer, other = open_jam(), open_jam()
    real, left, deleted = RedisLink._send, 0, 0

    def send(link: RedisLink, *arguments: Any, **options: Any) -> Any:
        nonlocal left
        if link is other._connection.redis_store.link:
            left -= 1
            if left == 0:
                writer.redis.flushall()
        return real(link, *arguments, **options)

    monkeypatch.setattr(RedisLink, "_send", send)
    for request in count(1):
        env = writer.record(CountingEnv(length=9), run="a")
        play(env, [ACTION])
        writer.flush()
        left = request
        try:
            other.episode(env.episode_id).delete()
        except EpisodeNotFound:
            continue
        if left > 0:
            break
        deleted += 1
        with suppress(JamboreeError):  # its episode was deleted
            env.step(ACTION)
            writer.flush()
        assert env.episode_id not in other.episodes().ids(), f"emptied before request {request}"
    assert deleted > 1


def test_a_deletion_is_not_lost_where_redis_lets_go_of_the_episode_meanwhile(
    open_jam: Open, in_the_gap: Callable[..., None]
) -> None:
    jam, other = open_jam(), open_jam()
    episode = record(jam)
    jam.backup.flush()

    def trim() -> None:
        other.backup.retain(max_redis_bytes=1)
        assert other.backup.trim().freed_bytes > 0
        other.backup.retain()

    in_the_gap(RedisStore, "head", trim)
    jam.episode(episode).delete()

    with pytest.raises(EpisodeNotFound):
        open_jam().episode(episode).data()
    jam.redis.flushall()
    assert open_jam().episodes(run="a", wait=True).ids() == []


@pytest.mark.parametrize("revision", [1, 9])
def test_a_log_that_begins_again_under_a_birth_that_was_deleted_has_a_copy(
    open_jam: Open, revision: int
) -> None:
    """As an import does: its times, and so its birth, are those of the first time."""
    jam = open_jam(write="sync")
    episode = record(jam)
    key, store = jam._connection.keyspace.episode(episode), jam._connection.redis_store
    jam.backup.flush()
    lying, listing = (
        jam.redis.dump(at(jam, key)),
        jam.redis.dump(listing_of(jam, "a", episode)),
    )
    jam.episode(episode).delete()
    jam.redis.restore(at(jam, key), 0, lying)
    jam.redis.restore(listing_of(jam, "a", episode), 0, listing)
    jam.redis.zadd(beside(jam, key, "unbacked"), {at(jam, key): revision})
    head = store.head(key)
    assert head is not None
    jam.redis.lset(at(jam, key), 0, replace(head, acked=0).encode())

    other = open_jam()
    assert other.backup.flush() == 4
    assert other.backup.verify()
    other.redis.flushall()
    assert open_jam().episodes(run="a").ids() == [episode]


def test_a_backup_does_not_wait_for_such_a_log_where_redis_was_emptied_meanwhile(
    open_jam: Open, in_the_gap: Callable[..., None]
) -> None:
    jam = open_jam(write="sync")
    notes = NoteHandler(jam, "n")
    notes.save_many({"n": n} for n in range(4))
    key, head = notes._key, jam._connection.redis_store.head(notes._key)
    lying = jam.redis.dump(at(jam, key))
    assert head is not None
    jam._connection.backup_store.delete([(key, head.born)])

    def empty_and_put_back() -> None:
        jam.redis.flushall()
        jam.redis.restore(at(jam, key), 0, lying)

    in_the_gap(LogReader, "unacked", empty_and_put_back)
    open_jam().backup.flush()
    jam.redis.zadd(beside(jam, key, "unbacked"), {at(jam, key): 1})

    assert open_jam().backup.flush() == 4


def test_blobs_of_an_episode_that_was_deleted_before_its_copy_are_no_difference(
    open_jam: Open,
) -> None:
    jam = open_jam()
    jam.episode(record(jam)).delete()
    assert jam.backup.flush() == 0
    assert jam.backup.verify()


# -- one log blocks no other --------------------------------------------------------------------


@pytest.mark.usefixtures("prompt_writer")
def test_steps_arrive_while_mongodb_is_asked_for_another_log(
    open_jam: Open, in_the_gap: Callable[..., None]
) -> None:
    jam, other = open_jam(flush_interval_s=0.01), open_jam()
    env = jam.record(CountingEnv(length=100))
    play(env, [ACTION])
    other._connection.store.feed.announce(
        [jam._connection.keyspace.episode(env.episode_id)]
    )  # so that it delivers promptly
    jam.flush()
    env.step(ACTION)
    wait_until(lambda: jam._connection.writer.schedule.is_followed)
    asked, may_answer = threading.Event(), threading.Event()

    def ask() -> None:  # as a MongoDB that is being started
        asked.set()
        assert may_answer.wait(WAIT_TIMEOUT_S)

    in_the_gap(type(jam._connection.store), "ask_for", ask, before=True)
    NoteHandler(jam, "n").save({"n": 1})
    wait_until(asked.is_set)
    try:
        for _ in range(5):
            env.step(ACTION)
        wait_until(lambda: len(other.episode(env.episode_id).data()) == 7, timeout_s=30.0)
        assert numbers(other) == []
    finally:
        may_answer.set()
    jam.flush()
    assert numbers(other) == [1]


def test_a_refused_append_writes_no_summary(
    open_jam: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_outbox, "MAX_SENT_AGAIN_BYTES", 0)
    jam = open_jam(write="sync")
    env = jam.record(CountingEnv(length=100), run="a")
    play(env, [ACTION] * 2)
    key, listing = (
        jam._connection.keyspace.episode(env.episode_id),
        listing_of(jam, "a", env.episode_id),
    )
    rows, summaries = jam.redis.dump(at(jam, key)), jam.redis.dump(listing)
    for _ in range(3):
        env.step(ACTION)
    jam.redis.restore(at(jam, key), 0, rows, replace=True)
    jam.redis.restore(listing, 0, summaries, replace=True)
    with pytest.raises(EpisodeNotFound, match="no longer in Redis"):
        env.step(ACTION)
    with pytest.raises(UnsavedRecords, match="no longer in Redis"):
        jam.flush()
    jam.flush()  # it has been said

    (summary,) = open_jam().episodes(run="a").summaries()
    assert (summary.steps, summary.status) == (2, "running")


# -- what Redis gives up meanwhile ----------------------------------------------------------------


def test_a_log_that_redis_gives_up_while_it_is_compared_is_no_difference(
    open_jam: Open, in_the_gap: Callable[..., None]
) -> None:
    writer, other = open_jam(), open_jam()
    env = writer.record(CountingEnv(length=100))
    env.reset()
    for _ in range(20):
        env.step(ACTION)
        writer.flush()
    other.backup.flush()
    other.backup.retain(max_redis_bytes=1)
    in_the_gap(LogReader, "heads", other.backup.trim)

    assert other.backup.verify()
    head = other._connection.redis_store.head(other._connection.keyspace.episode(env.episode_id))
    assert head is not None
    assert head.held > 0
