"""A store that somebody else has written to: verifying runs nothing that it names."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from forged import forge_blob, forge_origin, forge_provenance
from gymnasium.envs.registration import EnvSpec
from odd_values import Plan
from replayed_envs import record

from jamboree_gym import Jamboree
from jamboree_gym.arrays.kinds.stand_ins import StandIn
from jamboree_gym.arrays.values import encode_value
from jamboree_gym.errors import DecodeError, ReplayError
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay import verify

CANARY = """
import pathlib
pathlib.Path({mark!r}).touch()
import gymnasium
class Trap(gymnasium.Wrapper):
    def __init__(self, env, **kwargs):
        super().__init__(env)
class TrapEnv(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-5, 5, (4,))
    action_space = gymnasium.spaces.Discrete(2)
def empty(size):
    return gymnasium.spaces.Box(-1, 1).sample()
gymnasium.register("Trap-v0", entry_point=TrapEnv)
"""


class Bystander(gym.Wrapper):
    """Loaded, but nobody said that it may be built."""

    built = 0

    def __init__(self, env: Any = None, **kwargs: Any) -> None:
        type(self).built += 1
        super().__init__(env)


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module on the path, `trap_module`, that leaves a mark when it is imported."""
    mark = tmp_path / "imported"
    (tmp_path / "trap_module.py").write_text(CANARY.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    Bystander.built = 0
    yield mark
    sys.modules.pop("trap_module", None)
    gym.registry.pop("Trap-v0", None)


@pytest.fixture
def episode(jam: Jamboree) -> Episode:
    return record(jam, gym.make("CartPole-v1"), seed=1, run="forged")


def wrapper(name: Any, entry_point: Any, kwargs: Any = None) -> Callable[[Any], None]:
    """Adds a wrapper to a provenance."""
    one = {"name": name, "entry_point": entry_point, "kwargs": {} if kwargs is None else kwargs}
    return lambda p: p["env_spec"]["additional_wrappers"].append(one)


def spec(**changes: Any) -> Callable[[Any], None]:
    return lambda p: p["env_spec"].update(**changes)


def kwargs(**changes: Any) -> Callable[[Any], None]:
    return lambda p: p["env_spec"]["kwargs"].update(**changes)


def vector(**changes: Any) -> Callable[[Any], None]:
    """Says that it came through a vector environment."""
    told = {"class": "x", "independent": True, "wrappers": [], "reward_dtype": "<f8", **changes}
    return lambda p: p.update(vector=told)


def exact(**values: Any) -> Callable[[Any], None]:
    """Arguments that are values of kinds."""
    content = {name: encode_value(value).hex() for name, value in values.items()}
    return lambda p: p["env_spec"].update(exact=content)


def reference(name: str) -> StandIn:
    return StandIn("reference", name)


CONVERSION = "gymnasium.wrappers.array_conversion:ArrayConversion"
MODULES = {
    "an id with a module": spec(id="trap_module:CartPole-v1"),
    "an id with a function": spec(id="os:system"),
    "an id that is not registered": spec(id="Trap-v0", entry_point="trap_module:TrapEnv"),
    "an id of a loaded class": spec(id="By-v0", entry_point=f"{__name__}:Bystander"),
    "an id that imports what its arguments name": spec(
        id="GymV26Environment-v0", kwargs={"env_id": "trap_module:Trap-v0"}
    ),
    "an entry point": spec(entry_point="trap_module:TrapEnv"),
    "an entry point that is code": spec(entry_point="trap_module:TrapEnv()"),
    "a vector entry point": spec(vector_entry_point="trap_module:TrapEnv"),
    "an argument named id": kwargs(id="trap_module:CartPole-v1"),
    "an argument named entry_point": kwargs(entry_point="trap_module:TrapEnv"),
    "an argument named additional_wrappers": kwargs(additional_wrappers=["trap_module:Trap"]),
    "a function": exact(sutton_barto_reward=reference("trap_module:empty")),
    "a function that is loaded": exact(sutton_barto_reward=reference("os:system")),
    "a class that is loaded": exact(sutton_barto_reward=[reference(f"{__name__}:Bystander")]),
    "a member of an enum": exact(x=StandIn("enum", ["trap_module:Trap", "", "A", 1])),
    "a dataclass": exact(x=StandIn("dataclass", ["trap_module:Trap", {"a": 1}])),
    "a registered class": exact(x=StandIn("registered", ["trap_module:Trap", 1])),
    "a named tuple": exact(x=StandIn("named tuple", ["trap_module:Trap", ["a"], [1]])),
    "a text in a dataclass": exact(x=Plan("trap_module:TrapEnv")),
    "a text in a deque": exact(x=deque([{"a": "trap_module:TrapEnv"}])),
    "a wrapper": wrapper("Trap", "trap_module:Trap"),
    "a wrapper of a loaded class": wrapper("Bystander", f"{__name__}:Bystander"),
    "a wrapper with a known name": wrapper("ClipAction", "trap_module:Trap"),
    "a wrapper with a known entry point": wrapper(
        "trap_module:Trap", "gymnasium.wrappers.transform_action:ClipAction"
    ),
    "a wrapper named like a module": wrapper("vector", "gymnasium.wrappers:vector"),
    "a wrapper that takes modules": wrapper(
        "ArrayConversion", CONVERSION, {"env_xp": "trap_module", "target_xp": "trap_module"}
    ),
    "a wrapper that writes files": wrapper(
        "RecordVideo", "gymnasium.wrappers.rendering:RecordVideo", {"video_folder": "videos"}
    ),
    "a wrapper that brings torch": wrapper(
        "NumpyToTorch", "gymnasium.wrappers.numpy_to_torch:NumpyToTorch"
    ),
    "a wrapper that takes a function": wrapper(
        "TransformReward",
        "gymnasium.wrappers.transform_reward:TransformReward",
        {"func": "trap_module:empty"},
    ),
    "a wrapper of a vector environment": vector(wrappers=["trap_module.Trap"]),
    "a class of a vector environment": vector(**{"class": "trap_module.Trap"}),
}
NONSENSE = {
    "no spec": lambda p: p.pop("env_spec"),
    "no id": lambda p: p["env_spec"].pop("id"),
    "a list as id": spec(id=["CartPole-v1"]),
    "a list as kwargs": spec(kwargs=[1]),
    "text as wrappers": spec(additional_wrappers="ClipAction"),
    "text as wrapper": spec(additional_wrappers=["ClipAction"]),
    "nothing as wrappers": spec(additional_wrappers=None),
    "text as limit": spec(max_episode_steps="many"),
    "text as spec": lambda p: p.update(env_spec="CartPole-v1"),
    "an unknown argument": kwargs(nonsense=1),
    "a list as entry point of a wrapper": wrapper("ClipAction", ["x"]),
    "a list as arguments of a wrapper": wrapper(
        "TimeLimit", "gymnasium.wrappers.common:TimeLimit", [1]
    ),
    "no arguments of a wrapper": wrapper(
        "TimeLimit", "gymnasium.wrappers.common:TimeLimit", {"max_episode_steps": "x"}
    ),
    "no list of wrappers": lambda p: p.pop("wrappers"),
    "numbers as list of wrappers": lambda p: p.update(wrappers=[1]),
    "a limit that is none": lambda p: p["wrappers"][0]["kwargs"].update(max_episode_steps="x"),
    "tuples that are none": lambda p: p["env_spec"]["additional_wrappers"].append(
        {
            "name": "TimeLimit",
            "entry_point": "gymnasium.wrappers.common:TimeLimit",
            "kwargs": {"max_episode_steps": 5},
            "tuples": ["max_episode_steps", "y", 1],
        }
    ),
    "a list as versions": lambda p: p.update(versions=[1]),
    "no versions": lambda p: p.pop("versions"),
    "a path as distribution": lambda p: p["versions"].update({"../../x": "1", "": "2"}),
    "text as vector": lambda p: p.update(vector="text"),
    "numbers as wrappers of a vector": vector(wrappers=[1]),
    "a dtype of a vector that is none": vector(reward_dtype="O"),
    "a dtype of a vector that is code": vector(reward_dtype="__import__('trap_module')"),
}


def verify_somehow(episode: Episode) -> None:
    """Whatever it says, it is an error of ours or a report."""
    try:
        verify(episode, infos=True)
    except (DecodeError, ReplayError) as error:
        assert len(str(error).splitlines()) <= 2  # noqa: PT017 - not every forgery is an error


@pytest.mark.parametrize("forgery", MODULES)
def test_what_is_named_is_neither_imported_nor_built(
    jam: Jamboree, episode: Episode, canary: Path, forgery: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(canary.parent)
    forged = forge_provenance(jam, episode, MODULES[forgery])

    verify_somehow(forged)

    assert not canary.exists()
    assert "trap_module" not in sys.modules
    assert "Trap-v0" not in gym.registry
    assert Bystander.built == 0
    assert not (canary.parent / "videos").exists()


@pytest.mark.parametrize(
    ("forgery", "message"),
    [
        ("a function that is loaded", "is 'os:system', and nothing that a store names is run"),
        ("a class that is loaded", "Bystander', and nothing that a store names is run"),
        ("a dataclass", "of the class 'trap_module:Trap', which is not loaded here"),
        ("a text in a dataclass", "was given 'trap_module:TrapEnv' "),
        ("a text in a deque", "was given 'trap_module:TrapEnv' "),
    ],
)
def test_an_argument_that_names_something_says_why_it_is_refused(
    jam: Jamboree, episode: Episode, canary: Path, forgery: str, message: str
) -> None:
    with pytest.raises(ReplayError, match=message) as caught:
        verify(forge_provenance(jam, episode, MODULES[forgery]))

    assert len(str(caught.value).splitlines()) == 2
    assert not canary.exists()


def test_an_environment_that_imports_what_its_arguments_name_is_refused(
    jam: Jamboree, episode: Episode, canary: Path
) -> None:
    """As shimmy registers it."""

    def old_gym(env_id: str, **_: Any) -> Any:
        importlib.import_module(env_id.partition(":")[0])

    name = "GymV26Environment-v0"
    forged = forge_provenance(jam, episode, MODULES["an id that imports what its arguments name"])
    known = gym.registry[name]
    gym.registry[name] = EnvSpec(name, entry_point=old_gym)
    try:
        with pytest.raises(ReplayError, match="imports what its arguments name"):
            verify(forged)
        assert not canary.exists()
        with pytest.raises(ReplayError, match="cannot be made here"):
            verify(forged, trust_entry_point=True)
        assert canary.exists()
    finally:
        gym.registry[name] = known


@pytest.mark.usefixtures("warm_workers")
def test_processes_neither_import_nor_build_it(jam: Jamboree, canary: Path) -> None:
    for forgery in MODULES.values():
        episode = record(jam, gym.make("CartPole-v1"), seed=1, run="forged")
        forge_provenance(jam, episode, forgery)

    reports = verify(jam.episodes(run="forged"), workers=2, infos=True)

    assert len(reports) == len(MODULES)
    assert not canary.exists()


TRUSTED = [
    "an id that is not registered",
    "a wrapper",
    "a wrapper with a known name",
]


@pytest.mark.parametrize("forgery", TRUSTED)
def test_where_the_entry_point_is_trusted_it_runs(
    jam: Jamboree, episode: Episode, canary: Path, forgery: str
) -> None:
    forged = forge_provenance(jam, episode, MODULES[forgery])

    with contextlib.suppress(ReplayError):
        verify(forged, trust_entry_point=True)

    assert canary.exists()  # so the tests above can fail


@pytest.mark.parametrize("forgery", NONSENSE)
def test_nonsense_is_an_error_of_ours_or_no_error(
    jam: Jamboree, episode: Episode, canary: Path, forgery: str
) -> None:
    forged = forge_provenance(jam, episode, NONSENSE[forgery])

    verify_somehow(forged)
    (report,) = verify([forged], infos=True)

    assert report.error is None or report.error
    assert not canary.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"[1, 2]",
        b'"text"',
        b"null",
        b"[" * 100_000 + b"]" * 100_000,
        b"\xff\xfe",
        b'{"versions": {}, "platform": null, "git_commit": null}',
    ],
)
def test_a_provenance_that_is_none_is_an_error(
    jam: Jamboree, episode: Episode, content: bytes
) -> None:
    forged = forge_blob(jam, episode, content)

    with pytest.raises(ReplayError):
        verify(forged)
    assert verify([forged])[0].error


