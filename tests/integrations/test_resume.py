"""A training that is killed goes on in another process."""

from __future__ import annotations

import logging
import random
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from processes import start_python, wait_until
from trained import CASES, one_thread, weights

from jamboree_gym import Jamboree
from jamboree_gym.errors import BufferMismatch, CheckpointNotFound, InvalidArgument
from jamboree_gym.runs.checkpoints import CheckpointHandler

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]  # a busy machine takes its time

TRAINER = """
import sys
sys.path.insert(0, sys.argv[4])
import torch
from trained import CASES
from jamboree_gym import Jamboree
from jamboree_gym.integrations.sb3 import JamboreeCallback

torch.set_num_threads(1)
case = CASES[sys.argv[3]]
jam = Jamboree(sys.argv[1], namespace=sys.argv[2])
model = case.model(jam.record(case.make_venv(), run=sys.argv[3]))
often = {"checkpoint_every_s": 0.1} if case.name == "PPO" else {"checkpoint_every": 100}
model.learn(10**6, callback=JamboreeCallback(jam, **often), log_interval=1)
"""
# That both go on where they were, tests below show without a process of their own.
KILLED = [pytest.param(name, marks=pytest.mark.long) for name in ("PPO", "DQN")]
MORE = 128
START_TIMEOUT_S = 120.0


def start(jam: Jamboree, name: str) -> subprocess.Popen[str]:
    """A trainer that goes on until it is killed."""
    url = jam._connection.redis_url
    return start_python(
        TRAINER, url, jam._connection.keyspace.namespace, name, Path(__file__).parent
    )


@pytest.fixture(scope="module")
def module_jam(valkey: Any) -> Iterator[Jamboree]:
    """A Jamboree for all tests of the module."""
    namespace = f"test-resume-{uuid.uuid4().hex[:8]}"
    with one_thread(), Jamboree(valkey.url, namespace=namespace) as opened:
        yield opened


def wait_for_checkpoints(jam: Jamboree, name: str) -> None:
    """Wait for two, and for metrics: on a busy machine they come later."""
    run = jam.run(name, wait=True)
    wait_until(lambda: run.checkpoints()[1:] and run.metrics().num_rows, timeout_s=START_TIMEOUT_S)


def train_and_kill(jam: Jamboree, name: str) -> None:
    """Train in a process that is killed at a random moment."""
    trainer = start(jam, name)
    try:
        wait_for_checkpoints(jam, name)
        time.sleep(random.random())
    finally:
        trainer.kill()
        trainer.communicate()


@pytest.fixture(scope="module", params=KILLED)
def resumed(request: pytest.FixtureRequest, module_jam: Jamboree) -> Any:
    """Name, the checkpoint that it went on from, its model, and what it was when it had begun."""
    from jamboree_gym.integrations.sb3 import JamboreeCallback

    train_and_kill(module_jam, request.param)
    case, run = CASES[request.param], module_jam.run(request.param)
    checkpoint = run.checkpoint()
    lease = module_jam._connection.keyspace.lease(run.history[0].writer)
    module_jam.redis.delete(lease)  # it would expire by itself
    assert run.history[0].how == "interrupted"
    model = run.resume(case.algorithm, module_jam.record(case.make_venv(), run=case.name))
    began = {"timesteps": model.num_timesteps, "weights": weights(model), "seed": model.seed}
    began["buffer"] = model.replay_buffer.size() if case.name == "DQN" else 0
    callback = JamboreeCallback(module_jam, checkpoint_every=100, keep_checkpoints=None)
    model.learn(MORE, reset_num_timesteps=False, callback=callback, log_interval=1)
    return case, run, checkpoint, model, began


def test_the_model_is_that_of_the_last_checkpoint(resumed: Any) -> None:
    import torch

    case, _, checkpoint, model, began = resumed
    kept = weights(checkpoint.load(case.algorithm))

    assert checkpoint.number >= 1
    assert began["timesteps"] == checkpoint.timesteps
    assert all(torch.equal(kept[name], began["weights"][name]) for name in kept)
    assert model.num_timesteps == checkpoint.timesteps + MORE


def test_the_history_has_a_line_for_the_interruption_and_one_for_the_resumption(
    resumed: Any,
) -> None:
    _, run, checkpoint, model, _ = resumed
    first, second = run.history
    before = run.episodes.where(lambda one: one.writer == first.writer)

    assert str(first).endswith(f": timesteps 0 to {first.timesteps_to}: interrupted")
    assert str(second).endswith(f", from checkpoint {checkpoint.number}: finished")
    assert checkpoint.timesteps <= first.timesteps_to
    assert first.timesteps_to == sum(one.steps for one in before.summaries())
    assert first.began_at < checkpoint.at < second.began_at  # a thread stores it
    assert first.began_at < first.ended_at < second.began_at
    assert (second.timesteps_from, second.timesteps_to) == (
        checkpoint.timesteps,
        model.num_timesteps,
    )
    assert run.info["how"] == "finished"


