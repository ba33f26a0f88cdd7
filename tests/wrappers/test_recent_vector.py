"""The vector twin of `RecentTransactionsObservation`: as around each sub-environment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from recorded_envs import CountingEnv
from vector_envs import KINDS, MODES, NUM_ENVS, make_cartpole, make_vector, make_wandering

import jamboree_envs
from jamboree_gym import Jamboree
from jamboree_gym.errors import InvalidRecord
from jamboree_gym.wrappers import RecentTransactionsObservation
from jamboree_gym.wrappers.vector import RecentTransactionsObservation as Vector

assert jamboree_envs.__all__  # its import registers Balance

OPTIONS: list[dict[str, Any]] = [
    {},
    {"flatten": True},
    {"across_episodes": True, "fields": ["rewards", "info_int"]},
]


class PartsEnv(CountingEnv):
    """Observes a Dict with an image; ends after three steps."""

    def __init__(self) -> None:
        super().__init__(length=3)
        self.observation_space = gym.spaces.Dict(
            {
                "image": gym.spaces.Box(0, 255, (4, 5, 3), np.uint8),
                "gear": gym.spaces.Discrete(3),
            }
        )

    def observe(self) -> Any:
        image = np.full((4, 5, 3), self.count, np.uint8)
        return {"image": image, "gear": np.int64(self.count % 3)}


MAKERS: dict[str, Callable[[], gym.Env[Any, Any]]] = {
    "wandering": make_wandering,
    "balance": partial(gym.make, "jamboree/Balance-v0"),
    "parts": PartsEnv,
}


def each(make: Callable[[], gym.Env[Any, Any]], n: int, **options: Any) -> gym.Env[Any, Any]:
    return RecentTransactionsObservation(make(), n, **options)


def assert_same(space: gym.Space[Any], got: Any, expected: Any) -> None:
    if not isinstance(space, gym.spaces.Dict):
        got, expected = {"": got}, {"": expected}
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(got[name], value), name
        assert np.asarray(got[name]).dtype == np.asarray(value).dtype, name


def assert_same_walk(
    got: VectorEnv[Any, Any, Any], expected: VectorEnv[Any, Any, Any], steps: int
) -> int:
    """Step both with the same actions and compare; how many episodes ended."""
    assert got.single_observation_space == expected.single_observation_space
    assert got.observation_space == expected.observation_space
    got.action_space.seed(1)
    space, ended = got.observation_space, 0
    pairs = got.reset(seed=2)[0], expected.reset(seed=2)[0]
    assert_same(space, *pairs)
    for _ in range(steps):
        actions = got.action_space.sample()
        observations, _, terminations, truncations, infos = got.step(actions)
        wanted, *_, wanted_infos = expected.step(actions)
        assert_same(space, observations, wanted)
        assert observations in space
        over = terminations | truncations
        ended += int(over.sum())
        assert ("final_obs" in infos) == ("final_obs" in wanted_infos)
        for i in np.flatnonzero(over) if "final_obs" in infos else ():
            final = infos["final_obs"][i], wanted_infos["final_obs"][i]
            assert_same(got.single_observation_space, *final)
        if got.metadata["autoreset_mode"] is AutoresetMode.DISABLED and over.any():
            mask = {"reset_mask": over}
            assert_same(
                space, got.reset(options=dict(mask))[0], expected.reset(options=dict(mask))[0]
            )
    return ended


@pytest.mark.parametrize("options", OPTIONS, ids=["dict", "flat", "across"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_it_shows_what_a_wrapper_around_each_sub_environment_shows(
    name: str, mode: AutoresetMode, options: dict[str, Any]
) -> None:
    make = MAKERS[name]
    fns = [partial(each, make, 3, **options)] * NUM_ENVS
    got = Vector(SyncVectorEnv([make] * NUM_ENVS, autoreset_mode=mode), 3, **options)
    expected = SyncVectorEnv(fns, autoreset_mode=mode)

    assert assert_same_walk(got, expected, 60) > 2
    got.close()
    expected.close()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sync"])
@pytest.mark.parametrize("mode", MODES)
def test_it_does_so_whatever_the_vector_environment(kind: str, mode: AutoresetMode) -> None:
    got = Vector(make_vector(kind, mode), 3)
    expected = SyncVectorEnv([partial(each, make_wandering, 3)] * NUM_ENVS, autoreset_mode=mode)

    assert assert_same_walk(got, expected, 30) > 2
    got.close()
    expected.close()


@pytest.mark.parametrize("inside", [False, True])
def test_it_goes_around_a_recorder_and_inside(jam: Jamboree, inside: bool) -> None:
    envs: Any = SyncVectorEnv([make_cartpole] * 2)
    envs = jam.record(Vector(envs, 3)) if inside else Vector(jam.record(envs), 3)
    recorder = envs if inside else envs.env
    seen = [envs.reset(seed=0)[0]]
    seen += [envs.step(np.array([0, 1]))[0] for _ in range(4)]

    data = jam.episode(recorder.episode_ids[1]).data()
    recorded = data.observations["observation"] if inside else data.observations
    assert np.array_equal(recorded, [observation["observation"][1] for observation in seen])
    assert seen[-1]["recent_actions"][1].tolist() == [0, 1] * 3
    envs.close()


@pytest.mark.parametrize(
    ("n", "fields"), [(0, ["rewards"]), (2, ["speed"]), (2, ["annotation_value"])]
)
def test_what_cannot_be_is_refused(n: int, fields: list[str]) -> None:
    envs = SyncVectorEnv([make_cartpole])
    with pytest.raises(InvalidRecord, match=r"n=0|speed|annotation"):
        Vector(envs, n, fields=fields)
    envs.close()
