"""What a failover of Redis brings back, and the backup has deleted, does not stay."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from conftest import Server
from lengths import quick_and_long
from msgspec import structs
from processes import NoteHandler, raises
from recorded_envs import ACTION, CountingEnv, play
from stored import beside, keys_like
from test_importing import bring, new_episode

from jamboree_gym import Jamboree
from jamboree_gym.encoding.batch_format import CODEC_STEPS, Head
from jamboree_gym.store import restore
from jamboree_gym.store.log import Acknowledged, Append, AppendResult, identity
from jamboree_gym.store.lost_deletions import carry_out
from jamboree_gym.store.mongo.writer import LogWriter
from jamboree_gym.store.redis.scripts import BORN

# What each kind of backup has to do is in store/backup_contract.py.
BACKUPS = ["MongoDB", "folder"]


@pytest.fixture(params=quick_and_long(BACKUPS, quick=["folder"]))
def jam(
    request: pytest.FixtureRequest,
    valkey: Server,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Jamboree]:
    """A Jamboree with each kind of backup, which copies only when the test says so."""
    if request.param == "folder":
        monkeypatch.setenv("JAMBOREE_BACKUP_URL", (tmp_path / "backup").as_uri())
    else:
        monkeypatch.setenv("JAMBOREE_MONGO_URL", request.getfixturevalue("mongo").url)
    with Jamboree(valkey.url, namespace=namespace, backup=False) as opened:
        yield opened


def play_one(jam: Jamboree) -> str:
    """An episode that Redis holds."""
    env = jam.record(CountingEnv(length=3), run="a")
    play(env, [ACTION] * 3)
    jam.flush()
    return env.episode_id


def record(jam: Jamboree) -> str:
    """An episode that Redis and the backup hold."""
    episode = play_one(jam)
    jam.backup.flush()
    return episode


def loses_what_follows(jam: Jamboree) -> Callable[[], None]:
    """Takes the namespace back to now, as a replica has it that lacks what is newer."""
    keys = sorted(jam.redis.scan_iter(f"*{jam._connection.keyspace.namespace}*"))
    kept = {key: jam.redis.dump(key) for key in keys}

    def fail_over() -> None:
        empty(jam)
        for key, content in kept.items():
            jam.redis.restore(key, 0, content)

    return fail_over


def empty(jam: Jamboree) -> None:
    """Takes everything of the namespace out of Redis."""
    for key in jam.redis.scan_iter(f"*{jam._connection.keyspace.namespace}*"):
        jam.redis.delete(key)


@pytest.mark.parametrize("jam", BACKUPS, indirect=True)
def test_an_episode_is_deleted_again(jam: Jamboree) -> None:
    episode, other = record(jam), record(jam)
    fail_over = loses_what_follows(jam)
    jam.episode(episode).delete()
    fail_over()
    assert set(jam.episodes().ids()) == {episode, other}
    jam.backup.flush()
    assert jam.episodes().ids() == [other]
    assert jam.backup.verify()


@pytest.mark.parametrize("has_other", [False, True])
def test_an_episode_that_was_evicted_is_not_listed_again(jam: Jamboree, has_other: bool) -> None:
    episode = record(jam)
    others = [record(jam)] if has_other else []
    namespace = jam._connection.keyspace.namespace
    jam.redis.delete(*keys_like(jam.redis, f"*{namespace}*:episode:*"))  # the listings stay
    fail_over = loses_what_follows(jam)
    jam.episode(episode).delete()
    fail_over()
    jam.backup.flush()
    assert jam.episodes().ids() == others
    assert [run.name for run in jam.runs()] == ["a"] * has_other
    assert len(jam.episodes().summaries()) == len(others)
    assert jam.backup.verify()


def test_nor_if_who_deleted_it_was_killed_before_mongodb_had_done_so(
    valkey: Server, mongo: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Jamboree(valkey.url, mongo.url, namespace=namespace, backup=False) as jam:
        episode = record(jam)
        jam.redis.delete(*keys_like(jam.redis, f"*{namespace}*:episode:*"))
        fail_over = loses_what_follows(jam)
        with monkeypatch.context() as patched:
            patched.setattr(LogWriter, "_clear", raises(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                jam.episode(episode).delete()
        fail_over()
        jam.backup.flush()
        assert jam.episodes().ids() == []
        assert jam.backup.verify()
        assert jam.mongo["logs"].find_one() is None


@pytest.mark.parametrize("are_more_deleted", [False, True])
def test_an_episode_that_was_never_copied_is_deleted_again_though_nothing_was_deleted_before(
    jam: Jamboree, are_more_deleted: bool
) -> None:
    first, second, other = [play_one(jam) for _ in range(3)]
    fail_over = loses_what_follows(jam)
    jam.episode(first).delete()
    if are_more_deleted:
        jam.episode(second).delete()
    fail_over()
    jam.backup.flush()
    assert set(jam.episodes().ids()) == ({other} if are_more_deleted else {second, other})
    assert jam.backup.verify()


def test_a_later_deletion_does_not_hide_the_lost_one(jam: Jamboree) -> None:
    episode, other = record(jam), record(jam)
    fail_over = loses_what_follows(jam)
    jam.episode(episode).delete()
    fail_over()
    jam.episode(other).delete()
    jam.backup.flush()
    assert jam.episodes().ids() == []
    assert jam.backup.verify()


def held(jam: Jamboree, notes: NoteHandler) -> int:
    """How many of three records Redis has."""
    head = jam._connection.redis_store.head(notes._settled_key())
    assert head is not None
    return 3 - head.held


def test_a_log_of_records_stays_as_others_may_have_saved_to_it(jam: Jamboree) -> None:
    notes = NoteHandler(jam, "notes")
    notes.save({"n": 1})
    jam.backup.flush()
    fail_over = loses_what_follows(jam)
    notes.delete()
    fail_over()
    notes.save({"n": 2})
    jam.backup.flush()
    assert [note["n"] for note in notes.many(9)] == [1, 2]
    assert jam.backup.verify()
    empty(jam)
    assert [note["n"] for note in notes.many(9)] == [1, 2]


def test_of_a_log_of_records_only_what_redis_had_evicted_stays_deleted(jam: Jamboree) -> None:
    notes = NoteHandler(jam, "notes")
    for n in range(3):
        notes.save({"n": n})
        jam.backup.flush()
    jam.backup.retain(max_age_s=0.0)
    jam.backup.trim()
    jam.backup.retain()
    left = held(jam, notes)
    assert left < 3
    fail_over = loses_what_follows(jam)
    notes.delete()
    fail_over()
    for saved in ([], [3]):  # what was evicted is no damage, until a copy sees that the log is back
        notes.save_many({"n": n} for n in saved)
        found = NoteHandler(jam, "notes").many(9)
        assert [note["n"] for note in found] == [*range(3 - left, 3), *saved]
    for _ in range(2):
        jam.backup.flush()
        assert [note["n"] for note in notes.many(9)] == [0, 1, 2, 3][-left - 1 :]
        assert jam.backup.verify()
        empty(jam)


@pytest.mark.parametrize(
    "more", [pytest.param([], marks=pytest.mark.long), [3]], ids=["nothing more", "more"]
)
def test_records_that_were_moved_behind_those_of_the_backup_are_not_moved_again_after_a_failover(
    jam: Jamboree, valkey: Server, namespace: str, monkeypatch: pytest.MonkeyPatch, more: list[int]
) -> None:
    notes = NoteHandler(jam, "notes")
    notes.save({"n": 1})
    jam.backup.flush()
    empty(jam)
    monkeypatch.delenv("JAMBOREE_BACKUP_URL", raising=False)
    monkeypatch.delenv("JAMBOREE_MONGO_URL", raising=False)
    with Jamboree(valkey.url, namespace=namespace, backup=False) as without_backup:
        others = NoteHandler(without_backup, "notes")
        others.save({"n": 2})
        without_backup.flush()
        fail_over = loses_what_follows(jam)
        jam.backup.flush()
        assert [note["n"] for note in notes.many(9)] == [1, 2]
        fail_over()
        for n in more:
            others.save({"n": n})
    for _ in range(2):
        jam.backup.flush()
        assert [note["n"] for note in notes.many(9)] == [1, 2, *more]
        assert jam.backup.verify()
        empty(jam)


def test_a_restore_does_not_bring_back_what_is_deleted_meanwhile(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = NoteHandler(jam, "notes")
    notes.save({"n": 1})
    jam.backup.flush()
    store, key = jam._connection.redis_store, notes._settled_key()
    noted, deleted = store.deletions, []

    def waiting(keys: Sequence[str]) -> set[str]:
        """Then somebody deletes the log, and is killed before the backup knows it."""
        found = type(noted).waiting(noted, keys)
        if not deleted:
            head = store.head(key)
            assert head is not None
            deleted.append(store.delete(key, born=head.born))
        return found

    monkeypatch.setattr(noted, "waiting", waiting)
    jam.backup.restore()
    assert deleted
    assert store.head(key) is None
    jam.backup.flush()
    assert jam.backup.verify()
    notes.save({"n": 2})
    jam.backup.flush()
    empty(jam)
    assert [note["n"] for note in notes.many(9)] == [2]


@pytest.mark.parametrize("popped", quick_and_long([1, 2, 3], quick=[2]))
def test_records_that_were_popped_are_not_moved_behind_those_of_the_backup(
    jam: Jamboree, valkey: Server, namespace: str, monkeypatch: pytest.MonkeyPatch, popped: int
) -> None:
    notes = NoteHandler(jam, "notes")
    notes.save({"n": 1})
    jam.backup.flush()
    empty(jam)
    monkeypatch.delenv("JAMBOREE_BACKUP_URL", raising=False)
    monkeypatch.delenv("JAMBOREE_MONGO_URL", raising=False)
    with Jamboree(valkey.url, namespace=namespace, backup=False) as without_backup:
        others = NoteHandler(without_backup, "notes")
        others.save_many([{"n": 2, "text": "é"}, {"n": 3}, {"n": 4}])
        assert [note["n"] for note in others.pop(popped)] == [2, 3, 4][:popped]
    for _ in range(2):
        jam.backup.flush()
        assert [note["n"] for note in notes.many(9)] == [1, *[2, 3, 4][popped:]]
        assert jam.backup.verify()
        empty(jam)
    notes.save({"n": 5})
    assert [note["n"] for note in notes.pop(9)] == [1, *[2, 3, 4][popped:], 5]


@pytest.mark.parametrize(
    ("is_told", "clock"),
    [(False, time.time), (True, time.time), (False, lambda: 5.0)],
    ids=["waits", "at once", "of records that had waited"],
)
def test_a_deletion_covers_what_the_backup_has_from_before_redis_was_emptied(
    jam: Jamboree,
    valkey: Server,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    is_told: bool,
    clock: Callable[[], float],
) -> None:
    notes = NoteHandler(jam, "notes")
    notes.save({"n": 1})
    jam.backup.flush()
    empty(jam)
    monkeypatch.delenv("JAMBOREE_BACKUP_URL", raising=False)
    monkeypatch.delenv("JAMBOREE_MONGO_URL", raising=False)
    with Jamboree(valkey.url, namespace=namespace, backup=False, clock=clock) as without_backup:
        begun_again = NoteHandler(without_backup, "notes")
        begun_again.save({"n": 2})
        without_backup.flush()
        (notes if is_told else begun_again).delete()
    assert notes.many(9) == []  # also while the deletion waits
    jam.backup.flush()
    empty(jam)
    assert notes.many(9) == []
    notes.save({"n": 3})
    jam.backup.flush()
    assert [note["n"] for note in notes.many(9)] == [3]
    assert jam.backup.verify()


def test_a_deletion_after_a_failover_covers_what_only_the_backup_has(jam: Jamboree) -> None:
    notes = NoteHandler(jam, "notes")
    notes.save({"n": 1})
    jam.backup.flush()
    fail_over = loses_what_follows(jam)
    notes.delete()
    notes.save({"n": 2})
    jam.backup.flush()
    fail_over()
    notes.delete()
    jam.backup.restore()
    assert notes.many(9) == []
    assert jam.backup.verify()


def test_a_deletion_covers_a_log_that_began_at_time_zero(
    jam: Jamboree, valkey: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a simulated clock."""
    now = 0.0
    with Jamboree(valkey.url, namespace=namespace, clock=lambda: now) as simulated:
        notes = NoteHandler(simulated, "notes")
        notes.save({"n": 1})
        jam.backup.flush()
        empty(jam)
        now = 5.0
        monkeypatch.delenv("JAMBOREE_BACKUP_URL", raising=False)
        monkeypatch.delenv("JAMBOREE_MONGO_URL", raising=False)
        with Jamboree(valkey.url, namespace=namespace, clock=lambda: now) as without_backup:
            begun_again = NoteHandler(without_backup, "notes")
            begun_again.save({"n": 2})
            without_backup.flush()
        notes.delete()
        jam.backup.flush()
        empty(jam)
        assert notes.many(9) == []


