"""Recording in forked processes, in workers, in threads, and until Ctrl-C."""

from __future__ import annotations

import json
import mmap
import random
import signal
import struct
import threading
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Server, StartRedis
from lengths import examples, quick_and_long
from processes import start_python, wait_until
from recorded_envs import ACTION, CountingEnv, play
from warm import run_warm, start_warm

from jamboree_gym import Jamboree
from jamboree_gym.replay import verify

OpenJamboree = Callable[..., Jamboree]

# Python 3.12 warns of every fork of a process that has threads; ours has a writer.
IGNORE_FORK_WARNING = (
    "import warnings; warnings.filterwarnings('ignore', 'This process .* is multi-threaded')\n"
)


def check_counts(jam: Jamboree, episode_id: str, steps: int) -> None:
    """Each step of a CountingEnv once, in order."""
    data = jam.episode(episode_id).data()
    assert data.observations[:, 0].tolist() == list(range(steps + 1))


# -- forks --------------------------------------------------------------------------------------

FORK = (
    IGNORE_FORK_WARNING
    + """
import json, multiprocessing, os, sys
from recorded_envs import ACTION, CountingEnv, play
from jamboree_gym import Jamboree

url, namespace, write, how = sys.argv[1:]
jam = Jamboree(url, namespace=namespace, write=write)
env = jam.record(CountingEnv(length=100), run="parent")
play(env, [ACTION] * 5)
parents = env.episode_id

def child():
    assert env.handler.recent(2).indices.tolist() == [3, 4]
    env.step(ACTION)  # a copy goes on with the parent's episode: it is in no log
    env.reset()
    for _ in range(3):
        env.step(ACTION)
    own = jam.record(CountingEnv(length=4), run="child")
    play(own, [ACTION] * 4)
    assert jam.episode(own.episode_id).status == "terminated"
    print(json.dumps({"copy": env.episode_id, "own": own.episode_id}), flush=True)

if how == "os.fork":
    pid = os.fork()
    if pid == 0:
        child()
        jam.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
else:
    worker = multiprocessing.get_context("fork").Process(target=child)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
for _ in range(5):
    env.step(ACTION)
print(json.dumps({"parents": parents}), flush=True)
assert env.episode_id == parents
jam.flush()
os.kill(os.getpid(), 9)
"""
)


@pytest.mark.parametrize(
    ("write", "how"),
    quick_and_long(
        product(["buffered", "sync"], ["os.fork", "multiprocessing"]),
        quick=[("buffered", "os.fork"), ("sync", "multiprocessing")],
    ),
)
def test_a_forked_child_records_its_own_episodes_and_the_parents_goes_on(
    valkey: Server, namespace: str, open_jamboree: OpenJamboree, write: str, how: str
) -> None:
    ended = run_warm(FORK, valkey.url, namespace, write, how)
    assert (ended.returncode, ended.stderr) == (-signal.SIGKILL, "")
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    ids = {name: id_ for line in lines for name, id_ in line.items()}
    jam = open_jamboree()
    check_counts(jam, ids["parents"], 10)
    check_counts(jam, ids["copy"], 3)
    check_counts(jam, ids["own"], 4)
    assert sorted(jam.episodes().ids()) == sorted(ids.values())
    assert jam.episode(ids["copy"]).status == "abandoned"  # the child said so when it ended
    assert jam.episode(ids["own"]).status == "terminated"
    writers = {name: jam.episode(id_).summary.writer for name, id_ in ids.items()}
    assert writers["copy"] == writers["own"] != writers["parents"]
    jam.redis.delete(jam._connection.keyspace.lease(writers["parents"]))
    assert jam.episode(ids["parents"]).status == "interrupted"


def test_episodes_that_begin_in_a_block_of_a_forked_child_name_the_child_as_writer(
    valkey: Server, namespace: str
) -> None:
    source = (
        IGNORE_FORK_WARNING
        + """
import os, sys
import numpy as np
from gymnasium.vector import SyncVectorEnv
from recorded_envs import CountingEnv
from jamboree_gym import Jamboree

jam = Jamboree(sys.argv[1], namespace=sys.argv[2])
envs = jam.record(SyncVectorEnv([lambda: CountingEnv(length=2)] * 8))
envs.reset(seed=1)
pid = os.fork()
if pid == 0:
    envs.reset(seed=1)
    for _ in range(4):  # the third step resets all
        envs.step(np.zeros((8, 2), np.float32))
    assert [recorder.handler.writing.rows_put for recorder in envs._recorder._recorders] == [2] * 8
    jam.flush()
    writers = {jam.episode(id).summary.writer for id in envs.episode_ids}
    print(writers == {jam._connection.writer_name})
    sys.stdout.flush()
    os._exit(0)
os.waitpid(pid, 0)
jam.close()
"""
    )
    ended = run_warm(source, valkey.url, namespace)
    assert (ended.stdout, ended.stderr) == ("True\n", "")


