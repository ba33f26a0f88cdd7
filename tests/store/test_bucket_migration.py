"""Keys without buckets, as releases before had them, are moved into buckets."""

from __future__ import annotations

import json
import lzma
import signal
import struct
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Server
from interrupted import run_until
from lengths import IS_LONG
from make_format_2 import FILE, Notes, values_of
from old_stores import fill, migrate, urls_of
from processes import NoteHandler
from recorded_envs import ACTION, CountingEnv, play
from stored import at, beside
from warm import run_warm

from jamboree_gym import Jamboree
from jamboree_gym.errors import DecodeError, EpisodeNotFound, JamboreeError
from jamboree_gym.store.log import identity
from jamboree_gym.store.migrations import Outcome, buckets

OLD = json.loads(lzma.decompress(FILE.read_bytes()))
EPISODES: dict[str, str] = OLD["episodes"]
NOTES = "format-2:records:{note:topic=weather}"
DELETED = "format-2:episode:{deleted}"
BORN = struct.pack("<d", 1.0)


@pytest.fixture
def old(open_jamboree: Callable[..., Jamboree], own_valkey: Server, mongo: Server) -> Jamboree:
    """On the stored bytes, and on what a namespace had beside them at its time."""
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url, namespace="format-2")
    fill_all(jam)
    return jam


def fill_all(jam: Jamboree) -> None:
    fill(jam, OLD)
    jam.redis.set("format-2:coverage", "part")
    jam.redis.set("format-2:deletions", "2")
    jam.redis.hset("format-2:deleted", identity(DELETED, 1.0), BORN)
    jam.redis.hset("format-2:deleted:former", identity(DELETED, 1.0), BORN)
    jam.redis.zadd("format-2:unbacked", {key_of("plain"): 7, DELETED: 1})
    jam.redis.zadd("format-2:runs", {"only-sessions": 99.0})
    mongo = jam._connection.backup_store.identity_now()
    fields = {"mongo": mongo.id, "mongo_at": mongo.where, "former x": "1", "trimmed_bytes": 5}
    jam.redis.hset("format-2:backup", mapping=fields | {"to": "there", "to_id": mongo.id})


def key_of(kind: str) -> str:
    return f"format-2:episode:{{{EPISODES[kind]}}}"


def everything(jam: Jamboree) -> dict[bytes, object]:
    """All keys of the namespace, but for what is made when it is looked at."""
    client: Any = jam.redis
    read = {
        b"list": lambda key: client.lrange(key, 0, -1),
        b"hash": client.hgetall,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"string": client.get,
    }
    keys = sorted(key for key in client.scan_iter("*format-2:*") if b":lease:" not in key)
    return {key: read[client.type(key)](key) for key in keys}


# -- before -----------------------------------------------------------------------------------