@pytest.mark.parametrize("is_noted", [False, True], ids=["another was faster", "waits"])
def test_a_log_that_others_have_begun_since_stays_even_if_their_clock_was_put_back(
    jam: Jamboree, is_noted: bool
) -> None:
    notes = NoteHandler(jam, "notes")
    notes.save({"n": 1})
    jam.backup.flush()
    store, backup, key = (
        jam._connection.store.redis,
        jam._connection.backup_store,
        notes._settled_key(),
    )
    head, bucket = store.head(key), store.buckets.of(key)
    assert head is not None
    assert backup is not None
    deleted = head.born + 10.0
    if is_noted:
        stored = identity(store.keyspace.in_bucket(key, bucket), deleted)
        jam.redis.hset(bucket.deleted, stored, BORN.pack(deleted))
    carry_out(store, backup, [(key, deleted)])
    jam.backup.flush()
    empty(jam)
    assert [note["n"] for note in notes.many(9)] == [1]


@pytest.mark.parametrize(
    "page_bytes", quick_and_long([0, 300, restore.PAGE_BYTES], quick=[0, restore.PAGE_BYTES])
)
def test_the_next_copy_gives_back_what_a_failover_has_lost_of_a_log(
    valkey: Server,
    mongo: Server,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    page_bytes: int,
) -> None:
    monkeypatch.setattr(restore, "PAGE_BYTES", page_bytes)  # so much of a log is put back at once
    with Jamboree(valkey.url, mongo.url, namespace=namespace, backup=False) as jam:
        notes = NoteHandler(jam, "notes")
        for n in range(3):
            notes.save({"n": n})
            jam.flush()
        fail_over = loses_what_follows(jam)
        notes.save({"n": 3})
        jam.backup.flush()
        fail_over()
        jam.backup.flush()
        assert [note["n"] for note in notes.many(9)] == [0, 1, 2, 3]
        notes.save({"n": 4})
        jam.backup.flush()
        assert [note["n"] for note in notes.many(9)] == [0, 1, 2, 3, 4]
        assert jam.backup.verify()


