"""The backup that runs by itself beside servers given by URL: on a thread, if no other copies."""

from __future__ import annotations

import logging
import os
import platform
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from backed_up import Load, check_that_all_is_kept_once, is_complete
from conftest import Server, StartFollower
from processes import NoteHandler, read_line, wait_until
from proxy import Proxy, direct
from recorded_envs import ACTION, CountingEnv, play
from warm import run_warm, start_warm

from jamboree_gym import Jamboree
from jamboree_gym.backup import follow
from jamboree_gym.backup.automatic import AutomaticBackup
from jamboree_gym.backup.leader_lock import LeaderLock
from jamboree_gym.errors import InvalidArgument
from jamboree_gym.store.mongo import client as mongo_client

pytestmark = pytest.mark.usefixtures("prompt_writer")

OpenJamboree = Callable[..., Jamboree]


RECORD = """
import sys
from backed_up import Load
from jamboree_gym import Jamboree
with Jamboree(*sys.argv[1:3], namespace=sys.argv[3], backup=True, backup_interval_s=0.1) as jam:
    load = Load(jam)
    print("ready", flush=True)
    while sys.stdin.readline():
        load.go_on(0.05)
        print("saved", flush=True)
"""


def backup_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "jamboree-backup"]


def holder(jam: Jamboree) -> str:
    """Who copies now."""
    return (jam.redis.get(jam._connection.keyspace.backup_holder) or b"").decode()


class Meeting(threading.Event):
    """Two threads ask whether it is set before either of them gets the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.both = threading.Barrier(2)

    def is_set(self) -> bool:
        found = super().is_set()
        self.both.wait(60)
        return found


class Copying:
    """Copies nothing until it is stopped; counts how often it was begun."""

    trouble: str | None = None
    needs_threads = False

    def __init__(self) -> None:
        self.begun = 0

    def run(self, delivered: threading.Event, stop: threading.Event) -> None:
        self.begun += 1
        stop.wait(60)


def test_two_first_deliveries_at_once_start_one_thread(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Copying()
    backup = AutomaticBackup(work, jam._connection.store)  # type: ignore[arg-type]
    backup._delivered = Meeting()
    start, both_start = backup._start, threading.Barrier(2)

    def start_beside_the_other() -> None:
        with suppress(threading.BrokenBarrierError):  # there is no other
            both_start.wait(0.2)
        start()

    monkeypatch.setattr(backup, "_start", start_beside_the_other)
    together = [threading.Thread(target=backup.begin) for _ in range(2)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    backup.close(60)
    assert work.begun == 1


# -- the thread -----------------------------------------------------------------------------------


def test_what_is_saved_is_copied_without_a_word(open_jamboree: OpenJamboree, mongo: Server) -> None:
    jam = open_jamboree(mongo_url=mongo.url, backup=True)
    Load(jam).go_on(0.05)
    wait_until(lambda: is_complete(jam) and jam.backup.status().follower)
    assert jam.backup.status().follower == f"{platform.node()} {os.getpid()}"
    check_that_all_is_kept_once(jam)


@pytest.mark.parametrize("write", ["buffered", "sync"])
def test_who_saves_and_closes_at_once_leaves_nothing_behind(
    open_jamboree: OpenJamboree, mongo: Server, write: str, caplog: pytest.LogCaptureFixture
) -> None:
    with open_jamboree(mongo_url=mongo.url, backup=True, write=write) as jam:
        play(jam.record(CountingEnv(5)), [ACTION] * 5)
        NoteHandler(jam, "last").save({"n": 1})
    later = open_jamboree(mongo_url=mongo.url)
    assert is_complete(later)
    check_that_all_is_kept_once(later)
    assert holder(later) == ""
    assert not backup_threads()
    assert not caplog.records


def test_a_script_that_ends_without_close_leaves_nothing_behind(
    open_jamboree: OpenJamboree, mongo: Server
) -> None:
    jam = open_jamboree(mongo_url=mongo.url)
    script = """
import sys
from processes import NoteHandler
from jamboree_gym import Jamboree
from jamboree_gym.delivery import opened
opened.CLOSE_TIMEOUT_S = 60  # a busy machine takes its time
jam = Jamboree(*sys.argv[1:3], namespace=sys.argv[3], backup=True, backup_interval_s=0.1)
NoteHandler(jam, "script").save({"n": 1})
"""
    url = jam._connection.redis_url
    ended = run_warm(script, url, mongo.url, jam._connection.keyspace.namespace)
    assert ended.returncode == 0
    assert NoteHandler(jam, "script").count() == 1
    if sys.version_info >= (3, 12) and ended.stderr:  # it starts no threads at its end
        assert "1 records are not in the backup yet" in ended.stderr
        assert "cannot be reached" not in ended.stderr
        jam.backup.flush()
    else:
        assert ended.stderr == ""
    assert is_complete(jam)


def test_a_forked_child_has_what_it_saves_copied_too(
    open_jamboree: OpenJamboree, mongo: Server
) -> None:
    jam = open_jamboree(mongo_url=mongo.url)
    script = """
