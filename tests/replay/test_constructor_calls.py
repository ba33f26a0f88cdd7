"""The hook that notes the arguments of wrappers changes nothing that anybody could see."""

from __future__ import annotations

import copy
import gc
import inspect
import json
import os
import pickle
import subprocess
import sys
import threading
import weakref
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv
from gymnasium.wrappers import ClipAction, TimeLimit
from processes import PATHS
from replayed_envs import MirrorObservation, ShyObservation

from jamboree_gym import Jamboree
from jamboree_gym.environment.constructor_calls import (
    MAX_BYTES,
    MAX_VALUES,
    NotCopied,
    _noted,
    call_of,
    remember_calls,
)
from jamboree_gym.environment.wrapper_arguments import NOT_KNOWN, arguments_of, made_by_hand

pytestmark = pytest.mark.once


def env() -> gym.Env[Any, Any]:
    return gym.make("CartPole-v1")


class Keywords(gym.Wrapper):
    """Takes arguments of all kinds."""

    def __init__(self, env: Any, first: int, *rest: int, only: str, **more: Any) -> None:
        super().__init__(env)


class Named(gym.Wrapper):
    """Has its environment by another name, and by keyword only."""

    def __init__(self, *, inner: Any, size: int = 3) -> None:
        super().__init__(inner)


class Odd(gym.Wrapper):
    """Cannot be hashed, equals everything, and has a `__new__` of its own."""

    __hash__ = None  # type: ignore[assignment]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__new__(cls, *args, **kwargs)
        made.was_new = True
        return made

    def __init__(self, env: Any, size: int = 1) -> None:
        super().__init__(env)

    def __eq__(self, other: object) -> bool:
        return True


def test_signatures_are_as_they_were() -> None:
    assert list(inspect.signature(gym.Wrapper).parameters) == ["env"]
    assert list(inspect.signature(MirrorObservation).parameters) == ["env"]
    assert (
        str(inspect.signature(ShyObservation)) == "(env: 'gym.Env', scale: 'float' = 2.0) -> 'None'"
    )
    assert list(inspect.signature(TimeLimit).parameters) == ["env", "max_episode_steps"]