def test_restore_gives_back_what_a_failover_has_lost_of_a_log_that_was_copied(
    jam: Jamboree,
) -> None:
    notes = NoteHandler(jam, "notes")
    notes.save({"n": 0})
    jam.backup.flush()
    fail_over = loses_what_follows(jam)
    notes.save({"n": 1})
    jam.backup.flush()
    fail_over()
    assert "notes" in str(jam.backup.verify())
    jam.backup.restore()
    assert [note["n"] for note in notes.many(9)] == [0, 1]
    assert jam.backup.verify()


def sent(jam: Jamboree, episode: str) -> Append:
    """What stores an episode as it is in Redis."""
    store, key = jam._connection.redis_store, jam._connection.keyspace.episode(episode)
    head = store.head(key)
    assert head is not None
    _, *batches = store.reader.whole([key])[0]
    entry = restore.entry_of(store, key, head)
    return Append(key, CODEC_STEPS, batches, head.count, head.note, entry, born=head.born)


def test_an_append_that_comes_again_after_the_backup_has_deleted_its_log_stores_nothing(
    jam: Jamboree,
) -> None:
    episode = record(jam)
    again = structs.replace(sent(jam, episode), is_repeated=True)
    jam.episode(episode).delete()
    assert not jam._connection.redis_store.deletions.noted()
    (result,) = jam._connection.store.append([again])
    assert isinstance(result, AppendResult)
    assert result.is_deleted  # Redis says so: no backup has to answer


