"""Redis -> MongoDB -> Redis: everything, once, byte for byte, whatever happens in between."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from conftest import START_TIMEOUT_S, Server
from lengths import quick_and_long
from msgspec.structs import replace
from processes import NoteHandler, read_line, run_python
from proxy import Proxy, direct
from pymongo import MongoClient
from recorded_envs import ACTION, CountingEnv, ScriptedEnv, play
from redis.exceptions import OutOfMemoryError
from stored import at, beside
from warm import start_warm

from jamboree_gym import Jamboree
from jamboree_gym.encoding.batch_format import BATCH_BODY, encode_batch, encode_note
from jamboree_gym.errors import (
    BackupMismatch,
    DecodeError,
    EmbeddedServerError,
    EpisodeNotFound,
    InvalidUrl,
    JamboreeError,
    StoreFull,
    StoreUnavailable,
)
from jamboree_gym.store.backups.records import GrownLog
from jamboree_gym.store.mongo import client as mongo_client
from jamboree_gym.store.redis.backup_state import Acknowledgements

OpenJamboree = Callable[..., Jamboree]
Dump = dict[str, list[bytes] | bytes]


def record(jam: Jamboree, steps: int = 3, length: int = 10**9) -> str:
    """Record one episode that is left open; its id."""
    env = jam.record(CountingEnv(length=length))
    play(env, [ACTION] * steps)
    jam.flush()
    return env.episode_id


def record_in_two_parts(jam: Jamboree) -> str:
    """Record an episode that is copied in the middle, so that MongoDB has it in both its forms."""
    env = jam.record(CountingEnv(length=10**9))
    play(env, [ACTION] * 300)
    jam.backup.flush()
    for _ in range(300):
        env.step(ACTION)
    jam.backup.flush()
    return env.episode_id


def notes(jam: Jamboree, count: int = 3, name: str = "n") -> NoteHandler:
    handler = NoteHandler(jam, name)
    handler.save_many({"n": i} for i in range(count))
    return handler


def everything(jam: Jamboree) -> Dump:
    """All that Redis holds of a namespace, in raw bytes, but for signs of life and of comparing."""
    jam.flush()
    found: Dump = {}
    for key in sorted(jam.redis.scan_iter(f"*{jam._connection.keyspace.namespace}:*", count=1000)):
        kind = jam.redis.type(key)
        name = key.decode()
        if ":lease:" in name or name.endswith((":coverage", ":deletions", ":epoch", "}:backup")):
            continue
        if kind == b"list":
            found[name] = jam.redis.lrange(key, 0, -1)
        elif kind == b"hash":
            found[name] = repr(sorted(jam.redis.hgetall(key).items())).encode()
        elif kind == b"zset":
            found[name] = repr(jam.redis.zrange(key, 0, -1, withscores=True)).encode()
        else:
            found[name] = jam.redis.get(key)
    return found


def wipe(jam: Jamboree) -> None:
    for key in jam.redis.scan_iter(f"*{jam._connection.keyspace.namespace}:*", count=1000):
        jam.redis.delete(key)


# -- copying ----------------------------------------------------------------------------------


def test_a_flush_copies_everything_and_the_next_one_nothing(jam: Jamboree) -> None:
    record(jam, steps=3)
    notes(jam, 5)

    assert jam.backup.flush() == 4 + 5
    assert jam.backup.verify()
    assert jam.backup.flush() == 0
    assert jam._connection.backup_store.records() == 9


def test_what_is_buffered_is_copied_too(jam: Jamboree) -> None:
    notes(jam, 5)

    assert jam.backup.flush() == 5


def test_status_counts_what_is_not_copied(jam: Jamboree) -> None:
    record(jam, steps=3)
    assert jam.backup.status().pending_logs == 1
    assert jam.backup.status().pending_records == 4

    jam.backup.flush()
    assert jam.backup.status().pending_logs == 0


def test_an_episode_that_goes_on_after_a_backup_is_completed_by_the_next(jam: Jamboree) -> None:
    env = jam.record(CountingEnv(length=6))
    play(env, [ACTION] * 3)
    assert jam.backup.flush() == 4
    for _ in range(3):
        env.step(ACTION)

    assert not jam.backup.verify()
    assert jam.backup.flush() == 3
    assert jam.backup.verify()
    before = everything(jam)
    wipe(jam)
    jam.backup.restore()
    assert everything(jam) == before
    assert jam.episode(env.episode_id).status == "terminated"


def test_an_end_without_new_steps_is_copied(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    play(env, [ACTION])
    jam.backup.flush()
    env.close()

    assert jam.backup.flush() == 0
    wipe(jam)
    jam.backup.restore()
    assert jam.episode(env.episode_id).status == "abandoned"


def test_many_logs_are_copied(jam: Jamboree) -> None:
    for i in range(450):
        notes(jam, 2, name=f"n{i}")

    calls: list[tuple[int, int]] = []
    assert jam.backup.flush(progress=lambda done, of: calls.append((done, of))) == 900
    assert calls[-1] == (450, 450)
    assert calls == sorted(calls)


def test_a_log_of_many_deliveries_is_copied_in_pages(jam: Jamboree) -> None:
    env = jam.record(CountingEnv(length=10**9))
    env.reset()
    for _ in range(40):
        for _ in range(30):
            env.step(ACTION)
        jam.flush()
    jam.backup.flush()
    before = everything(jam)
    wipe(jam)
    jam.backup.restore()

    assert everything(jam) == before
    assert len(jam.episode(env.episode_id).data()) == 1200


@pytest.mark.long  # the contract of backups has a quicker one
def test_a_batch_of_more_than_16_mb_is_split_and_comes_back(jam: Jamboree) -> None:
    observations = [np.random.default_rng(i).random(2_200_000) for i in range(2)]
    env = jam.record(ScriptedEnv(observations=observations))
    play(env, [ACTION])
    jam.backup.flush()
    parts = [chunk["part"] for chunk in jam.mongo.chunks.find().sort("_id", 1)]
    wipe(jam)
    jam.backup.restore()

    assert parts == [0, 1, 0, 1]
    assert jam.backup.verify()
    assert np.array_equal(jam.episode(env.episode_id).data().observations, observations)


def test_where_only_settings_were_kept_there_is_no_backup_and_it_is_not_named(
    jam: Jamboree, namespace: str
) -> None:
    jam.backup.retain(max_age_s=3600)
    assert namespace in jam.mongo.client.list_database_names()

    with pytest.raises(StoreUnavailable, match=f"no backup of '{namespace}'") as caught:
        jam.backup.restore()
    assert namespace not in str(caught.value).splitlines()[1]


def test_records_saved_while_a_flush_runs_stay_pending(jam: Jamboree) -> None:
    handler = notes(jam, 3, name="a")
    notes(jam, 3, name="b")

    def save_more(done: int, _: int) -> None:
        handler.save({"n": 100 + done})
        jam.flush()

    jam.backup.flush(progress=save_more)

    assert jam.backup.status().pending_records > 0
    jam.backup.flush()
    assert jam.backup.verify()


def test_records_saved_between_reading_and_acknowledging_stay_pending(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = notes(jam, 3)
    store = type(jam._connection.backup_store)
    insert_logs = store.insert_logs

    def save_and_insert(self: Any, logs: Any, bundling: Any) -> Any:
        handler.save({"n": 3})
        jam.flush()
        return insert_logs(self, logs, bundling)

    monkeypatch.setattr(store, "insert_logs", save_and_insert)
    jam.backup.flush()
    monkeypatch.undo()

    assert jam.backup.status().pending_records == 1
    assert jam.backup.flush() == 1
    assert jam.backup.verify()


# -- comparing --------------------------------------------------------------------------------


def test_an_empty_namespace_is_verified(jam: Jamboree) -> None:
    report = jam.backup.verify()

    assert report
    assert (report.logs, report.batches) == (0, 0)


def test_verify_counts_logs_and_batches(jam: Jamboree) -> None:
    record(jam, steps=600)
    notes(jam, 3)
    jam.backup.flush()

    report = jam.backup.verify()

    assert report.logs == 2
    assert report.batches >= 4


def test_verify_names_a_log_that_mongodb_does_not_hold(jam: Jamboree) -> None:
    jam.backup.flush()
    episode_id = record(jam)
    key = jam._connection.keyspace.episode(episode_id)

    said = jam.backup.verify().different[key]
    assert said == f"episode {episode_id!r}: the backup does not hold it"


def flipped(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


def flip_in_mongo(jam: Jamboree, key: str) -> None:
    chunk = jam.mongo.chunks.find_one({"key": key})
    jam.mongo.chunks.update_one(
        {"_id": chunk["_id"]}, {"$set": {"content": flipped(chunk["content"])}}
    )


def flip_inline_in_mongo(jam: Jamboree, key: str) -> None:
    batches = jam.mongo.logs.find_one({"_id": key})["frames"]
    batches[-1] = flipped(batches[-1])
    jam.mongo.logs.update_one({"_id": key}, {"$set": {"frames": batches}})


def lose_inline_batch(jam: Jamboree, key: str) -> None:
    jam.mongo.logs.update_one({"_id": key}, {"$pop": {"frames": -1}})


def of_another_format(jam: Jamboree, key: str) -> None:
    jam.mongo.logs.update_one({"_id": key}, {"$set": {"format": 99}})


def flip_in_redis(jam: Jamboree, key: str) -> None:
    jam.redis.lset(at(jam, key), 1, flipped(jam.redis.lindex(at(jam, key), 1)))


def lose_chunk(jam: Jamboree, key: str) -> None:
    chunk = jam.mongo.chunks.find_one({"key": key})
    jam.mongo.chunks.delete_one({"_id": chunk["_id"]})


def lose_head(jam: Jamboree, key: str) -> None:
    jam.mongo.logs.delete_one({"_id": key})


def flip_head(jam: Jamboree, key: str) -> None:
    head = jam.mongo.logs.find_one({"_id": key})["head"]
    jam.mongo.logs.update_one({"_id": key}, {"$set": {"head": flipped(head)}})


HARMS = [
    flip_in_mongo,
    flip_inline_in_mongo,
    lose_chunk,
    lose_inline_batch,
    flip_head,
    of_another_format,
]


FIELDS = [
    *[("logs", name) for name in ("format", "born", "revision", "count", "head", "crc")],
    *[("logs", name) for name in ("frames", "frames_crc")],
    *[("chunks", name) for name in ("format", "part", "content", "crc")],
]
VALUES = (None, "text", -1)
# Each field with one of the values; with the other two they are long.
FIELDS_AND_VALUES = [
    pytest.param(*field, value, marks=[] if number % 3 == at else [pytest.mark.long])
    for number, field in enumerate(FIELDS)
    for at, value in enumerate(VALUES)
]


@pytest.mark.parametrize(("collection", "name", "value"), FIELDS_AND_VALUES)
def test_a_document_with_another_kind_of_field_is_damage_that_is_named(
    jam: Jamboree, collection: str, name: str, value: Any
) -> None:
    key = jam._connection.keyspace.episode(record_in_two_parts(jam))
    is_of_log = {"_id": key} if collection == "logs" else {"key": key}
    jam.mongo[collection].update_one(is_of_log, {"$set": {name: value}})

    assert list(jam.backup.verify().different) == [key]
    jam.redis.zadd(beside(jam, key, "unbacked"), {at(jam, key): 99})
    rows = jam.redis.lrange(at(jam, key), 1, -1)
    with suppress(BackupMismatch):  # or it is mended by this
        jam.backup.flush()
    wipe(jam)
    with suppress(DecodeError):
        jam.backup.restore()
    assert jam.redis.lrange(at(jam, key), 1, -1) in ([], rows)


def test_a_document_without_a_count_does_not_keep_others_from_being_copied(jam: Jamboree) -> None:
    key = jam._connection.keyspace.episode(record_in_two_parts(jam))
    jam.mongo["logs"].update_one({"_id": key}, {"$unset": {"count": ""}})
    jam.redis.zadd(beside(jam, key, "unbacked"), {at(jam, key): 1})
    NoteHandler(jam, "others").save({"n": 1})

    with pytest.raises(BackupMismatch, match="damaged"):
        jam.backup.flush()
    assert list(jam.backup.verify().different) == [key]
    assert jam._connection.backup_store.records() == 1


@pytest.mark.parametrize("harm", [*HARMS, flip_in_redis, lose_head])
def test_verify_names_the_one_log_that_was_harmed(
    jam: Jamboree, harm: Callable[[Jamboree, str], None]
) -> None:
    keys = [jam._connection.keyspace.episode(record_in_two_parts(jam)) for _ in range(3)]
    assert jam.backup.verify()
    harm(jam, keys[1])

    different = jam.backup.verify().different
    assert list(different) == [keys[1]]
    assert jam._connection.keyspace.episode_id(keys[1]) in different[keys[1]]


def test_verify_names_a_blob_that_mongodb_lost(jam: Jamboree) -> None:
    episode = jam.episode(record(jam))
    jam.backup.flush()
    name = episode.origin.provenance
    jam.mongo.blobs.delete_one({"_id": name})

    assert list(jam.backup.verify().different) == [jam._connection.keyspace.blob(name)]


def test_content_that_is_not_that_of_its_name_is_damage(jam: Jamboree) -> None:
    episode = jam.episode(record(jam))
    jam.backup.flush()
    name = episode.origin.provenance
    other = encode_note(b"{}")
    jam.redis.set(jam._connection.keyspace.blob(name), other)
    url, space = jam._connection.redis_url, jam._connection.keyspace.namespace
    with (
        Jamboree(url, namespace=space) as reader,
        pytest.raises(DecodeError, match="not that of its name"),
    ):
        _ = reader.episode(episode.id).provenance
    assert list(jam.backup.verify().different) == [jam._connection.keyspace.blob(name)]


def test_a_blob_that_is_damaged_or_gone_in_redis_is_read_from_mongodb_and_mended(
    jam: Jamboree,
) -> None:
    episode = jam.episode(record(jam))
    jam.backup.flush()
    name, provenance = episode.origin.provenance, episode.provenance
    key = jam._connection.keyspace.blob(name)
    for harm in (
        lambda: jam.redis.set(at(jam, key), encode_note(b"{}")),
        lambda: jam.redis.delete(at(jam, key)),
    ):
        harm()
        with Jamboree(
            jam._connection.redis_url,
            jam._connection.backup_url,
            namespace=jam._connection.keyspace.namespace,
        ) as reader:
            assert reader.episode(episode.id).provenance == provenance
        assert jam.backup.verify()


def test_a_log_without_readable_records_is_verified(jam: Jamboree) -> None:
    handler = notes(jam, 3)
    jam.backup.flush()
    handler.pop(3)
    assert jam.backup.flush() == 0

    assert jam.backup.verify()


def test_progress_of_verify_and_restore(jam: Jamboree) -> None:
    for name in "abc":
        notes(jam, 1, name=name)
    jam.backup.flush()
    verified: list[tuple[int, int]] = []
    restored: list[tuple[int, int]] = []
    jam.backup.verify(progress=lambda *done: verified.append(done))
    wipe(jam)
    jam.backup.restore(progress=lambda *done: restored.append(done))

    assert verified == restored == [(1, 3), (2, 3), (3, 3)]


# -- restoring --------------------------------------------------------------------------------


def test_a_restore_after_flushall_is_byte_identical(
    own_valkey: Server, mongo: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url)
    ids = [record(jam, steps) for steps in (0, 3, 700)]
    notes(jam, 300)
    jam.backup.flush()
    before = everything(jam)
    jam.redis.flushall()
    assert list(jam._connection.redis_store.log_keys()) == []

    assert jam.backup.restore() == 4
    assert everything(jam) == before
    assert jam.episodes().ids() == ids
    assert jam.backup.flush() == 0
    assert jam.backup.restore() == 0


def test_a_restore_brings_back_what_a_new_process_can_read(
    jam: Jamboree, open_jamboree: OpenJamboree
) -> None:
    name = record(jam, 3)
    jam.backup.flush()
    wipe(jam)
    jam.backup.restore()
    reader = open_jamboree()

    assert len(reader.episode(name).data()) == 3
    assert reader.episode(name).provenance["spec_error"]


def test_a_log_may_go_on_after_a_restore(jam: Jamboree, open_jamboree: OpenJamboree) -> None:
    notes(jam, 3)
    jam.backup.flush()
    wipe(jam)
    jam.backup.restore()
    handler = NoteHandler(open_jamboree(), "n")
    handler.save({"n": 3})
    handler.event.flush()

    assert [note["n"] for note in handler.many(9)] == [0, 1, 2, 3]
    assert jam.backup.flush() == 1
    assert jam.backup.verify()


def test_a_restore_leaves_what_redis_has_more_of(jam: Jamboree) -> None:
    handler = notes(jam, 3)
    jam.backup.flush()
    handler.save({"n": 3})
    before = everything(jam)

    assert jam.backup.restore() == 0
    assert everything(jam) == before


def test_a_restore_brings_a_log_up_to_date_that_redis_has_less_of(jam: Jamboree) -> None:
    handler = notes(jam, 3)
    jam.flush()
    older = jam.redis.dump(at(jam, handler._key))
    handler.save({"n": 3})
    jam.backup.flush()
    jam.redis.restore(at(jam, handler._key), 0, older, replace=True)

    assert jam.backup.restore() == 1
    assert [note["n"] for note in handler.many(9)] == [0, 1, 2, 3]


def test_a_copy_brings_a_log_up_to_date_of_which_redis_has_lost_the_newest_records(
    jam: Jamboree,
) -> None:
    handler = notes(jam, 3)
    jam.flush()
    older = jam.redis.dump(at(jam, handler._key))
    handler.save({"n": 3})
    jam.backup.flush()
    jam.redis.restore(at(jam, handler._key), 0, older, replace=True)
    jam.redis.zadd(beside(jam, handler._key, "unbacked"), {at(jam, handler._key): 1})

    jam.backup.flush()
    assert jam.backup.verify()
    assert jam.backup.status().pending_logs == 0
    assert [note["n"] for note in handler.many(9)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "harm", quick_and_long(HARMS, quick=[flip_inline_in_mongo, lose_chunk, flip_head])
)
def test_a_log_that_is_damaged_in_mongodb_does_not_keep_the_others_back(
    jam: Jamboree, harm: Callable[[Jamboree, str], None]
) -> None:
    ids = [record_in_two_parts(jam) for _ in range(3)]
    harm(jam, jam._connection.keyspace.episode(ids[1]))
    wipe(jam)

    with pytest.raises(DecodeError):
        jam.backup.restore()
    keys = [jam._connection.keyspace.episode(id) for id in ids]
    assert sorted(jam._connection.redis_store.log_keys()) == sorted([keys[0], keys[2]])
    with pytest.raises(DecodeError):
        jam.episode(ids[1]).data()
    assert [len(jam.episode(id).data().rewards) for id in (ids[0], ids[2])] == [600, 600]


def test_a_blob_that_is_damaged_in_mongodb_does_not_keep_the_rest_back(jam: Jamboree) -> None:
    ids = [record(jam) for _ in range(3)]
    jam.backup.flush()
    name = jam.episode(ids[0]).origin.provenance
    jam.mongo.blobs.update_one({"_id": name}, {"$set": {"content": b"other", "crc": 0}})
    assert list(jam.backup.verify().different) == [jam._connection.keyspace.blob(name)]
    wipe(jam)

    with pytest.raises(DecodeError, match=name):
        jam.backup.restore()
    assert jam.episodes().ids() == ids


def test_batches_of_an_interrupted_flush_are_not_restored_without_their_head(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = jam.record(CountingEnv())
    play(env, [ACTION])
    jam.backup.flush()
    env.step(ACTION)

    monkeypatch.setattr(type(jam._connection.backup_store), "put_heads", interrupted)
    with pytest.raises(KeyboardInterrupt):
        jam.backup.flush()
    monkeypatch.undo()
    wipe(jam)
    jam.backup.restore()

    assert len(jam.episode(env.episode_id).data()) == 1
    env.step(ACTION)
    jam.flush()  # what Redis has lost is sent again, unless it is held no more
    assert len(jam.episode(env.episode_id).data()) == 3
    jam.backup.flush()
    assert jam.backup.verify()


# -- apart ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other", quick_and_long(["{}-b", "{}/x", "{}.x", "{}-B", "{} x"], quick=["{}/x", "{}-B"])
)
def test_namespaces_are_kept_apart(
    jam: Jamboree, open_jamboree: OpenJamboree, mongo: Server, namespace: str, other: str
) -> None:
    neighbour = open_jamboree(namespace=other.format(namespace), mongo_url=mongo.url)
    notes(jam, 3)
    notes(neighbour, 2)
    jam.backup.flush()
    neighbour.backup.flush()
    wipe(neighbour)
    neighbour.backup.restore()

    assert jam._connection.backup_store.records() == 3
    assert NoteHandler(neighbour, "n").count() == 2
    assert jam.mongo.name != neighbour.mongo.name


@pytest.mark.parametrize("namespace", ["admin", "local", "config", "Großes Projekt $1", "x" * 200])
def test_a_namespace_that_is_no_database_name_works(jam: Jamboree) -> None:
    notes(jam, 3)
    jam.backup.flush()

    assert jam.mongo.name not in ("admin", "local", "config")
    assert len(jam.mongo.name.encode()) < 64
    assert jam.backup.verify()
    jam.mongo.client.drop_database(jam.mongo.name)


def test_a_deleted_episode_is_deleted_on_both_sides(jam: Jamboree) -> None:
    kept, name = record(jam), record(jam, steps=600)
    jam.backup.flush()
    jam.episode(name).delete()
    wipe(jam)
    jam.backup.restore()

    with pytest.raises(EpisodeNotFound):
        jam.episode(name).data()
    assert jam.episodes().ids() == [kept]
    assert jam.mongo.chunks.count_documents({"key": jam._connection.keyspace.episode(name)}) == 0


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_deletion_that_was_killed_in_between_is_completed_and_brings_nothing_back(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = record(jam)
    jam.backup.flush()
    monkeypatch.setattr(type(jam._connection.backup_store), "delete", interrupted)
    with pytest.raises(KeyboardInterrupt):
        jam.episode(name).delete()
    monkeypatch.undo()

    assert jam.backup.status().pending_deletes == 1
    jam.backup.restore()
    assert jam.episodes().ids() == []
    assert jam._connection.backup_store.records() == 0
    assert jam.backup.status().pending_deletes == 0


def test_without_mongodb_a_deletion_is_noted_and_done_by_the_next_flush(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unavailable(*_: Any) -> None:
        raise StoreUnavailable("MongoDB is away")

    name = record(jam)
    jam.backup.flush()
    monkeypatch.setattr(type(jam._connection.backup_store), "delete", unavailable)
    jam.episode(name).delete()
    monkeypatch.undo()

    assert jam.episodes().ids() == []
    assert "deleted there by the next backup.flush()" in caplog.text
    jam.backup.flush()
    assert jam._connection.backup_store.records() == 0


@pytest.mark.parametrize("error", [StoreFull, EmbeddedServerError])
def test_a_mongodb_that_is_full_or_does_not_start_keeps_nobody_from_deleting(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch, error: type[JamboreeError]
) -> None:
    def refused(*_: Any) -> None:
        raise error("no room, or no server")

    handler = notes(jam, 3)
    jam.backup.flush()
    monkeypatch.setattr(type(jam._connection.backup_store), "delete", refused)
    handler.delete()

    assert handler.count() == 0
    assert jam.backup.status().pending_deletes == 1


def test_what_is_deleted_while_it_is_copied_does_not_stay(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = record(jam)
    store = type(jam._connection.backup_store)
    insert_logs = store.insert_logs

    def delete_and_insert(self: Any, logs: Any, bundling: Any) -> Any:
        jam.episode(name).delete()
        return insert_logs(self, logs, bundling)

    monkeypatch.setattr(store, "insert_logs", delete_and_insert)
    jam.backup.flush()

    assert jam._connection.backup_store.records() == 0
    assert jam.backup.restore() == 0


def test_what_a_killed_backup_brings_after_a_deletion_is_not_seen(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = notes(jam, 3)
    store = type(jam._connection.backup_store)
    insert_logs = store.insert_logs

    def delete_and_insert(self: Any, logs: Any, bundling: Any) -> Any:
        handler.delete()
        insert_logs(self, logs, bundling)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "insert_logs", delete_and_insert)
    with pytest.raises(KeyboardInterrupt):
        jam.backup.flush()
    monkeypatch.undo()

    assert jam.backup.restore() == 0
    assert jam.backup.verify()
    handler.save({"n": 7})
    jam.backup.flush()
    assert jam.backup.verify()
    wipe(jam)
    jam.backup.restore()
    assert [note["n"] for note in handler.many(9)] == [7]


@pytest.mark.parametrize("count", quick_and_long([3, 3000], quick=[3]))
def test_a_log_that_begins_anew_after_its_deletion_is_backed_up(jam: Jamboree, count: int) -> None:
    handler = NoteHandler(jam, "n")
    for first in (0, 10_000):
        handler.save_many({"n": first + i, "filler": b"x" * 100} for i in range(count))
        jam.backup.flush()
        if first == 0:
            handler.delete()
    assert jam.backup.verify()
    wipe(jam)
    jam.backup.restore()

    assert [note["n"] for note in handler.many(count)] == [10_000 + i for i in range(count)]


def test_a_damaged_log_can_be_deleted(jam: Jamboree) -> None:
    handler = notes(jam, 3)
    jam.backup.flush()
    jam.redis.lset(at(jam, handler._key), 0, flipped(jam.redis.lindex(at(jam, handler._key), 0)))
    handler.delete()

    assert handler.count() == 0
    assert jam._connection.backup_store.records() == 0


def test_a_log_that_was_begun_anew_follows_what_the_backup_holds(jam: Jamboree) -> None:
    notes(jam, 300, name="a")
    jam.backup.flush()
    before = jam.mongo.logs.find_one({})
    wipe(jam)
    with Jamboree(  # knows of no backup
        jam._connection.redis_url, namespace=jam._connection.keyspace.namespace
    ) as other:
        for n in range(300, 303):
            NoteHandler(other, "a").save({"n": n})
            other.flush()
        notes(other, 1, name="b")

    assert jam.backup.flush() == 4
    assert jam.backup.verify()
    assert jam.mongo.logs.find_one({"_id": before["_id"]})["frames"] == before["frames"]
    assert [one["n"] for one in NoteHandler(jam, "a").many(999)] == list(range(303))


def forge_last_batch(jam: Jamboree, key: str, older: bytes) -> int:
    """Put an older state of a log back, with another batch at its end; its number of records."""
    jam.redis.restore(at(jam, key), 0, older, replace=True)
    batch = jam.redis.lindex(at(jam, key), -1)
    count = int.from_bytes(batch[4:8], "little")
    other = encode_batch(
        codec=batch[3],
        start=int.from_bytes(batch[8:16], "little"),
        count=count,
        writer=b"somebody",
        t_first=1.0,
        t_last=2.0,
        body=batch[BATCH_BODY:],
    )
    jam.redis.lset(at(jam, key), -1, other)
    jam.redis.zadd(beside(jam, key, "unbacked"), {at(jam, key): 99})
    return count


@pytest.mark.parametrize("steps", [3, 3000])
def test_other_bytes_of_the_same_episode_are_not_overwritten(jam: Jamboree, steps: int) -> None:
    key = jam._connection.keyspace.episode(record(jam, steps=steps))
    older = jam.redis.dump(at(jam, key))
    jam.backup.flush()
    forge_last_batch(jam, key, older)

    with pytest.raises(BackupMismatch, match=r"other bytes at index .*nothing was overwritten"):
        jam.backup.flush()
    assert jam.backup.status().pending_logs == 1


@pytest.mark.parametrize("count", quick_and_long([3, 3000], quick=[3]))
def test_other_records_at_the_same_indices_follow_those_that_mongodb_holds(
    jam: Jamboree, count: int
) -> None:
    handler = notes(jam, count)
    jam.flush()
    older = jam.redis.dump(at(jam, handler._key))
    jam.backup.flush()
    more = forge_last_batch(jam, handler._key, older)

    assert jam.backup.flush() == more
    assert jam.backup.verify()
    expected = [*range(count), *range(count - more, count)]
    assert [one["n"] for one in handler.many(99_999)] == expected


def test_a_head_is_not_kept_where_more_is_kept_than_was_compared(jam: Jamboree) -> None:
    handler = notes(jam, 5)
    jam.backup.flush()
    head = jam._connection.store.head(handler._key)
    assert head is not None
    newer = replace(head, count=8, revision=head.revision + 1)

    put_heads = jam._connection.backup_store.put_heads
    assert put_heads({handler._key: GrownLog(newer, since=3)}) == {handler._key: None}
    assert put_heads({handler._key: GrownLog(newer, since=5)}) == {}
    assert jam._connection.backup_store.records() == 8


def test_single_episodes_are_restored(jam: Jamboree) -> None:
    ids = [record(jam, 3) for _ in range(4)]
    jam.backup.flush()
    wipe(jam)

    assert jam.backup.restore(ids[:2]) == 2
    keys = [jam._connection.keyspace.episode(id) for id in ids]
    assert sorted(jam._connection.redis_store.log_keys()) == keys[:2]
    assert jam.backup.restore([jam.episode(ids[2])]) == 1
    with pytest.raises(EpisodeNotFound, match="gone"):
        jam.backup.restore(["gone", ids[3]])
    assert jam.episodes().ids() == ids


def test_a_redis_that_is_full_is_backed_up_and_deleted_from(
    own_valkey: Server, mongo: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url)
    handler = notes(jam, 300)
    jam.flush()
    jam.redis.config_set("maxmemory", 1)
    with pytest.raises(OutOfMemoryError):
        jam.redis.set("one", "more")

    assert jam.backup.flush() == 300
    assert jam.backup.status().pending_logs == 0
    handler.delete()
    assert handler.count() == jam._connection.backup_store.records() == 0


# -- servers that are away, refuse, or differ -------------------------------------------------


def mongo_url(user: str, password: str, host: str) -> str:
    return f"mongodb://{user}:{password}@{host}/"


def test_an_unreachable_mongodb_is_an_error_within_5_s_without_password(
    open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mongo_client.CONNECT_TIMEOUT_S < 5  # pymongo waits for 30 s
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 0.4)
    notes(open_jamboree(write="sync"), 1)
    jam = open_jamboree(mongo_url=mongo_url("user", "s3cr3t", "127.0.0.1:1"))
    began = time.monotonic()

    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1") as caught:
        jam.backup.flush()

    assert time.monotonic() - began < 5
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("password", ["s3/cr3t", "s3@cr3t", "s3:cr3t", "s3%cr3t", "s3?cr3t"])
def test_a_password_that_is_badly_quoted_is_not_shown(
    open_jamboree: OpenJamboree, password: str
) -> None:
    jam = open_jamboree(mongo_url=mongo_url("us er", password, "127.0.0.1:x"))

    with pytest.raises(InvalidUrl, match="quote_plus") as caught:
        jam.backup.flush()

    shown = str(caught.value) + str(caught.value.__cause__)
    assert "cr3t" not in shown
    assert "s3" not in shown


@pytest.mark.parametrize("url", ["http://127.0.0.1", "127.0.0.1:27017", "mongodb://127.0.0.1:x"])
def test_a_url_that_is_none_of_mongodbs_is_refused(open_jamboree: OpenJamboree, url: str) -> None:
    with pytest.raises(InvalidUrl, match=r"mongo_url|the URL of the backup"):
        open_jamboree(mongo_url=url).backup.flush()


def has_port(url: str) -> bool:
    with MongoClient(url, serverSelectionTimeoutMS=200) as client:
        try:
            client.admin.command("hello")
        except Exception:  # noqa: BLE001 - any failure means: not yet
            return False
    return True


@pytest.mark.long  # tests/security/test_mongo_tls.py has the same over TLS
def test_a_wrong_password_is_an_error_that_does_not_repeat_it(
    own_mongo: Server, open_jamboree: OpenJamboree
) -> None:
    with MongoClient(own_mongo.url) as client:
        client.admin.command(
            "createUser", "ann", pwd="right", roles=[{"role": "root", "db": "admin"}]
        )
    own_mongo.stop()
    own_mongo.command.append("--auth")
    own_mongo.is_ready = has_port
    own_mongo.start()
    host = own_mongo.url.removeprefix("mongodb://")
    right = open_jamboree(mongo_url=mongo_url("ann", "right", host))
    wrong = open_jamboree(mongo_url=mongo_url("ann", "wr0ng", host))
    anonymous = open_jamboree(mongo_url=f"mongodb://{host}/")
    notes(right, 1)

    assert right.backup.flush() == 1
    for jam in (wrong, anonymous):
        with pytest.raises(StoreUnavailable, match="user and password") as caught:
            jam.backup.flush()
        assert host in str(caught.value)
        assert "wr0ng" not in "".join(traceback.format_exception(caught.value))


def test_a_flush_goes_on_where_a_lost_mongodb_ended_it(
    mongo_line: Proxy, open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    jam = open_jamboree(mongo_url=direct(mongo_line))
    notes(jam, 3)
    jam.backup.flush()
    mongo_line.lose_server()
    notes(jam, 2, name="m")
    jam.flush()
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 0.2)

    with pytest.raises(StoreUnavailable):
        open_jamboree(mongo_url=direct(mongo_line)).backup.flush()
    assert jam.backup.status().pending_records == 2

    mongo_line.find_server()
    assert jam.backup.flush() == 2
    assert jam.backup.verify()


# -- processes that are killed, or run at once ------------------------------------------------


FLUSHER = """
import sys
from jamboree_gym import Jamboree
with Jamboree(sys.argv[1], sys.argv[2], namespace=sys.argv[3]) as jam:
    print("ready", flush=True)
    sys.stdin.readline()
    jam.backup.flush(progress=lambda done, of: print(done, flush=True))