def test_the_learning_curve_goes_on(resumed: Any) -> None:
    _, run, checkpoint, model, _ = resumed
    first, second = run.history
    rows = run.metrics().select(["timesteps", "session", "rollout/ep_rew_mean"]).to_pylist()
    before = [row["timesteps"] for row in rows if row["session"] == first.id]
    after = [row["timesteps"] for row in rows if row["session"] == second.id]

    assert before
    assert after
    assert max(before) <= first.timesteps_to
    assert checkpoint.timesteps < min(after)
    assert after == sorted(after)
    statuses = [one.status for one in run.episodes.summaries()]
    assert "interrupted" in statuses
    assert sum(one.steps for one in run.episodes.summaries()) == first.timesteps_to + MORE
    numbers = [one.number for one in run.checkpoints()]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert run.checkpoint().policy_version == model._n_updates > checkpoint.policy_version


def test_the_replay_buffer_holds_what_was_recorded(resumed: Any) -> None:
    case, run, _, _, began = resumed
    first = run.history[0]
    expected = 0 if case.name == "PPO" else min(first.timesteps_to, case.options["buffer_size"])

    assert began["buffer"] == expected


def test_its_first_episodes_are_not_seen_again(resumed: Any) -> None:
    _, run, _, _, _ = resumed
    first, second = run.history
    seeds = {
        one.id: {s.seed for s in run.episodes.where(lambda e: e.writer == one.writer).summaries()}  # noqa: B023
        for one in (first, second)
    }

    assert not (seeds[first.id] & seeds[second.id]) - {None}


# -- what may be wrong --------------------------------------------------------------------------


@pytest.fixture
def trained_dqn(jam: Jamboree) -> Any:
    """A run `r`, trained to its end."""
    from jamboree_gym.integrations.sb3 import JamboreeCallback

    case = CASES["DQN"]
    model = case.model(jam.record(case.make_venv(), run="r"))
    with one_thread():
        model.learn(120, callback=JamboreeCallback(jam, checkpoint_every=50))
    return case, jam.run("r"), model


def test_a_checkpoint_that_is_not_whole_is_passed_over(
    jam: Jamboree, trained_dqn: Any, caplog: pytest.LogCaptureFixture
) -> None:
    case, run, _ = trained_dqn
    newest = run.checkpoint()
    CheckpointHandler(jam, "r").content(newest._content.name).delete()
    with caplog.at_level(logging.WARNING, "jamboree_gym"):
        model = run.resume(case.algorithm, jam.record(case.make_venv(), run="r"))

    assert model.num_timesteps == run.checkpoints()[-2].timesteps == 100
    assert f"checkpoint {newest.number} is passed over" in caplog.text
    with pytest.raises(CheckpointNotFound, match="take another checkpoint"):
        run.resume(case.algorithm, jam.record(case.make_venv(), run="r"), checkpoint=newest)


def test_an_environment_that_is_not_recorded_into_the_run_is_refused(
    jam: Jamboree, trained_dqn: Any
) -> None:
    case, run, _ = trained_dqn
    with pytest.raises(InvalidArgument, match="not recorded in this process"):
        run.resume(case.algorithm, case.make_venv())
    with pytest.raises(InvalidArgument, match=r"jam.record\(env, run='r'\)"):
        run.resume(case.algorithm, jam.record(case.make_venv(), run="other"))


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(jam: Jamboree) -> None:
    case = CASES["DQN"]
    with pytest.raises(CheckpointNotFound, match="has no checkpoint at all"):
        jam.run("none", wait=True).resume(case.algorithm, jam.record(case.make_venv(), run="none"))


def test_a_buffer_is_not_filled_with_normalised_values(jam: Jamboree) -> None:
    from stable_baselines3.common.vec_env import VecNormalize

    from jamboree_gym.integrations.sb3 import JamboreeCallback

    case = CASES["DQN"]
    make = lambda: jam.record(VecNormalize(case.make_venv()), run="above")  # noqa: E731
    with one_thread():
        case.model(make()).learn(60, callback=JamboreeCallback(jam))
    run = jam.run("above")
    with pytest.raises(InvalidArgument, match="refill=False"):
        run.resume(case.algorithm, make())

    assert run.resume(case.algorithm, make(), refill=False).replay_buffer.size() == 0


def test_a_buffer_below_a_normaliser_is_as_it_was(jam: Jamboree) -> None:
    from stable_baselines3.common.vec_env import VecNormalize

    from jamboree_gym.integrations.sb3 import JamboreeCallback

    case = CASES["SAC"]
    make = lambda: VecNormalize(jam.record(case.make_venv(), run="below"))  # noqa: E731
    model = case.model(make())
    with one_thread():
        model.learn(80, callback=JamboreeCallback(jam))
    again = jam.run("below").resume(case.algorithm, make())

    assert again.replay_buffer.size() == model.replay_buffer.size() == 40
    assert np.array_equal(
        np.sort(again.replay_buffer.rewards[:40], axis=None),
        np.sort(model.replay_buffer.rewards[:40], axis=None),
    )


