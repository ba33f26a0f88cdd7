"""`sync` mode while Redis is away: what the environment did is kept, and recording goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Server
from gymnasium.vector import SyncVectorEnv
from recorded_envs import ACTION, CountingEnv

from jamboree_gym import Jamboree
from jamboree_gym.errors import InvalidRecord, StoreUnavailable

pytestmark = pytest.mark.faults

OpenJamboree = Callable[..., Jamboree]
MOVED = "Do not repeat the call: the environment has moved, .* waits in memory until Redis takes it"


def unconfirmed(call: Callable[[], object]) -> StoreUnavailable:
    """What a call raises that has moved the environment."""
    with pytest.raises(StoreUnavailable, match=MOVED) as caught:
        call()
    assert isinstance(caught.value.__cause__, StoreUnavailable)
    assert str(caught.value).count("\n") <= 1
    return caught.value


def lengths(jam: Jamboree) -> list[tuple[str, int]]:
    """Status and number of steps of all episodes."""
    jam.flush()
    return [(summary.status, summary.steps) for summary in jam.episodes().summaries()]


def check_counted(jam: Jamboree) -> None:
    """No row of a `CountingEnv` is missing, and none is there twice."""
    for episode in jam.episodes():
        data = episode.data()
        assert np.array_equal(data.observations[:, 0], np.arange(len(data) + 1))


def test_an_episode_goes_on_after_steps_and_resets_that_were_not_confirmed(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(durable_valkey.url, write="sync")
    env = jam.record(CountingEnv(length=4))
    env.reset()
    env.step(ACTION)
    durable_valkey.kill()

    observation, reward, *_ = unconfirmed(lambda: env.step(ACTION)).returned
    assert (observation[0], reward) == (2.0, 2.0)
    observation, info = unconfirmed(env.reset).returned
    assert (observation[0], info) == (0.0, {})
    unconfirmed(lambda: env.step(ACTION))
    durable_valkey.start()
    for _ in range(3):
        env.step(ACTION)
    env.reset()
    env.close()

    assert lengths(jam) == [("abandoned", 2), ("terminated", 4), ("abandoned", 0)]
    check_counted(jam)


def test_an_end_that_was_not_confirmed_is_one(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(durable_valkey.url, write="sync")
    env = jam.record(CountingEnv(length=1))
    env.reset()
    durable_valkey.kill()

    *_, terminated, _, _ = unconfirmed(lambda: env.step(ACTION)).returned
    assert terminated
    unconfirmed(env.reset)
    with pytest.raises(StoreUnavailable, match="It is over, and that waits in memory"):
        env.close()
    durable_valkey.start()

    assert lengths(jam) == [("terminated", 1), ("abandoned", 0)]


def test_an_unconfirmed_reset_is_followed_by_the_next_as_any_other(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(durable_valkey.url, write="sync")
    envs = jam.record(SyncVectorEnv([lambda: CountingEnv(length=2)], autoreset_mode="SameStep"))
    envs.reset(seed=1)
    durable_valkey.kill()
    for _ in range(2):
        unconfirmed(lambda: envs.step(np.array([ACTION])))
    durable_valkey.start()
    for _ in range(2):
        envs.step(np.array([ACTION]))
    jam.flush()

    episodes = list(jam.episodes())
    assert [episode.origin.follows for episode in episodes[1:]] == [
        episode.id for episode in episodes[:-1]
    ]


def test_frames_lie_beside_their_steps_after_an_outage(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    class Rendered(CountingEnv):
        render_mode = "rgb_array"

        def render(self) -> Any:
            return np.full((1, 1, 3), self.count, np.uint8)

    jam = open_jamboree(durable_valkey.url, write="sync")
    env = jam.record(Rendered(length=9), record_frames=1)
    env.reset()
    durable_valkey.kill()
    unconfirmed(lambda: env.step(ACTION))
    unconfirmed(env.reset)
    unconfirmed(lambda: env.step(ACTION))
    durable_valkey.start()
    env.step(ACTION)
    jam.flush()

    for episode, steps in zip(jam.episodes(), (2, 3), strict=True):
        assert [(step, frame[0, 0, 0]) for step, frame in episode.renders()] == [
            (step, step) for step in range(steps)
        ]


def test_frames_are_kept_with_a_step_that_was_let_through(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    class Rendered(CountingEnv):
        render_mode = "rgb_array"

        def render(self) -> Any:
            return np.random.default_rng(self.count).integers(0, 255, (64, 64, 3), np.uint8)

    jam = open_jamboree(durable_valkey.url, max_pending_bytes=50_000, when_full="raise")
    env = jam.record(Rendered(length=10**6), record_frames=1)
    env.reset()
    durable_valkey.kill()
    steps = 0
    with pytest.raises(StoreUnavailable, match="repeat the call when") as caught:  # noqa: PT012
        while True:
            env.step(ACTION)
            steps += 1
    assert caught.value.returned is None
    durable_valkey.start()
    jam.flush()

    episode = jam.episode(env.episode_id)
    assert len(episode.data()) == steps == env.unwrapped.count
    assert [step for step, _ in episode.renders()] == list(range(steps + 1))


def test_all_sub_environments_go_on_after_a_call_that_was_not_confirmed(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(durable_valkey.url, write="sync")
    envs = jam.record(SyncVectorEnv([lambda: CountingEnv(length=3)] * 2))
    actions = np.array([ACTION] * 2)
    envs.reset()
    durable_valkey.kill()
    observations, *_ = unconfirmed(lambda: envs.step(actions)).returned
    assert observations[:, 0].tolist() == [1, 1]
    observations, _ = unconfirmed(envs.reset).returned
    assert observations[:, 0].tolist() == [0, 0]
    unconfirmed(lambda: envs.step(actions))
    durable_valkey.start()
    for _ in range(3):
        envs.step(actions)  # the last one resets
    envs.close()

    assert sorted(lengths(jam)) == sorted(
        [("abandoned", 1), ("terminated", 3), ("abandoned", 0)] * 2
    )
    check_counted(jam)


@pytest.mark.torch
def test_a_vec_env_goes_on_after_a_call_that_was_not_confirmed(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    jam = open_jamboree(durable_valkey.url, write="sync")
    venv = jam.record(DummyVecEnv([lambda: CountingEnv(length=3)] * 2))
    actions = np.array([ACTION] * 2)
    venv.reset()
    durable_valkey.kill()
    observations, *_ = unconfirmed(lambda: venv.step(actions)).returned
    assert observations[:, 0].tolist() == [1, 1]
    unconfirmed(venv.reset)
    unconfirmed(lambda: venv.step(actions))
    durable_valkey.start()
    for _ in range(2):
        venv.step(actions)
    venv.close()

    assert sorted(lengths(jam)) == sorted(
        [("abandoned", 1), ("terminated", 3), ("abandoned", 0)] * 2
    )
    check_counted(jam)


@pytest.mark.torch
def test_a_vec_env_finds_no_room_before_it_moves(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    jam = open_jamboree(durable_valkey.url, max_pending_bytes=50_000, when_full="raise")
    venv = jam.record(DummyVecEnv([lambda: CountingEnv(length=10**6)]))
    venv.reset()
    durable_valkey.kill()
    steps = 0
    with pytest.raises(StoreUnavailable, match="repeat the call when") as caught:  # noqa: PT012
        while steps < 10**5:
            venv.step(np.array([ACTION]))
            steps += 1
    assert caught.value.returned is None
    durable_valkey.start()
    assert venv.get_attr("count") == [steps]
    assert lengths(jam) == [("running", steps)]


def test_what_a_step_returned_that_cannot_be_recorded_is_with_the_error(
    open_jamboree: OpenJamboree, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(CountingEnv):
        def info(self) -> dict[str, Any]:
            return {"file": object()} if self.count == 2 else {}

    env = open_jamboree().record(Odd(), strict_infos=True)
    env.reset()
    env.step(ACTION)
    with pytest.raises(InvalidRecord) as caught:
        env.step(ACTION)

    assert caught.value.returned[0][0] == 2.0
    assert caplog.text.count("nothing more is recorded until the next reset") == 1


def test_a_reset_that_fails_says_that_nothing_is_recorded(
    open_jamboree: OpenJamboree, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(CountingEnv):
        def reset(self, **options: Any) -> Any:
            if options["seed"] == 1:
                raise RuntimeError("no power")
            return super().reset(**options)

    jam = open_jamboree()
    env = jam.record(Failing())
    env.reset()
    with caplog.at_level(logging.WARNING), pytest.raises(RuntimeError, match="no power"):
        env.reset(seed=1)
    env.step(ACTION)
    env.reset()

    assert "a reset failed (no power): nothing is recorded until the next one" in caplog.text
    assert lengths(jam) == [("abandoned", 0), ("running", 0)]


def test_the_recorder_of_a_recorder_ends_where_it_misses_a_step(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    sync, buffered = (
        open_jamboree(durable_valkey.url, write=mode) for mode in ("sync", "buffered")
    )
    env = buffered.record(sync.record(CountingEnv(length=9), run="inner"), run="outer")
    env.reset()
    durable_valkey.kill()
    unconfirmed(lambda: env.step(ACTION))
    durable_valkey.start()
    env.step(ACTION)
    sync.flush()
    buffered.flush()

    steps = {summary.run: summary.steps for summary in sync.episodes().summaries()}
    assert steps == {"inner": 2, "outer": 0}