def test_a_child_of_a_recording_process_judges_its_parent_by_the_lease(
    valkey: Server, namespace: str
) -> None:
    source = (
        IGNORE_FORK_WARNING
        + """
import os, sys
from recorded_envs import CountingEnv
from jamboree_gym import Jamboree

jam = Jamboree(sys.argv[1], namespace=sys.argv[2])
env = jam.record(CountingEnv())
env.reset()
jam.flush()
pid = os.fork()
if pid == 0:
    episode = jam.episode(env.episode_id)
    print(episode.status, jam.episodes(status="running").ids() != [])
    jam.redis.delete(jam._connection.keyspace.lease(episode.summary.writer))
    print(episode.status)
    sys.exit(0)
os.waitpid(pid, 0)
jam.close()
"""
    )
    ended = run_warm(source, valkey.url, namespace)
    assert (ended.stdout, ended.stderr) == ("running True\ninterrupted\n", "")


# -- workers ------------------------------------------------------------------------------------

WORKERS = """
import multiprocessing
import sys
from functools import partial

import gymnasium as gym

from jamboree_gym import Jamboree

STEPS = 60


def make_recorded(url, namespace, number):
    jam = Jamboree(url, namespace=namespace)
    return jam.record(gym.make("CartPole-v1"), run=f"worker {number}")


def main():
    url, namespace, kind, context = sys.argv[1:]
    makers = [partial(make_recorded, url, namespace, number) for number in range(2)]
    multiprocessing.set_forkserver_preload(["gymnasium.vector", "jamboree_gym"])
    if kind == "async":
        envs = gym.vector.AsyncVectorEnv(makers, context=context)
        envs.reset(seed=7)
        for _ in range(STEPS):
            envs.step(envs.action_space.sample())
    else:
        from stable_baselines3.common.vec_env import SubprocVecEnv

        envs = SubprocVecEnv(makers, start_method=context)
        envs.seed(7)
        envs.reset()
        for _ in range(STEPS):
            envs.step([envs.action_space.sample() for _ in range(2)])
    envs.close()


if __name__ == "__main__":
    main()
"""


def check_workers(
    valkey: Server, namespace: str, jam: Jamboree, path: Path, kind: str, context: str
) -> None:
    """Run two workers, each of which opens a Jamboree and records; look at what is there."""
    path.write_text(WORKERS)  # a file: spawned workers import it again
    source = IGNORE_FORK_WARNING + "import runpy, sys\nsys.argv[0] = sys.argv.pop(1)\n"
    source += "runpy.run_path(sys.argv[0], run_name='__main__')"
    if context != "fork":
        source = (
            "import subprocess, sys\nsys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"
        )
    process = start_python(source, path, valkey.url, namespace, kind, context)
    _, errors = process.communicate(timeout=110)  # each spawned worker imports all anew
    assert (process.returncode, errors) == (0, "")

    summaries = jam.episodes().summaries()
    assert {summary.run for summary in summaries} == {f"worker {number}" for number in range(2)}
    assert len({summary.writer for summary in summaries}) == 2
    for number in range(2):
        *ended_ones, last = [s for s in summaries if s.run == f"worker {number}"]
        assert {summary.status for summary in ended_ones} <= {"terminated"}
        assert last.status in ("abandoned", "terminated")  # not running, not interrupted
        for summary in (*ended_ones, last):
            assert len(jam.episode(summary.id).data()) == summary.steps
            assert verify(jam.episode(summary.id))
        resets = len(ended_ones)  # Gymnasium resets in a step of its own, SB3 in the same
        steps = sum(summary.steps for summary in (*ended_ones, last))
        assert steps == 60 - (resets if kind == "async" else 0)


@pytest.mark.parametrize(
    "context", quick_and_long(["fork", "spawn", "forkserver"], quick=["forkserver"])
)
def test_workers_of_an_async_vector_env_record_until_they_are_closed(
    valkey: Server, namespace: str, jam: Jamboree, tmp_path: Path, context: str
) -> None:
    check_workers(valkey, namespace, jam, tmp_path / "workers.py", "async", context)