# -- what is between the recorder and the model -------------------------------------------------


class Pictures(gym.Env[Any, Any]):
    """Pictures, the channel last."""

    observation_space = spaces.Box(0, 255, (36, 40, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.integers(0, 256, (36, 40, 3), np.uint8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        observation = self.np_random.integers(0, 256, (36, 40, 3), np.uint8)
        return observation, float(action), self.steps == 10, False, {}


def halved(venv: Any) -> Any:
    """A wrapper of one's own: other observations, of the same space."""
    from stable_baselines3.common.vec_env import VecEnvWrapper

    class Halved(VecEnvWrapper):
        def reset(self) -> Any:
            return self.venv.reset() / 2

        def step_wait(self) -> Any:
            observations, *others = self.venv.step_wait()
            return observations / 2, *others

    return Halved(venv)


def stacked(venv: Any) -> Any:
    from stable_baselines3.common.vec_env import VecFrameStack

    return VecFrameStack(venv, n_stack=2)


def trained_and_resumed(jam: Jamboree, name: str, make: Any, **options: Any) -> tuple[Any, Any]:
    """A model that has learned a little, and the one that goes on."""
    from jamboree_gym.integrations.sb3 import JamboreeCallback

    case = CASES[name]
    with one_thread():
        model = case.model(make())
        model.learn(64, callback=JamboreeCallback(jam))
        return model, jam.run("r").resume(case.algorithm, make(), **options)


def check_goes_on(jam: Jamboree, model: Any) -> None:
    from jamboree_gym.integrations.sb3 import JamboreeCallback

    with one_thread():
        model.learn(64, reset_num_timesteps=False, callback=JamboreeCallback(jam))
    assert [one.how for one in jam.run("r").history] == ["finished", "finished"]
    assert model.num_timesteps == 128


@pytest.mark.parametrize("wrap", [stacked, halved])
def test_an_on_policy_model_goes_on_below_any_wrapper(jam: Jamboree, wrap: Any) -> None:
    make = lambda: wrap(jam.record(CASES["PPO"].make_venv(), run="r"))  # noqa: E731
    check_goes_on(jam, trained_and_resumed(jam, "PPO", make)[1])


@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_pictures_that_are_transposed_above_the_recorder(jam: Jamboree, name: str) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    num_envs = CASES[name].num_envs
    make = lambda: jam.record(DummyVecEnv([Pictures] * num_envs), run="r")  # noqa: E731
    model, again = trained_and_resumed(jam, name, make)

    if name == "DQN":
        ours, own = again.replay_buffer, model.replay_buffer
        assert ours.size() == own.size() == 64
        for arrays in ("observations", "next_observations", "actions", "rewards", "dones"):
            assert np.array_equal(getattr(ours, arrays)[:64], getattr(own, arrays)[:64])
    check_goes_on(jam, again)


@pytest.mark.parametrize("wrap", [stacked, halved])
def test_a_buffer_is_not_filled_with_what_the_model_does_not_see(jam: Jamboree, wrap: Any) -> None:
    make = lambda: wrap(jam.record(CASES["DQN"].make_venv(), run="r"))  # noqa: E731
    with pytest.raises(BufferMismatch, match=r"(VecFrameStack|Halved) may .* refill=False"):
        trained_and_resumed(jam, "DQN", make)
    model = jam.run("r").resume(CASES["DQN"].algorithm, make(), refill=False)

    assert model.replay_buffer.size() == 0
    check_goes_on(jam, model)


def doubled(env: Any) -> Any:
    return gym.wrappers.TransformReward(env, lambda reward: 2 * reward)


def test_a_wrapper_around_a_single_recorder_counts_as_well(jam: Jamboree) -> None:
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    def below(*wrappers: Any) -> Any:
        env: Any = jam.record(gym.make("CartPole-v1"), run="r")
        for wrap in wrappers:
            env = wrap(env)
        return DummyVecEnv([lambda: env])

    _, again = trained_and_resumed(jam, "DQN", lambda: below(Monitor))
    assert again.replay_buffer.size() == 64
    with pytest.raises(BufferMismatch, match=r"TransformReward may .* refill=False"):
        jam.run("r").resume(CASES["DQN"].algorithm, below(doubled))


def test_a_run_with_other_spaces_says_how_to_go_on_without(jam: Jamboree) -> None:
    make = lambda: jam.record(stacked(CASES["DQN"].make_venv()), run="r")  # noqa: E731
    env = jam.record(CASES["DQN"].make_venv(), run="r")
    env.reset()
    env.step(np.zeros(1, int))
    with pytest.raises(BufferMismatch, match=r"(?s)observations of episode .* refill=False"):
        trained_and_resumed(jam, "DQN", make)
