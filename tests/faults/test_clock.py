"""The clock is set back an hour while a process records, and forward again.

The process reads a clock that is changed on request: that of its Jamboree. (A real clock belongs to
the whole machine.)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
from conftest import Server
from processes import NoteHandler, read_line, wait_until
from recorded_envs import ACTION, CountingEnv, play
from warm import start_warm

from jamboree_gym import Jamboree
from jamboree_gym.delivery.lease import LEASE_S, Lease

pytestmark = [pytest.mark.faults, pytest.mark.once]

HOUR_S = 3600.0
STEPS = 40
SHORT_EPISODES = 5
OpenJamboree = Callable[..., Jamboree]

# For each line it reads, an offset of its clock, it plays on in a long episode, plays short ones,
# saves notes, and says which episodes it began. It never flushes: the thread has to deliver. It
# renews its lease often, and delivers soon: who waits for that need not wait long.
RECORDER = f"""
import json, sys, time
from processes import NoteHandler
from recorded_envs import ACTION, CountingEnv
from jamboree_gym import Jamboree
from jamboree_gym.delivery import lease, pacing

offset = [0.0]
lease.RENEW_S, pacing.LEISURE_S = 0.2, 0.1
url, namespace = sys.argv[1:]
jam = Jamboree(url, namespace=namespace, clock=lambda: time.time() + offset[0])
long, short = jam.record(CountingEnv(length=10**9)), jam.record(CountingEnv(length=3))
notes = NoteHandler(jam, "clock")
long.reset()
begun = [long.episode_id]
saved = 0
for line in sys.stdin:
    offset[0] = float(line)
    for _ in range({STEPS}):
        long.step(ACTION)
        notes.save({{"n": saved}})
        saved += 1
    for _ in range({SHORT_EPISODES}):
        short.reset()
        begun.append(short.episode_id)
        for _ in range(3):
            short.step(ACTION)
    print(json.dumps([begun, saved]), flush=True)
"""


class Recorder:
    """The process, and all that it said it did."""

    def __init__(self, url: str, namespace: str) -> None:
        self.process = start_warm(RECORDER, url, namespace)
        self.begun: list[str] = []
        self.saved = 0

    def play(self, offset_s: float) -> None:
        """Have it go on, with a clock that is so wrong."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{offset_s}\n")
        self.process.stdin.flush()
        self.begun, self.saved = json.loads(read_line(self.process))


@pytest.fixture
def recorder(valkey: Server, namespace: str) -> Iterator[Recorder]:
    started = Recorder(valkey.url, namespace)
    yield started
    started.process.kill()
    started.process.communicate()


@pytest.fixture(
    scope="module",
    params=[-HOUR_S, -1.0, HOUR_S],
    ids=["an hour back", "a second back", "an hour forward"],
)
def recorded(request: pytest.FixtureRequest, valkey: Server) -> Iterator[tuple[Jamboree, Recorder]]:
    """What a process left whose clock was set wrong, and right again."""
    namespace = f"clock{request.param}"
    recorder = Recorder(valkey.url, namespace)
    with Jamboree(valkey.url, namespace=namespace) as jam:
        for offset_s in (0.0, request.param, 0.0):
            recorder.play(offset_s)
            wait_until(lambda: NoteHandler(jam, "clock").count() == recorder.saved)
            wait_until(lambda: len(jam.episode(recorder.begun[0])) == recorder.saved)
        recorder.process.communicate("")  # the end of its input
        yield jam, recorder


def test_episodes_are_listed_as_they_were_played(recorded: tuple[Jamboree, Recorder]) -> None:
    jam, recorder = recorded
    found = jam.episodes().summaries()

    assert [summary.id for summary in found] == recorder.begun == sorted(recorder.begun)
    assert jam.episodes().order_by("started_at").ids() == recorder.begun
    assert all(one.started_at < other.started_at for one, other in pairwise(found))
    short = found[1:]
    ended = [summary.started_at + summary.elapsed_s for summary in short]
    assert all(end < after.started_at for end, after in zip(ended, short[1:], strict=False))


def test_windows_of_an_episode_hold_what_they_say(recorded: tuple[Jamboree, Recorder]) -> None:
    jam, recorder = recorded
    episode = jam.episode(recorder.begun[0])
    data = episode.data()
    times = data.timestamps

    assert np.array_equal(data.observations[:, 0], np.arange(3 * STEPS + 1))
    assert np.all(np.diff(times) > 0)
    for first, last in [(0, STEPS), (STEPS - 3, STEPS + 3), (2 * STEPS - 3, 3 * STEPS - 1)]:
        window = episode.between(times[first], times[last])
        assert np.array_equal(window.timestamps, times[first : last + 1])
    assert [step.index for t in times if (step := episode.as_of(t))] == list(range(3 * STEPS))
    assert np.array_equal(episode.recent(STEPS + 5).timestamps, times[-STEPS - 5 :])