@pytest.mark.long  # the test before has it of another vector environment, in two contexts
@pytest.mark.torch
@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_workers_of_a_subproc_vec_env_record_until_they_are_closed(
    valkey: Server, namespace: str, jam: Jamboree, tmp_path: Path, context: str
) -> None:
    check_workers(valkey, namespace, jam, tmp_path / "workers.py", "subproc", context)


WORKER_END = (
    IGNORE_FORK_WARNING
    + """
import multiprocessing, sys

from processes import NoteHandler
from recorded_envs import ACTION, CountingEnv, play

from jamboree_gym import Jamboree


def work(url, namespace):
    jam = Jamboree(url, namespace=namespace, flush_interval_s=60)
    NoteHandler(jam, "n").save({"n": 1})
    play(jam.record(CountingEnv()), [ACTION] * 2)


if __name__ == "__main__":
    worker = multiprocessing.get_context("fork").Process(target=work, args=sys.argv[1:])
    worker.start()
    worker.join()
"""
)


def test_a_worker_process_that_ends_without_close_loses_nothing(
    valkey: Server, namespace: str, jam: Jamboree
) -> None:
    ended = run_warm(WORKER_END, valkey.url, namespace)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [(s.steps, s.status) for s in jam.episodes().summaries()] == [(2, "abandoned")]


# -- threads ------------------------------------------------------------------------------------