def test_a_wrapper_and_its_pickle_hold_nothing_of_it() -> None:
    wrapped = ShyObservation(env(), 3.0)

    assert "scale" in vars(wrapped)
    assert not [name for name in vars(wrapped) if "jamboree" in name or "noted" in name]
    for twin in (copy.deepcopy(wrapped), copy.copy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        assert type(twin) is ShyObservation
        assert vars(twin).keys() == vars(wrapped).keys()
        assert call_of(twin) is None
        assert arguments_of(twin) == {"scale": 3.0}  # by its attribute


def test_a_note_dies_with_its_wrapper() -> None:
    before = len(_noted)
    wrapped = ShyObservation(env(), 3.0)
    seen = weakref.ref(wrapped)
    assert len(_noted) > before
    del wrapped
    gc.collect()

    assert seen() is None
    assert len(_noted) <= before


def test_a_constructor_that_raises_leaves_no_note() -> None:
    gc.collect()
    before = len(_noted)
    with pytest.raises(TypeError, match="unexpected keyword argument 'no'"):
        ShyObservation(env(), no=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        ShyObservation()  # type: ignore[call-arg]
    gc.collect()

    assert len(_noted) <= before


def test_arguments_of_every_kind_come_back_by_name() -> None:
    assert arguments_of(Keywords(env(), 1, only="a", b=2)) == {"first": 1, "only": "a", "b": 2}
    assert arguments_of(Named(inner=env(), size=2)) == {"size": 2}
    assert arguments_of(Odd(env(), size=2)) == {"size": 2}
    assert Odd(env()).was_new
    assert arguments_of(MirrorObservation(env())) == {}


def test_arguments_that_only_a_position_tells_are_not_known() -> None:
    found = arguments_of(Keywords(env(), 1, 2, 3, only="a"))

    assert found == {"first": NOT_KNOWN, "only": NOT_KNOWN}


def test_an_argument_is_kept_as_it_was_at_the_call() -> None:
    class Greedy(gym.Wrapper):
        def __init__(self, env: Any, config: Any) -> None:
            super().__init__(env)
            config["array"][0] = 7
            config["list"].clear()

    wrapped = Greedy(env(), {"array": np.zeros(2), "list": [1, (2, {3})]})

    found = arguments_of(wrapped)["config"]
    assert found["array"].tolist() == [0, 0]
    assert found["list"] == [1, (2, {3})]


@pytest.mark.parametrize(
    "large",
    [np.zeros(MAX_BYTES + 1, np.uint8), list(range(MAX_VALUES + 1)), [[0] * 200] * 200],
    ids=["array", "list", "lists"],
)
def test_a_large_argument_is_not_copied(large: Any) -> None:
    (found,) = arguments_of(ShyObservation(env(), large)).values()

    if isinstance(large, np.ndarray):
        assert found is large  # it is there, and can be looked at
    else:
        assert repr(found) == "<a list that was not copied>"


def test_an_object_of_any_class_is_neither_copied_nor_kept_alive() -> None:
    lock: Any = type("Client", (), {"__deepcopy__": lambda *_: pytest.fail("copied")})()
    wrapped = MirrorObservationOf(env(), lock)
    assert arguments_of(wrapped)["client"] is lock
    assert repr(arguments_of(MirrorObservationOf(env(), threading.Lock()))["client"])
    del lock
    gc.collect()

    found = arguments_of(wrapped)["client"]
    assert isinstance(found, NotCopied)
    assert repr(found) == "<a Client that was not copied>"


class MirrorObservationOf(MirrorObservation):
    """Takes a client, and forgets it."""

    def __init__(self, env: Any, client: Any) -> None:
        super().__init__(env)


def test_it_is_installed_once() -> None:
    before = vars(gym.Wrapper)["__new__"]
    remember_calls()

    assert vars(gym.Wrapper)["__new__"] is before


def test_a_wrapper_that_makes_others_stands_for_them() -> None:
    class Both(gym.Wrapper):
        def __init__(self, env: Any) -> None:
            super().__init__(ClipAction(ShyObservation(env)))

    inner = gym.make("Pendulum-v1")
    kinds = [type(one) for one in made_by_hand(MirrorObservation(Both(inner)))]

    assert kinds[:3] == [MirrorObservation, Both, type(inner)]


PROGRAM = """
import gymnasium as gym
{first}
class W(gym.Wrapper):
    def __init__(self, env, size):
        super().__init__(env)
env = W(gym.make("CartPole-v1"), size=4)
from jamboree_gym import Jamboree
from jamboree_gym.environment.constructor_calls import call_of
call = call_of(env)
print(None if call is None else call.kwargs)
"""


@pytest.mark.parametrize(
    ("first", "known"),
    [
        ("import jamboree_gym", "{'size': 4}"),
        pytest.param("from jamboree_gym import Jamboree", "{'size': 4}", marks=pytest.mark.long),
        pytest.param("", "None", marks=pytest.mark.long),
    ],
)
def test_it_is_there_as_soon_as_the_package_and_gymnasium_are(first: str, known: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(first=first)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == known


def shy() -> gym.Env[Any, Any]:
    return ShyObservation(gym.make("Pendulum-v1"), scale=3.0)


def test_workers_tell_the_arguments_of_their_wrappers(jam: Jamboree) -> None:
    envs = jam.record(AsyncVectorEnv([shy, shy], context="fork"))
    envs.reset(seed=1)
    spec = jam.episode(envs.episode_ids[1]).provenance["env_spec"]
    envs.close()

    (wrapper,) = spec["additional_wrappers"]
    assert json.dumps(wrapper["kwargs"]) == '{"scale": 3.0}'
