"""Generators that are not the usual `np_random`: an unseeded reset happens again all the same."""

from __future__ import annotations

import gc
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from recorded_envs import ACTION, CountingEnv

from jamboree_gym import Jamboree
from jamboree_gym.environment import hidden_generators
from jamboree_gym.replay import fork, verify, what_if


class LegacyEnv(CountingEnv):
    """Has a `RandomState` in the place of its generator, as dm_control by shimmy."""

    def __init__(self) -> None:
        super().__init__(length=6)
        self.task = np.random.RandomState()

    @property
    def np_random(self) -> Any:
        return self.task

    @np_random.setter
    def np_random(self, value: Any) -> None:
        self.task = value

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        gym.Env.reset(self, seed=seed)
        if seed is not None:
            self.np_random = np.random.RandomState(seed)
        return super().reset()

    def observe(self) -> Any:
        return self.task.randn(2).astype(np.float32)


class RobotEnv(CountingEnv):
    """Draws what it observes."""

    def observe(self) -> Any:
        return self.np_random.normal(size=2).astype(np.float32)


class HoldingEnv(CountingEnv):
    """Asks another environment, which has a generator of its own, as Franka's kitchen."""

    def __init__(self) -> None:
        super().__init__(length=6)
        self.robot = gym.wrappers.TimeLimit(RobotEnv(length=9), 9)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.robot.reset(seed=seed)

    def observe(self) -> Any:
        return self.robot.unwrapped.observe()  # type: ignore[attr-defined]


ENVIRONMENTS: Any = pytest.mark.parametrize("make", [LegacyEnv, HoldingEnv])


@ENVIRONMENTS
def test_an_unseeded_reset_happens_again(jam: Jamboree, make: Any) -> None:
    env = jam.record(make(), run="r")
    for seed in (3, None, None):
        env.reset(seed=seed)
        for _ in range(6):
            env.step(ACTION)
    env.close()

    episodes = list(jam.episodes(run="r"))
    for episode in reversed(episodes):
        report = verify(episode, make=make)
        assert report, str(report)
    with fork(episodes[1], 3, make=make) as child:
        child.step(ACTION)
    (forked,) = jam.episodes(run="r", forks=True).where(parent=episodes[1])
    assert verify(forked, make=make)


@ENVIRONMENTS
def test_each_continuation_draws_other_numbers(jam: Jamboree, make: Any) -> None:
    env = jam.record(make(), run="r")
    env.reset()
    for _ in range(5):
        env.step(ACTION)
    env.close()
    episode = jam.episode(env.episode_id)
    what_if(episode, 2, lambda _: ACTION, 3, seed=1, record=True, make=make)
    forks = list(jam.episodes(run="r", forks=True).where(parent=episode))
    assert len({one.data().observations[-1].tobytes() for one in forks}) == 3
    assert all(verify(one, make=make) for one in forks)


def test_a_reset_does_not_make_the_attributes_of_an_environment_slower(jam: Jamboree) -> None:
    plain = CountingEnv()
    env = jam.record(plain)
    for _ in range(2):
        env.reset()
        env.step(ACTION)
    env.close()
    # Where somebody has asked for its `__dict__`, it refers to one, and CPython looks there.
    assert not [one for one in gc.get_referents(plain) if type(one) is dict]


def test_an_environment_is_found_among_many_attributes(jam: Jamboree) -> None:
    def make() -> gym.Env[Any, Any]:
        env = HoldingEnv()
        for n in range(2000):
            setattr(env, f"attribute{n}", n)
        return env

    env = jam.record(make())
    env.reset()
    for _ in range(6):
        env.step(ACTION)
    env.close()
    assert verify(jam.episode(env.episode_id), make=make)


@pytest.mark.compiled
@pytest.mark.parametrize(
    "held",
    [
        HoldingEnv(),
        HoldingEnv,
        [HoldingEnv()],
        {"robot": HoldingEnv()},
        *({n: n for n in range(count)} for count in (1000, 1001)),
    ],
)
@pytest.mark.parametrize("is_asked_for_its_dict", [False, True])
def test_the_compiled_core_finds_what_python_finds(
    monkeypatch: pytest.MonkeyPatch, held: Any, is_asked_for_its_dict: bool
) -> None:
    env = CountingEnv()
    env.held = held  # type: ignore[attr-defined]
    if is_asked_for_its_dict:
        vars(env)

    found = hidden_generators._may_hold(env, gym.Env)
    monkeypatch.setattr(hidden_generators, "_core", None)

    assert hidden_generators._may_hold(env, gym.Env) is found
    assert found or not isinstance(held, gym.Env)
