"""Arguments of environments and wrappers, written down and read again."""

from __future__ import annotations

import enum
import json
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lengths import examples
from odd_values import Cell, Point
from recorded_envs import CountingEnv
from replayed_envs import record, registered
from test_values import PATIENT, fingerprint, text, values
from warm import run_warm

from jamboree_gym import Jamboree
from jamboree_gym.arrays.kinds.stand_ins import is_alike
from jamboree_gym.environment import references
from jamboree_gym.environment.arguments import arguments_as_json, arguments_from_json, unkept
from jamboree_gym.errors import ReplayError
from jamboree_gym.replay import fork, replay_steps, verify, what_if


class Mode(enum.IntEnum):
    FAST = 2


class Plan(enum.Enum):
    A = "a"


ODD = [threading.Lock(), object(), lambda: 0, iter(()), np.zeros(2**24 + 1, np.uint8)]
KEPT_BY_NAME = [len, CountingEnv, np.tanh, float]


KINDS: list[Any] = [Mode.FAST, Plan.A, range(3), deque([1], 2), Cell((1, 2)), Point(1, Plan.A)]


class ConfiguredEnv(CountingEnv):
    """Observes whether its configuration is the one that it was first made with."""

    first: Any = None

    def __init__(self, config: Any = None, client: Any = None) -> None:
        super().__init__()
        is_frame = hasattr(config, "to_json")
        self.config = fingerprint(config.to_json(date_format="iso") if is_frame else config)
        if ConfiguredEnv.first is None:
            ConfiguredEnv.first = self.config

    def observe(self) -> Any:
        return np.array([self.config == ConfiguredEnv.first, self.count], np.float32)


@pytest.fixture(autouse=True)
def made_anew() -> None:
    ConfiguredEnv.first = None


def stored(arguments: dict[str, Any], registered: Any = None) -> dict[str, Any]:
    """What a provenance holds of them."""
    content = arguments_as_json(arguments, registered)
    read: dict[str, Any] = json.loads(json.dumps(content, sort_keys=True))
    return read


@pytest.mark.deep
@settings(PATIENT, max_examples=examples(1000))
@given(st.dictionaries(text, values | st.sampled_from(ODD + KINDS), max_size=5))
def test_an_argument_comes_back_equal_or_is_named(arguments: dict[str, Any]) -> None:
    content = stored(arguments)

    kept = arguments_from_json(content)

    lost = content["not_kept"].keys()
    assert kept.keys() | lost == arguments.keys()
    assert not kept.keys() & lost
    assert all(any(arguments[name] is one for one in ODD) for name in lost)
    assert all(
        is_alike(kept[name], arguments[name])
        or fingerprint(kept[name]) == fingerprint(arguments[name])
        for name in kept
    )
    assert (unkept(content) is None) == (not lost)


@pytest.mark.deep
@settings(PATIENT, max_examples=examples(300))
@given(values, st.sampled_from(ODD))
def test_something_odd_within_an_argument_loses_this_argument_alone(value: Any, odd: Any) -> None:
    content = stored({"good": value, "bad": {"deep": [value, (odd,)]}})

    assert fingerprint(arguments_from_json(content)["good"]) == fingerprint(value)
    assert content["not_kept"].keys() == {"bad"}


def test_arguments_of_an_older_provenance_are_read() -> None:
    old = {"kwargs": {"size": [1, 2], "name": "a"}, "tuples": ["size"]}

    assert arguments_from_json(old) == {"size": (1, 2), "name": "a"}
    assert unkept(old) is None


@pytest.mark.parametrize(
    "config",
    [
        {"cell": (1, 2)},
        {"levels": {1: 4.0}},
        {"z": 1, "a": 2},
        Mode.FAST,
        {"plan": Plan.A, "cells": [Cell(1), Point(1, 2)]},
        range(0, 9, 2),
        pd.DataFrame({"price": [1.5, 2.5]}, pd.date_range("2020", periods=2)),
        {"reward": np.tanh, "made_by": CountingEnv, "of": (int, len)},
        gym.spaces.Box(-1, 1, (2,), np.float32),
        np.float32(0.1),
        {1, 2},
        Path("maps/a"),
        [np.arange(3), b"\x00"],
    ],
    ids=repr,
)
def test_an_environment_is_made_again_with_equal_arguments(jam: Jamboree, config: Any) -> None:
    with registered(Configured=ConfiguredEnv):
        episode = record(jam, gym.make("tests/Configured-v0", config=config), seed=1)

        assert verify(episode)


@pytest.mark.parametrize("client", ODD, ids=lambda one: type(one).__name__)
def test_an_argument_that_cannot_be_kept_is_named_and_the_id_stays(
    jam: Jamboree, client: Any
) -> None:
    with registered(Configured=ConfiguredEnv):
        episode = record(jam, gym.make("tests/Configured-v0", client=client), seed=1)

        assert episode.summary.env_id == "tests/Configured-v0"
        with pytest.raises(
            ReplayError, match=r"client=.* cannot be kept\nhand it over: env_kwargs"
        ):
            verify(episode)


def test_what_the_registration_brings_need_not_be_kept(jam: Jamboree) -> None:
    gym.register("tests/Brought-v0", ConfiguredEnv, kwargs={"client": lambda: 0, "config": Plan.A})
    try:
        episode = record(jam, gym.make("tests/Brought-v0"), seed=1)

        assert verify(episode)
    finally:
        gym.registry.pop("tests/Brought-v0")


def test_an_array_of_a_wrapper_comes_back(jam: Jamboree) -> None:
    low, high = np.full(1, -0.5, np.float32), np.full(1, 0.5, np.float32)
    env = gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), low, high)

    assert verify(record(jam, env, seed=1, steps=5))