def empty_bucket(jam: Jamboree) -> None:
    """As where a cluster loses one primary: what lies in no bucket is on another one."""
    key = jam._connection.keyspace.episode(new_episode(jam).summary.id)
    prefix, _, _ = beside(jam, key, "unbacked").partition("}")
    jam.redis.delete(*keys_like(jam.redis, f"{prefix}}}:*"))


@pytest.mark.parametrize("lose", [None, empty, empty_bucket])
def test_an_episode_that_is_imported_again_stays(
    jam: Jamboree, lose: Callable[[Jamboree], None] | None
) -> None:
    episode = new_episode(jam)
    bring(jam, episode)
    jam.backup.flush()
    jam.episode(episode.summary.id).delete()
    jam.backup.flush()
    if lose:
        lose(jam)
    bring(jam, episode)
    backup = jam._connection.backup_store
    _, _, first_epoch = (backup.setting("deletions") or b"").partition(b" ")
    backup.put_setting("deletions", b"of-another-process " + first_epoch)
    jam.backup.flush()

    assert len(jam.episode(episode.summary.id).data()) == 3
    jam.redis.delete(*keys_like(jam.redis, f"*{jam._connection.keyspace.namespace}:*"))
    assert len(jam.episode(episode.summary.id).data()) == 3
    assert jam.backup.verify()


