"""Users of Redis with the rights that docs/security.md gives them: enough, and none too many."""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import redis
from backed_up import follower_of
from conftest import REDIS_PROGRAMS, Server, StartRedis
from lengths import quick_and_long
from msgspec.structs import replace
from processes import NoteHandler, read_line
from recorded_envs import ACTION, CountingEnv, play
from stored import at, in_buckets, listing_of
from warm import start_warm

from jamboree_gym import Jamboree
from jamboree_gym.backup.waiting import StopSignal
from jamboree_gym.errors import JamboreeError, StoreUnavailable
from jamboree_gym.page.answers import Answers

pytestmark = pytest.mark.one_server  # the users of a cluster are in test_cluster.py

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
# The lines as they stand on the page, by user, in order.
LINES: dict[str, list[str]] = {}
for line in re.findall(r"^ACL SETUSER .*$", PAGE.read_text(), re.MULTILINE):
    LINES.setdefault(line.split()[2], []).append(line)
# Told where, it records there; told so again, it ends that first.
RECORD = """
import sys
from jamboree_gym import Jamboree
from recorded_envs import ACTION, CountingEnv, play
jam = None
for line in sys.stdin:
    if jam is not None:
        jam.close()
    url, _, namespace = line.rstrip().partition(" ")
    if url:
        jam = Jamboree(url, namespace=namespace, write="sync")
        env = jam.record(CountingEnv(9))
        play(env, [ACTION] * 3)
        print(env.episode_id, flush=True)
    else:
        jam = None
        print("ended", flush=True)
"""
COMMAND = re.compile(r" \+[\w|]+")


class OtherProcess:
    """Records episodes for all tests of this module: it takes a second to start."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def record(self, url: str, namespace: str) -> str:
        """The episode's id."""
        if self.process is None:
            self.process = start_warm(RECORD)
        return self.ask(f"{url} {namespace}")

    def end(self) -> None:
        """Close what is open."""
        if self.process is not None:
            self.ask("")

    def ask(self, line: str) -> str:
        assert self.process is not None
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)
        return read_line(self.process).strip()


@pytest.fixture(scope="module")
def other_process() -> Iterator[OtherProcess]:
    other = OtherProcess()
    yield other
    if other.process is not None:
        other.process.communicate()


class Users:
    """The users of the page on a real server, for a namespace of the test's own."""

    def __init__(
        self,
        server: Server,
        namespace: str,
        mongo_url: str | None = None,
        other_process: OtherProcess | None = None,
    ) -> None:
        self.server, self.namespace, self.mongo_url = server, namespace, mongo_url
        self.other_process, self.recorded = other_process, ""
        self.admin = redis.Redis.from_url(server.url)
        self.owner = Jamboree(server.url, mongo_url, namespace=namespace, write="sync")

    def give(self, line: str) -> None:
        """Send a line of the page."""
        line = line.replace("jamboree:", f"{self.namespace}:")
        self.admin.execute_command(*re.findall(r"\([^)]*\)|\S+", line))  # (...) is one argument

    def open(self, user: str, **options: Any) -> Jamboree:
        """What that user opens, on a server that has to be given the scripts."""
        self.admin.script_flush()
        url = self.server.url.replace("unix://", f"unix://{user}:SECRET@")
        options = {"write": "sync", "namespace": self.namespace, **options}
        return Jamboree(url, self.mongo_url, **options)

    def elsewhere(self) -> str:
        """An episode that another process records, and goes on with."""
        assert self.other_process is not None
        if not self.recorded:
            self.recorded = self.other_process.record(self.server.url, self.namespace)
        return self.recorded

    def close(self) -> None:
        """Remove the users."""
        if self.recorded and self.other_process is not None:
            self.other_process.end()
        self.owner.close()
        self.admin.execute_command("ACL", "DELUSER", *LINES)
        self.admin.close()


@pytest.fixture
def users(
    valkey: Server, mongo: Server, namespace: str, other_process: OtherProcess
) -> Iterator[Users]:
    made = Users(valkey, namespace, mongo.url, other_process)
    yield made
    made.close()


@pytest.fixture
def users_anywhere(
    any_redis: Server, mongo: Server, namespace: str, other_process: OtherProcess
) -> Iterator[Users]:
    made = Users(any_redis, namespace, mongo.url, other_process)
    yield made
    made.close()


# -- what each user does --------------------------------------------------------------------------


def as_recorder(users: Users, **options: Any) -> None:
    """Episodes, records, and a log that two processes write to, while somebody follows.

    And a log that Redis has lost.
    """
    lost = NoteHandler(users.owner, "lost")
    if users.mongo_url is not None:
        lost.save({"n": 1})
        play(users.owner.record(CountingEnv(3)), [ACTION] * 3)
        users.owner.backup.flush()
        users.admin.delete(*users.admin.scan_iter(f"*{users.namespace}:*"))
    users.owner._connection.store.feed.position()
    one, other = users.open("recorder", **options), users.open("recorder", **options)
    try:
        env = one.record(CountingEnv(3))
        play(env, [ACTION] * 3)
        for jam in (one, other, one):
            NoteHandler(jam, "shared").save({"n": 1})
        NoteHandler(one, "lost").save({"n": 2})
    finally:
        for jam in (one, other):
            end(jam)
    assert users.owner.episode(env.episode_id).status == "terminated"
    if users.mongo_url is not None:
        assert [note["n"] for note in lost.many(9)] == [1, 2]
        lost.delete()


