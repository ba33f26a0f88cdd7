"""VecEnvs that are not quite Stable-Baselines3's, and what a VecEnv cannot tell."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from vector_envs import make_cartpole

from jamboree_gym import Jamboree
from jamboree_gym.environment.provenance import hides_truncations
from jamboree_gym.errors import InvalidRecord, NotReset, ReplayError
from jamboree_gym.replay import verify

pytestmark = pytest.mark.torch


def dummy(*makes: Any) -> Any:
    """SB3's own."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    return DummyVecEnv(list(makes))


# -- VecEnvs that are not quite SB3's ---------------------------------------------------------


class _Outside:
    """What Isaac Lab's VecEnv has for `unwrapped`."""


def with_unwrapped_of_its_own() -> Any:
    """As Isaac Lab's."""
    venv = dummy(make_cartpole)
    own = {"unwrapped": property(lambda self: _Outside())}
    venv.__class__ = type("IsaacVecEnv", (type(venv),), own)
    return venv


class _Bare:
    """Has never called SB3's `__init__`, so that it lacks what that sets."""

    def __init__(self, make: Any) -> None:
        self._env = make()
        self.num_envs = 1
        self.observation_space, self.action_space = (
            self._env.observation_space,
            self._env.action_space,
        )
        self.render_mode = None
        self.extra = 7

    def reset(self) -> Any:
        return self._env.reset()[0][None]

    def step_async(self, actions: Any) -> None:
        self._action = actions[0]

    def step_wait(self) -> Any:
        observation, reward, terminated, truncated, info = self._env.step(self._action)
        if terminated or truncated:
            info = {**info, "terminal_observation": observation}
            observation, _ = self._env.reset()
        return observation[None], np.array([reward]), np.array([terminated or truncated]), [info]

    def close(self) -> None:
        self._env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self._env, attr_name)]


@pytest.mark.parametrize("missing", ["unwrapped", "_seeds", "_options", "init"])
def test_a_vec_env_is_recorded_whatever_it_lacks_that_sb3s_own_have(
    jam: Jamboree, missing: str
) -> None:
    if missing == "init":
        venv: Any = type("BareVecEnv", (_Bare, type(dummy(make_cartpole))), {})(make_cartpole)
    elif missing == "unwrapped":
        venv = with_unwrapped_of_its_own()
    else:
        venv = dummy(make_cartpole)
        delattr(venv, missing)
        venv.reset = lambda: venv.envs[0].reset()[0][None]
    recorded = jam.record(venv, run=missing)
    recorded.reset()
    for _ in range(60):
        recorded.step(np.array([0]))
    assert recorded.get_attr("spec")[0].id == "CartPole-v1"
    assert getattr(recorded, "extra", 7) == 7
    recorded.close()
    found = jam.episodes(run=missing).summaries()
    assert {one.status for one in found} == {"terminated", "abandoned"}
    assert sum(one.steps for one in found) == 60


def test_an_episode_of_a_vec_env_of_ones_own_says_what_to_record(jam: Jamboree) -> None:
    bare: Any = type("BareVecEnv", (_Bare, type(dummy(make_cartpole)).__mro__[1]), {})
    bare.__abstractmethods__ = frozenset()
    recorded = jam.record(bare(make_cartpole), run="own")
    recorded.reset()
    recorded.step(np.array([0]))
    recorded.close()
    with pytest.raises(ReplayError, match=r"does not show how its .*\nrecord each") as caught:
        verify(jam.episodes(run="own").first())
    assert str(caught.value).count("\n") == 1


def test_an_info_of_a_vec_env_that_is_none_costs_its_own_step_alone(jam: Jamboree) -> None:
    venv = dummy(make_cartpole, make_cartpole)
    recorded = jam.record(venv, run="no-info")
    recorded.reset()
    wait, venv.step_wait = venv.step_wait, lambda: (*wait()[:3], ["text", {}])  # type: ignore
    with pytest.raises(InvalidRecord, match="the info is one value of type str, not a dict"):
        recorded.step(np.array([0, 0]))
    statuses = [jam.episode(id).status for id in recorded.episode_ids]
    assert statuses == ["abandoned", "running"]
    recorded.close()