def test_an_episode_that_is_imported_again_stays_listed_when_it_is_evicted(jam: Jamboree) -> None:
    episode = new_episode(jam)
    bring(jam, episode)
    jam.backup.flush()
    jam.episode(episode.summary.id).delete()
    jam.backup.flush()
    empty(jam)
    bring(jam, episode)
    jam.backup.flush()
    assert jam.episodes().ids() == [episode.summary.id]
    namespace = jam._connection.keyspace.namespace
    jam.redis.delete(*keys_like(jam.redis, f"*{namespace}*:episode:*"))  # the listings stay
    backup = jam._connection.backup_store
    _, _, first_epoch = (backup.setting("deletions") or b"").partition(b" ")
    backup.put_setting("deletions", b"of-another-process " + first_epoch)
    jam.backup.flush()
    assert jam.episodes().ids() == [episode.summary.id]


def test_what_a_later_try_stores_in_an_emptied_redis_takes_the_place_of_an_earlier_one(
    jam: Jamboree,
) -> None:
    env = jam.record(CountingEnv(length=3), run="a")
    env.reset()
    jam.backup.flush()
    env.close()
    jam.flush()
    store, later = jam._connection.store, sent(jam, env.episode_id)
    empty(jam)
    (result,) = store.append([structs.replace(later, is_repeated=True)])
    assert isinstance(result, AppendResult)
    assert result.must_ask
    # The backup does not answer: nobody knows that it has the episode.
    (result,) = store.append([structs.replace(later, asked_in=store.epoch(), is_uncertain=True)])
    assert isinstance(result, AppendResult)
    assert result.stored == 1
    jam.backup.flush()
    assert jam.backup.verify()
    empty(jam)
    assert jam.episode(env.episode_id).status == "abandoned"


@pytest.mark.parametrize("is_older", [False, True])
def test_tombstones_are_not_looked_for_if_nothing_was_lost(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch, is_older: bool
) -> None:
    episode = record(jam)
    jam.episode(episode).delete()
    if is_older:  # one mark for all buckets
        keys, fields = jam._connection.keyspace, ("deletions", "deletions_epoch")
        for bucket in jam._connection.redis_store.buckets.all:
            mark, epoch = jam.redis.hmget(bucket.backup, fields)
            jam.redis.hset(
                keys.backup, mapping=dict(zip(fields, (mark, epoch or b""), strict=True))
            )
            jam.redis.hdel(bucket.backup, *fields)
    asked = []
    backup = jam._connection.backup_store
    monkeypatch.setattr(type(backup), "deletions", lambda _: asked.append(1) or iter(()))
    jam.backup.flush()
    assert not asked


def before_the_backup_knows(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]
) -> None:
    """Has something happen when a log is deleted in Redis, and not in the backup yet."""
    backup = jam._connection.backup_store
    put_setting = backup.put_setting

    def first(name: str, content: bytes) -> None:
        if name == "deletions":
            monkeypatch.setattr(backup, "put_setting", put_setting)
            do()
        put_setting(name, content)

    monkeypatch.setattr(backup, "put_setting", first)


