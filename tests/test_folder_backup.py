"""The backup of a Jamboree in a folder does what the one in MongoDB does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from backed_up import follower_of, is_complete
from conftest import Server, StartFollower
from processes import NoteHandler, wait_until
from recorded_envs import ACTION, CountingEnv, play
from stored import at
from warm import run_warm

from jamboree_gym import Jamboree
from jamboree_gym.backup.follow import Follower
from jamboree_gym.errors import (
    BackupMismatch,
    DecodeError,
    EpisodeNotFound,
    InvalidArgument,
    InvalidUrl,
    StoreUnavailable,
)
from jamboree_gym.store.backups.opening import open_backup
from jamboree_gym.store.backups.records import StoredLog
from jamboree_gym.store.redis.backup_state import Acknowledgements

OpenJamboree = Callable[..., Jamboree]

NEVER_ENDING = 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backup"


@pytest.fixture
def jam(open_jamboree: OpenJamboree, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Jamboree:
    """Without a backup of its own on a thread: the test says when it copies."""
    monkeypatch.setenv("JAMBOREE_BACKUP_URL", folder.as_uri())
    return open_jamboree()


def empty(jam: Jamboree) -> None:
    """As FLUSHALL, of this namespace."""
    jam.redis.delete(*jam.redis.scan_iter(f"*{jam._connection.keyspace.namespace}*"))


def bytes_of(jam: Jamboree) -> dict[str, Any]:
    """All logs without their heads, byte for byte."""
    client: Any = jam.redis
    keys = jam._connection.redis_store.log_keys()
    return {key: client.lrange(at(jam, key), 1, -1) for key in keys}


def save_some(jam: Jamboree) -> list[str]:
    """Short and long episodes, and records; return the episodes."""
    ids = []
    for length in (3, 12, 700):
        env = jam.record(CountingEnv(length), run="a")
        play(env, [ACTION] * length)
        ids.append(env.episode_id)
    notes = NoteHandler(jam, "n")
    notes.save_many({"n": number, "blob": bytes(2000)} for number in range(100))
    jam.flush()
    return ids


def test_it_copies_verifies_and_restores_byte_for_byte(jam: Jamboree, folder: Path) -> None:
    save_some(jam)
    assert jam.backup.flush() > 800
    status = jam.backup.status()
    assert (status.pending_records, status.mongo) == (0, folder.as_uri())
    assert f"copied to: {folder.as_uri()}" in str(status)
    report = jam.backup.verify()
    assert report, report.different
    before = bytes_of(jam)
    empty(jam)
    assert jam.backup.restore() == 4
    assert bytes_of(jam) == before
    assert jam.backup.verify()
    assert jam.backup.flush() == 0


@pytest.mark.parametrize("rounds", [1, NEVER_ENDING])
def test_a_flush_is_complete_although_a_copier_to_another_backup_ends_its_round_meanwhile(
    jam: Jamboree,
    mongo: Server,
    open_jamboree: OpenJamboree,
    monkeypatch: pytest.MonkeyPatch,
    rounds: int,
) -> None:
    notes = NoteHandler(jam, "n")
    notes.save({"n": 1})
    other = open_jamboree(mongo_url=mongo.url)
    left, list_unbacked = [rounds], Acknowledgements.unbacked

    def the_other_was_first(self: Acknowledgements) -> Iterator[tuple[str, int]]:
        if left[0] and self._link is jam._connection.redis_store.link:
            left[0] -= 1
            other.backup.flush()
        return list_unbacked(self)

    monkeypatch.setattr(Acknowledgements, "unbacked", the_other_was_first)
    if rounds == NEVER_ENDING:
        with pytest.raises(BackupMismatch, match="does not hold all: another process copies"):
            jam.backup.flush()
        return
    jam.backup.flush()
    assert jam.backup.verify()


def test_what_redis_has_lost_is_listed_and_read_from_it(jam: Jamboree) -> None:
    ids = save_some(jam)
    jam.backup.flush()
    actions = [jam.episode(id).data().actions.tolist() for id in ids]
    empty(jam)
    assert jam.episodes(run="a").ids() == ids
    assert [jam.episode(id).data().actions.tolist() for id in ids] == actions
    assert [note["n"] for note in NoteHandler(jam, "n").many(1000)] == list(range(100))
    NoteHandler(jam, "n").save({"n": 100, "blob": b""})
    jam.flush()
    assert NoteHandler(jam, "n").count() == 101


def test_what_is_evicted_is_read_from_it(jam: Jamboree) -> None:
    ids = save_some(jam)
    jam.backup.flush()
    jam.backup.retain(max_redis_bytes=1)
    freed = jam.backup.trim().freed_bytes
    jam.backup.retain()
    assert freed > 1000
    assert len(jam.episode(ids[2]).data()) == 700
    assert jam.backup.verify()


def test_what_is_deleted_is_deleted_there_too(jam: Jamboree) -> None:
    ids = save_some(jam)
    jam.backup.flush()
    jam.episode(ids[0]).delete()
    NoteHandler(jam, "n").delete()
    assert jam.backup.status().pending_deletes == 0
    empty(jam)
    assert jam.episodes(run="a").ids() == ids[1:]
    assert jam.backup.restore() == 2
    with pytest.raises(EpisodeNotFound):
        jam.episode(ids[0]).data()
    assert NoteHandler(jam, "n").count() == 0


def test_it_is_copied_to_by_a_thread_and_close_waits_for_it(
    open_jamboree: OpenJamboree, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_jamboree(backup=folder.as_uri()) as jam:
        save_some(jam)
        wait_until(lambda: is_complete(jam))
        NoteHandler(jam, "last").save({"n": 1})
    later = open_jamboree(backup=folder.as_uri())
    assert is_complete(later)
    assert later.backup.verify()
    assert not caplog.records


def test_a_process_of_its_own_follows(
    jam: Jamboree, folder: Path, start_follower: StartFollower
) -> None:
    start_follower(jam)
    save_some(jam)
    wait_until(lambda: is_complete(jam) and jam.backup.status().follower)
    assert jam.backup.verify()


def test_it_can_be_copied_to_while_the_interpreter_ends(
    open_jamboree: OpenJamboree, folder: Path, namespace: str, valkey: Server
) -> None:
    """It needs no threads, as pymongo does."""
    script = """
