"""Who lives: leases, and the status of episodes whose writer does not."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import product

import pytest
import redis
from conftest import REDIS_PROGRAMS, Server, StartRedis
from lengths import quick_and_long
from processes import read_line, wait_until
from recorded_envs import ACTION, CountingEnv, play
from stored import at, calls_by_command, keys_like, listed
from warm import start_warm

from jamboree_gym import EpisodeHandler, Jamboree
from jamboree_gym.delivery.lease import LEASE_S, Lease
from jamboree_gym.errors import StoreUnavailable
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.buckets import BUCKETS

OpenJamboree = Callable[..., Jamboree]
Process = subprocess.Popen[str]

# Begins an episode, says its id, and then takes a step for each line that it reads. Renews its
# lease often: a test of when that happens need not wait.
RECORDER = """
import sys
from recorded_envs import ACTION, CountingEnv
from jamboree_gym import Jamboree
from jamboree_gym.delivery import lease

lease.RENEW_S = 0.2

url, namespace, write = sys.argv[1:]
jam = Jamboree(url, namespace=namespace, write=write)
env = jam.record(CountingEnv(length=10**9), run="r")
env.reset()
env.step(ACTION)
jam.flush()
print(env.episode_id, flush=True)
for line in sys.stdin:
    if line == "end\\n":
        break
    env.step(ACTION)
    jam.flush()
    print("stepped", flush=True)