def test_records_that_are_read_in_an_emptied_redis_during_their_deletion_do_not_stay(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = NoteHandler(jam, "notes")
    notes.save({"n": 1})
    jam.backup.flush()

    def are_read() -> None:
        empty(jam)
        assert [note["n"] for note in notes.many(9)] == [1]

    before_the_backup_knows(jam, monkeypatch, are_read)
    notes.delete()
    assert notes.many(9) == []
    notes.save({"n": 2})
    for _ in range(2):
        jam.backup.flush()
        assert [note["n"] for note in notes.many(9)] == [2]
        assert jam.backup.verify()
        empty(jam)


def test_an_episode_that_a_failover_brings_back_during_its_deletion_does_not_stay(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode, other = record(jam), record(jam)
    before_the_backup_knows(jam, monkeypatch, loses_what_follows(jam))
    jam.episode(episode).delete()
    assert jam.episodes().ids() == [other]
    jam.backup.flush()
    assert jam.episodes().ids() == [other]
    assert jam.backup.verify()


def test_a_copy_that_carries_out_a_deletion_notices_that_a_failover_has_lost_it(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode, notes = record(jam), NoteHandler(jam, "notes")
    notes.save({"n": 1})
    jam.backup.flush()
    store, keys = jam._connection.redis_store, jam._connection.keyspace
    before_the_backup_knows(jam, monkeypatch, loses_what_follows(jam))
    for key in (keys.episode(episode), notes._settled_key()):  # and the deleter is killed
        head = store.head(key)
        assert head is not None
        store.delete(key, entry=restore.entry_of(store, key, head), born=head.born)
    jam.backup.flush()
    assert jam.episodes().ids() == []
    assert jam.backup.verify()
    empty(jam)
    assert [note["n"] for note in notes.many(9)] == [1]  # others may have saved to it since


def test_nobody_puts_a_log_back_who_asked_the_backup_before_it_knew_of_a_lost_deletion(
    jam: Jamboree,
) -> None:
    notes = NoteHandler(jam, "notes")
    notes.save({"n": 1})
    jam.backup.flush()
    store, backup = jam._connection.redis_store, jam._connection.backup_store
    key = notes._settled_key()
    head = store.head(key)
    assert head is not None
    _, *batches = store.reader.whole([key])[0]
    empty(jam)
    standing = store.restorer.standing([key])
    carry_out(store, backup, [(key, head.born)])
    assert not store.restorer.restore(
        key, head, batches, None, standing=standing, backup=backup.identity()
    )
    assert store.head(key) is None


def test_only_the_log_that_has_come_back_is_deleted_again(jam: Jamboree) -> None:
    notes = NoteHandler(jam, "notes")
    notes.save({"n": 1})
    jam.flush()
    store, key = jam._connection.redis_store, notes._settled_key()
    head = store.head(key)
    assert head is not None
    assert store.deletions.delete(key, born=head.born - 1.0, only_this=True) is None
    assert [note["n"] for note in notes.many(9)] == [1]
    assert store.deletions.noted() == set()
    assert store.deletions.delete(key, born=head.born, only_this=True) == head.born
    assert store.head(key) is None


@pytest.mark.parametrize("more", [[], [4]], ids=["nothing more", "more"])
def test_a_record_in_the_place_of_one_that_a_failover_has_lost_does_not_count_as_copied(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch, more: list[int]
) -> None:
    notes = NoteHandler(jam, "notes")
    notes.save({"n": 1})
    jam.backup.flush()
    fail_over = loses_what_follows(jam)
    notes.save({"n": 2})
    jam.flush()
    acknowledgements = jam._connection.redis_store.acknowledgements
    acknowledge = acknowledgements.acknowledge

    def late(heads: Mapping[str, Head], *, epoch: str) -> Acknowledged:
        monkeypatch.setattr(acknowledgements, "acknowledge", acknowledge)
        fail_over()
        for n in (3, *more):
            notes.save({"n": n})
            jam.flush()
        return acknowledge(heads, epoch=epoch)

    monkeypatch.setattr(acknowledgements, "acknowledge", late)
    for _ in range(2):
        jam.backup.flush()
    for _ in range(2):
        assert [note["n"] for note in notes.many(9)] == [1, 2, 3, *more]
        assert jam.backup.verify()
        empty(jam)


def test_a_record_in_the_place_of_a_lost_one_is_compared_if_nothing_counts_as_copied(
    jam: Jamboree,
) -> None:
    notes = NoteHandler(jam, "notes")
    notes.save({"n": 1})
    jam.flush()
    fail_over = loses_what_follows(jam)
    jam.backup.flush()
    notes.save({"n": 2})
    jam.backup.flush()
    fail_over()
    notes.save({"n": 3})
    for _ in range(2):
        jam.backup.flush()
        assert [note["n"] for note in notes.many(9)] == [1, 2, 3]
        assert jam.backup.verify()
        empty(jam)


@pytest.mark.parametrize("pops", quick_and_long([1, 3], quick=[3]))
@pytest.mark.parametrize("is_saved_to", [False, True], ids=["popped again", "saved to"])
def test_what_comes_after_a_failover_that_has_lost_pops_is_copied(
    jam: Jamboree, pops: int, is_saved_to: bool
) -> None:
    """The backup has a revision of the log that Redis has lost."""
    notes = NoteHandler(jam, "notes")
    notes.save_many([{"n": n} for n in range(4)])
    jam.backup.flush()
    fail_over = loses_what_follows(jam)
    for n in range(pops):
        assert [note["n"] for note in notes.pop(1)] == [n]
    jam.backup.flush()
    fail_over()
    if is_saved_to:
        notes.save({"n": 4})
        left = [0, 1, 2, 3, 4]
    else:
        assert [note["n"] for note in notes.pop(2)] == [0, 1]
        left = [2, 3]
    jam.backup.flush()
    for _ in range(2):
        assert [note["n"] for note in notes.many(9)] == left
        assert jam.backup.verify()
        empty(jam)


@pytest.mark.parametrize(
    "lost",
    [pytest.param([4], marks=pytest.mark.long), [4, 5]],
    ids=["one was lost", "two were lost"],
)
@pytest.mark.parametrize("more", [[], [6]], ids=["popped", "saved to"])
def test_what_was_popped_after_a_failover_has_lost_records_does_not_come_back(
    jam: Jamboree, lost: list[int], more: list[int]
) -> None:
    notes = NoteHandler(jam, "notes")
    notes.save_many([{"n": n} for n in (1, 2, 3)])
    jam.backup.flush()
    fail_over = loses_what_follows(jam)
    for n in lost:
        notes.save({"n": n})
        jam.flush()
    jam.backup.flush()
    fail_over()
    assert [note["n"] for note in notes.pop(2)] == [1, 2]
    for n in more:
        notes.save({"n": n})
    jam.backup.restore()
    for _ in range(2):
        jam.backup.flush()
        assert [note["n"] for note in notes.many(9)] == [3, *lost, *more]
        assert jam.backup.verify()
        empty(jam)


@pytest.mark.parametrize("pops", quick_and_long([1, 2, 3, 4], quick=[2, 3]))
def test_what_a_failover_has_lost_is_not_popped_with_what_was_saved_in_its_place(
    jam: Jamboree, pops: int
) -> None:
    notes = NoteHandler(jam, "notes")
    notes.save({"n": 1})
    jam.backup.flush()
    fail_over = loses_what_follows(jam)
    notes.save({"n": 2})
    jam.backup.flush()
    fail_over()
    notes.save_many([{"n": n} for n in (3, 4, 5, 6)])
    popped = [1, 3, 4, 5][:pops]
    assert [note["n"] for note in notes.pop(pops)] == popped
    for _ in range(2):
        jam.backup.flush()
        left = [n for n in (2, 3, 4, 5, 6) if n not in popped]
        assert [note["n"] for note in notes.many(9)] == left
        assert jam.backup.verify()
        empty(jam)


def test_a_writer_asks_the_backup_again_for_an_episode_that_a_failover_has_taken_from_redis(
    jam: Jamboree,
) -> None:
    record(jam)
    empty(jam)
    env = jam.record(CountingEnv(length=3), run="a")
    jam._connection.redis_store.epoch()
    fail_over = loses_what_follows(jam)
    env.reset()
    jam.backup.flush()
    fail_over()
    env.close()
    jam.flush()
    assert jam.episode(env.episode_id).status == "abandoned"
