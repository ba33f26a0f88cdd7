"""Results of `reset` and `step` that are none: refused in words, and with what was returned."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jamboree_gym import Jamboree
from jamboree_gym.errors import InvalidRecord, JamboreeError, NotReset, UnsupportedSpace

OBSERVATION = np.zeros(2, np.float32)
RESET = (OBSERVATION, {})
STEP = (OBSERVATION, 1.0, False, False, {})
SPACE = spaces.Box(-9, 9, (2,), np.float32)


class SayingEnv(gym.Env[Any, Any]):
    """Returns what it is told to."""

    observation_space: Any = SPACE
    action_space: Any = spaces.Discrete(2)

    def __init__(self, of_reset: Any = RESET, of_step: Any = STEP) -> None:
        self.of_reset, self.of_step = of_reset, of_step

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Told."""
        return self.of_reset

    def step(self, action: Any) -> Any:
        """Told."""
        return self.of_step


class SayingVectorEnv(VectorEnv[Any, Any, Any]):
    """The same for two at once."""

    num_envs = 2
    single_observation_space, observation_space = SPACE, batch_space(SPACE, 2)
    single_action_space, action_space = spaces.Discrete(2), spaces.MultiDiscrete([2, 2])

    def __init__(self, of_reset: Any, of_step: Any) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.of_reset, self.of_step = of_reset, of_step
        self._np_random = seeding.np_random(1)[0]

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        """Told."""
        return self.of_reset

    def step(self, actions: Any) -> Any:
        """Told."""
        return self.of_step


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.text(max_size=6),
    st.just(OBSERVATION),
    st.just(np.zeros(5)),
    st.dictionaries(st.text(max_size=3), st.floats(), max_size=3),
)
NO_INFO = ODD.filter(lambda value: value is not None and not isinstance(value, dict))
NO_RESET = st.one_of(
    ODD,
    st.tuples(st.just(OBSERVATION), NO_INFO),
    st.lists(ODD, max_size=7).map(tuple).filter(lambda result: len(result) != 2),
)
NO_STEP = st.one_of(
    ODD,
    st.tuples(*map(st.just, STEP[:4]), NO_INFO),
    st.lists(ODD, max_size=8).map(tuple).filter(lambda result: len(result) != 5),
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(no_reset=NO_RESET, no_step=NO_STEP)
def test_what_is_no_result_is_refused_in_words_and_handed_over(
    jam: Jamboree, no_reset: Any, no_step: Any
) -> None:
    env = jam.record(SayingEnv(no_reset), run="odd")
    with pytest.raises(InvalidRecord, match=r"^reset returned .*dict for info") as refused:
        env.reset()
    assert refused.value.returned is no_reset
    assert "\n" not in str(refused.value)
    env.env.of_reset = RESET  # type: ignore[attr-defined]
    env.env.of_step = no_step  # type: ignore[attr-defined]
    env.reset()
    with pytest.raises(InvalidRecord, match=r"^step returned .*dict for info") as refused:
        env.step(0)
    assert refused.value.returned is no_step
    assert jam.episode(env.episode_id).status == "abandoned"
    env.env.of_step = STEP  # type: ignore[attr-defined]
    env.reset()
    assert env.step(0) is STEP
    assert len(jam.episode(env.episode_id)) == 1
    env.close()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(no_reset=NO_RESET, no_step=NO_STEP)
def test_a_vector_environment_is_told_the_same(jam: Jamboree, no_reset: Any, no_step: Any) -> None:
    reset = np.zeros((2, 2), np.float32), {}
    envs = jam.record(SayingVectorEnv(no_reset, no_step), run="odd-vector")
    with pytest.raises(InvalidRecord, match=r"^reset returned ") as refused:
        envs.reset()
    assert refused.value.returned is no_reset
    envs.env.of_reset = reset
    envs.reset()
    with pytest.raises(InvalidRecord, match=r"^step returned ") as refused:
        envs.step(np.array([0, 1]))
    assert refused.value.returned is no_step
    assert {jam.episode(id).status for id in envs.episode_ids} == {"abandoned"}
    envs.close()


def test_an_environment_of_the_old_api_is_told_what_wraps_it(jam: Jamboree) -> None:
    env = jam.record(SayingEnv(OBSERVATION))
    with pytest.raises(InvalidRecord, match=r"gym before 0\.26: wrap it"):
        env.reset()
    env = jam.record(SayingEnv(of_step=STEP[:4]))
    env.reset()
    with pytest.raises(InvalidRecord, match=r"gym before 0\.26: wrap it"):
        env.step(0)


def test_two_numbers_are_no_observation_and_info(jam: Jamboree) -> None:
    env = jam.record(SayingEnv(np.array([0.0, 0.0])), run="two-numbers")
    with pytest.raises(InvalidRecord, match="one value of type ndarray"):
        env.reset()
    assert len(jam.episodes(run="two-numbers", wait=True)) == 0


def test_a_cost_among_the_results_says_where_to_put_it(jam: Jamboree) -> None:
    env = jam.record(SayingEnv(of_step=(OBSERVATION, 1.0, 0.5, False, False, {})))
    env.reset()
    with pytest.raises(InvalidRecord, match=r"SafetyGymnasium2Gymnasium .* into the info"):
        env.step(0)


def test_none_for_an_info_is_an_empty_one(jam: Jamboree) -> None:
    env = jam.record(SayingEnv((OBSERVATION, None), (*STEP[:4], None)))
    env.reset()
    env.step(0)
    assert jam.episode(env.episode_id).data().infos == [{}, {}]


@pytest.mark.parametrize("name", ["observation_space", "action_space"])
def test_a_space_that_is_none_says_what_to_set(jam: Jamboree, name: str) -> None:
    env = SayingEnv()
    setattr(env, name, None)
    with pytest.raises(UnsupportedSpace, match=f"set env.{name} to a space"):
        jam.record(env)


def test_there_is_no_episode_id_before_a_reset(jam: Jamboree) -> None:
    env = jam.record(SayingEnv())
    assert not hasattr(env, "episode_id")
    with pytest.raises(NotReset, match=r"call reset\(\) first") as refused:
        _ = env.episode_id
    assert isinstance(refused.value, JamboreeError)
    assert isinstance(refused.value, AttributeError)
    envs = jam.record(gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"))
    assert not hasattr(envs, "episode_ids")
    envs.close()