def as_reader(users: Users) -> None:
    """An episode that is over, one that goes on in another process, and records."""
    going_on = users.elsewhere()
    over = users.owner.record(CountingEnv(3))
    play(over, [ACTION] * 3)
    NoteHandler(users.owner, "read").save({"n": 1})
    jam = users.open("reader")
    try:
        statuses = {episode.id: episode.status for episode in jam.episodes()}
        assert statuses[over.episode_id] == "terminated"
        assert statuses[going_on] == "running"
        assert len(jam.episode(over.episode_id).data().rewards) == 3
        assert jam.episode(over.episode_id[:-1]).id == over.episode_id
        assert Answers(jam).run(jam.episode(over.episode_id).summary.run)["episodes"] >= 1
        assert len(jam.recent([over.episode_id], 2)[0].rewards) == 2
        assert jam.episodes().table().num_rows >= 6
        notes = NoteHandler(jam, "read")
        assert notes.count() >= 1
        assert [note["n"] for note in notes.between(0, 1e12)] == [1] * notes.count()
        assert (notes.as_of(1e12) or {})["n"] == 1
        assert len(list(jam.episode(going_on).tail(timeout_s=0.01))) == 3
        assert len(list(jam.tail(since=0, timeout_s=0.01))) >= 6
        assert jam.backup.status().pending_logs >= 1
        if users.mongo_url is not None:  # what is not in Redis is read, and not put there
            users.owner.backup.flush()
            key = jam._connection.keyspace.episode(over.episode_id)
            lost = [*in_buckets(jam, "coverage"), *in_buckets(jam, "runs")]
            users.admin.delete(at(jam, key), *lost)
            assert over.episode_id in jam.episodes().ids()
            assert len(jam.episode(over.episode_id).data().rewards) == 3
            assert not users.admin.exists(at(jam, key))
    finally:
        end(jam)


def as_deleter(users: Users) -> None:
    env, damaged = users.owner.record(CountingEnv(3)), users.owner.record(CountingEnv(3))
    of_run = users.owner.record(CountingEnv(3), run="whole")
    for one in (env, damaged, of_run):
        play(one, [ACTION] * 3)
    users.owner.flush()
    key = users.owner._connection.keyspace.episode(damaged.episode_id)
    users.admin.lset(at(users.owner, key), 0, b"no head")
    notes = NoteHandler(users.owner, "popped")
    notes.save_many([{"n": 1}, {"n": 2}])
    jam = users.open("deleter")
    try:
        assert [note["n"] for note in NoteHandler(jam, "popped").pop(1)] == [1]
        NoteHandler(jam, "popped").delete()
        jam.episode(env.episode_id[:-1]).delete()
        jam.episode(damaged.episode_id).delete()
        jam.run("whole").delete()
    finally:
        end(jam)
    assert notes.count() == 0
    assert not {env.episode_id, damaged.episode_id} & set(users.owner.episodes().ids())
    assert "whole" not in users.owner.runs().names()


def as_backup(users: Users) -> None:
    env = users.owner.record(CountingEnv(3))
    play(env, [ACTION] * 3)
    gone = NoteHandler(users.owner, "gone")
    gone.save({"n": 1})
    users.owner._connection.store.delete(gone._key)  # and MongoDB was not told
    jam = users.open("backup")
    try:
        assert jam.backup.status().pending_deletes
        follow_once(jam)
        jam.backup.flush()
        status = jam.backup.status()
        assert (status.pending_logs, status.pending_deletes) == (0, 0)
        assert jam.backup.verify()
        key = jam._connection.keyspace.episode(env.episode_id)
        users.admin.delete(at(jam, key))
        assert jam.backup.restore() == 1
        head = users.owner._connection.redis_store.head(
            jam._connection.keyspace.episode(env.episode_id)
        )
        users.admin.lpop(at(jam, key), 2)
        users.admin.lpush(at(jam, key), replace(head, held=1).encode())
        assert jam.backup.restore() == 1
        assert len(users.owner.episode(env.episode_id).data().rewards) == 3
        run = users.owner.episode(env.episode_id).summary.run
        listing = listing_of(users.owner, run, env.episode_id)
        users.admin.hset(listing, env.episode_id, b"no summary")
        assert jam.backup.restore() == 1
        assert jam.backup.verify()
        check_that_it_makes_room(users, jam)
    finally:
        end(jam)


def follow_once(jam: Jamboree) -> None:
    """Take the lease, copy, let go of it."""
    stop = StopSignal()
    stop.set()
    follower = follower_of(jam)
    follower.run(stop)
    assert follower.trouble is None
    status = jam.backup.status()
    assert (status.lag_s, status.follower) == (0.0, None)


