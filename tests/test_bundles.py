"""Short episodes that have ended share documents of MongoDB; nobody notices."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from backed_up import check_that_all_is_kept_once
from conftest import Server
from lengths import quick_and_long
from msgspec.structs import replace
from processes import NoteHandler
from recorded_envs import ACTION, CountingEnv, play
from stored import at, beside

from jamboree_gym import Jamboree
from jamboree_gym.encoding.batch_format import (
    BATCH_BODY,
    CODEC_STEPS,
    decode_batch,
    encode_batch,
)
from jamboree_gym.errors import BackupMismatch, DecodeError
from jamboree_gym.store.backups.records import NewLog
from jamboree_gym.store.log import Append
from jamboree_gym.store.mongo import bundle_documents, bundles
from jamboree_gym.store.mongo.bundles import Bundles, Bundling
from jamboree_gym.store.mongo.link import MongoLink
from jamboree_gym.store.mongo.store import MongoStore

STEPS = 3


def record(jam: Jamboree, count: int, *, run: str = "run", steps: int = STEPS) -> list[str]:
    """Record episodes that have ended; their ids."""
    env, ids = jam.record(CountingEnv(length=steps), run=run), []
    for _ in range(count):
        play(env, [ACTION] * steps)
        ids.append(env.episode_id)
    jam.flush()
    return ids


def key_of(jam: Jamboree, id: str) -> str:
    return jam._connection.keyspace.episode(id)


def bundled(jam: Jamboree) -> list[list[str]]:
    """The keys in each bundle."""
    return [[log["key"] for log in one["logs"]] for one in jam.mongo.bundles.find({})]


def with_documents(jam: Jamboree) -> list[str]:
    return sorted(one["_id"] for one in jam.mongo.logs.find({}, {"_id": 1}))


def wipe(jam: Jamboree) -> None:
    for key in jam.redis.scan_iter(f"*{jam._connection.keyspace.namespace}:*"):
        jam.redis.delete(key)


def batches(jam: Jamboree) -> dict[str, Any]:
    """The batches of all logs, byte for byte."""
    client: Any = jam.redis
    return {
        key: client.lrange(at(jam, key), 1, -1) for key in jam._connection.redis_store.log_keys()
    }


def add_row(jam: Jamboree, id: str) -> None:
    """Repeat the last rows of an ended episode, as one that goes on after all."""
    key = key_of(jam, id)
    blob: Any = jam.redis.lindex(at(jam, key), -1)
    last = decode_batch(blob, where=key)
    more = encode_batch(
        codec=CODEC_STEPS,
        start=last.stop,
        count=last.count,
        writer=b"somebody",
        t_first=last.t_last + 1,
        t_last=last.t_last + 2,
        body=blob[BATCH_BODY:],
    )
    appends = [Append(key, CODEC_STEPS, [more], last.stop + last.count)]
    [result] = jam._connection.redis_store.append(appends)
    assert not isinstance(result, Exception)


def restored(jam: Jamboree) -> dict[str, Any]:
    """What comes back to an emptied Redis."""
    wipe(jam)
    jam.backup.restore()
    return batches(jam)


# -- what shares documents --------------------------------------------------------------------


def test_episodes_that_have_ended_share_a_document_and_come_back(jam: Jamboree) -> None:
    ids = record(jam, 10)
    NoteHandler(jam, "n").save({"n": 1})
    jam.flush()
    before = batches(jam)

    jam.backup.flush()
    assert bundled(jam) == [[key_of(jam, id) for id in ids]]
    assert with_documents(jam) == [NoteHandler(jam, "n")._key]
    assert jam.backup.verify().logs == 11
    wipe(jam)
    assert jam.episodes(run="run").ids() == ids
    assert len(jam.episode(ids[4]).data()) == STEPS
    assert jam.backup.restore() == 10  # one was back
    assert batches(jam) == before
    assert jam.backup.flush() == 0
    check_that_all_is_kept_once(jam)


def test_a_bundle_is_of_one_run_and_has_at_most_a_hundred(jam: Jamboree) -> None:
    ids = {run: record(jam, count, run=run) for run, count in (("a", 130), ("b", 9), ("c", 3))}
    jam.backup.flush()

    found = {tuple(one) for one in bundled(jam)}
    assert {len(one) for one in found if one[0] != key_of(jam, ids["b"][0])} <= set(range(8, 101))
    assert tuple(key_of(jam, id) for id in ids["b"]) in found
    assert with_documents(jam) == [key_of(jam, id) for id in ids["c"]]
    wipe(jam)
    assert {run: jam.episodes(run=run).ids() for run in ids} == ids
    jam.backup.restore()
    check_that_all_is_kept_once(jam)


def test_what_is_long_goes_on_or_has_another_id_has_its_own_document(jam: Jamboree) -> None:
    short = record(jam, 8)
    long = record(jam, 8, steps=2000)
    open_envs = [jam.record(CountingEnv(length=10**9)) for _ in range(8)]
    for env in open_envs:
        play(env, [ACTION])
    names = ["a b", "{x}:episode:{y}", "0" * 30, "F" * 31, "ö", "0" * 32, "-", "#"]
    for id in short:
        for name in names:
            copy_log(jam, id, f"{name}{id[-1]}")
    jam.backup.flush()

    assert sorted(itertools.chain(*bundled(jam))) == [key_of(jam, id) for id in short]
    assert len(with_documents(jam)) == len(long) + len(open_envs) + len(short) * len(names)
    before = batches(jam)
    assert restored(jam) == before
    check_that_all_is_kept_once(jam)


def copy_log(jam: Jamboree, id: str, name: str) -> None:
    """The same episode under another id."""
    key = key_of(jam, name)
    content = jam.redis.dump(at(jam, key_of(jam, id)))
    jam.redis.restore(at(jam, key), 0, content)
    jam.redis.zadd(beside(jam, key, "unbacked"), {at(jam, key): 1})


# -- deletion ---------------------------------------------------------------------------------


def test_a_deleted_episode_leaves_its_bundle_and_nothing_of_it_stays(jam: Jamboree) -> None:
    ids = record(jam, 10)
    jam.backup.flush()
    before = batches(jam)
    gone = before[key_of(jam, ids[3])]
    jam.episode(ids[3]).delete()

    assert [len(one) for one in bundled(jam)] == [9]
    content = repr(list(jam.mongo.bundles.find({})))
    assert not any(repr(batch)[2:-1] in content for batch in gone)
    del before[key_of(jam, ids[3])]
    assert restored(jam) == before
    for id in set(ids) - {ids[3]}:
        jam.episode(id).delete()
    assert bundled(jam) == []


def test_many_deletions_that_wait_take_few_requests(
    jam: Jamboree, open_jamboree: Callable[..., Jamboree], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = record(jam, 30)
    jam.backup.flush()
    with monkeypatch.context() as patched:
        patched.setattr("jamboree_gym.delivery.deletion._delete_from_backup", lambda *_: None)
        for id in ids[:20]:
            jam.episode(id).delete()
    requests = calls_of_mongo(monkeypatch)
    jam.backup.flush()

    assert len(requests) < 20
    assert sorted(itertools.chain(*bundled(jam))) == [key_of(jam, id) for id in ids[20:]]
    check_that_all_is_kept_once(jam)


def calls_of_mongo(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    calls, run = list[object](), MongoLink.run

    def noted(self: MongoLink, action: Any) -> Any:
        calls.append(action)
        return run(self, action)

    monkeypatch.setattr(MongoLink, "run", noted)
    return calls


# -- episodes that change ---------------------------------------------------------------------


def test_an_episode_that_grows_moves_into_its_own_document(jam: Jamboree) -> None:
    ids = record(jam, 10)
    jam.backup.flush()
    add_row(jam, ids[5])
    before = batches(jam)

    jam.backup.flush()
    assert with_documents(jam) == [key_of(jam, ids[5])]
    assert [len(one) for one in bundled(jam)] == [9]
    check_that_all_is_kept_once(jam)
    assert restored(jam) == before
    jam.episode(ids[5]).delete()
    assert with_documents(jam) == []


def test_other_bytes_of_an_episode_in_a_bundle_are_not_overwritten(jam: Jamboree) -> None:
    ids = record(jam, 10)
    key = key_of(jam, ids[2])
    older = jam.redis.dump(at(jam, key))
    jam.backup.flush()
    blob: Any = jam.redis.lindex(at(jam, key), 1)
    last = decode_batch(blob, where=key)
    fields = {name: getattr(last, name) for name in ("codec", "start", "count", "t_first")}
    other = encode_batch(**fields, writer=b"somebody", t_last=last.t_last, body=blob[BATCH_BODY:])
    jam.redis.restore(at(jam, key), 0, older, replace=True)
    jam.redis.lset(at(jam, key), 1, other)
    for changed in (key, key_of(jam, ids[3])):
        jam.redis.zadd(beside(jam, changed, "unbacked"), {at(jam, changed): 99})

    with pytest.raises(BackupMismatch, match=r"other bytes at index .*nothing was overwritten"):
        jam.backup.flush()
    assert list(jam.backup.verify().different) == [key]


def test_another_episode_of_the_same_name_is_not_overwritten(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = record(jam, 10)
    jam.flush()
    monkeypatch.setattr(jam._connection.redis_store.acknowledgements, "acknowledge", interrupt)
    with pytest.raises(KeyboardInterrupt):
        jam.backup.flush()
    monkeypatch.undo()
    key = key_of(jam, ids[2])
    head = jam._connection.redis_store.head(key)
    assert head is not None
    jam.redis.lset(at(jam, key), 0, replace(head, born=1.0).encode())

    with pytest.raises(BackupMismatch, match="another log of the same name"):
        jam.backup.flush()
    assert [len(one) for one in bundled(jam)] == [10]
    assert with_documents(jam) == []


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


# -- backups that are killed, or run at once --------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize(
    ("is_done", "every"),
    [
        # A kill before a call comes to the same as one that takes the answer of the call before it.
        pytest.param(True, 4, id="the answer of some calls is lost", marks=pytest.mark.long),
        pytest.param(False, 5, id="before some calls"),
        pytest.param(True, 1, id="the answer of any call is lost", marks=pytest.mark.long),
        pytest.param(False, 1, id="before any call", marks=pytest.mark.long),
    ],
)
def test_a_backup_that_is_killed_at_any_call_loses_nothing_and_keeps_nothing_twice(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch, is_done: bool, every: int
) -> None:
    ids, run = record(jam, 8), MongoLink.run
    jam.backup.flush()
    for number in itertools.count(0, every):
        ids += record(jam, 9)
        for id in ids[:2]:
            add_row(jam, id)
        with monkeypatch.context() as patched:
            patched.setattr("jamboree_gym.delivery.deletion._delete_from_backup", lambda *_: None)
            jam.episode(ids.pop(4)).delete()
        left = [number]

        def killed(self: MongoLink, action: Any, left: list[int] = left) -> Any:
            left[0] -= 1
            if left[0] == -1:
                if is_done:
                    run(self, action)
                raise KeyboardInterrupt
            return run(self, action)

        with monkeypatch.context() as patched:
            patched.setattr(MongoLink, "run", killed)
            try:
                jam.backup.flush()
            except KeyboardInterrupt:
                assert left[0] < 0
            else:
                break
        ids += record(jam, 1)  # other episodes are copied together now
        jam.backup.flush()
        check_that_all_is_kept_once(jam)
    before = batches(jam)
    assert number > 10
    assert sorted(before) == sorted(key_of(jam, id) for id in ids)
    assert restored(jam) == before


def test_what_another_backup_has_stored_meanwhile_is_kept_once(
    jam: Jamboree,
    mongo: Server,
    open_jamboree: Callable[..., Jamboree],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = record(jam, 10)
    other = open_jamboree(namespace=jam._connection.keyspace.namespace, mongo_url=mongo.url)
    insert = Bundling.insert

    def late(self: Bundling, logs: Any) -> Any:
        monkeypatch.setattr(Bundling, "insert", insert)
        record(jam, 10)
        other.backup.flush()
        return insert(self, logs)

    monkeypatch.setattr(Bundling, "insert", late)
    jam.backup.flush()
    jam.backup.flush()
    assert len(list(itertools.chain(*bundled(jam)))) == 20
    check_that_all_is_kept_once(jam)
    assert jam.episodes().ids()[:10] == first


def test_an_episode_that_another_backup_has_bundled_newer_is_listed_as_it_ended(
    jam: Jamboree,
    mongo: Server,
    open_jamboree: Callable[..., Jamboree],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A backup that was stopped has read it before its end, and stores it when it goes on."""
    other = open_jamboree(namespace=jam._connection.keyspace.namespace, mongo_url=mongo.url)
    env = jam.record(CountingEnv(length=STEPS), run="run")
    play(env, [ACTION])
    jam.flush()
    id, insert = env.episode_id, Bundling.insert

    def late(self: Bundling, logs: Any) -> Any:
        monkeypatch.setattr(Bundling, "insert", insert)
        for _ in range(STEPS - 1):
            env.step(ACTION)
        record(jam, 10)
        other.backup.flush()
        return insert(self, logs)

    monkeypatch.setattr(Bundling, "insert", late)
    jam.backup.flush()
    assert with_documents(jam) == [key_of(jam, id)]
    assert len(list(itertools.chain(*bundled(jam)))) == 11
    backup = other._connection.backup_store
    assert backup.counts([key_of(jam, id)])[key_of(jam, id)].records == STEPS + 1
    assert backup.records() == 11 * (STEPS + 1)
    before = batches(jam)
    wipe(jam)
    shown = {one.id: (one.status, one.steps) for one in other.episodes().summaries()}
    assert set(shown.values()) == {("terminated", STEPS)}
    assert len(other.episode(id).data()) == STEPS
    assert restored(jam) == before

    add_row(jam, id)
    jam.backup.flush()
    assert len(list(itertools.chain(*bundled(jam)))) == 10
    check_that_all_is_kept_once(jam)