USES: dict[str, Callable[[Jamboree], object]] = {
    "an episode": lambda jam: jam.episode(EPISODES["plain"]).data(),
    "the listing": lambda jam: jam.episodes().ids(),
    "the runs": lambda jam: len(jam.runs()),
    "records": lambda jam: NoteHandler(jam, "n").count(),
    "a tail": lambda jam: list(jam.tail(timeout_s=0.01)),
    "the backup": lambda jam: jam.backup.flush(),
    "its status": lambda jam: jam.backup.status(),
    "a deletion": lambda jam: jam.episode(EPISODES["plain"]).delete(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_what_is_not_migrated_is_refused_and_stays_as_it_is(
    old: Jamboree, use: Callable[[Jamboree], object]
) -> None:
    before = everything(old)
    with pytest.raises(DecodeError, match=r"'format-2' .*older release.*jamboree-gym migrate"):
        use(old)
    assert everything(old) == before


@pytest.mark.parametrize("left", ["epoch", "runs", "unbacked"])
def test_any_key_of_the_older_layout_tells_it(old: Jamboree, left: str) -> None:
    others = {f"format-2:{name}" for name in ("epoch", "runs", "unbacked")} - {f"format-2:{left}"}
    old.redis.delete(*others)
    with pytest.raises(DecodeError, match="jamboree-gym migrate"):
        old.episodes().ids()


def test_what_is_recorded_before_the_migration_waits_and_arrives_after_it(
    open_jamboree: Callable[..., Jamboree], old: Jamboree, own_valkey: Server, mongo: Server
) -> None:
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url, namespace="format-2")
    env = jam.record(CountingEnv(3))
    play(env, [ACTION] * 3)
    migrate(old)
    jam.flush()
    assert len(old.episode(env.episode_id).data()) == 3


# -- after ------------------------------------------------------------------------------------


def test_everything_is_where_it_belongs(old: Jamboree) -> None:
    documents = list(old.mongo.logs.find({}, {"_id": 1}).sort("_id", 1))
    assert f"{len(EPISODES) + 1} logs brought up to date" in migrate(old)

    keys = set(everything(old))
    beside = {b"format-2:epoch", b"format-2:runs", b"format-2:backup"}
    assert {key for key in keys if b":blob:" not in key and not key.startswith(b"{")} == beside
    store = old._connection.redis_store
    assert set(store.log_keys()) == {*map(key_of, EPISODES), NOTES}
    assert {kind: values_of(old, id) for kind, id in EPISODES.items()} == OLD["read"]
    notes = Notes(old)
    notes["topic"] = "weather"
    assert [note["n"] for note in notes.many(9)] == [0, 1, 2, 3]
    old_runs = OLD["redis"]["format-2:runs"]["zset"]
    in_order = sorted(old_runs, key=old_runs.__getitem__)
    assert store.listings.runs() == ["only-sessions", *in_order]
    for run in old_runs:
        listed = OLD["redis"][f"format-2:run:{{{run}}}"]["hash"]
        assert store.listings.summaries(run).keys() == listed.keys()
    assert dict(store.acknowledgements.unbacked())[key_of("plain")] == 7
    assert store.deletions.noted() == {(DELETED, 1.0)}
    assert store.listings.coverage() == "part"
    assert store.backup_state.trimmed_bytes() == 5
    assert store.backup_state.backup_place() == old._connection.backup_store.identity_now().where
    assert old.redis.hgetall("format-2:backup").keys() == {b"to", b"to_id"}
    bucket = store.buckets.of(DELETED)
    assert old.redis.hlen(f"{bucket.deleted}:former") == 1
    assert old.redis.hget(bucket.backup, "former x") == b"1"
    assert list(old.mongo.logs.find({}, {"_id": 1}).sort("_id", 1)) == documents


def test_it_goes_on_afterwards(old: Jamboree) -> None:
    migrate(old)
    env = old.record(CountingEnv(3), run="plain")
    play(env, [ACTION] * 3)
    old.flush()
    assert old.episodes(run="plain").ids() == [EPISODES["plain"], env.episode_id]
    old.episode(EPISODES["tree"]).delete()
    old.backup.flush()
    assert old.backup.verify()
    with pytest.raises(EpisodeNotFound):
        old.episode(EPISODES["tree"]).data()
    old.redis.flushall()
    assert set(old.episodes().ids()) == {*EPISODES.values(), env.episode_id} - {EPISODES["tree"]}


def test_a_second_migration_changes_nothing(old: Jamboree) -> None:
    migrate(old)
    before = everything(old)
    assert "0 logs" in migrate(old)
    assert everything(old) == before


def test_what_an_older_release_writes_meanwhile_is_moved_too(
    old: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = "format-2:episode:{late}"
    move_backup = buckets._Move._move_backup

    def write_late(move: Any) -> None:
        move_backup(move)
        old.redis.copy(move._in(move._bucket_of(key_of("plain")), key_of("plain")), late)
        old.redis.zadd("format-2:unbacked", {late: 1})

    monkeypatch.setattr(buckets._Move, "_move_backup", write_late)
    migrate(old)
    assert not old.redis.exists(late, "format-2:unbacked")
    assert old.redis.exists(at(old, late))
    assert old.redis.zscore(beside(old, late, "unbacked"), at(old, late)) == 1


def test_a_log_that_an_older_release_begins_anew_replaces_none(
    old: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    move_backup = buckets._Move._move_backup

    def begin_anew(move: Any) -> None:
        move_backup(move)
        old.redis.copy(move._in(move._bucket_of(NOTES), NOTES), NOTES)

    monkeypatch.setattr(buckets._Move, "_move_backup", begin_anew)
    with pytest.raises(JamboreeError, match="keep one of the two keys"):
        buckets.migrate_redis(old._connection.redis_store, Outcome())
    monkeypatch.undo()
    old.redis.delete(NOTES)
    migrate(old)
    assert old.redis.exists(at(old, NOTES))


# -- interrupted ------------------------------------------------------------------------------


def migrate_until(jam: Jamboree, line: int) -> int:
    """Migrate until this line; how many were executed."""
    return run_until(
        line, buckets, lambda: buckets.migrate_redis(jam._connection.redis_store, Outcome())
    )


def test_two_migrations_at_once_end_as_one(old: Jamboree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one does all of it while the first is at some line."""
    for name in ("LOGS_AT_ONCE", "LISTED_AT_ONCE"):
        monkeypatch.setattr(buckets, name, 3)

    def migrate_all() -> None:
        buckets.migrate_redis(old._connection.redis_store, Outcome())

    lines = migrate_until(old, 10**9)
    expected = everything(old)
    for line in range(3, lines, 1 if IS_LONG else 43):
        old.redis.flushall()
        fill_all(old)
        old._connection.redis_store.buckets.forget()
        run_until(line, buckets, migrate_all, migrate_all)
        assert everything(old) == expected, line


@pytest.mark.parametrize(
    "missing",
    [(), pytest.param(("epoch", "unbacked"), marks=pytest.mark.long)],
    ids=["all", "runs only"],
)
def test_a_migration_that_was_interrupted_at_any_line_is_refused_and_completed(
    old: Jamboree, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    """Also of releases that had fewer keys, where all is copied."""

    def begin_again() -> None:
        old.redis.flushall()
        fill_all(old)
        for name in missing:
            old.redis.delete(f"format-2:{name}")

    for name in ("LOGS_AT_ONCE", "LISTED_AT_ONCE"):
        monkeypatch.setattr(buckets, name, 3)
    begin_again()
    lines = migrate_until(old, 10**9)
    expected = everything(old)
    for line in range(3, lines, 1 if IS_LONG else 31):
        begin_again()
        assert migrate_until(old, line) == line
        if everything(old) != expected:
            old._connection.redis_store.buckets.forget()
            with pytest.raises(DecodeError, match="jamboree-gym migrate"):
                old.episodes().ids()
        migrate_until(old, 10**9)
        assert everything(old) == expected, line


KILLED = """
import os, signal, sys
from jamboree_gym.cli import app
from jamboree_gym.store.migrations import buckets

lines = 0

def trace(frame, event, argument):
    global lines
    if frame.f_code.co_filename != buckets.__file__:
        return None
    lines += event == "line"
    if lines == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return trace

sys.settrace(trace)
app(sys.argv[2:])
"""


@pytest.mark.long  # interrupted at any line, it ends in the same way
@pytest.mark.parametrize("line", range(40, 280, 40))
def test_a_migration_that_was_killed_is_completed(old: Jamboree, line: int) -> None:
    done = run_warm(KILLED, line, "migrate", *urls_of(old))
    assert done.returncode == -signal.SIGKILL, done.stderr

    migrate(old)

    assert {kind: values_of(old, id) for kind, id in EPISODES.items()} == OLD["read"]
    assert set(old.episodes().ids()) == set(EPISODES.values())