import multiprocessing, sys, warnings
from processes import NoteHandler
from jamboree_gym import Jamboree
warnings.filterwarnings("ignore", "This process .* is multi-threaded")
jam = Jamboree(*sys.argv[1:3], namespace=sys.argv[3], backup=True, backup_interval_s=0.1)
NoteHandler(jam, "parent").save({"n": 1})
jam.flush()
worker = multiprocessing.get_context("fork").Process(
    target=lambda: NoteHandler(jam, "child").save({"n": 1})
)
worker.start()
worker.join()
print(worker.exitcode)
NoteHandler(jam, "parent").save({"n": 2})
jam.close(timeout_s=60)
"""
    url = jam._connection.redis_url
    ended = run_warm(script, url, mongo.url, jam._connection.keyspace.namespace)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "0\n", "")
    assert NoteHandler(jam, "child").count() == 1
    assert is_complete(jam)
    check_that_all_is_kept_once(jam)


@pytest.mark.long  # test_maxmemory.py, store/test_embedded_backup.py lose it, too
def test_without_mongodb_nothing_stops_it_says_so_once_and_catches_up(
    open_jamboree: OpenJamboree,
    mongo_line: Proxy,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "jamboree_gym")
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(follow, "BACKOFF_S", (0.25,))
    jam = open_jamboree(mongo_url=direct(mongo_line), backup=True)
    load = Load(jam)
    load.go_on(0.02)
    wait_until(lambda: is_complete(jam))
    mongo_line.lose_server()
    load.go_on(0.02)
    wait_until(lambda: jam.backup.status().last_error)
    load.go_on(0.02)
    mongo_line.find_server()
    wait_until(lambda: is_complete(jam))
    check_that_all_is_kept_once(jam)
    jam.close()
    warnings = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    ends = [one for one in caplog.messages if one.endswith("goes on")]
    # For one who is hasty, a busy machine is an outage, too; each is said once, and its end.
    assert len(warnings) == len(ends) >= 1, caplog.messages
    assert "the backup goes on when that is over" in warnings[0]


def test_closing_without_mongodb_warns_of_what_is_pending_and_is_no_error(
    open_jamboree: OpenJamboree,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 0.2)
    with open_jamboree(mongo_url="mongodb://127.0.0.1:1/", backup=True) as jam:
        NoteHandler(jam, "kept").save_many({"n": n} for n in range(7))
    assert "7 records are not in the backup yet" in caplog.records[-1].getMessage()
    assert "127.0.0.1:1" in caplog.records[-1].getMessage()
    assert NoteHandler(open_jamboree(), "kept").count() == 7


def test_closing_waits_no_longer_than_it_may(
    open_jamboree: OpenJamboree,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 0.4)
    jam = open_jamboree(mongo_url="mongodb://127.0.0.1:1/", backup=True)
    NoteHandler(jam, "kept").save({"n": 1})
    jam.flush()
    jam.close(timeout_s=0.01)
    assert "1 records are not in the backup yet" in caplog.records[-1].getMessage()
    assert "did not end within" in caplog.records[-1].getMessage()
    for thread in backup_threads():
        thread.join()


# -- who does not copy ----------------------------------------------------------------------------


def test_who_only_reads_copies_nothing(open_jamboree: OpenJamboree, mongo: Server) -> None:
    NoteHandler(open_jamboree(write="sync"), "read").save({"n": 1})
    jam = open_jamboree(mongo_url=mongo.url, backup=True)
    assert NoteHandler(jam, "read").count() == 1
    jam.close()
    assert not backup_threads()
    assert not is_complete(open_jamboree())


@pytest.mark.parametrize(
    ("options", "environment"),
    [({"backup": False}, "1"), ({}, "0"), ({"mongo_url": None, "backup": True}, "1")],
)
def test_nothing_is_copied_where_it_is_not_wanted_or_not_known_where_to(
    open_jamboree: OpenJamboree,
    mongo: Server,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object],
    environment: str,
) -> None:
    monkeypatch.setenv("JAMBOREE_BACKUP", environment)
    jam = open_jamboree(**{"mongo_url": mongo.url, **options})
    NoteHandler(jam, "kept").save({"n": 1})
    jam.flush()
    assert not backup_threads()


@pytest.mark.parametrize("environment", ["1", "", None])
def test_it_is_copied_unless_said_otherwise(
    open_jamboree: OpenJamboree,
    mongo: Server,
    monkeypatch: pytest.MonkeyPatch,
    environment: str | None,
) -> None:
    monkeypatch.delenv("JAMBOREE_BACKUP")
    if environment is not None:
        monkeypatch.setenv("JAMBOREE_BACKUP", environment)
    jam = open_jamboree(mongo_url=mongo.url)
    NoteHandler(jam, "kept").save({"n": 1})
    wait_until(backup_threads)
    if environment is None:
        wait_until(lambda: jam.backup.status().follower and is_complete(jam))


@pytest.mark.parametrize("wrong", ["yes", 1, 0.0])
def test_what_is_neither_true_nor_false_is_refused(
    open_jamboree: OpenJamboree, wrong: object
) -> None:
    with pytest.raises(InvalidArgument, match="backup="):
        open_jamboree(backup=wrong)


def test_a_variable_that_says_neither_is_refused(
    open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAMBOREE_BACKUP", "perhaps")
    with pytest.raises(InvalidArgument, match="JAMBOREE_BACKUP='perhaps'"):
        open_jamboree()
    open_jamboree(backup=False)


# -- who of several copies ------------------------------------------------------------------------


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not copy looks more often whether it should."""
    monkeypatch.setattr(follow, "CLAIM_AGAIN_S", 0.1)