jam.close()
"""


@pytest.fixture
def start_recorder(valkey: Server, namespace: str) -> Iterator[Callable[..., tuple[Process, str]]]:
    """Starts processes that record one episode each; process and episode id."""
    started: list[Process] = []

    def start(url: str = valkey.url, write: str = "buffered") -> tuple[Process, str]:
        process = start_warm(RECORDER, url, namespace, write)
        started.append(process)
        return process, read_line(process).strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


StartRecorder = Callable[..., tuple[Process, str]]


def kill(process: Process) -> None:
    process.kill()
    process.wait()


def leases(jam: Jamboree) -> list[bytes]:
    return sorted(keys_like(jam.redis, jam._connection.keyspace.lease("*")))


def let_leases_expire(jam: Jamboree) -> None:
    """What happens by itself, only sooner."""
    for key in leases(jam):
        jam._connection.redis_store.client.pexpire(key, 1)
    wait_until(lambda: not leases(jam))


# -- the lease ----------------------------------------------------------------------------------


def test_a_jamboree_holds_no_lease_before_it_records(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree()
    handler = EpisodeHandler(jam)
    handler["episode"] = "none"
    jam.record(CountingEnv())

    assert handler.count() == 0
    assert leases(jam) == []
    assert "jamboree-lease" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("write", ["buffered", "sync"])
def test_a_lease_tells_host_and_process_and_expires(
    any_redis: Server, open_jamboree: OpenJamboree, write: str
) -> None:
    jam = open_jamboree(any_redis.url, write=write)
    env = jam.record(CountingEnv())
    env.reset()
    jam.flush()

    assert leases(jam) == [
        jam._connection.keyspace.lease(jam.episode(env.episode_id).summary.writer).encode()
    ]
    assert jam.redis.get(leases(jam)[0]).decode() == f"{os.uname().nodename} {os.getpid()}"
    assert 0 < jam.redis.pttl(leases(jam)[0]) <= LEASE_S * 1000


def test_environments_of_one_jamboree_share_a_lease(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree()
    for _ in range(3):
        play(jam.record(CountingEnv()), [ACTION])
    jam.flush()

    assert len(leases(jam)) == 1
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("jamboree-lease") == 1


def test_close_ends_the_thread_that_renews(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree()
    jam.record(CountingEnv()).reset()
    jam.close()

    assert "jamboree-lease" not in [thread.name for thread in threading.enumerate()]


def test_a_lease_is_renewed(open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jamboree_gym.delivery.lease.RENEW_S", 0.2)
    jam = open_jamboree()
    env = jam.record(CountingEnv())
    env.reset()
    jam.flush()
    (key,) = leases(jam)
    jam.redis.pexpire(key, 5000)

    wait_until(lambda: jam.redis.pttl(key) > 5000)


def test_a_lease_outlives_a_renewal_that_is_missed(
    open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            return super().wait(0.01)

    pauses, jam = list[float](), open_jamboree()
    monkeypatch.setattr(jam._connection._lease, "_stop", Impatient())
    env = jam.record(CountingEnv())
    env.reset()
    wait_until(lambda: len(pauses) > 5)
    assert 0 < max(pauses) < LEASE_S / 2


def test_without_a_running_episode_no_lease_is_renewed_and_with_the_next_one_it_is(
    own_valkey: Server, open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jamboree_gym.delivery.lease.RENEW_S", 0.05)
    jam = open_jamboree(own_valkey.url)
    env = jam.record(CountingEnv(length=1))
    play(env, [ACTION])
    jam.flush()

    def writes() -> int:
        return calls_by_command(jam)["set"]

    lease = jam._connection._lease
    wait_until(lambda: lease._is_asleep)
    before = writes()
    time.sleep(0.5)  # ten renewals, if there were any
    assert writes() == before
    env.reset()
    wait_until(lambda: writes() > before + 2)


@pytest.mark.faults
def test_a_lease_comes_back_with_a_redis_that_was_emptied(
    start_own_redis: StartRedis, open_jamboree: OpenJamboree
) -> None:
    server = start_own_redis("valkey9", "--appendonly", "no")
    jam, reader = open_jamboree(server.url), open_jamboree(server.url)
    play(jam.record(CountingEnv(length=1)), [ACTION])
    jam.flush()
    server.kill()
    server.start()
    play(jam.record(CountingEnv(length=100)), [ACTION])
    jam.flush()

    assert len(leases(reader)) == 1


@pytest.mark.usefixtures("prompt_writer")
@pytest.mark.faults
def test_the_environment_does_not_notice_that_no_lease_can_be_had(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(durable_valkey.url)
    durable_valkey.kill()
    env = jam.record(CountingEnv(length=100))
    returned = play(env, [ACTION] * 20)
    wait_until(lambda: jam._connection.writer.backpressure.has_outage)
    assert len(returned) == 21
    durable_valkey.start()
    jam.flush()

    assert len(leases(jam)) == 1
    assert len(jam.episode(env.episode_id)) == 20


# -- the status ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("any_redis", "write"),
    quick_and_long(
        product(sorted(REDIS_PROGRAMS), ["buffered", "sync"]),
        quick=[("valkey9", "buffered"), ("redis7", "sync")],
    ),
    indirect=["any_redis"],
)
def test_an_episode_of_a_killed_process_is_interrupted_wherever_it_is_shown(
    any_redis: Server, open_jamboree: OpenJamboree, start_recorder: StartRecorder, write: str
) -> None:
    jam = open_jamboree(any_redis.url)
    process, cut = start_recorder(any_redis.url, write)
    live = start_recorder(any_redis.url, write)[1]
    assert jam.episodes(status="running").ids() == sorted([cut, live])
    assert jam.episode(cut).status == "running"
    kill(process)
    jam.redis.pexpire(jam._connection.keyspace.lease(jam.episode(cut).summary.writer), 1)
    wait_until(lambda: len(leases(jam)) == 1)

    assert jam.episode(cut).status == jam.episode(cut).summary.status == "interrupted"
    assert jam.episodes(status="interrupted").ids() == [cut]
    assert jam.episodes(status="running").ids() == [live]
    shown = {summary.id: summary.status for summary in jam.episodes().summaries()}
    assert shown == {cut: "interrupted", live: "running"}
    assert len(jam.episodes(status="terminated")) == 0
    assert [step.index for step in jam.episode(cut).tail()] == [0]
    handler = EpisodeHandler(jam)
    handler["episode"] = cut
    assert [step["index"] for step in handler.tail()] == [0]
    assert len(jam.episode(cut)) == 1


def test_reading_writes_no_status(
    open_jamboree: OpenJamboree, start_recorder: StartRecorder, valkey: Server
) -> None:
    jam = open_jamboree()
    process, cut = start_recorder()
    key = jam._connection.keyspace.episode(cut)
    kill(process)
    let_leases_expire(jam)
    before = (
        jam.redis.lrange(at(jam, key), 0, -1),
        listed(jam, "r"),
    )

    assert jam.episode(cut).status == "interrupted"
    assert jam.episodes(status="interrupted").ids() == [cut]
    assert (
        jam.redis.lrange(at(jam, key), 0, -1),
        listed(jam, "r"),
    ) == before


def test_a_tail_ends_when_the_writer_is_dead(
    open_jamboree: OpenJamboree, start_recorder: StartRecorder
) -> None:
    jam = open_jamboree()
    process, cut = start_recorder()
    tail = jam.episode(cut).tail()
    assert next(tail).index == 0
    kill(process)
    let_leases_expire(jam)

    assert list(tail) == []


@pytest.mark.faults
def test_a_writer_that_was_stopped_for_long_goes_on_and_so_does_its_episode(
    open_jamboree: OpenJamboree, start_recorder: StartRecorder
) -> None:
    jam = open_jamboree()
    process, stopped = start_recorder()
    process.send_signal(signal.SIGSTOP)
    let_leases_expire(jam)
    assert jam.episode(stopped).status == "interrupted"
    process.send_signal(signal.SIGCONT)

    wait_until(lambda: jam.episode(stopped).status == "running")
    assert process.stdin is not None
    process.stdin.write("step\n")
    process.stdin.flush()
    assert read_line(process) == "stepped\n"
    assert jam.episodes(status="running").ids() == [stopped]
    assert len(jam.episode(stopped).data()) == 2


def test_an_episode_that_ends_with_its_process_is_never_taken_for_interrupted(
    open_jamboree: OpenJamboree, start_recorder: StartRecorder
) -> None:
    jam = open_jamboree()
    process, ended = start_recorder()
    summary, _ = jam.episode(ended)._notes()  # read here, judged after the process is gone
    process.communicate("end\n")

    assert [shown.status for shown in jam._connection.as_of_now([summary])] == ["running"]
    assert jam.episode(ended).status == "abandoned"


def test_episodes_of_this_process_are_never_interrupted(open_jamboree: OpenJamboree) -> None:
    jam, reader = open_jamboree(), open_jamboree()
    env = jam.record(CountingEnv())
    env.reset()
    assert jam.episode(env.episode_id).status == "running"
    let_leases_expire(jam)

    assert jam.episode(env.episode_id).status == "running"
    assert reader.episode(env.episode_id).status == "running"
    assert reader.episodes(status="interrupted").ids() == []


@pytest.mark.faults
def test_what_could_not_be_ended_is_ended_by_the_next_who_opens_the_store(
    start_own_redis: StartRedis, namespace: str
) -> None:
    server = start_own_redis("valkey9", "--appendfsync", "always")
    jam = Jamboree(server.url, namespace=namespace)
    env = jam.record(CountingEnv())
    play(env, [ACTION])
    jam.flush()
    server.kill()
    with pytest.raises(Exception, match="records are not in Redis"):
        jam.close(timeout_s=0.1)
    server.start()

    with Jamboree(server.url, namespace=namespace) as reader:
        assert reader.episode(env.episode_id).status == "abandoned"


def test_an_episode_that_comes_back_from_mongodb_is_interrupted(
    own_valkey: Server, mongo: Server, namespace: str, start_recorder: StartRecorder
) -> None:
    with Jamboree(own_valkey.url, mongo.url, namespace=namespace) as jam:
        process, cut = start_recorder(own_valkey.url)
        kill(process)
        jam.backup.flush()
        jam.redis.flushall()
        jam.backup.restore()

        assert jam.episode(cut).status == "interrupted"
        assert jam.episodes(status="interrupted").ids() == [cut]
        assert len(jam.episode(cut).data()) == 1


def round_trips(jam: Jamboree, call: Callable[[], object]) -> list[str]:
    """Commands that a call sends, by Redis' own account."""
    commands: list[str] = []
    with (
        redis.Redis.from_url(jam._connection.redis_url) as other,
        other.monitor() as monitor,
    ):
        done = threading.Event()

        def watch() -> None:
            for command in monitor.listen():
                commands.append(command["command"])
                if command["command"] == "ECHO watched":
                    done.set()
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        call()
        jam.redis.echo("watched")
        assert done.wait(60)
        watcher.join()
    return commands[:-1]


