"""Which MongoDB has acknowledged: one at a time, and another one begins with nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from backed_up import is_complete
from conftest import Server
from processes import NoteHandler, wait_until
from pymongo import MongoClient
from recorded_envs import ACTION, CountingEnv, play
from stored import at, in_buckets

from jamboree_gym import Jamboree
from jamboree_gym.backup.follow import Follower
from jamboree_gym.backup.waiting import StopSignal
from jamboree_gym.errors import BackupMismatch, EpisodeNotFound
from jamboree_gym.store.backups.errors import BackupUnavailable
from jamboree_gym.store.mongo.store import MongoStore
from jamboree_gym.store.redis.backup_state import Acknowledgements

Open = Callable[..., Jamboree]
OTHER_HOST = "localhost"  # another database on the same server stands for another MongoDB


@pytest.fixture
def open_jam(own_valkey: Server, mongo: Server, namespace: str, monkeypatch: Any) -> Iterator[Open]:
    """Opens Jamborees on one Redis, each with the MongoDB that is named."""
    opened: list[Jamboree] = []
    real = MongoStore.__init__

    def with_its_own_database(
        store: MongoStore, client: Any, namespace: str, *, where: str
    ) -> None:
        suffix = "-other" if where.startswith(OTHER_HOST) else ""
        real(store, client, namespace + suffix, where=where)

    monkeypatch.setattr(MongoStore, "__init__", with_its_own_database)

    def open_one(which: str = "first", **options: Any) -> Jamboree:
        url = mongo.url if which == "first" else mongo.url.replace("127.0.0.1", OTHER_HOST)
        usual = {"namespace": namespace, "backup": False, "backup_interval_s": 0.1}
        opened.append(Jamboree(own_valkey.url, url, **(usual | options)))
        return opened[-1]

    yield open_one
    for jam in opened:
        jam.close()


def record(jam: Jamboree, steps: int = 3) -> str:
    """Record an episode that ends; its id."""
    env = jam.record(CountingEnv(length=steps), run="a")
    play(env, [ACTION] * steps)
    jam.flush()
    return str(env.episode_id)


def where_of(jam: Jamboree) -> str:
    return jam._connection.backup_store.where


def test_another_mongodb_begins_with_nothing_acknowledged(open_jam: Open) -> None:
    first, second = open_jam("first"), open_jam("second")
    episode_id = record(first)
    NoteHandler(first, "n").save_many([{"n": n} for n in range(5)])
    assert first.backup.status().mongo is None
    assert first.backup.flush() == 9
    assert first.backup.status().mongo == where_of(first)

    assert second.backup.flush() == 9
    assert second.backup.status().mongo == where_of(second)
    assert second.backup.verify()
    assert second.backup.flush() == 0
    second.redis.flushall()
    assert len(second.episode(episode_id).data().rewards) == 3
    assert [one["n"] for one in NoteHandler(second, "n").many(9)] == list(range(5))
    assert is_complete(second)


def test_back_at_the_first_one_what_has_grown_meanwhile_is_there_once(open_jam: Open) -> None:
    first, second = open_jam("first"), open_jam("second")
    env, notes = first.record(CountingEnv(length=90)), NoteHandler(first, "n")
    for n in range(3):  # small ones, of which a part has documents of its own
        play(env, [ACTION] * 5) if n == 0 else [env.step(ACTION) for _ in range(5)]
        notes.save({"n": n})
        for jam in (first, second, first)[: n + 1]:
            jam.flush()
            jam.backup.flush()
            assert jam.backup.verify()
    assert is_complete(first)
    first.redis.flushall()
    assert len(first.episode(env.episode_id).data().rewards) == 15
    assert [one["n"] for one in notes.many(9)] == [0, 1, 2]


def test_a_mongodb_that_was_emptied_is_another_one(
    open_jam: Open, mongo: Server, namespace: str
) -> None:
    jam = open_jam()
    record(jam)
    assert jam.backup.flush() == 4
    with MongoClient[Any](mongo.url) as client:
        client.drop_database(jam.mongo.name)
    record(jam)
    assert jam.backup.flush() == 8
    assert jam.backup.verify()


def test_an_adoption_that_is_killed_is_gone_on_with_and_nothing_goes_meanwhile(
    open_jam: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = open_jam("first"), open_jam("second")
    record(first)
    first.backup.flush()
    first.backup.retain(max_redis_bytes=1)
    kill_in_adoption(second, monkeypatch)
    assert not first.backup.trim().freed_bytes
    assert second.backup.flush() == 4
    assert second.backup.verify()
    assert first.backup.trim().freed_bytes


def kill_in_adoption(jam: Jamboree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its backup takes over, and is killed before the first log is unacknowledged."""
    with monkeypatch.context() as killed, suppress(ZeroDivisionError):
        killed.setattr(Acknowledgements, "unacknowledge", lambda *_, **__: 1 / 0)
        jam.backup.flush()