import sys
from processes import NoteHandler
from jamboree_gym import Jamboree
jam = Jamboree(sys.argv[1], backup=sys.argv[2], namespace=sys.argv[3])
NoteHandler(jam, "n").save({"n": 1})
"""
    done = run_warm(script, valkey.url, folder.as_uri(), namespace)
    assert done.returncode == 0, done.stderr
    assert is_complete(open_jamboree(backup=folder.as_uri()))


def test_a_folder_that_is_gone_in_mid_run_is_caught_up_with_when_it_is_back(
    jam: Jamboree, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_some(jam)
    follower = follower_of(jam)
    follower.copy_once()
    folder.rename(tmp_path / "unmounted")
    NoteHandler(jam, "late").save({"n": 1})
    jam.flush()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert follower.copy_once() > 0
    (warned,) = caplog.records
    assert "is not there: mount its disk" in warned.getMessage()
    assert "mount its disk" in (jam.backup.status().last_error or "")
    with pytest.raises(StoreUnavailable, match="mount its disk"):
        jam.backup.flush()
    assert NoteHandler(jam, "late").count() == 1
    (tmp_path / "unmounted").rename(folder)
    follower.copy_once()
    assert (follower.trouble, is_complete(jam)) == (None, True)
    assert jam.backup.verify()


def test_verify_names_what_is_damaged_in_it(jam: Jamboree, folder: Path) -> None:
    ids = save_some(jam)
    jam.backup.flush()
    (path,) = folder.rglob("*.segment")
    whole = path.read_bytes()
    place = whole.index(b"JB", whole.index(ids[0].encode()))
    path.write_bytes(whole[: place + 60] + bytes([whole[place + 60] ^ 1]) + whole[place + 61 :])
    report = jam.backup.verify()
    key = jam._connection.keyspace.episode(ids[0])
    assert not report
    assert f"the folder {folder}: {key} at index 0: checksum" in report.different[key]
    assert any(path.name in name for name in report.different)
    empty(jam)
    assert len(jam.episode(ids[1]).data()) == 12


def test_an_emptied_folder_gets_everything_again(jam: Jamboree, folder: Path) -> None:
    save_some(jam)
    jam.backup.flush()
    for path in folder.rglob("*.segment"):
        path.unlink()
    assert jam.backup.flush() > 800
    assert jam.backup.verify()


# -- when it is not there -------------------------------------------------------------------------


def test_a_mistyped_folder_is_no_empty_backup(
    jam: Jamboree, open_jamboree: OpenJamboree, folder: Path
) -> None:
    save_some(jam)
    jam.backup.flush()
    mistyped = folder.with_name("bakcup")
    other = open_jamboree(backup=mistyped.as_uri())
    backup = other.backup
    for read in (backup.restore, lambda: backup.restore(["0" * 32]), backup.verify):
        with pytest.raises(StoreUnavailable) as caught:
            read()
        first, second = str(caught.value).splitlines()
        assert first.endswith(f"in the folder {mistyped}, which is not there")
        assert second == f"backups near it: {folder.as_uri()}"
    assert "bakcup, which is not there" in other.backup.status().kind
    assert other.backup.retention().max_age_s is None
    assert not mistyped.exists()


def test_what_is_near_a_wrong_folder_is_named(
    jam: Jamboree, open_jamboree: OpenJamboree, folder: Path, tmp_path: Path
) -> None:
    save_some(jam)
    jam.backup.flush()
    inside = folder / jam._connection.keyspace.namespace
    for wrong in (tmp_path, inside):
        with pytest.raises(StoreUnavailable, match=f"near it: {folder.as_uri()}"):
            open_jamboree(backup=wrong.as_uri()).backup.restore()
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreUnavailable, match="nothing was ever copied there"):
        open_jamboree(backup=(tmp_path / "empty").as_uri()).backup.restore()


def test_another_namespace_of_the_folder_is_named(
    jam: Jamboree, open_jamboree: OpenJamboree, folder: Path
) -> None:
    save_some(jam)
    jam.backup.flush()
    namespace = jam._connection.keyspace.namespace
    other = open_jamboree(backup=folder.as_uri(), namespace=f"{namespace}s")
    with pytest.raises(StoreUnavailable, match=f"no backup of '{namespace}s'.*\n.*: {namespace};"):
        other.backup.restore()


@pytest.mark.parametrize("is_mount_point", [True, False])
def test_a_folder_on_a_disk_that_is_not_mounted_is_not_begun_anew(
    jam: Jamboree, open_jamboree: OpenJamboree, folder: Path, tmp_path: Path, is_mount_point: bool
) -> None:
    """What Redis has evicted is there alone. A mount point is an empty folder meanwhile."""
    ids = save_some(jam)
    jam.backup.flush()
    folder.rename(tmp_path / "unmounted")
    if is_mount_point:
        folder.mkdir()
    later = open_jamboree(backup=folder.as_uri())
    backup, episode = later.backup, later.episode(ids[0])
    for use in (backup.flush, backup.restore, backup.retain, backup.verify, episode.delete):
        with pytest.raises(StoreUnavailable, match="is not there: mount its disk, and the backup"):
            use()
    assert len(episode.data()) == 3
    assert list(folder.rglob("*")) == []
    follower = Follower(
        later._connection.redis_store,
        lambda: open_backup(folder.as_uri(), later._connection.keyspace.namespace),
        to=folder.as_uri(),
        is_new=True,
    )
    assert follower.copy_once() > 0
    assert "mount its disk" in (follower.trouble or "")
    assert list(folder.rglob("*")) == []
    if is_mount_point:
        folder.rmdir()
    (tmp_path / "unmounted").rename(folder)
    again = open_jamboree(backup=folder.as_uri())
    assert again.backup.flush() == 0
    assert again.backup.verify()


def test_there_is_no_mongodb_behind_a_folder(jam: Jamboree) -> None:
    with pytest.raises(InvalidArgument, match=r"the backup is the folder .*: there is no MongoDB"):
        _ = jam.mongo


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"backup": "/srv/backup"}, InvalidArgument, "choose True, False, or a URL"),
        ({"backup": "ftp://host"}, InvalidUrl, "file:///path"),
        ({"backup": "file://backup"}, InvalidUrl, "three slashes"),
        (
            {"backup": "file:///a/b", "mongo_url": "mongodb://localhost"},
            InvalidArgument,
            "name two backups",
        ),
    ],
)
def test_a_backup_that_is_none_is_refused(
    open_jamboree: OpenJamboree, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        open_jamboree(**options)


def test_two_variables_that_name_two_backups_are_refused(
    open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("JAMBOREE_BACKUP_URL", folder.as_uri())
    monkeypatch.setenv("JAMBOREE_MONGO_URL", "mongodb://localhost")
    with pytest.raises(InvalidArgument, match="JAMBOREE_BACKUP_URL and JAMBOREE_MONGO_URL name"):
        open_jamboree()
    open_jamboree(mongo_url="mongodb://localhost")


def test_a_url_where_true_or_false_belongs_is_refused_without_its_password(
    open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAMBOREE_BACKUP", "mongodb://me:secret@localhost")
    with pytest.raises(InvalidArgument, match="JAMBOREE_BACKUP_URL") as caught:
        open_jamboree()
    assert "secret" not in str(caught.value)


# -- from one backup to another -------------------------------------------------------------------


@pytest.mark.parametrize("way", ["to the folder", "to MongoDB"])
def test_a_backup_is_copied_to_one_of_another_kind(
    open_jamboree: OpenJamboree, folder: Path, mongo: Server, way: str
) -> None:
    urls = [mongo.url, folder.as_uri()]
    source, target = urls if way == "to the folder" else urls[::-1]
    jam = open_jamboree(mongo_url=source)
    ids = save_some(jam)
    for number in range(20):  # enough for a bundle
        play(jam.record(CountingEnv(3), run=f"run {number % 2}"), [ACTION] * 3)
    jam.backup.retain(max_age_s=1e6)
    told = []
    assert jam.backup.copy_to(target, progress=lambda *how: told.append(how)) == 24
    assert told[-1] == (24, 24)
    assert jam.backup.copy_to(target) == 0
    jam.episode(ids[2]).delete()
    play(jam.record(CountingEnv(3), run="a"), [ACTION] * 3)
    NoteHandler(jam, "n").save({"n": 100, "blob": b""})
    assert jam.backup.copy_to(target) == 2
    before = bytes_of(jam)
    empty(jam)
    other = open_jamboree(mongo_url=target)
    assert other.backup.restore() == 24
    assert bytes_of(other) == before  # and what was deleted stays deleted
    assert {*other.runs().names()} >= {"a", "run 0", "run 1"}
    assert other.backup.retention().max_age_s == 1e6
    other.backup.flush()
    assert other.backup.verify()


def test_a_log_that_was_deleted_and_begun_again_is_begun_again_in_the_other_backup(
    jam: Jamboree, tmp_path: Path
) -> None:
    other = (tmp_path / "other").as_uri()
    NoteHandler(jam, "n").save_many({"n": number} for number in range(3))
    jam.backup.copy_to(other)
    NoteHandler(jam, "n").delete()
    NoteHandler(jam, "n").save({"n": 30})

    assert jam.backup.copy_to(other) == 1

    with closing(open_backup(other, jam._connection.keyspace.namespace)) as copied:
        (log,) = copied.logs([*copied.keys()]).values()
        assert isinstance(log, StoredLog)
        assert log.head.count == 1


def test_a_backup_is_not_copied_to_itself(jam: Jamboree, folder: Path) -> None:
    save_some(jam)
    with pytest.raises(InvalidArgument, match="is this backup: name another one"):
        jam.backup.copy_to(folder.as_uri())


def test_a_damaged_log_does_not_keep_the_others_from_the_other_backup(
    jam: Jamboree, folder: Path, tmp_path: Path
) -> None:
    ids = save_some(jam)
    jam.backup.flush()
    (path,) = folder.rglob("*.segment")
    whole = path.read_bytes()
    place = whole.index(b"JB", whole.index(ids[0].encode()))
    path.write_bytes(whole[: place + 60] + bytes([whole[place + 60] ^ 1]) + whole[place + 61 :])
    with pytest.raises(DecodeError, match=ids[0]):
        jam.backup.copy_to((tmp_path / "other").as_uri())
    empty(jam)
    with Jamboree(
        jam._connection.redis_url,
        backup=(tmp_path / "other").as_uri(),
        namespace=jam._connection.keyspace.namespace,
    ) as other:
        assert other.backup.restore() == 3


def test_a_log_that_is_damaged_in_redis_keeps_no_other_from_another_backup(
    jam: Jamboree, tmp_path: Path
) -> None:
    other = (tmp_path / "other").as_uri()
    keys = []
    for name in ("a", "b"):
        notes = NoteHandler(jam, name)
        notes.save({"n": 1})
        keys.append(notes._settled_key())
    batch = jam.redis.lindex(at(jam, keys[0]), 1)
    jam.redis.lset(at(jam, keys[0]), 1, batch[:-1] + bytes([batch[-1] ^ 1]))

    with pytest.raises(DecodeError, match="checksum does not match"):
        jam.backup.copy_to(other)

    with closing(open_backup(other, jam._connection.keyspace.namespace)) as copied:
        assert [*copied.keys()] == keys[1:]
