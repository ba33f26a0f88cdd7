"""The backup that goes on by itself, as a process of its own: killed, doubled, without MongoDB."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import pytest
from backed_up import Load, check_that_all_is_kept_once, follower_of, is_complete, pending
from conftest import FOLLOW, Server, StartFollower
from hasty_follower import hasty_follower
from lengths import quick_and_long
from processes import NoteHandler, wait_until
from recorded_envs import ACTION, CountingEnv, play
from stored import at
from warm import run_warm

from jamboree_gym import Jamboree
from jamboree_gym.backup import Backup, follow, waiting
from jamboree_gym.backup.__main__ import main
from jamboree_gym.backup.copy import LogCopier
from jamboree_gym.backup.waiting import StopSignal
from jamboree_gym.errors import StoreUnavailable
from jamboree_gym.store.mongo import client as mongo_client
from jamboree_gym.store.redis.doorbell import Doorbell

KILLS = int(os.environ.get("JAMBOREE_KILLED_BACKUPS", "2"))
MONGO_KILLS = int(os.environ.get("JAMBOREE_KILLED_MONGO", "1"))

PASSWORD = "s3cr3t"


def wait_until_it_follows(follower: subprocess.Popen[str]) -> None:
    """Until it hears signals, and copies."""
    assert follower.stderr is not None
    assert "backing up" in follower.stderr.readline()


def test_it_copies_what_comes_until_it_is_told_to_stop(
    jam: Jamboree, start_follower: StartFollower
) -> None:
    follower = start_follower(jam)
    Load(jam).go_on(0.05)
    wait_until(lambda: is_complete(jam) and jam.backup.status().follower)
    status = jam.backup.status()
    assert str(follower.pid) in str(status.follower)
    assert (status.lag_s, status.last_error) == (0.0, None)

    NoteHandler(jam, "late").save({"n": 1})
    jam.flush()
    follower.terminate()
    assert follower.wait(60) == 0
    check_that_all_is_kept_once(jam)


def test_what_is_deleted_is_deleted_there(jam: Jamboree, start_follower: StartFollower) -> None:
    env = jam.record(CountingEnv(length=12))
    for _ in range(8):
        play(env, [ACTION] * 12)
    going_on = jam.record(CountingEnv(length=100))
    play(going_on, [ACTION] * 20)
    NoteHandler(jam, "load").save({"n": 1})
    jam.flush()
    start_follower(jam)
    wait_until(lambda: is_complete(jam))
    assert len(list(jam._connection.backup_store.keys())) == 10
    NoteHandler(jam, "load").delete()
    for episode in list(jam.episodes(status="terminated")):
        episode.delete()

    wait_until(lambda: is_complete(jam))
    assert jam._connection.backup_store.records() == len(jam.episodes().first()) + 1


@pytest.mark.faults
@pytest.mark.once
@pytest.mark.timeout(60 + 10 * KILLS)
@pytest.mark.long  # test_backup.py kills a flush, test_backup_auto.py one that copies
def test_killed_again_and_again_it_loses_nothing_and_keeps_nothing_twice(
    jam: Jamboree, start_follower: StartFollower
) -> None:
    load, chance = Load(jam), random.Random(KILLS)
    for _ in range(KILLS):
        load.go_on(0.05)
        waiting = pending(jam)
        follower = start_follower(jam)
        wait_until(lambda waiting=waiting: pending(jam) < waiting)
        load.go_on(chance.uniform(0, 0.2))
        follower.kill()
        follower.wait()
    start_follower(jam)
    wait_until(lambda: is_complete(jam), timeout_s=60)
    check_that_all_is_kept_once(jam)


@pytest.mark.faults
@pytest.mark.long  # test_backup.py has two that flush at once
def test_two_at_once_keep_nothing_twice_and_miss_nothing(
    jam: Jamboree, start_follower: StartFollower
) -> None:
    followers = [start_follower(jam) for _ in range(2)]
    for follower in followers:
        wait_until_it_follows(follower)
    Load(jam).go_on(0.5)
    wait_until(lambda: is_complete(jam))
    for follower in followers:
        follower.terminate()
        assert follower.wait(60) == 0
    check_that_all_is_kept_once(jam)


@pytest.mark.faults
@pytest.mark.long  # test_maxmemory.py has the same, store/test_embedded_backup.py kills a MongoDB
@pytest.mark.once
@pytest.mark.timeout(60 + 30 * MONGO_KILLS)
def test_without_mongodb_it_waits_says_so_once_and_catches_up(
    own_valkey: Server,
    own_mongo: Server,
    open_jamboree: Callable[..., Jamboree],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 1.0)
    jam = open_jamboree(own_valkey.url, mongo_url=own_mongo.url)
    load = Load(jam)
    with hasty_follower(jam) as follower:
        for _ in range(MONGO_KILLS):
            load.go_on(0.1)
            wait_until(lambda: is_complete(jam))
            wait_until(lambda: jam.backup.status().last_error is None)  # of the time before
            own_mongo.kill()
            load.go_on(0.1)
            wait_until(lambda: jam.backup.status().last_error)
            assert "MongoDB" in str(jam.backup.status().last_error)
            own_mongo.start()
        wait_until(lambda: is_complete(jam), timeout_s=60)
        wait_until(lambda: jam.backup.status().last_error is None)
        check_that_all_is_kept_once(jam)
        follower.terminate()
        _, said = follower.communicate(timeout=60)
    assert said.count("the backup goes on when that is over") == MONGO_KILLS
    assert said.count("goes on\n") == MONGO_KILLS


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gets an entry for each round of any follower."""
    begun = list[str]()
    begin = LogCopier.begin

    def noted(self: LogCopier, to: str = "") -> None:
        begun.append(to)
        begin(self, to)

    monkeypatch.setattr(LogCopier, "begin", noted)
    return begun