def state_at(bit_generator: Any, place: int) -> dict[str, Any]:
    """A state that reads its next number at a place, for which NumPy does not care."""
    state: dict[str, Any] = bit_generator.state
    if "buffer_pos" in state:
        return {**state, "buffer_pos": place}
    return {**state, "state": {**state["state"], "pos": place}}


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": None, "rng_state": {"bit_generator": "os"}},
        {"seed": None, "rng_state": {"bit_generator": "trap_module.Trap"}},
        {"seed": None, "rng_state": {"bit_generator": ["PCG64"]}},
        {"seed": None, "rng_state": {"bit_generator": "MT19937", "state": {"key": 1, "pos": 2}}},
        {"seed": None, "rng_state": state_at(np.random.MT19937(1), 10**6)},
        {"seed": None, "rng_state": state_at(np.random.MT19937(1), -1)},
        {"seed": None, "rng_state": state_at(np.random.Philox(1), -(10**6))},
        {"seed": None, "rng_state": {"random_state": state_at(np.random.MT19937(1), 10**6)}},
        {"seed": None, "rng_state": [1, 2, 3, 4]},
        {"seed": None, "rng_state": "text"},
        {"seed": "trap_module"},
        {"seed": -1},
        {"options": ["trap_module:Trap"]},
        {"options": "trap_module:Trap"},
        {"options": {"low": "trap_module", "high": {}}},
        {"provenance": "0" * 32},
        {"seed": None, "follows": "nowhere"},
        {"seed": None, "rng_state": None},
    ],
)
def test_a_damaged_origin_is_an_error(
    jam: Jamboree, episode: Episode, canary: Path, changes: dict[str, Any]
) -> None:
    forged = forge_origin(jam, episode, **changes)

    with pytest.raises((DecodeError, ReplayError)):
        verify(forged)
    assert verify([forged])[0].error
    assert not canary.exists()


def test_what_a_terminal_obeys_is_not_in_the_advice(jam: Jamboree, episode: Episode) -> None:
    def change(provenance: Any) -> None:
        provenance["env_spec"].update(id="X-v0", entry_point="good\x1b[2J:Env")
        provenance["versions"].update({"evil\x1b[2J\nname": "1"})

    with pytest.raises(ReplayError) as caught:
        verify(forge_provenance(jam, episode, change))

    assert str(caught.value).isprintable()


def test_a_forged_episode_takes_no_other_along(jam: Jamboree, episode: Episode) -> None:
    good = record(jam, gym.make("CartPole-v1"), seed=1)
    forged = forge_provenance(jam, episode, MODULES["a wrapper"])

    reports = verify([good, forged, good])

    assert [bool(report) for report in reports] == [True, False, True]
    assert json.loads(reports.to_json())["failed"] == 1