def test_windows_of_records_hold_what_they_say(recorded: tuple[Jamboree, Recorder]) -> None:
    jam, _ = recorded
    notes = NoteHandler(jam, "clock")
    found = notes.many(10**6)
    times = [record["timestamp"] for record in found]

    assert [record["n"] for record in found] == list(range(3 * STEPS))
    assert [record["index"] for record in found] == list(range(3 * STEPS))
    assert all(one < other for one, other in pairwise(times))
    assert [notes.as_of(t)["n"] for t in times] == list(range(3 * STEPS))
    window = notes.between(times[STEPS - 3], times[STEPS + 3])
    assert [record["n"] for record in window] == list(range(STEPS - 3, STEPS + 4))
    assert notes.last()["n"] == 3 * STEPS - 1


def test_who_follows_sees_every_step_once(recorder: Recorder, jam: Jamboree) -> None:
    recorder.play(0.0)
    wait_until(lambda: len(jam.episodes()) == len(recorder.begun))
    tail = jam.episode(recorder.begun[0]).tail()
    seen = [next(tail).index for _ in range(STEPS)]
    for offset_s in (-HOUR_S, 0.0):
        recorder.play(offset_s)
        seen += [next(tail).index for _ in range(STEPS)]

    assert seen == list(range(3 * STEPS))


def test_a_living_process_is_not_taken_for_a_dead_one(recorder: Recorder, jam: Jamboree) -> None:
    recorder.play(0.0)
    wait_until(lambda: len(jam.episodes()) == len(recorder.begun))
    key = jam._connection.keyspace.lease(jam.episode(recorder.begun[0]).summary.writer)
    recorder.play(-HOUR_S)
    jam.redis.pexpire(key, int(LEASE_S * 500))

    wait_until(lambda: jam.redis.pttl(key) > LEASE_S * 500)
    assert jam.episodes(status="running").ids() == recorder.begun[:1]


# -- in this process, where clocks can be moved at will ---------------------------------------


class Clock:
    """The clock of a Jamboree, and what `time.monotonic` says, beside the true ones."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.epoch_s = self.monotonic_s = 0.0
        monotonic = time.monotonic
        patch.setattr(time, "monotonic", lambda: monotonic() + self.monotonic_s)

    def __call__(self) -> float:
        return time.time() + self.epoch_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize(("epoch_s", "monotonic_s"), [(-HOUR_S, 8.0), (8.0, 0.0)])
def test_rows_bring_the_lease_where_it_was_not_renewed(
    open_jamboree: OpenJamboree,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    epoch_s: float,
    monotonic_s: float,
) -> None:
    """The thread was held up: the clock was set back meanwhile, or the machine was asleep."""
    monkeypatch.setattr(Lease, "_run", lambda _: None)
    jam = open_jamboree(clock=clock)
    env = jam.record(CountingEnv(length=100))
    play(env, [ACTION])
    jam.flush()
    key = jam._connection.keyspace.lease(jam._connection.writer_name)
    jam.redis.delete(key)
    clock.epoch_s, clock.monotonic_s = epoch_s, monotonic_s
    env.step(ACTION)
    jam.flush()

    assert jam.redis.exists(key)


def step_one(jam: Jamboree) -> Callable[[], object]:
    env = jam.record(CountingEnv(length=10**9))
    env.reset()
    return lambda: env.step(ACTION)


def step_many(jam: Jamboree) -> Callable[[], object]:
    envs = jam.record(gym.vector.SyncVectorEnv([lambda: CountingEnv(length=10**9)] * 2))
    envs.reset()
    return lambda: envs.step(np.stack([ACTION] * 2))


def save_notes(jam: Jamboree) -> Callable[[], object]:
    notes = NoteHandler(jam, "clock")
    return lambda: notes.save({})


@pytest.mark.usefixtures("prompt_writer")
@pytest.mark.parametrize("begin", [step_one, step_many, save_notes])
def test_a_late_thread_is_waited_for_though_the_clock_was_set_back(
    open_jamboree: OpenJamboree,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    begin: Callable[[Jamboree], Callable[[], object]],
) -> None:
    jam = open_jamboree(clock=clock)
    put = begin(jam)
    schedule, waits = jam._connection.writer.schedule, list[int]()
    monkeypatch.setattr(schedule, "step_aside", lambda: waits.append(1))
    with jam._connection.writer._delivery_lock:  # so the thread is late, and stays so
        wait_until(lambda: [put()] and waits)
        waits.clear()
        clock.epoch_s = -HOUR_S
        wait_until(lambda: [put()] and waits)


def test_no_episode_id_comes_twice_while_the_clock_stands_still(
    open_jamboree: OpenJamboree,
) -> None:
    jam = open_jamboree(clock=lambda: 1.7e9)
    ids = [jam._connection.new_episode_id() for _ in range(1 << 17)]

    assert ids == sorted(set(ids))