@contextmanager
def following(jam: Jamboree, rounds: list[str], *, interval_s: float) -> Iterator[None]:
    """A follower on a thread, after its first round."""
    stop, follower = StopSignal(), follower_of(jam)
    follower.interval_s = interval_s
    thread = threading.Thread(target=follower.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: len(rounds) == 1)
        yield
    finally:
        stop.set()
        thread.join()
        stop.close()


@pytest.mark.parametrize("has_limit", [False, True])
def test_while_nothing_changes_it_keeps_no_client_of_mongodb(
    own_valkey: Server,
    open_jamboree: Callable[..., Jamboree],
    mongo: Server,
    monkeypatch: pytest.MonkeyPatch,
    has_limit: bool,
) -> None:
    """But where the memory of Redis has a limit: then it knows what to evict next."""
    monkeypatch.setattr(follow, "wait_for_change", lambda *_: False)
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url)
    if has_limit:
        jam.redis.config_set("maxmemory", 1 << 30)  # far away: nothing is evicted
    connection, notes = jam._connection, NoteHandler(jam, "note")
    with closing(follow.OpenedBackup(lambda: mongo.url, connection.keyspace.namespace)) as opened:
        follower = follow.Follower(
            connection.redis_store,
            opened.open,
            to=connection.backed_up_to,
            is_new=True,
            let_go=opened.let_go,
        )
        for n in range(2):
            notes.save({"n": n})
            jam.flush()
            follower._copy_in_turn()
            assert is_complete(jam)
            assert not follower._sleep()
            assert (opened._store is None) != has_limit
        follower._doorbell.close()
    check_that_all_is_kept_once(jam)


