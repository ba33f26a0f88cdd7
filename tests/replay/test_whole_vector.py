"""Vector environments whose sub-environments cannot stand alone: played again as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from environments import Case
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from jamboree_gym import Jamboree
from jamboree_gym.errors import ReplayError
from jamboree_gym.reading.episode import Episode
from jamboree_gym.recording.block_steps import BLOCKS_FROM
from jamboree_gym.replay import fork, verify

pytestmark = pytest.mark.once

STEPS = 30


class SharedEnv(VectorEnv[Any, Any, Any]):
    """Walks at random, with one generator for all; an end and the reset after it are one step."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - as VectorEnv has it

    def __init__(self, num_envs: int = 1, pace: float = 1.0) -> None:
        self.num_envs, self.pace = num_envs, pace
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.single_action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at = self.np_random.normal(size=(self.num_envs, 1)).astype(np.float32)
        return self.at.copy(), {"drawn": self.np_random.random(self.num_envs)}

    def step(self, actions: Any) -> Any:
        self.at += self.pace * (actions + self.np_random.normal(size=self.at.shape)).astype("f4")
        ends = np.abs(self.at[:, 0]) > 2
        infos = {"final_obs": self.at.copy(), "_final_obs": ends.copy()} if ends.any() else {}
        self.at[ends] = self.np_random.normal(size=(ends.sum(), 1)) / 4
        return self.at.copy(), self.at[:, 0].astype(float), ends, np.zeros_like(ends), infos


@pytest.fixture
def shared() -> Iterator[str]:
    name = "tests/Shared-v0"
    gym.register(name, vector_entry_point=SharedEnv)
    yield name
    gym.registry.pop(name)


def play(jam: Jamboree, envs: Any, *seeds: int | None, steps: int = STEPS) -> list[Episode]:
    """Random actions after each of these resets."""
    recorded = jam.record(envs, run="whole")
    recorded.action_space.seed(2)
    for seed in seeds:
        recorded.reset(seed=seed)
        for _ in range(steps):
            recorded.step(recorded.action_space.sample())
    recorded.close()
    return list(jam.episodes(run="whole"))


def cartpoles(size: int) -> Any:
    return gym.make_vec("CartPole-v1", size, "vector_entry_point", sutton_barto_reward=True)


@pytest.mark.parametrize("size", [2, BLOCKS_FROM])
def test_sub_environments_with_one_generator_happen_again(jam: Jamboree, size: int) -> None:
    """Seeded, unseeded, and seeded once more."""
    episodes = play(jam, cartpoles(size), 1, None, 2)

    assert len(episodes) > 3 * size
    reports = verify(episodes, infos=True)
    assert reports, str(reports)
    assert sum(one.steps for one in reports) == sum(map(len, episodes))


def test_the_first_reset_may_be_unseeded(jam: Jamboree) -> None:
    assert verify(play(jam, cartpoles(2), None))


def test_an_end_and_its_reset_in_one_step_happen_again(jam: Jamboree, shared: str) -> None:
    envs = gym.make_vec(shared, 3, "vector_entry_point", pace=0.5)
    episodes = play(jam, envs, 1, 4)

    assert len(episodes) > 8
    reports = verify(episodes)
    assert reports, str(reports)


def test_two_recordings_in_one_run_are_told_apart(jam: Jamboree) -> None:
    both = [jam.record(cartpoles(2), run="whole") for _ in range(2)]
    for envs in both:
        envs.reset(seed=1)
    for _ in range(STEPS):
        for envs in both:
            envs.step(envs.action_space.sample())
    for envs in both:
        envs.close()

    assert verify(jam.episodes(run="whole"))


def test_an_episode_that_is_missing_is_named(jam: Jamboree) -> None:
    episodes = play(jam, cartpoles(2), 1, steps=90)
    middle = next(one for one in episodes if one.origin.follows is not None)
    last = [one for one in episodes if one.origin.follows == middle.id]
    middle.delete()

    with pytest.raises(ReplayError, match=f"follows '{middle.id}', which is not there any more"):
        verify(last[0])


def test_a_first_episode_that_is_missing_is_named(jam: Jamboree) -> None:
    first, *others = play(jam, cartpoles(2), 1)
    first.delete()

    with pytest.raises(ReplayError, match=r"the first episodes .* are missing"):
        verify(others[-1])


def test_a_generator_of_ones_own_needs_a_seed(jam: Jamboree, shared: str) -> None:
    episodes = play(jam, gym.make_vec(shared, 2, "vector_entry_point"), None, steps=3)

    with pytest.raises(ReplayError, match=r"not within reach\n.*reset\(seed=\.\.\.\)$"):
        verify(episodes[0])


def test_a_fork_of_one_of_them_says_what_can_be_forked(jam: Jamboree) -> None:
    (episode, *_) = play(jam, cartpoles(2), 1, steps=3)

    with pytest.raises(ReplayError, match='vectorization_mode="sync"') as caught:
        fork(episode, 1)
    assert str(caught.value).count("\n") == 1


def test_one_that_gymnasium_did_not_make_says_what_to_record(jam: Jamboree) -> None:
    (episode, *_) = play(jam, SharedEnv(2), 1, steps=3)

    with pytest.raises(ReplayError, match=r"not made by gymnasium\.make_vec.*\nrecord each"):
        verify(episode)


def test_one_that_does_not_say_which_steps_reset_says_what_to_set(
    jam: Jamboree, shared: str
) -> None:
    envs = gym.make_vec(shared, 2, "vector_entry_point")
    envs.unwrapped.metadata = {}
    (episode, *_) = play(jam, envs, 1, steps=3)

    with pytest.raises(ReplayError, match=r"which steps reset.*\nset .*\['autoreset_mode'\]") as no:
        verify(episode)
    assert str(no.value).count("\n") == 1


def test_ale_py_s_own_vector_environment_happens_again(jam: Jamboree) -> None:
    Case("ALE/Breakout-v5", needs="ale_py").register()
    if gym.spec("ALE/Breakout-v5").vector_entry_point is None:
        return  # ale-py before 0.11
    envs = gym.make_vec("ALE/Breakout-v5", 2, "vector_entry_point", img_height=20, img_width=20)
    episodes = play(jam, envs, 1, steps=10)

    assert verify(episodes)