"""


def expect_all_once(jam: Jamboree, logs: int, records: int) -> None:
    assert jam.backup.verify()
    assert jam._connection.backup_store.records() == logs * records
    assert jam.backup.status().pending_logs == 0
    before = everything(jam)
    wipe(jam)
    jam.backup.restore()
    assert everything(jam) == before


@pytest.mark.faults
@pytest.mark.once
@pytest.mark.parametrize(
    "progress",
    [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)],
)
def test_a_flush_that_was_killed_is_completed_by_the_next(
    valkey: Server, mongo: Server, jam: Jamboree, namespace: str, progress: int
) -> None:
    logs = 100 * progress + 10  # a hundred are copied between two reports
    for i in range(logs):
        notes(jam, 3, name=f"n{i}")
    jam.flush()
    process = start_warm(FLUSHER, valkey.url, mongo.url, namespace)
    read_line(process)
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    for _ in range(progress):
        read_line(process)
    process.kill()
    process.communicate()

    jam.backup.flush()

    expect_all_once(jam, logs, 3)


def test_two_processes_may_flush_at_once(
    valkey: Server, mongo: Server, jam: Jamboree, namespace: str
) -> None:
    for i in range(110):
        notes(jam, 3, name=f"n{i}")
    jam.flush()
    processes = [start_warm(FLUSHER, valkey.url, mongo.url, namespace) for _ in range(2)]
    for process in processes:
        read_line(process)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=START_TIMEOUT_S)[1] for process in processes]

    assert errors == ["", ""]
    assert [process.returncode for process in processes] == [0, 0]
    expect_all_once(jam, 110, 3)


@pytest.mark.long  # test_packaging.py has it of the first episodes
def test_recording_and_reading_load_neither_pandas_nor_before_a_backup_pymongo(
    valkey: Server, namespace: str
) -> None:
    done = run_python(
        "import sys\nfrom jamboree_gym import Jamboree\n"
        "from recorded_envs import ACTION, CountingEnv, play\n"
        "with Jamboree(sys.argv[1], namespace=sys.argv[2]) as jam:\n"
        "    play(jam.record(CountingEnv()), [ACTION] * 3)\n"
        "    jam.flush()\n"
        "    assert len(jam.episodes().first().data()) == 3\n"
        "print({'pandas', 'pymongo'} & sys.modules.keys())",
        valkey.url,
        namespace,
    )

    assert done.stdout == "set()\n", done.stderr


def test_reports_are_true_when_nothing_differs() -> None:
    from jamboree_gym.backup import BackupReport

    assert BackupReport(1, 2, ())
    assert not BackupReport(1, 2, ("key",))


@pytest.mark.parametrize("further", [20, 3000])
def test_what_a_killed_flush_brought_is_not_brought_again_in_another_form(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch, further: int
) -> None:
    handler = notes(jam, 3)
    monkeypatch.setattr(Acknowledgements, "acknowledge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        jam.backup.flush()
    monkeypatch.undo()
    for number in range(20):  # it is no small log any more
        handler.save_many({"n": number, "filler": b"x" * 100} for _ in range(further // 20))
        jam.flush()

    assert jam.backup.flush() == 3 + further
    assert jam.backup.verify()
    inline = jam.mongo.logs.find_one({"_id": handler._key})["frames"]
    batches = jam.redis.llen(at(jam, handler._key)) - 1
    assert len(inline) + jam.mongo.chunks.count_documents({"key": handler._key}) == batches


# -- popped ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [0, 12])
def test_records_that_were_popped_before_their_copy_keep_no_others_from_it(
    jam: Jamboree, copied: int
) -> None:
    notes = NoteHandler(jam, "popped")
    for n in range(40):
        notes.save({"n": n})
        jam.flush()
        if n + 1 == copied:
            jam.backup.flush()
    notes.pop(30)

    jam.backup.flush()
    assert jam.backup.verify()
    jam.redis.delete(at(jam, notes._key))
    jam.backup.restore()
    assert [record["n"] for record in notes.many(99)] == [*range(30, 40)]