def test_what_another_backup_bundles_while_an_episode_moves_out_of_its_bundle_stays(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = record(jam, 10)
    jam.backup.flush()
    add_row(jam, ids[0])
    before, backup = batches(jam), jam._connection.backup_store
    assert isinstance(backup, MongoStore)
    key, remove = key_of(jam, ids[0]), Bundles.remove

    def late(self: Bundles, *arguments: Any, **options: Any) -> None:
        monkeypatch.setattr(Bundles, "remove", remove)
        store = jam._connection.redis_store
        head = store.head(key)
        assert head is not None
        log = {key: NewLog(head.acknowledged(), before[key], "run", has_ended=True)}
        monkeypatch.setattr(bundle_documents, "MIN_LOGS", 1)
        self.insert(list(bundle_documents.bundle_documents(log)))
        remove(self, *arguments, **options)
        raise KeyboardInterrupt  # the other one is killed

    monkeypatch.setattr(Bundles, "remove", late)
    with pytest.raises(KeyboardInterrupt):
        jam.backup.flush()
    assert restored(jam) == before


def test_documents_of_an_older_release_are_found_though_they_have_no_slot(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(jam, 10)
    with monkeypatch.context() as patched:
        patched.setattr(bundles, "can_be_bundled", lambda *_: False)
        acknowledgements = jam._connection.redis_store.acknowledgements
        patched.setattr(acknowledgements, "acknowledge", interrupt)
        with pytest.raises(KeyboardInterrupt):
            jam.backup.flush()
    jam.mongo.logs.update_many({}, {"$unset": {"slot": 1}})
    jam.mongo.settings.delete_one({"_id": "bundling"})
    record(jam, 10)

    jam.backup.flush()
    assert (len(with_documents(jam)), [len(one) for one in bundled(jam)]) == (10, [10])
    check_that_all_is_kept_once(jam)


def test_another_mongodb_gets_all_of_it_and_the_first_one_nothing_twice(
    jam: Jamboree, own_mongo: Server, open_jamboree: Callable[..., Jamboree]
) -> None:
    ids = record(jam, 10)
    jam.backup.flush()
    namespace = jam._connection.keyspace.namespace
    other = open_jamboree(mongo_url=own_mongo.url, namespace=namespace)
    other.backup.flush()
    assert [len(one) for one in bundled(other)] == [10]
    add_row(jam, ids[0])

    jam.backup.flush()
    check_that_all_is_kept_once(jam)


# -- eviction and damage ----------------------------------------------------------------------


def test_an_episode_that_redis_evicts_is_read_from_its_bundle(jam: Jamboree) -> None:
    ids = record(jam, 10)
    jam.backup.flush()
    before = batches(jam)
    jam.backup.retain(max_age_s=0)
    jam.backup.trim()
    assert batches(jam) == {}

    assert len(jam.episode(ids[7]).data()) == STEPS
    assert batches(jam) == {key_of(jam, ids[7]): before[key_of(jam, ids[7])]}


def flipped(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


def flip_frame(log: dict[str, Any]) -> None:
    log["frames"] = [flipped(log["frames"][0]), *log["frames"][1:]]


def flip_head(log: dict[str, Any]) -> None:
    log["head"] = flipped(log["head"])


def lose_frames(log: dict[str, Any]) -> None:
    log["frames"] = []


def forge_count(log: dict[str, Any]) -> None:
    log["count"] = 2


def forge_birth(log: dict[str, Any]) -> None:
    log["born"] = "long ago"


@pytest.mark.parametrize(
    "harm",
    quick_and_long(
        [flip_frame, flip_head, lose_frames, forge_count, forge_birth],
        quick=[flip_frame, forge_count],
    ),
)
def test_damage_of_an_entry_is_named_and_keeps_no_other_back(
    jam: Jamboree, harm: Callable[[dict[str, Any]], None]
) -> None:
    ids = record(jam, 10)
    jam.backup.flush()
    before = batches(jam)
    bundle: Any = jam.mongo.bundles.find_one({})
    harm(bundle["logs"][6])
    jam.mongo.bundles.replace_one({"_id": bundle["_id"]}, bundle)

    key = key_of(jam, ids[6])
    different = jam.backup.verify().different
    assert list(different) == [key]
    assert key in different[key]
    wipe(jam)
    with pytest.raises(DecodeError, match=key.replace("{", r"\{")):
        jam.backup.restore()
    with pytest.raises(DecodeError):
        jam.episode(ids[6]).data()
    del before[key]
    assert batches(jam) == before


@pytest.mark.parametrize(
    "damage",
    quick_and_long(
        [{"format": 99}, {"logs": "lost"}, {"logs.6": 3}, {"logs.6.key": 3}, {"slots": []}],
        quick=[{"format": 99}, {"logs.6.key": 3}],
    ),
)
def test_a_bundle_whose_entries_cannot_be_told_apart_is_named(
    jam: Jamboree, damage: dict[str, Any]
) -> None:
    ids = record(jam, 10)
    jam.backup.flush()
    bundle: Any = jam.mongo.bundles.find_one({})
    jam.mongo.bundles.update_one({"_id": bundle["_id"]}, {"$set": damage})

    different = jam.backup.verify().different
    assert bundle["_id"] in different
    assert key_of(jam, ids[6]) in different
    later = record(jam, 10)
    jam.backup.flush()
    wipe(jam)
    assert set(later) <= set(jam.episodes().ids())
    assert len(jam.episode(later[0]).data()) == STEPS
