"""A writer thread beside callers that keep the interpreter busy.

NumPy lets go of the interpreter for a moment for each random number. CPython hands it over on
request only after 5 ms in which nobody let go, so without help the thread would not run at all.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Server
from gymnasium import spaces
from lengths import quick_and_long
from processes import NoteHandler, wait_until

from jamboree_gym import Jamboree
from jamboree_gym.delivery.pacing import Schedule
from jamboree_gym.delivery.writer import APPENDS_PER_ROUND_TRIP
from jamboree_gym.errors import StoreUnavailable

OpenJamboree = Callable[..., Jamboree]

SAVES = 60_000


class NoisyEnv(gym.Env[Any, Any]):
    """Draws a random number every few steps, often enough that no 5 ms pass without."""

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return self.np_random.uniform(size=4), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        if self.count % 10 == 0:
            self.noise = self.np_random.uniform(size=4)
        return np.full(4, self.count, np.float64), 1.0, False, self.count == 20, {}


def in_redis(jam: Jamboree) -> int:
    """Number of records that are there, without asking a writer for more."""
    return sum(jam._connection.store.count(key) for key in jam._connection.redis_store.log_keys())


def step_one(jam: Jamboree) -> None:
    env = jam.record(NoisyEnv())
    env.reset(seed=0)
    for _ in range(SAVES):
        if env.step(0)[3]:
            env.reset()


def step_many(jam: Jamboree) -> None:
    envs = jam.record(gym.make_vec("CartPole-v1", num_envs=16, vectorization_mode="sync"))
    envs.reset(seed=0)
    actions = np.zeros(16, np.int64)
    for _ in range(SAVES // 48):
        envs.step(actions)


def save_notes(jam: Jamboree) -> None:
    handler, rng = NoteHandler(jam, "n"), np.random.default_rng(0)
    for number in range(SAVES):
        handler.save({"n": number})
        if number % 10 == 0:
            rng.uniform(size=4)


@pytest.mark.parametrize(
    "save", quick_and_long([step_one, step_many, save_notes], quick=[step_many])
)
def test_the_thread_delivers_while_its_callers_are_busy(
    open_jamboree: OpenJamboree, save: Callable[[Jamboree], None]
) -> None:
    jam, reader = open_jamboree(), open_jamboree()
    jam._connection.writer.schedule.is_followed = True  # else it delivers at leisure
    reader._connection.store.feed.position()

    def share_delivered() -> float:
        before = in_redis(reader)
        save(jam)
        delivered = in_redis(reader)
        jam.flush()
        return (delivered - before) / (in_redis(reader) - before)

    # Without help it is next to nothing; on a busy machine the server, too, waits for a processor.
    assert any(share_delivered() > 1 / 2 for _ in range(5))


def test_a_server_that_is_slow_is_not_waited_for(
    own_valkey: Server, open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[None] = []
    step_aside = Schedule.step_aside
    monkeypatch.setattr(
        Schedule, "step_aside", lambda schedule: (waits.append(None), step_aside(schedule))
    )
    jam = open_jamboree(own_valkey.url)
    jam._connection.writer.schedule.is_followed = True  # so that it delivers promptly
    env = jam.record(NoisyEnv())
    env.reset(seed=0)
    jam._connection.store.feed.announce([jam._connection.keyspace.episode(env.episode_id)])
    jam.flush()

    began = time.monotonic()
    os.kill(own_valkey.process.pid, signal.SIGSTOP)
    try:
        for _ in range(SAVES):
            if env.step(0)[3]:
                env.reset()
    finally:
        os.kill(own_valkey.process.pid, signal.SIGCONT)
    jam.flush()

    pauses = (time.monotonic() - began) / jam._connection.writer.schedule.pause_s
    assert 0 < len(waits) < 20 + pauses  # a millisecond in each, apart from the first few


def test_the_thread_is_late_anew_after_each_answer_to_a_long_delivery(
    open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    jam = open_jamboree(flush_interval_s=60.0)  # the thread sleeps: the flush delivers
    env = jam.record(NoisyEnv())
    for _ in range(2 * APPENDS_PER_ROUND_TRIP + 1):
        env.reset()
    answers: list[None] = []
    monkeypatch.setattr(Schedule, "go_on", lambda _: answers.append(None))

    jam.flush()

    assert len(answers) >= 3


@pytest.mark.faults
def test_a_synchronous_save_waits_for_no_thread_after_an_outage(
    durable_valkey: Server, open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    jam = open_jamboree(durable_valkey.url, write="sync")
    handler = NoteHandler(jam, "n")
    durable_valkey.kill()
    with pytest.raises(StoreUnavailable):
        handler.save({"n": 0})
    durable_valkey.start()
    jam.flush()
    wait_until(lambda: not jam._connection.writer.backpressure.has_outage)
    wait_until(
        lambda: time.monotonic() > jam._connection.writer.schedule.late_at
    )  # of a round that is over
    waits: list[None] = []
    monkeypatch.setattr(Schedule, "step_aside", lambda _: waits.append(None))

    for number in range(100):
        handler.save({"n": number})

    assert not waits