def test_what_a_wrapper_that_is_left_out_was_given_need_not_be_kept(jam: Jamboree) -> None:
    env = gym.wrappers.RecordEpisodeStatistics(gym.make("CartPole-v1"))
    env._saved_kwargs["trigger"] = lambda step: False

    assert verify(record(jam, env, seed=1, steps=3))


class Guarded(gym.ObservationWrapper):
    """Has an argument that cannot be kept."""

    def __init__(self, env: gym.Env, lock: Any) -> None:
        super().__init__(env)
        self.lock = lock

    def observation(self, observation: Any) -> Any:
        with self.lock:
            return observation * np.float32(2)


def test_an_argument_of_a_wrapper_that_cannot_be_kept_is_named_and_can_be_said(
    jam: Jamboree,
) -> None:
    episode = record(jam, Guarded(gym.make("CartPole-v1"), threading.Lock()), seed=1, steps=3)

    with pytest.raises(ReplayError, match=r"argument lock=<unlocked .* cannot be kept\nsay it"):
        verify(episode, wrappers=[Guarded])
    assert verify(episode, wrappers=[partial(Guarded, lock=threading.Lock())])


class PricedEnv(CountingEnv):
    """Its reward is what a function makes of the count; it needs a client."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self, reward: Callable[[float], float] = float, client: Any = None, render_mode: Any = None
    ) -> None:
        super().__init__()
        self.reward, self.client, self.render_mode = reward, client, render_mode

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, float(self.reward(reward)), *rest


def halved(number: float) -> float:
    return number / 2


def test_a_function_is_found_again_where_this_process_has_used_it(jam: Jamboree) -> None:
    with registered(Priced=PricedEnv):
        episode = record(jam, gym.make("tests/Priced-v0", reward=halved), seed=1)

        assert verify(episode)
        assert episode.data().rewards.tolist() == [0.5, 1.0, 1.5]


def test_elsewhere_a_function_has_to_be_handed_over(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registered(Priced=PricedEnv):
        episode = record(jam, gym.make("tests/Priced-v0", reward=halved), seed=1)
        monkeypatch.setattr(references, "_USED", {})  # as in another process

        with pytest.raises(ReplayError, match=r"reward is .*:halved', and nothing .* run\nhand it"):
            verify(episode)
        assert verify(episode, env_kwargs={"reward": halved})
        assert verify(episode, trust_entry_point=True)
        assert not verify(episode, env_kwargs={"reward": float})
        gym.registry["tests/Priced-v0"].kwargs["reward"] = halved
        assert verify(episode)


@pytest.fixture
def priced(jam: Jamboree) -> Any:
    """An episode of an environment with a lock."""
    with registered(Priced=PricedEnv):
        yield record(jam, gym.make("tests/Priced-v0", client=threading.Lock()), seed=1)


def make_priced() -> Any:
    return gym.make("tests/Priced-v0", client=threading.Lock())


def test_what_cannot_be_kept_can_be_handed_over(priced: Any) -> None:
    handed: list[dict[str, Any]] = [
        {"make": make_priced},
        {"env_kwargs": {"client": threading.Lock()}},
    ]
    for how in handed:
        assert verify(priced, **how)
        assert verify([priced], **how)
        assert all(replay_steps(priced, **how))
        with fork(priced, 1, record=False, **how) as env:
            assert env.observation[0] == 1
        assert what_if(priced, 1, lambda _: np.zeros(2, np.float32), 2, **how).returns.size == 2


def test_a_make_that_fails_says_what_is_wrong(priced: Any) -> None:
    for make, message in (
        (lambda: 1 / 0, "make= raises ZeroDivisionError"),
        (lambda: 5, "make= gives a int"),
    ):
        with pytest.raises(ReplayError, match=message):
            verify(priced, make=make)
    with pytest.raises(ReplayError, match="render_mode=None: make it with render_mode='rgb_array'"):
        list(replay_steps(priced, render=True, make=make_priced))


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.long  # test_verify_many.py has processes, the others the argument
def test_processes_make_it_too(priced: Any) -> None:
    assert verify([priced, priced], workers=2, env_kwargs={"client": None})


def test_a_wrap_says_once_what_cannot_be_rebuilt(
    jam: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    with registered(Priced=PricedEnv):
        env = gym.make("tests/Priced-v0", client=(client := threading.Lock()))
        env = gym.wrappers.RecordEpisodeStatistics(env)
        env = Guarded(env, client)
        for _ in range(2):
            jam.record(env)
    said = [one.getMessage() for one in caplog.records if "rebuilt" in one.getMessage()]

    assert len(said) == len(set(said)) == 2
    assert all(len(text.splitlines()) == 2 for text in said)
    assert "verify(episode, env_kwargs={'client': ...}), or make=..." in said[0]
    assert "wrappers=[functools.partial(Guarded, lock=...)]" in said[1]


LATE = """
import sys
import gymnasium as gym
from jamboree_gym.environment.arguments import arguments_from_json
from jamboree_gym.environment.references import resolved
from jamboree_gym.errors import ReplayError
import json
content = json.loads(sys.argv[1])
try:
    resolved(arguments_from_json(content), "Env-v0")
except ReplayError as error:
    print(error)
assert "odd_values" not in sys.modules
import odd_values
print(resolved(arguments_from_json(content), "Env-v0"))
"""


def test_an_argument_of_a_class_that_is_not_loaded_says_what_to_import() -> None:
    done = run_warm(LATE, json.dumps(stored({"config": [Cell(1)]})))

    assert done.stderr == ""
    assert "argument config is of the class 'odd_values:Cell', which is not loaded" in done.stdout
    assert "import 'odd_values' first, or hand it over: env_kwargs={'config': ...}" in done.stdout
    assert "{'config': [Cell(row=1, column=0)]}" in done.stdout