def test_after_a_round_without_work_it_lets_the_backup_go_at_once(
    open_jamboree: Callable[..., Jamboree], mongo: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, changes = list[float](), iter([False, False, False, False, True])

    def wait(_bell: object, _stop: object, timeout_s: float) -> bool:
        waits.append(timeout_s)
        return next(changes)

    monkeypatch.setattr(follow, "wait_for_change", wait)
    connection = open_jamboree(mongo_url=mongo.url)._connection
    with closing(follow.OpenedBackup(lambda: mongo.url, connection.keyspace.namespace)) as opened:
        follower = follow.Follower(
            connection.redis_store,
            opened.open,
            to=connection.backed_up_to,
            is_new=True,
            let_go=opened.let_go,
        )
        for is_changed in (False, False, True):
            follower._copy_in_turn()
            assert follower._sleep() is is_changed
        follower._doorbell.close()

    assert waits == [10.0, 50.0, 0.0, 60.0, 0.0]


@pytest.mark.long  # the next one waits an hour, too; the first one copies at its end
def test_many_deliveries_share_a_round_and_stopping_copies_what_waits(
    jam: Jamboree, rounds: list[str]
) -> None:
    with following(jam, rounds, interval_s=3600):
        Load(jam).go_on(0.2)
        assert len(rounds) == 1
        assert pending(jam) > 0
    assert len(rounds) == 2
    assert is_complete(jam)
    check_that_all_is_kept_once(jam)


@pytest.mark.parametrize("has_limit", quick_and_long([False, True], quick=[True]))
def test_a_copy_comes_sooner_where_much_waits_or_the_memory_of_redis_fills_up(
    own_valkey: Server,
    open_jamboree: Callable[..., Jamboree],
    mongo: Server,
    rounds: list[str],
    monkeypatch: pytest.MonkeyPatch,
    has_limit: bool,
) -> None:
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url)
    if has_limit:
        used = jam.redis.info("memory")["used_memory"]
        jam.redis.config_set("maxmemory", 2 * used)
    else:
        monkeypatch.setattr(waiting, "MUCH_WAITS_BYTES", 100_000)
    with following(jam, rounds, interval_s=3600):
        notes = NoteHandler(jam, "large")
        while len(rounds) < 2:
            notes.save({"n": 1, "text": "x" * 10_000})
            jam.flush()
    assert is_complete(jam)


def test_the_lag_after_a_quiet_time_counts_from_the_change(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "QUIET_S", 0.0)
    state, follower = jam._connection.redis_store.backup_state, follower_of(jam)
    follower.interval_s = 0
    for _ in range(2):  # the first sets the policy, which rings the bell
        follower._copy_in_turn()
    copied = state.mark()
    waiter = threading.Thread(target=follower._wait_for_work)
    waiter.start()
    NoteHandler(jam, "note").save({"n": 1})
    jam.flush()
    waiter.join()
    follower._doorbell.close()
    changed = state.mark()
    assert copied is not None
    assert changed is not None
    assert copied.complete_until < changed.complete_until
    assert pending(jam) == 1


@pytest.mark.parametrize(
    ("left_s", "is_pressing", "rests"), [(60, False, [0.09]), (0, False, []), (60, True, [])]
)
def test_a_copy_leaves_nine_tenths_of_the_time_to_others_while_it_may(
    jam: Jamboree,
    monkeypatch: pytest.MonkeyPatch,
    left_s: float,
    is_pressing: bool,
    rests: list[float],
) -> None:
    monkeypatch.setattr(waiting.Pressure, "is_high", lambda _: is_pressing)
    waited, follower = list[float](), follower_of(jam)
    monkeypatch.setattr(follower._stop, "wait", waited.append)
    follower._rest(0.01, time.monotonic() + left_s)
    assert waited == pytest.approx(rests)


def test_what_changes_while_a_copy_is_made_is_copied_by_the_next(
    jam: Jamboree, rounds: list[str]
) -> None:
    with following(jam, rounds, interval_s=0.05):
        for n in range(20):
            NoteHandler(jam, f"note {n}").save({"n": n})
            jam.flush()
        wait_until(lambda: is_complete(jam))


def test_where_redis_says_nothing_of_changes_they_are_looked_for(
    jam: Jamboree, rounds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Doorbell, "arm", lambda _: None)
    with following(jam, rounds, interval_s=0.05):
        NoteHandler(jam, "note").save({"n": 1})
        jam.flush()
        wait_until(lambda: is_complete(jam))


