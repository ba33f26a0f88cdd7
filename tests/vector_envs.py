"""An environment that vector recorders stumble over, and what it gives stepped by itself."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing import forkserver
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from lengths import IS_LONG
from processes import PATHS

from jamboree_gym import Jamboree

NUM_ENVS = 3
STEPS = 50_000 if IS_LONG else 200
TIMEOUT_S = 3600 if IS_LONG else 120
MODES = list(AutoresetMode)
LIMIT = 12


class WanderingEnv(gym.Env[np.ndarray, Any]):
    """Walks at random, ends at random, and tells something else each time.

    Within an episode it returns one observation buffer again and again. (Across a reset it must
    not: SAME_STEP autoreset would find the reset's observation in the last one's place.)
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - as gymnasium.Env has it

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Discrete(5)
        self.buffer = np.zeros(2, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.buffer = self.np_random.normal(size=2).astype(np.float32)
        return self.buffer, {**self.info(), "begun_with": dict(options or {})}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.buffer += self.np_random.normal(size=2).astype(np.float32) * (int(action) + 1)
        reward = int(self.np_random.integers(-80, 80)) / 8  # the same in float32
        return self.buffer, reward, bool(self.np_random.random() < 0.1), False, self.info()

    def info(self) -> dict[str, Any]:
        """Some of these, never the same ones."""
        number = self.np_random.integers(100)
        everything = {
            "int": int(number),
            "float": float(number) / 3,
            "bool": bool(number % 2),
            "float32": np.float32(number),
            "array": np.array([number, 1], np.int16),
            "text": f"number {number}",
            "list": [int(number), "a", None],
            "none": None,
            "nested": {"int": int(number), "deeper": {"bool": True}},
        }
        return {name: value for name, value in everything.items() if self.np_random.random() < 0.3}


def register() -> None:
    """Make it known to Gymnasium, in this process."""
    if "Wandering-v0" not in gym.registry:
        gym.register(  # the checker warns of the buffer
            "Wandering-v0",
            "vector_envs:WanderingEnv",
            max_episode_steps=LIMIT,
            disable_env_checker=True,
        )


def make_wandering() -> gym.Env[Any, Any]:
    """One of them, ended by a TimeLimit where it does not end itself."""
    register()
    return gym.make("Wandering-v0")


class ByHandVectorEnv(VectorEnv[Any, Any, Any]):
    """Steps single environments in each of the modes; returns one batch again and again."""

    def __init__(
        self, env_fns: list[Callable[[], gym.Env[Any, Any]]], autoreset_mode: AutoresetMode
    ) -> None:
        self.singles = [make() for make in env_fns]
        self.num_envs = len(self.singles)
        self.mode = autoreset_mode
        self.metadata = {"autoreset_mode": autoreset_mode}
        self.single_observation_space = self.singles[0].observation_space
        self.single_action_space = self.singles[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observations = np.zeros(
            self.observation_space.shape, self.single_observation_space.dtype
        )
        self.over = np.zeros(self.num_envs, bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        infos: dict[str, Any] = {}
        options = dict(options or {})
        mask = options.pop("reset_mask", np.ones(self.num_envs, bool))
        for i in mask.nonzero()[0]:
            own = seed[i] if isinstance(seed, list) else None if seed is None else seed + int(i)
            self.observations[i], info = self.singles[i].reset(seed=own, options=options)
            infos = self._add_info(infos, info, i)
            self.over[i] = False
        return self.observations, infos

    def step(self, actions: Any) -> Any:
        infos: dict[str, Any] = {}
        rewards, ends = np.zeros(self.num_envs), np.zeros((2, self.num_envs), bool)
        for i, env in enumerate(self.singles):
            if self.over[i]:
                if self.mode is not AutoresetMode.NEXT_STEP:
                    continue
                observation, info = env.reset()
                self.over[i] = False
            else:
                observation, rewards[i], *ends[:, i], info = env.step(actions[i])
                self.over[i] = ends[:, i].any()
                if self.over[i] and self.mode is AutoresetMode.SAME_STEP:
                    final = {"final_obs": observation, "final_info": info}
                    infos = self._add_info(infos, final, i)
                    observation, info = env.reset()
                    self.over[i] = False
            self.observations[i] = observation
            infos = self._add_info(infos, info, i)
        return self.observations, rewards, *ends, infos


KINDS = ["sync", "sync, no copy", "async", "async, no copy", "async, no shared memory", "by hand"]
QUICK_MODES = dict(zip(KINDS[2:5], MODES, strict=True))
"""Of those in processes of their own, one mode each; all kinds and all modes are among them."""


def kinds_and_modes(*kinds: str) -> pytest.MarkDecorator:
    """Parametrizes `kind` and `mode`; a kind in processes of its own is `long` but in one mode."""
    return pytest.mark.parametrize(
        ("kind", "mode"),
        [
            pytest.param(
                *(kind, mode),
                id=f"{kind}-{mode.name}",
                marks=() if QUICK_MODES.get(kind, mode) is mode else pytest.mark.long,
            )
            for kind in kinds
            for mode in MODES
        ],
    )


@cache
def start_fork_server() -> None:
    """So that workers find imported what they need; by itself each would import it anew."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(PATHS)
    try:
        multiprocessing.set_forkserver_preload(["vector_envs", "nested", "recorded_envs"])
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def make_vector(
    kind: str, mode: AutoresetMode, make: Callable[[], Any] = make_wandering, num: int = NUM_ENVS
) -> VectorEnv[Any, Any, Any]:
    """A vector environment of one of the KINDS."""
    name, _, how = kind.partition(", ")
    fns = [make] * num
    if name == "sync":
        return SyncVectorEnv(fns, copy=how != "no copy", autoreset_mode=mode)
    if name == "async":
        start_fork_server()
        return AsyncVectorEnv(
            fns,
            copy=how != "no copy",
            shared_memory=how != "no shared memory",
            autoreset_mode=mode,
            context="forkserver",  # forking a process with threads warns from Python 3.12 on
        )
    return ByHandVectorEnv(fns, mode)


# -- what single environments give, stepped one by one ------------------------------------------


@dataclass
class Expected:
    """An episode as a single environment gave it."""

    seed: int | None
    options: dict[str, Any] | None
    observations: list[Any]
    infos: list[Any]
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    ends: list[tuple[bool, bool]] = field(default_factory=list)

    @property
    def status(self) -> str:
        """How it ended, if it did."""
        terminated, truncated = self.ends[-1] if self.ends else (False, False)
        return "terminated" if terminated else "truncated" if truncated else "abandoned"


class OneByOne:
    """One single environment, and all episodes that it has given."""

    def __init__(self, make: Callable[[], gym.Env[Any, Any]] = make_wandering) -> None:
        self.env = make()
        self.episodes: list[Expected] = []
        self.is_over = False

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin an episode."""
        kept = None if options is None else dict(options)
        observation, info = self.env.reset(seed=seed, options=options)
        self.episodes.append(Expected(seed, kept, [np.copy(observation)], [dict(info)]))
        self.is_over = False

    def step(self, action: Any) -> None:
        """Take one step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        episode = self.episodes[-1]
        episode.observations.append(np.copy(observation))
        episode.actions.append(action)
        episode.rewards.append(float(reward))
        episode.ends.append((bool(terminated), bool(truncated)))
        episode.infos.append(dict(info))
        self.is_over = terminated or truncated


def step_all(singles: Iterable[OneByOne], actions: Any, mode: AutoresetMode) -> None:
    """What one step of a vector environment in this mode does to its sub-environments."""
    for single, action in zip(singles, actions, strict=True):
        if not single.is_over:
            single.step(action)
            if single.is_over and mode is AutoresetMode.SAME_STEP:
                single.reset()
        elif mode is AutoresetMode.NEXT_STEP:
            single.reset()


def check_recorded(
    jam: Jamboree, ids: list[list[str]], singles: list[OneByOne], *, both_ends: bool = True
) -> int:
    """Compare every recorded episode with what a single environment gave; how many there are.

    Args:
        jam: Where they are.
        ids: Of the episodes of each sub-environment.
        singles: What each should have given.
        both_ends: Whether a step that terminates and truncates is told to do both.
    """
    for index, (single, own_ids) in enumerate(zip(singles, ids, strict=True)):
        assert len(own_ids) == len(single.episodes)
        for expected, id in zip(single.episodes, own_ids, strict=True):
            episode = jam.episode(id)
            summary, data = episode.summary, episode.data()
            is_last = expected is single.episodes[-1] and not single.is_over
            assert summary.status == ("running" if is_last else expected.status)
            assert (summary.seed, summary.vector_index) == (expected.seed, index)
            assert episode.origin.options == expected.options
            ends = expected.ends
            if not both_ends:
                ends = [(over, cut and not over) for over, cut in ends]
            check_equal(data.observations, np.stack(expected.observations))
            assert data.actions.tolist() == [int(action) for action in expected.actions]
            assert data.rewards.tolist() == expected.rewards
            assert list(
                zip(data.terminations.tolist(), data.truncations.tolist(), strict=True)
            ) == (ends)
            check_equal(list(data.infos), expected.infos)
    return sum(len(single.episodes) for single in singles)


def check_equal(got: Any, expected: Any) -> None:
    """Equal in value and type, all the way down."""
    assert type(got) is type(expected), (got, expected)
    if isinstance(got, np.ndarray):
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        assert got.tobytes() == expected.tobytes()
    elif isinstance(got, dict):
        assert got.keys() == expected.keys()
        for name, value in got.items():
            check_equal(value, expected[name])
    elif isinstance(got, (list, tuple)):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            check_equal(one, other)
    else:
        assert got == expected


class IdLog:
    """Collects the ids of all episodes that a vector recorder begins."""

    def __init__(self) -> None:
        self.ids: list[list[str]] = [[] for _ in range(NUM_ENVS)]

    def note(self, current: list[str]) -> None:
        """Look at the current episodes; to be called after each call."""
        for known, id in zip(self.ids, current, strict=True):
            if not known or known[-1] != id:
                known.append(id)


make_cartpole = partial(gym.make, "CartPole-v1")
