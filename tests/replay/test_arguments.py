"""Arguments of environments and wrappers, written down and read again."""

from __future__ import annotations

import enum
import json
import threading
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lengths import examples
from recorded_envs import CountingEnv
from replayed_envs import ScaleObservation, record, registered
from test_values import PATIENT, fingerprint, text, values

from jamboree_gym import Jamboree
from jamboree_gym.environment.arguments import arguments_as_json, arguments_from_json, unkept
from jamboree_gym.errors import ReplayError
from jamboree_gym.replay import verify


class Mode(enum.IntEnum):
    FAST = 2


class Plan(enum.Enum):
    A = "a"


ODD = [
    threading.Lock(),
    object(),
    len,
    CountingEnv,
    Mode.FAST,
    Plan.A,
    lambda: 0,
    range(3),
    iter(()),
]


class ConfiguredEnv(CountingEnv):
    """Observes whether its configuration is the one that it was first made with."""

    first: Any = None

    def __init__(self, config: Any = None, client: Any = None) -> None:
        super().__init__()
        self.config = fingerprint(config)
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
@given(st.dictionaries(text, values | st.sampled_from(ODD), max_size=5))
def test_an_argument_comes_back_equal_or_is_named(arguments: dict[str, Any]) -> None:
    content = stored(arguments)

    kept = arguments_from_json(content)

    lost = content["not_kept"].keys()
    assert kept.keys() | lost == arguments.keys()
    assert not kept.keys() & lost
    assert all(any(arguments[name] is one for one in ODD) for name in lost)
    assert all(fingerprint(kept[name]) == fingerprint(arguments[name]) for name in kept)
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


@pytest.mark.parametrize("client", ODD[:4] + ODD[6:], ids=lambda one: type(one).__name__)
def test_an_argument_that_cannot_be_kept_is_named_and_the_id_stays(
    jam: Jamboree, client: Any
) -> None:
    with registered(Configured=ConfiguredEnv):
        episode = record(jam, gym.make("tests/Configured-v0", client=client), seed=1)

        assert episode.summary.env_id == "tests/Configured-v0"
        with pytest.raises(ReplayError, match=r"again: argument client=.* cannot be kept$"):
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


def test_an_argument_of_a_wrapper_that_cannot_be_kept_is_named_and_can_be_said(
    jam: Jamboree,
) -> None:
    env = ScaleObservation(gym.make("CartPole-v1"), scale=Mode.FAST)
    episode = record(jam, env, seed=1, steps=3)

    with pytest.raises(ReplayError, match=r"argument scale=<Mode.FAST: 2> cannot be kept\nsay it"):
        verify(episode, wrappers=[ScaleObservation])
    assert verify(episode, wrappers=[partial(ScaleObservation, scale=2)])