@pytest.mark.parametrize("infos", [[], (), [{"k": 1}]], ids=repr)
def test_infos_that_a_vec_env_leaves_out_are_empty(jam: Jamboree, infos: Any) -> None:
    venv = dummy(make_cartpole, make_cartpole)
    recorded = jam.record(venv)
    recorded.reset()
    returned_by = type(venv).step_wait
    venv.step_wait = lambda: (*returned_by(venv)[:3], infos)
    recorded.step(np.zeros(2, int))
    kept = [jam.episode(one).data().infos[-1] for one in recorded.episode_ids]
    assert kept == [*map(dict, infos), *([{}] * (2 - len(infos)))]
    recorded.close()


def test_there_are_no_episode_ids_before_a_reset(jam: Jamboree) -> None:
    recorded = jam.record(dummy(make_cartpole))
    assert not hasattr(recorded, "episode_ids")
    with pytest.raises(NotReset, match=r"call reset\(\) first"):
        _ = recorded.episode_ids
    recorded.close()


@pytest.mark.parametrize("take", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_records_from_its_next_reset_on(jam: Jamboree, take: Any) -> None:
    recorded = jam.record(dummy(CartPoleEnv, CartPoleEnv))
    actions = np.zeros(2, np.int64)
    recorded.reset()
    recorded.step(actions)
    again = take(recorded)
    recorded.step(actions)
    again.reset()
    again.step(actions)
    assert [len(jam.episode(id)) for id in recorded.episode_ids] == [2, 2]
    assert [len(jam.episode(id)) for id in again.episode_ids] == [1, 1]
    assert again.getattr_recursive("num_envs") == 2
    recorded.close()
    again.close()


# -- both ends at once ------------------------------------------------------------------------


class EndingEnv(gym.Env[Any, Any]):
    """Ends after three steps as it is told to."""

    observation_space = gym.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    end = (False, False)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.taken = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.taken += 1
        end = self.end if self.taken == 3 else (False, False)
        return np.ones(1, np.float32), 1.0, *end, {}


ENDS = [(True, False), (False, True), (True, True)]


@pytest.mark.parametrize("kind", ["sb3", "single", "vector"])
@pytest.mark.parametrize("recorded_as", ENDS)
@pytest.mark.parametrize("played_as", ENDS)
def test_verify_takes_both_ends_for_a_termination_only_where_a_vec_env_cannot_tell(
    jam: Jamboree,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    recorded_as: tuple[bool, bool],
    played_as: tuple[bool, bool],
) -> None:
    monkeypatch.setitem(
        gym.registry, "Ending-v0", gym.envs.registration.EnvSpec("Ending-v0", EndingEnv)
    )
    monkeypatch.setattr(EndingEnv, "end", recorded_as)
    if kind == "sb3":
        env: Any = dummy(lambda: gym.make("Ending-v0"))
    elif kind == "vector":
        env = gym.make_vec("Ending-v0", num_envs=1, vectorization_mode="sync")
    else:
        env = gym.make("Ending-v0")
    recorded = jam.record(env)
    recorded.reset()
    for _ in range(3):
        recorded.step(0 if kind == "single" else np.array([0]))
    recorded.close()
    monkeypatch.setattr(EndingEnv, "end", played_as)
    (episode,) = [one for one in jam.episodes() if one.summary.steps == 3]
    is_hidden = kind == "sb3" and recorded_as[0] and played_as[0]
    assert bool(verify(episode)) == (recorded_as == played_as or is_hidden)


def test_of_an_older_recording_it_is_known_by_its_class_that_it_cannot_tell() -> None:
    older = {"class": "stable_baselines3.common.vec_env.dummy_vec_env.DummyVecEnv"}
    assert hides_truncations(older)
    assert not hides_truncations({"class": "gymnasium.vector.sync_vector_env.SyncVectorEnv"})
    assert not hides_truncations(None)