def test_threads_record_side_by_side(jam: Jamboree) -> None:
    def record(number: int) -> None:
        env = jam.record(CountingEnv(length=10 + number), run=f"thread {number}")
        for _ in range(20):
            play(env, [ACTION] * (10 + number))

    threads = [threading.Thread(target=record, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for number in range(6):
        ids = jam.episodes(run=f"thread {number}", status="terminated").ids()
        assert len(ids) == 20
        for episode_id in ids:
            check_counts(jam, episode_id, 10 + number)


# -- Ctrl-C -------------------------------------------------------------------------------------

INTERRUPTED = """
import mmap, struct, sys
from recorded_envs import ACTION, CountingEnv
from jamboree_gym import Jamboree

url, namespace, write, path = sys.argv[1:]
with open(path, "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
jam = Jamboree(url, namespace=namespace, write=write)
env = jam.record(CountingEnv(length=int(1e9)), run="r")
def step_for_ever():
    steps = 0
    env.reset()
    while True:
        env.step(ACTION)
        steps += 1
        struct.pack_into("q", memory, 0, steps)
try:
    step_for_ever()
except KeyboardInterrupt:
    if sys.stdin.readline() != "go on\\n":
        raise
    for _ in range(5):  # as in a notebook, where a cell is stopped and then run again
        env.step(ACTION)
"""


@pytest.mark.parametrize(
    ("write", "then", "round_"),
    quick_and_long(
        product(["buffered", "sync"], ["end", "go on"], range(4)),
        quick=[("buffered", "end", 0), ("sync", "go on", 0)],
    ),
)
@pytest.mark.faults
def test_ctrl_c_leaves_a_prefix_that_is_not_running(
    valkey: Server,
    namespace: str,
    jam: Jamboree,
    tmp_path: Path,
    write: str,
    round_: int,
    then: str,
) -> None:
    path = tmp_path / "steps"
    path.write_bytes(bytes(8))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        process = start_warm(INTERRUPTED, valkey.url, namespace, write, path)
        enough = random.randint(1, 3000)
        wait_until(
            lambda: struct.unpack("q", memory[:8])[0] >= enough or process.poll() is not None
        )
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(f"{then}\n", timeout=60)
        steps = struct.unpack("q", memory[:8])[0]
    assert ("KeyboardInterrupt" in errors) == (then == "end"), errors
    assert "Unsaved" not in errors

    summary = jam.episodes().last().summary
    assert summary.status == "abandoned"
    kept = len(jam.episode(summary.id).data())
    assert steps <= kept <= steps + 1 + 5 * (then == "go on")
    assert kept - 1 <= summary.steps <= kept  # the step that was cut may be in the rows alone
    check_counts(jam, summary.id, kept)


STORM = """
import random, signal, sys
from recorded_envs import ACTION, CountingEnv
from jamboree_gym import Jamboree

url, namespace, write, many = sys.argv[1:]
env = Jamboree(url, namespace=namespace, write=write).record(CountingEnv(length=int(1e9)), run="r")
is_raised, lost = False, 0
def interrupt(number, frame):
    global is_raised
    is_raised = True
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
def step():  # Python 3.13 lets an interrupt of a loop escape from a `try` around it
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.0012))
    while not is_raised:
        env.step(ACTION)
for _ in range(int(many)):
    env.reset()
    is_raised = False
    try:
        step()
        lost += 1
    except KeyboardInterrupt:
        pass
print(lost, flush=True)
"""


@pytest.mark.parametrize("write", quick_and_long(["buffered", "sync"], quick=["buffered"]))
@pytest.mark.faults
def test_no_ctrl_c_is_swallowed_wherever_in_a_step_it_comes(
    valkey: Server, namespace: str, write: str
) -> None:
    process = start_warm(STORM, valkey.url, namespace, write, examples(10_000))
    said, errors = process.communicate(timeout=60)
    assert (said, errors) == ("0\n", "")


class InterruptedEnv(CountingEnv):
    """Ctrl-C comes when it has moved, and before it can say so."""

    def step(self, action: Any) -> Any:
        result = super().step(action)
        if self.count == 3:
            raise KeyboardInterrupt
        return result

    def reset(self, **options: Any) -> Any:
        result = super().reset(**options)
        if options.get("options"):
            raise KeyboardInterrupt
        return result


def test_an_episode_that_ctrl_c_cut_in_the_middle_of_a_step_gets_no_gap(jam: Jamboree) -> None:
    env = jam.record(InterruptedEnv(length=100))
    play(env, [ACTION] * 2)
    with pytest.raises(KeyboardInterrupt):
        env.step(ACTION)
    env.step(ACTION)

    check_counts(jam, env.episode_id, 2)
    assert jam.episode(env.episode_id).status == "abandoned"


def test_an_episode_does_not_go_on_after_a_reset_that_ctrl_c_cut(jam: Jamboree) -> None:
    env = jam.record(InterruptedEnv(length=100))
    play(env, [ACTION] * 2)
    with pytest.raises(KeyboardInterrupt):
        env.reset(options={"interrupt": True})
    env.step(ACTION)

    check_counts(jam, env.episode_id, 2)
    assert jam.episode(env.episode_id).status == "abandoned"


def test_an_exit_between_a_row_and_its_mark_loses_no_step(
    open_jamboree: OpenJamboree, jam: Jamboree
) -> None:
    recording = open_jamboree()
    env = recording.record(CountingEnv(length=100))
    play(env, [ACTION] * 3)
    recording.flush()
    buffer = env.handler.writing
    mark = buffer._mark

    def exit_once(outbox: object) -> float:
        buffer._mark = mark
        raise SystemExit

    buffer._mark = exit_once
    with pytest.raises(SystemExit):
        env.step(ACTION)
    recording.close()

    check_counts(jam, env.episode_id, 4)
    assert jam.episode(env.episode_id).status == "abandoned"


# -- ends that are kept apart -------------------------------------------------------------------


def test_a_reset_before_the_end_is_abandoned_and_not_truncated(jam: Jamboree) -> None:
    env = jam.record(gym.make("CartPole-v1"))
    env.reset(seed=1)
    env.step(0)
    cut = jam.episode(env.episode_id)
    env.reset()

    assert cut.status == "abandoned"
    assert not cut.data().truncations.any()
    assert not cut.data().terminations.any()
    assert jam.episodes(status="truncated").ids() == []


@pytest.mark.faults
def test_redis_killed_again_and_again_under_a_recording_environment(
    start_own_redis: StartRedis, open_jamboree: OpenJamboree
) -> None:
    server = start_own_redis("valkey9", "--appendfsync", "always")
    jam = open_jamboree(server.url, flush_interval_s=0.003)
    env = jam.record(CountingEnv(length=50), run="r")
    resets, stop = [0], threading.Event()

    def record() -> None:
        while not stop.is_set():
            play(env, [ACTION] * 50)
            resets[0] += 1

    recorder = threading.Thread(target=record)
    recorder.start()
    for _ in range(4):
        before = resets[0]
        wait_until(lambda before=before: resets[0] > before + random.randint(1, 30))
        server.kill()
        server.start()
    stop.set()
    recorder.join()
    jam.flush()

    found = jam.episodes(run="r").summaries()
    assert {(summary.status, summary.steps) for summary in found} == {("terminated", 50)}
    assert len(found) == resets[0]
    for summary in found:
        check_counts(jam, summary.id, 50)
    assert np.all(np.diff([summary.started_at for summary in found]) > 0)