def names(commands: list[str]) -> list[str]:
    found = [command.split()[0] for command in commands if scripts.PUT.sha not in command]
    return [name for name in found if name not in ("HELLO", "CLIENT", "SET")]  # connects, renews


def test_a_listing_asks_for_all_leases_at_once_and_only_where_something_is_running(
    own_valkey: Server, open_jamboree: OpenJamboree, start_recorder: StartRecorder
) -> None:
    jam = open_jamboree(own_valkey.url)
    play(jam.record(CountingEnv(), run="r"), [ACTION] * 3)
    jam.flush()
    query = jam.episodes(run="r")
    assert names(round_trips(jam, query.summaries)) == ["HGETALL"] * BUCKETS + ["GET"] * BUCKETS

    recorders = [start_recorder(own_valkey.url)[0] for _ in range(2)]
    for process in recorders:
        kill(process)
    assert names(round_trips(jam, query.summaries)) == [
        *["HGETALL"] * BUCKETS,
        *["GET"] * BUCKETS,
        "MGET",
    ]


@pytest.mark.parametrize("write", ["buffered", "sync"])
def test_no_row_reaches_redis_before_the_lease(
    own_valkey: Server, open_jamboree: OpenJamboree, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "_run", lambda _: None)  # the thread does not bring it
    jam = open_jamboree(own_valkey.url, write=write)
    env = jam.record(CountingEnv())

    def record() -> None:
        play(env, [ACTION])
        jam.flush()

    commands = round_trips(jam, record)
    first_rows = next(i for i, command in enumerate(commands) if scripts.APPEND.sha in command)
    assert any(jam._connection.keyspace.lease("") in command for command in commands[:first_rows])


def test_rows_that_redis_has_taken_are_saved_also_if_the_lease_cannot_be_renewed_then(
    open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    jam = open_jamboree(write="sync", backup=False)
    env = jam.record(CountingEnv())
    play(env, [ACTION])
    outbox = jam._connection.opened.outboxes.get(jam._connection.keyspace.episode(env.episode_id))
    assert outbox is not None
    calls: list[Lease] = []

    def renew(lease: Lease) -> None:
        calls.append(lease)
        if len(calls) == 2:  # before the rows, after the rows
            raise StoreUnavailable("Redis does not answer")

    monkeypatch.setattr(Lease, "renew_if_due", renew)
    with pytest.raises(StoreUnavailable):
        env.step(ACTION)
    assert outbox.unsaved == 0
    monkeypatch.undo()
