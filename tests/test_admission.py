"""What happens when as much waits for Redis as may: nothing moves, nothing is lost."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Server
from gymnasium.vector import SyncVectorEnv
from processes import NoteHandler, wait_until
from recorded_envs import ACTION, CountingEnv

from jamboree_gym import EpisodeHandler, Jamboree
from jamboree_gym.errors import StoreUnavailable, UnsavedRecords

pytestmark = pytest.mark.faults

OpenJamboree = Callable[..., Jamboree]
LIMIT = 1 << 20
MOST_BYTES_OF_A_ROW = 1 << 10  # of `CountingEnv`, before it is encoded
MANY = 10**6


class ResetCountingEnv(CountingEnv):
    """Also counts its resets, and all that moved it."""

    resets = moves = 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        self.resets += 1
        self.moves += 1
        return super().reset(**options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.moves += 1
        return super().step(action)


def call_until_full(call: Callable[[], object], message: str = "wait for Redis") -> int:
    """Call until `StoreUnavailable` is raised; how many calls returned.

    There may be room again a moment later: rows take less of it once they are encoded.
    """
    returned = iter(range(MANY))
    with pytest.raises(StoreUnavailable, match=message):  # noqa: PT012 - which call, nobody knows
        while True:
            call()
            next(returned)
    return next(returned)


def call_until_admitted(call: Callable[[], object]) -> None:
    """Repeat one call until it returns."""

    def is_admitted() -> bool:
        try:
            call()
        except StoreUnavailable:
            return False
        return True

    wait_until(is_admitted)


@pytest.mark.parametrize(
    "length",
    [
        pytest.param(MANY, id="one episode"),
        # What a reset does, and how many calls return, the tests below show for short ones.
        pytest.param(5, id="episodes of 5 steps", marks=pytest.mark.long),
    ],
)
def test_a_step_that_finds_no_room_raises_before_the_environment_moves(
    durable_valkey: Server,
    open_jamboree: OpenJamboree,
    caplog: pytest.LogCaptureFixture,
    length: int,
) -> None:
    jam = open_jamboree(durable_valkey.url, max_pending_bytes=LIMIT, when_full="raise")
    inner = ResetCountingEnv(length=length)
    env = jam.record(inner, run="r")
    env.reset()
    jam.flush()
    durable_valkey.kill()

    def step_or_reset() -> None:
        if inner.count == length:
            env.reset()
        else:
            env.step(ACTION)

    returned = 1
    for _ in range(4):
        returned += call_until_full(step_or_reset)
        assert inner.moves == returned
        # Not their bytes: those shrink as soon as the writer's thread has encoded them.
        assert jam._connection.writer.unsaved > LIMIT / MOST_BYTES_OF_A_ROW
        assert jam._connection.writer.pending_bytes < 3 * LIMIT
    assert caplog.text.count("MiB wait for Redis") == 1

    durable_valkey.start()
    call_until_admitted(step_or_reset)
    for _ in range(7):
        step_or_reset()
    jam.flush()
    found = [episode.data() for episode in jam.episodes(run="r")]
    assert len(found) == inner.resets
    assert [len(data) for data in found[:-1]] == [length] * (inner.resets - 1)
    assert len(found[-1]) == inner.count
    for data in found:
        assert np.array_equal(data.observations[:, 0], np.arange(len(data) + 1))


def test_a_reset_that_finds_no_room_raises_before_the_environment_moves(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(durable_valkey.url, max_pending_bytes=LIMIT, when_full="raise")
    inner = ResetCountingEnv(length=MANY)
    env = jam.record(inner)
    env.reset()
    durable_valkey.kill()
    steps = call_until_full(lambda: env.step(ACTION))
    resets = call_until_full(env.reset)
    assert inner.moves == 1 + steps + resets
    assert inner.resets == 1 + resets

    durable_valkey.start()
    call_until_admitted(env.reset)
    jam.flush()
    lengths = [summary.steps for summary in jam.episodes().summaries()]
    assert lengths == [steps, *[0] * (resets + 1)]


def test_the_error_says_how_much_waits_where_and_what_to_do(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(durable_valkey.url, max_pending_bytes=LIMIT, when_full="raise")
    env = jam.record(CountingEnv(length=MANY))
    env.reset()
    durable_valkey.kill()
    steps = 0
    with pytest.raises(StoreUnavailable) as caught:  # noqa: PT012 - which step, nobody knows
        while True:
            env.step(ACTION)
            steps += 1
    message = str(caught.value)
    assert f"{steps + 1} records" in message
    assert "max_pending_bytes is 1.0 MiB" in message
    assert jam._connection.store.where in message
    assert "repeat the call when Redis is back" in message
    assert isinstance(caught.value.__cause__, StoreUnavailable)
    durable_valkey.start()


@pytest.mark.parametrize("write", ["buffered", "sync"])
def test_a_save_that_finds_no_room_is_not_queued_and_can_be_repeated(
    durable_valkey: Server, open_jamboree: OpenJamboree, write: str
) -> None:
    jam = open_jamboree(durable_valkey.url, max_pending_bytes=LIMIT, when_full="raise", write=write)
    handler = NoteHandler(jam, "n")
    handler.last()
    durable_valkey.kill()
    for number in range(1000):
        try:
            handler.save({"n": number, "blob": bytes(10_000)})
        except StoreUnavailable as error:
            if "repeat the call" in str(error):
                break  # not queued; any other was, and waits
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="repeat the call"):
            handler.save_many([{"n": number}, {"n": number + 1}])
    durable_valkey.start()
    call_until_admitted(lambda: handler.save_many([{"n": number}, {"n": number + 1}]))
    assert [record["n"] for record in handler.many(MANY)] == list(range(number + 2))


def test_steps_saved_by_hand_find_no_room_either(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(durable_valkey.url, max_pending_bytes=LIMIT, when_full="raise")
    env = jam.record(CountingEnv(length=MANY))
    observation, _ = env.reset()
    handler: EpisodeHandler = env.handler
    durable_valkey.kill()
    step = {
        "action": ACTION,
        "observation": observation,
        "reward": 1.0,
        "terminated": False,
        "truncated": False,
        "info": {},
    }
    saved = call_until_full(lambda: handler.save(step), "repeat the call")
    durable_valkey.start()
    call_until_admitted(lambda: handler.save(step))
    assert handler.count() == saved + 1


def test_a_blocked_step_has_not_moved_the_environment(
    durable_valkey: Server, open_jamboree: OpenJamboree, caplog: pytest.LogCaptureFixture
) -> None:
    jam = open_jamboree(durable_valkey.url, max_pending_bytes=LIMIT)
    inner = CountingEnv(length=MANY)
    env = jam.record(inner)
    env.reset()
    jam.flush()
    durable_valkey.kill()
    returned, stop_at = [0], [math.inf]

    def step() -> None:
        while returned[0] < stop_at[0]:
            env.step(ACTION)
            returned[0] += 1

    stepper = threading.Thread(target=step)
    stepper.start()
    wait_until(lambda: "saving blocks until it answers" in caplog.text)
    assert inner.count == returned[0]
    stop_at[0] = returned[0] + 20  # few: more of them would have to wait again
    durable_valkey.start()
    stepper.join()
    assert inner.count == returned[0] == stop_at[0]
    assert caplog.text.count("saving blocks") == 1
    assert len(jam.episode(env.episode_id).data()) == returned[0]


def test_a_server_that_is_only_slow_is_waited_for(
    own_valkey: Server, open_jamboree: OpenJamboree, caplog: pytest.LogCaptureFixture
) -> None:
    jam = open_jamboree(own_valkey.url, max_pending_bytes=LIMIT, when_full="raise")
    handler = NoteHandler(jam, "n")
    handler.last()
    saved = 0
    while "it is slower than what is saved" not in caplog.text:
        jam.redis.execute_command("CLIENT", "PAUSE", 1500, "WRITE")
        handler.save({"n": saved, "blob": bytes(100_000)})
        saved += 1
    jam.redis.execute_command("CLIENT", "UNPAUSE")
    assert handler.count() == saved


class WideEnv(gym.Env[Any, Any]):
    """Observes 100 kB, never ends, and has no infos."""

    observation_space = gym.spaces.Box(0, 1, (25_000,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        return np.zeros(25_000, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(25_000, np.float32), 0.0, False, False, {}


def test_wide_observations_of_a_vector_environment_find_no_more_room_than_there_is(
    own_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(own_valkey.url, max_pending_bytes=LIMIT, when_full="raise")
    envs = jam.record(SyncVectorEnv([WideEnv] * 4))
    envs.reset()
    jam.flush()
    own_valkey.kill()

    steps = call_until_full(lambda: envs.step(np.zeros(4, np.int64)))

    assert steps * 400_000 < 4 * LIMIT
    with pytest.raises(UnsavedRecords):
        jam.close(timeout_s=0.1)


def test_an_environment_can_be_closed_where_no_room_is_left(
    own_valkey: Server, namespace: str
) -> None:
    jam = Jamboree(own_valkey.url, namespace=namespace, max_pending_bytes=LIMIT, when_full="raise")
    env = jam.record(CountingEnv(length=MANY))
    env.reset()
    own_valkey.kill()
    steps = call_until_full(lambda: env.step(ACTION))
    env.close()
    with pytest.raises(UnsavedRecords) as caught:
        jam.close(timeout_s=0.1)
    assert caught.value.unsaved == steps + 1


@pytest.mark.long  # test_writer.py has it of a handler
def test_each_outage_is_said_once(
    durable_valkey: Server, open_jamboree: OpenJamboree, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="jamboree_gym")
    jam = open_jamboree(durable_valkey.url, max_pending_bytes=LIMIT, when_full="raise")
    env = jam.record(CountingEnv(length=MANY))
    env.reset()
    for outage in range(1, 3):
        durable_valkey.kill()
        for _ in range(3):
            call_until_full(lambda: env.step(ACTION))
        durable_valkey.start()
        wait_until(lambda outage=outage: caplog.text.count("answers again") == outage)
        wait_until(lambda: jam._connection.writer.unsaved == 0)
        assert caplog.text.count("MiB wait for Redis") == outage
