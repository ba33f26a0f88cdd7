"""The vector twin of `RecentTransactionsObservation`: as around each sub-environment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from lengths import quick_and_long
from processes import wait_until
from recorded_envs import ACTION, CountingEnv
from vector_envs import (
    KINDS,
    MODES,
    NUM_ENVS,
    kinds_and_modes,
    make_cartpole,
    make_vector,
    make_wandering,
)

import jamboree_envs
from jamboree_gym import Jamboree
from jamboree_gym.errors import InvalidArgument, InvalidRecord
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


@kinds_and_modes(*KINDS[1:])
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


@pytest.mark.parametrize("mode", MODES)
def test_what_is_said_of_each_is_shown_and_recorded(jam: Jamboree, mode: AutoresetMode) -> None:
    make = partial(CountingEnv, 3)
    recorder = jam.record(SyncVectorEnv([make, partial(CountingEnv, 100)], autoreset_mode=mode))
    envs = Vector(recorder, 2, fields=["annotation_value", "annotation_version"])
    envs.reset(seed=0)
    running = recorder.episode_ids[1]
    for step in range(5):
        envs.annotate(value=np.array([step, 10 + step]), version=7)
        observations, _, terminations, truncations, _ = envs.step(np.zeros((2, 2), np.float32))
        over = terminations | truncations
        if mode is AutoresetMode.DISABLED and over.any():
            observations, _ = envs.reset(options={"reset_mask": over})

    assert observations["recent_annotation_value"][1].tolist() == [13, 14]
    assert observations["recent_annotation_version"][1].tolist() == [7, 7]
    began_anew = [0, 4] if mode is AutoresetMode.NEXT_STEP else [3, 4]
    assert observations["recent_annotation_value"][0].tolist() == began_anew
    assert jam.episode(running).data().annotations["value"].tolist() == [10, 11, 12, 13, 14]
    envs.close()


def test_what_is_said_has_a_value_for_each(jam: Jamboree) -> None:
    envs = Vector(SyncVectorEnv([make_cartpole] * 2), 2, fields=["annotation_value"])
    envs.reset(seed=0)
    with pytest.raises(InvalidRecord, match=r"value has no value for each of the 2"):
        envs.annotate(value=np.zeros(3))
    envs.close()


@pytest.mark.usefixtures("prompt_writer")
@pytest.mark.parametrize(
    ("mode", "flatten"),
    quick_and_long(product(MODES, [False, True]), quick=[(MODES[0], True), (MODES[1], False)]),
)
def test_each_shows_what_others_did(jam: Jamboree, mode: AutoresetMode, flatten: bool) -> None:
    actor = jam.record(CountingEnv(100), run="team")
    actor.reset()
    source = jam.episodes(run="team")
    make = partial(CountingEnv, 3)
    envs = Vector(
        SyncVectorEnv([make] * 2, autoreset_mode=mode),
        2,
        fields=["rewards"],
        source=source,
        flatten=flatten,
    )
    _, infos = envs.reset(seed=0)
    assert infos["recent_staleness_s"].shape == infos["_recent_staleness_s"].shape == (2,)

    def seen() -> Any:
        observations, _, terminations, truncations, infos = envs.step(np.zeros((2, 2), np.float32))
        over = terminations | truncations
        if "final_obs" in infos:
            assert infos["final_obs"][0] in envs.single_observation_space
        if mode is AutoresetMode.DISABLED and over.any():
            observations, infos = envs.reset(options={"reset_mask": over})
        assert infos["_recent_staleness_s"].all()
        assert observations in envs.observation_space
        return observations[:, 2:4] if flatten else observations["recent_rewards"]

    for step in range(1, 5):
        actor.step(ACTION)
        expected = [[step - 1, step]] * 2
        wait_until(lambda expected=expected: seen().tolist() == expected)
    envs.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "jamboree-recent"]


class FlaggingVectorEnv(SyncVectorEnv):
    """Returns these as terminations in its first step."""

    def __init__(self, terminations: Any) -> None:
        super().__init__([make_cartpole] * 2)
        self.terminations = terminations

    def step(self, actions: Any) -> Any:
        observations, rewards, _, truncations, infos = super().step(actions)
        return observations, rewards, self.terminations, truncations, infos


@pytest.mark.parametrize(
    "terminations",
    [[True, False], (2, 0), np.array([[True], [False]]), torch.tensor([True, False])],
    ids=repr,
)
def test_flags_of_any_type_say_which_episode_is_over(terminations: Any) -> None:
    envs = Vector(FlaggingVectorEnv(terminations), 2)
    envs.reset(seed=0)
    envs.step(np.zeros(2, int))
    observations, *_ = envs.step(np.zeros(2, int))
    assert observations["recent_mask"].tolist() == [[0, 0], [1, 1]]
    envs.close()


def test_a_flag_that_is_neither_true_nor_false_is_named() -> None:
    envs = Vector(FlaggingVectorEnv([np.zeros(2), False]), 2)
    envs.reset(seed=0)
    with pytest.raises(InvalidRecord, match="terminated"):
        envs.step(np.zeros(2, int))
    envs.close()


@pytest.mark.parametrize(
    ("n", "options"),
    [
        (0, {"fields": ["rewards"]}),
        (2, {"fields": ["speed"]}),
        (2, {"source": "run"}),
    ],
)
def test_what_cannot_be_is_refused(n: int, options: dict[str, Any]) -> None:
    envs = SyncVectorEnv([make_cartpole])
    with pytest.raises(InvalidArgument, match=r"n=0|speed|source='run'"):
        Vector(envs, n, **options)
    envs.close()