def test_a_log_that_cannot_be_copied_holds_no_other_back_and_is_tried_and_told_once(
    jam: Jamboree, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = NoteHandler(jam, "bad"), NoteHandler(jam, "good")
    bad.save({"n": 1})
    good.save({"n": 1})
    jam.flush()
    frame = jam.redis.lindex(at(jam, bad._key), 1)
    jam.redis.lset(at(jam, bad._key), 1, frame[:-1] + bytes([frame[-1] ^ 1]))
    follower, tried = follower_of(jam), list[str]()
    copy = LogCopier.copy

    def noted(self: LogCopier, pending: Sequence[tuple[str, int]]) -> Iterator[int]:
        tried.extend(key for key, _ in pending)
        return copy(self, pending)

    monkeypatch.setattr(LogCopier, "copy", noted)
    for _ in range(3):
        follower.copy_once()
    assert sorted(tried) == sorted([bad._key, good._key])

    status = jam.backup.status()
    assert (status.pending_logs, status.lag_s) == (1, None)
    assert bad._key in str(status.last_error)
    assert caplog.text.count("checksum does not match") == 1
    assert list(jam._connection.backup_store.logs([good._key, bad._key])) == [good._key]


def test_a_fault_that_nobody_thought_of_does_not_end_it(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("who thought of that")

    NoteHandler(jam, "n").save({"n": 1})
    jam.flush()
    follower = follower_of(jam)
    monkeypatch.setattr(type(jam._connection.backup_store), "insert_logs", broken)
    follower.copy_once()
    assert "ZeroDivisionError" in str(jam.backup.status().last_error)
    assert "Traceback" in caplog.text

    monkeypatch.undo()
    follower.copy_once()
    assert is_complete(jam)
    assert jam.backup.status().last_error is None


def test_what_is_copied_meanwhile_by_hand_is_copied_once(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = jam.record(CountingEnv(length=10**9))
    play(env, [ACTION] * 20)
    jam.backup.flush()
    play_on = [env.step(ACTION) for _ in range(20)]
    jam.flush()
    store = type(jam._connection.backup_store)
    put_heads = store.put_heads

    def another_is_quicker(self: object, logs: object) -> object:
        monkeypatch.undo()
        for _ in play_on:
            env.step(ACTION)
        jam.backup.flush()
        return put_heads(self, logs)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "put_heads", another_is_quicker)
    follower_of(jam).copy_once()

    assert is_complete(jam)
    check_that_all_is_kept_once(jam)


def test_it_says_so_and_ends_where_there_is_no_redis() -> None:
    url = f"redis://user:{PASSWORD}@127.0.0.1:1"
    command = [sys.executable, "-m", "jamboree_gym.backup", "--follow", "--redis-url", url]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "127.0.0.1:1 cannot be reached" in ended.stderr
    assert PASSWORD not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_follow_it_copies_once(jam: Jamboree) -> None:
    NoteHandler(jam, "n").save({"n": 1})
    jam.flush()
    urls = [
        "--redis-url",
        jam._connection.redis_url,
        "--mongo-url",
        str(jam._connection.backup_url),
    ]
    ended = run_warm(FOLLOW, *urls, "--namespace", jam._connection.keyspace.namespace)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"{jam._connection.keyspace.namespace}: 1 records copied\n"


def test_ctrl_c_ends_it_as_sigterm_does(jam: Jamboree, start_follower: StartFollower) -> None:
    follower = start_follower(jam)
    wait_until(lambda: jam.backup.status().follower)
    follower.send_signal(signal.SIGINT)
    assert follower.wait(60) == 0


def test_the_mark_of_a_backup_that_cannot_reach_mongodb_names_no_password(
    open_jamboree: Callable[..., Jamboree], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 0.2)
    jam = open_jamboree(mongo_url=f"mongodb://user:{PASSWORD}@127.0.0.1:1/")
    follower_of(jam).copy_once()
    error = str(jam.backup.status().last_error)
    assert "127.0.0.1:1" in error
    assert PASSWORD not in error
    with pytest.raises(StoreUnavailable):
        jam.backup.flush()


def test_a_ctrl_c_ends_a_single_copy(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press_ctrl_c(_: Backup) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Backup, "flush", press_ctrl_c)
    urls = ["--redis-url", jam._connection.redis_url]
    urls += ["--backup-url", str(jam._connection.backup_url)]
    assert main([*urls, "--namespace", jam._connection.keyspace.namespace]) == 130
    assert capsys.readouterr().out == ""