@pytest.mark.usefixtures("looks_often")
def test_of_several_processes_one_copies_and_another_when_it_is_killed(
    open_jamboree: OpenJamboree, mongo: Server, caplog: pytest.LogCaptureFixture
) -> None:
    jam = open_jamboree(mongo_url=mongo.url, backup=True)
    other = start_warm(
        RECORD,
        jam._connection.redis_url,
        mongo.url,
        jam._connection.keyspace.namespace,
    )
    try:
        read_line(other)
        wait_until(lambda: holder(jam))
        first = holder(jam)
        assert f" {other.pid} " in first
        load = Load(jam)
        print("go on", file=other.stdin, flush=True)
        load.go_on(0.05)
        read_line(other)
        wait_until(lambda: is_complete(jam))
        assert holder(jam) == first
    finally:
        other.kill()
        said = other.communicate()[1]
    wait_until(lambda: f" {os.getpid()} " in holder(jam))
    load.go_on(0.05)
    wait_until(lambda: is_complete(jam))
    check_that_all_is_kept_once(jam)
    assert said == ""
    assert not caplog.records


@pytest.mark.usefixtures("looks_often")
@pytest.mark.long  # the test above kills, the one below tells who may replace whom
def test_a_process_takes_over_from_a_thread_and_a_thread_from_one_that_is_killed(
    open_jamboree: OpenJamboree, mongo: Server, start_follower: StartFollower
) -> None:
    jam = open_jamboree(mongo_url=mongo.url, backup=True)
    load = Load(jam)
    load.go_on(0.02)
    wait_until(lambda: holder(jam).startswith("thread"))
    follower = start_follower(jam)
    wait_until(lambda: holder(jam).startswith("process"))
    load.go_on(0.05)
    wait_until(lambda: str(follower.pid) in str(jam.backup.status().follower))
    assert holder(jam).startswith("process")

    follower.kill()
    follower.wait()
    load.go_on(0.02)
    wait_until(lambda: holder(jam).startswith("thread"))
    wait_until(lambda: is_complete(jam))
    check_that_all_is_kept_once(jam)


@pytest.mark.parametrize(
    ("theirs", "kind", "is_taken"),
    [
        ("", "thread", True),
        ("", "process", True),
        ("thread elsewhere 1 ab", "thread", False),
        ("thread elsewhere 1 ab", "process", True),
        ("process elsewhere 1 ab", "thread", False),
        ("process elsewhere 1 ab", "process", False),
        ("process {here} {alive} ab", "process", False),
        ("thread {here} {alive} ab", "thread", False),
        ("process {here} {dead} ab", "thread", True),
        ("process {here} {dead} ab", "process", True),
        ("of another release", "thread", False),
        ("process {here} nobody ab", "process", False),
    ],
)
def test_who_may_replace_whom(jam: Jamboree, theirs: str, kind: str, is_taken: bool) -> None:
    dead = 0
    if "{dead}" in theirs:
        ended = start_warm("")
        ended.communicate()
        dead = ended.pid
    theirs = theirs.format(here=platform.node(), alive=os.getppid(), dead=dead)
    if theirs:
        jam.redis.set(jam._connection.keyspace.backup_holder, theirs)
    one = LeaderLock(jam._connection.redis_store, kind, to="m", is_new=True)  # type: ignore[arg-type]
    assert one.claim() is is_taken
    assert (holder(jam) == theirs) is not is_taken


def test_a_holder_keeps_it_until_it_lets_go_or_says_nothing(jam: Jamboree) -> None:
    one, other = (
        LeaderLock(jam._connection.redis_store, "thread", to="m", is_new=True) for _ in range(2)
    )
    assert one.claim()
    assert one.claim()
    assert 0 < jam.redis.pttl(jam._connection.keyspace.backup_holder) <= 12_000
    assert not other.claim()
    other.release()
    assert not other.claim()
    one.release()
    assert other.claim()
    assert not one.claim()


def test_who_delivers_after_the_last_round_of_another_copies_by_itself(
    open_jamboree: OpenJamboree, mongo: Server
) -> None:
    first = open_jamboree(mongo_url=mongo.url, backup=True)
    second = open_jamboree(mongo_url=mongo.url, backup=True)
    for jam in (first, second):
        NoteHandler(jam, "both").save({"n": 1})
        jam.flush()
        wait_until(lambda jam=jam: is_complete(jam))
    first.close()
    NoteHandler(second, "late").save({"n": 1})
    second.close()
    assert is_complete(open_jamboree())