def test_while_another_mongodb_takes_over_all_logs_are_pending(
    open_jam: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = open_jam("first"), open_jam("second")
    record(first)
    NoteHandler(first, "n").save({"n": 0})
    first.backup.flush()
    assert is_complete(first)
    kill_in_adoption(second, monkeypatch)
    for jam in (first, second):
        status = jam.backup.status()
        assert (status.pending_logs, status.pending_records) == (2, 5)
        assert status.lag_s != 0.0
        assert not jam.backup.verify() or jam is first
    second.backup.flush()
    assert is_complete(second)


def test_a_status_names_no_mongodb_that_took_over_after_the_logs_were_counted(
    open_jam: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = open_jam("first"), open_jam("second")
    record(first)
    first.backup.flush()
    count = Acknowledgements.unbacked

    def then_taken_over(self: Acknowledgements) -> Iterator[tuple[str, int]]:
        found = list(count(self))
        with monkeypatch.context() as once:
            once.setattr(Acknowledgements, "unbacked", count)
            kill_in_adoption(second, monkeypatch)
        return iter(found)

    monkeypatch.setattr(Acknowledgements, "unbacked", then_taken_over)
    status = first.backup.status()
    assert (status.mongo, status.pending_logs) == (where_of(first), 0)
    monkeypatch.undo()


def test_what_redis_has_let_go_of_is_named_and_comes_from_the_one_before(open_jam: Open) -> None:
    first, second = open_jam("first"), open_jam("second")
    notes = NoteHandler(first, "n")
    notes.save_many([{"n": n} for n in range(5)])
    first.backup.flush()
    head = first._connection.redis_store.head(notes._key)
    assert head is not None
    first.redis.delete(at(first, notes._key), *in_buckets(first, "coverage"))
    first.episodes().ids()  # lists what MongoDB holds, and puts heads back
    held = first._connection.redis_store.head(notes._key)
    assert held is not None
    assert held.held == 5

    with pytest.raises(BackupMismatch, match=r"lacks its first 5 records, .* backup\.restore\(\)"):
        second.backup.flush()
    assert first.backup.restore() == 1
    second.backup.flush()
    assert second.backup.verify()
    assert [one["n"] for one in NoteHandler(second, "n").many(9)] == list(range(5))


def test_what_another_mongodb_brings_back_is_not_acknowledged(open_jam: Open) -> None:
    first, second = open_jam("first"), open_jam("second")
    lost, kept = record(first), record(first)
    first.backup.flush()
    first.redis.delete(at(first, first._connection.keyspace.episode(lost)))
    second.backup.flush()
    assert is_complete(second)

    assert len(first.episode(lost).data().rewards) == 3
    assert second.backup.status().pending_records == 4
    assert second.backup.flush() == 4
    first.redis.flushall()
    assert len(second.episode(lost).data().rewards) == 3
    assert len(second.episode(kept).data().rewards) == 3


def test_what_was_deleted_stays_so_when_the_first_one_is_back(open_jam: Open) -> None:
    first, second = open_jam("first"), open_jam("second")
    gone, kept = record(first), record(first)
    for jam in (first, second):
        jam.backup.flush()
    second.episode(gone).delete()
    second.backup.flush()

    first.backup.flush()
    first.redis.delete(*first.redis.keys(f"*{first._connection.keyspace.namespace}:*"))
    with pytest.raises(EpisodeNotFound):
        first.episode(gone).data()
    assert first.episodes().ids() == [kept]
    second.backup.flush()
    assert second.backup.verify()
    assert second.episodes().ids() == [kept]


def test_a_mongodb_that_does_not_acknowledge_cannot_say_that_a_deletion_is_done(
    open_jam: Open,
) -> None:
    first, second = open_jam("first"), open_jam("second")
    gone = record(first)
    first.backup.flush()
    second.episode(gone).delete()
    assert first.backup.status().pending_deletes == 1
    first.backup.flush()
    first.redis.flushall()
    with pytest.raises(EpisodeNotFound):
        first.episode(gone).data()


def test_it_is_copied_to_where_the_last_one_said_that_opened_it(
    open_jam: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jamboree_gym")
    first = open_jam("first", backup=True)
    record(first)
    wait_until(lambda: is_complete(first))
    second = open_jam("second", backup=True)
    episode_id = record(second)
    wait_until(lambda: second.backup.status().mongo == where_of(second) and is_complete(second))
    said = f"is copied to MongoDB at {where_of(second)}, and no more to {where_of(first)}"
    wait_until(lambda: said in caplog.text)

    first.redis.flushall()
    record(first)
    wait_until(lambda: second.backup.status().mongo == where_of(second) and is_complete(second))
    assert second.backup.verify()
    assert episode_id in second.episodes().ids()
    assert caplog.text.count(said) == 1


def test_a_process_goes_on_where_a_thread_names_the_same_mongodb_otherwise(open_jam: Open) -> None:
    jam, stop = open_jam(), StopSignal()
    options: Any = {"is_new": True, "kind": "process", "interval_s": 0.1}
    process = Follower(
        jam._connection.redis_store,
        lambda: jam._connection.backup_store,
        to="by-another-name",
        **options,
    )
    thread = threading.Thread(target=process.run, args=(stop,))
    thread.start()
    try:
        record(jam)
        wait_until(lambda: is_complete(jam))
        trainer = open_jam(backup=True)
        record(trainer)
        wait_until(lambda: process._to == trainer._connection.backed_up_to)
        trainer.close()
        record(jam)
        wait_until(lambda: is_complete(jam))
    finally:
        stop.set()
        thread.join()
        stop.close()
    assert process.trouble is None


def test_an_outage_is_said_once_whatever_words_there_are_for_it(
    jam: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    words = iter(["connection reset", "connection refused"])

    def open_mongo() -> MongoStore:
        raise BackupUnavailable(next(words))

    follower = Follower(jam._connection.redis_store, open_mongo, to="m", is_new=True)
    for _ in range(2):
        follower.copy_once()
    assert [one.getMessage().partition(";")[0] for one in caplog.records] == ["connection reset"]


def test_one_mongodb_by_two_names_is_one(open_jam: Open, mongo: Server) -> None:
    jam = open_jam()
    record(jam)
    jam.backup.flush()
    identity = jam._connection.backup_store.identity()
    again = MongoStore.from_url(mongo.url, jam._connection.keyspace.namespace)
    assert again.identity_now() == identity
    with MongoClient[Any](mongo.url) as client:
        client[jam.mongo.name]["settings"].update_one({"_id": "identity"}, {"$unset": {"id": 1}})
    assert again.identity_now().id not in {"", identity.id}
    assert again.identity_now() == again.identity_now()
    again.close()