def check_that_it_makes_room(users: Users, jam: Jamboree) -> None:
    """A whole episode, the front of one that goes on, and a summary."""
    options: Any = {"namespace": users.namespace, "flush_interval_s": 600}
    with Jamboree(users.server.url, **options) as at_once:
        play(at_once.record(CountingEnv(3)), [ACTION] * 3)
    going_on = users.owner.record(CountingEnv(9))
    going_on.reset()
    for _ in range(2):
        users.owner.flush()
        going_on.step(ACTION)
    jam.backup.flush()
    jam.backup.retain(max_redis_bytes=0)
    done = jam.backup.trim()
    assert done.freed_bytes > 0
    assert done.summaries >= 1
    assert (
        jam._connection.store.head(jam._connection.keyspace.episode(going_on.episode_id)).held > 0
    )  # type: ignore[union-attr]
    jam.backup.retain()


USES: dict[str, Callable[[Users], None]] = {
    "recorder": as_recorder,
    "reader": as_reader,
    "deleter": as_deleter,
    "backup": as_backup,
}


def end(jam: Jamboree) -> None:
    """Close without waiting for what is refused."""
    with suppress(JamboreeError):  # the use itself has run into it
        jam.close(timeout_s=0)


# -- the rights -----------------------------------------------------------------------------------


def test_the_page_has_a_line_for_every_use() -> None:
    assert set(LINES) == set(USES)


@pytest.mark.parametrize(
    ("any_redis", "user"),
    quick_and_long(
        product(sorted(REDIS_PROGRAMS), USES),
        quick=[*(("valkey9", user) for user in USES), ("redis7", "recorder"), ("redis8", "backup")],
    ),
    indirect=["any_redis"],
)
def test_the_rights_on_the_page_are_enough(users_anywhere: Users, user: str) -> None:
    users_anywhere.give(LINES[user][0])
    USES[user](users_anywhere)


@pytest.mark.parametrize("kind", ["valkey9", "redis8"])
def test_the_further_right_for_fsync_is_enough_and_needed(
    start_own_redis: StartRedis, namespace: str, kind: str
) -> None:
    users = Users(start_own_redis(kind, "--appendfsync", "always"), namespace)
    first, further = LINES["recorder"]
    users.give(first)
    with pytest.raises(StoreUnavailable, match="'waitaof' command"):
        as_recorder(users, write="fsync")
    users.give(further)
    as_recorder(users, write="fsync")
    users.close()


def test_who_may_record_and_not_copy_records_and_is_told_once(
    users: Users, caplog: pytest.LogCaptureFixture
) -> None:
    users.give(LINES["recorder"][0])
    jam = users.open("recorder", backup=True)
    env = jam.record(CountingEnv(3))
    for _ in range(3):
        play(env, [ACTION] * 3)
    jam.close()
    assert users.owner.episode(env.episode_id).status == "terminated"
    said = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert ["does not let this user do it" in one for one in said] == [True, True]
    assert "the backup goes on when that is over" in said[0]
    assert said[1].endswith("what the backup lacks is copied by the next one")


@pytest.mark.parametrize("right", ["info", "evalsha", "script|load", "set", "rpush"])
def test_a_user_who_lacks_a_right_is_told_which_one(users: Users, right: str) -> None:
    users.give(LINES["recorder"][0].replace(f" +{right} ", " "))
    told = rf"does not let this user do it: .*'{re.escape(right)}' command"
    with pytest.raises(StoreUnavailable, match=told):
        as_recorder(users)


@pytest.mark.redis7
@pytest.mark.parametrize("right", ["hset", "rpush"])
def test_redis_7_does_not_tell_what_a_script_lacks_but_where_to_look(
    start_own_redis: StartRedis, namespace: str, right: str
) -> None:
    users = Users(start_own_redis("redis7"), namespace)
    users.give(LINES["recorder"][0].replace(f" +{right} ", " "))
    with pytest.raises(StoreUnavailable, match=r"user do it: .* ACL LOG there names the command"):
        as_recorder(users)
    assert f"'{right}'" in repr(users.admin.acl_log()).replace("b'", "'")
    users.close()


def test_who_may_not_look_for_lost_logs_records_all_the_same_and_is_told_once(
    users: Users, caplog: pytest.LogCaptureFixture
) -> None:
    users.give(LINES["recorder"][0].replace(" +hgetall ", " "))
    with users.open("recorder") as jam:
        for name in ("a", "b"):
            NoteHandler(jam, name).save({"n": 1})
    assert NoteHandler(users.owner, "a").count() == NoteHandler(users.owner, "b").count() == 1
    assert sum("does not let this user do it" in one for one in caplog.messages) == 1


@pytest.mark.parametrize("user", quick_and_long(USES, quick=["deleter"]))
def test_no_right_on_the_page_is_one_too_many(users: Users, user: str) -> None:
    line, needless = LINES[user][0], []
    for right in COMMAND.finditer(line):
        users.give(line[: right.start()] + line[right.end() :])
        try:
            USES[user](users)
        except (JamboreeError, AssertionError):
            continue
        needless.append(right[0])
    assert needless == []
