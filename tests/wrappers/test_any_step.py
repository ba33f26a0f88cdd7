"""Steps that nobody thought of, in every recorder: kept as they were, or refused at the call."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lengths import examples
from nested import is_same

from jamboree_gym import Jamboree
from jamboree_gym.errors import InvalidRecord

BOX = spaces.Box(-9, 9, (1,), np.float32)
REFUSED = object()
MANY = settings(max_examples=examples(400), suppress_health_check=list(HealthCheck))


class Raising:
    """Whatever is asked of it fails."""

    def fail(self, *_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("asked")

    __array__ = __bool__ = __float__ = __len__ = keys = fail


def tensors() -> st.SearchStrategy[Any]:
    """Of torch, with and without a gradient; nothing where there is no torch."""
    try:
        import torch
    except ImportError:
        return st.nothing()
    return st.builds(
        lambda values, grad: torch.tensor(values, requires_grad=grad),
        st.one_of(st.floats(-9, 9), st.lists(st.floats(-9, 9), min_size=1, max_size=2)),
        st.booleans(),
    )


arrays = hnp.arrays(
    st.sampled_from([np.bool_, np.int8, np.float32, np.float64, np.complex64, "U1", "M8[s]"]),
    hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=2),
)
scalars = arrays.map(lambda one: one.reshape(-1)[0] if one.size else 0)
numbers = st.one_of(
    st.floats(),
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.booleans(),
    st.fractions(),
    st.decimals(),
)
texts = st.text(max_size=2)
odd = st.one_of(
    *(numbers, scalars, arrays, tensors(), texts, st.binary(max_size=2), st.none()),
    *(st.just(Raising()), st.builds(object), st.builds(bytearray, st.binary(max_size=2))),
    st.lists(st.integers(0, 1), max_size=2),
)
rewards = st.one_of(st.floats(-9, 9), odd)
flags = st.one_of(st.just(False), st.just(False), odd)
infos = st.one_of(st.just({}), st.dictionaries(texts, odd, max_size=2), odd)
observations = st.one_of(hnp.arrays(np.float32, 1), odd)
results = st.tuples(observations, rewards, flags, flags, infos)
scripts = st.lists(results, min_size=1, max_size=4)


# -- what is right -------------------------------------------------------------------------------


def number(reward: Any) -> Any:
    """What a reward is as a number, or REFUSED."""
    if isinstance(reward, (str, bytes, bytearray)):
        return REFUSED
    try:
        value = np.asarray(reward.detach() if hasattr(reward, "detach") else reward).item()
        return REFUSED if isinstance(value, (str, bytes)) else float(value)
    except Exception:  # noqa: BLE001 - whatever it is
        return REFUSED


def kept_reward(reward: Any, known: list[Any]) -> Any:
    """What is kept of a reward after these: a number, an array like them, or REFUSED."""
    array = np.zeros(0)
    if not isinstance(reward, (str, bytes, bytearray)):
        with suppress(Exception):
            array = np.asarray(reward.detach() if hasattr(reward, "detach") else reward)
    is_array = array.size > 1 and array.dtype.kind in "biuf"
    value = array if is_array else number(reward)
    if is_array and isinstance(reward, list):
        value = array.astype(np.float64)
    if value is REFUSED or (known and np.shape(known[-1]) != np.shape(value)):
        return REFUSED
    if not is_array:
        return value
    dtype = np.result_type(value, *(one.dtype for one in known[-1:]))
    with np.errstate(
        all="ignore"
    ):  # of the NaNs that are to signal, another dtype makes quiet ones
        kept = value.astype(dtype)
        return kept if kept.astype(value.dtype).tobytes() == value.tobytes() else REFUSED


def flag(value: Any) -> Any:
    """What `bool` makes of it, or REFUSED."""
    try:
        return bool(value)
    except Exception:  # noqa: BLE001 - whatever it is
        return REFUSED


def is_plain(value: Any) -> bool:
    """Whether it comes back as it is."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    return type(value) in (int, float, bool, str, bytes)


@dataclass
class Told:
    """What is right of an episode, as far as it has come."""

    rewards: list[Any] = field(default_factory=list)
    ends: list[tuple[bool, bool]] = field(default_factory=list)
    observations: list[Any] = field(default_factory=list)
    infos: list[dict[str, Any]] = field(default_factory=list)
    status: str = "running"

    def take(self, result: tuple[Any, ...], *, was_refused: bool) -> None:
        """Another step was returned; a refused one ends what is recorded."""
        seen, reward, *ends, info = result
        kept = [kept_reward(reward, self.rewards), *map(flag, ends)]
        is_odd = any(one is REFUSED for one in kept)
        assert was_refused or not is_odd
        if was_refused:
            assert is_odd or not is_plain(seen) or not isinstance(info, dict)
            self.status = "abandoned"
            return
        self.observations.append(copy.deepcopy(seen) if is_plain(seen) else REFUSED)
        said = info.items() if isinstance(info, dict) else ()
        self.infos.append({key: copy.deepcopy(one) for key, one in said if is_plain(one)})
        self.rewards.append(kept[0])
        self.ends.append((kept[1], kept[2]))
        self.status = "terminated" if kept[1] else "truncated" if kept[2] else "running"

    def check(self, jam: Jamboree, episode_id: str) -> None:
        """Compare with what is stored."""
        episode = jam.episode(episode_id)
        data = episode.data()
        assert episode.status == self.status
        if not self.rewards:  # as many numbers each as the refused step had
            assert len(data.rewards) == 0
        elif any(isinstance(one, np.ndarray) for one in self.rewards):
            steps = zip(episode.steps(), self.rewards, strict=True)
            assert all(is_same(step.reward, one) for step, one in steps)
        else:
            assert is_same(data.rewards, np.array(self.rewards, np.float64))
        ends = zip(data.terminations.tolist(), data.truncations.tolist(), strict=True)
        assert list(ends) == self.ends
        for step, seen, info in zip(episode.steps(), self.observations, self.infos, strict=True):
            assert seen is REFUSED or is_same(step.next_observation, seen)
            assert {key: one for key, one in info.items() if is_same(step.info[key], one)} == info


def spoil(value: Any) -> None:
    """Change whatever of it can be changed, as a simulator does with its buffers."""
    if isinstance(value, np.ndarray) and value.flags.writeable and value.dtype.kind in "biuf":
        value[...] = value == 0
    elif isinstance(value, (list, bytearray)):
        value[:] = [9, 9, 9]
    elif isinstance(value, dict):
        for part in value.values():
            spoil(part)
        value["spoilt"] = 1
    elif hasattr(value, "detach"):
        value.detach()[...] = 7


class Scripted(gym.Env[Any, Any]):
    """Returns one result of a script after the other."""

    def __init__(self, script: list[Any]) -> None:
        self.observation_space, self.action_space = BOX, spaces.Discrete(2)
        self.script, self.count = script, 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        return self.script[(self.count - 1) % len(self.script)]


class ScriptedVector(VectorEnv[Any, Any, Any]):
    """Two: the first is as the script says, the second is plain."""

    def __init__(self, script: list[Any], batched: Callable[[list[Any]], Any]) -> None:
        self.num_envs, self.metadata = 2, {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space, self.single_action_space = BOX, spaces.Discrete(2)
        self.observation_space = batch_space(BOX, 2)
        self.action_space = batch_space(self.single_action_space, 2)
        self.script, self.count, self.batched = script, 0, batched

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros((2, 1), np.float32), {}

    def step(self, actions: Any) -> Any:
        seen, reward, terminated, truncated, info = self.script[self.count]
        self.count += 1
        others = np.full(1, self.count, np.float32), float(self.count), False, False
        batches = [
            self.batched([one, other])
            for one, other in zip((seen, reward, terminated, truncated), others, strict=True)
        ]
        return [seen, others[0]], *batches[1:], [info, {}]


def as_objects(values: list[Any]) -> Any:
    """In an array of objects."""
    batch = np.empty(len(values), object)
    for index, value in enumerate(values):
        batch[index] = value
    return batch


# -- each recorder -------------------------------------------------------------------------------


@pytest.mark.deep
@pytest.mark.timeout(600)
@MANY
@given(scripts)
def test_any_step_of_a_single_environment_is_kept_as_it_was_or_refused(
    jam: Jamboree, script: list[Any]
) -> None:
    env, told = jam.record(Scripted(script)), Told()
    env.reset(seed=1)
    for result in script:
        was_refused = False
        try:
            returned = env.step(0)
        except InvalidRecord as error:
            returned, was_refused = error.returned, True
        assert returned is result
        if told.status == "running":
            told.take(result, was_refused=was_refused)
        else:
            assert not was_refused
        for part in result:
            spoil(part)
    jam.flush()
    told.check(jam, env.episode_id)


@pytest.mark.deep
@pytest.mark.timeout(600)
@MANY
@given(scripts, st.sampled_from([list, tuple, as_objects]))
def test_any_step_of_one_sub_environment_costs_the_other_nothing(
    jam: Jamboree, script: list[Any], batched: Callable[[list[Any]], Any]
) -> None:
    envs, told = jam.record(ScriptedVector(script, batched)), Told()
    envs.reset(seed=1)
    for result in script:
        was_refused = False
        try:
            returned = envs.step(np.zeros(2, int))
        except InvalidRecord as error:
            returned, was_refused = error.returned, True
        assert returned[4][0] is result[4]
        if told.status == "running":
            told.take(result, was_refused=was_refused)
        for part in result:
            spoil(part)
    jam.flush()
    told.check(jam, envs.episode_ids[0])
    other = jam.episode(envs.episode_ids[1])
    assert other.status == "running"
    assert other.data().rewards.tolist() == list(range(1, len(script) + 1))


@pytest.mark.deep
@pytest.mark.timeout(600)
@MANY
@given(scripts, st.sampled_from([AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]))
def test_any_step_that_gymnasium_s_vector_environment_takes_is_recorded_as_it_returned_it(
    jam: Jamboree, script: list[Any], mode: AutoresetMode
) -> None:
    def make() -> Any:
        return SyncVectorEnv([lambda: Scripted(copy.deepcopy(script))] * 2, autoreset_mode=mode)

    bare, envs = make(), jam.record(make())
    bare.reset(seed=1)
    envs.reset(seed=1)
    first, told, is_over = envs.episode_ids[0], Told(), False
    for _ in range(len(script)):
        try:
            expected = bare.step(np.zeros(2, int))
        except Exception:  # noqa: BLE001 - no step that the environment takes
            break
        returned = None
        try:
            returned = envs.step(np.zeros(2, int))
        except InvalidRecord as error:
            returned, is_over = error.returned, True
        for one, other in zip(expected[:4], returned[:4], strict=True):
            assert is_same(one, other)
        if is_over:
            break
        if told.status == "running":
            told.take((None, *(part[0] for part in expected[1:4]), {}), was_refused=False)
    jam.flush()
    if is_over:
        assert jam.episode(first).status != "running"
    else:
        told.check(jam, first)


@pytest.mark.torch
@pytest.mark.deep
@pytest.mark.timeout(600)
@MANY
@given(scripts)
def test_any_step_that_a_vec_env_takes_is_recorded_as_it_returned_it(
    jam: Jamboree, script: list[Any]
) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    def make() -> Any:
        return DummyVecEnv([lambda: Scripted(copy.deepcopy(script))])

    bare, venv = make(), jam.record(make())
    bare.reset()
    venv.reset()
    first, rewards, status = venv.episode_ids[0], [], "running"
    for _ in script:
        try:
            expected = bare.step(np.zeros(1, int))
        except Exception:  # noqa: BLE001 - no step that the environment takes
            break
        was_refused = False
        try:
            returned = venv.step(np.zeros(1, int))
        except InvalidRecord as error:
            returned, was_refused = error.returned, True
        for one, other in zip(expected[:3], returned[:3], strict=True):
            assert is_same(one, other)
        if status != "running":
            continue
        if was_refused:
            status = "abandoned"
            continue
        rewards.append(float(expected[1][0]))
        if expected[2][0]:
            status = "truncated" if expected[3][0]["TimeLimit.truncated"] else "terminated"
    jam.flush()
    episode = jam.episode(first)
    if status != "running":
        assert episode.status == status
    assert is_same(episode.data().rewards, np.array(rewards, np.float64))


@MANY
@given(odd)
def test_any_options_reach_the_environment(jam: Jamboree, options: Any) -> None:
    class Listening(Scripted):
        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            got.append(options)
            return super().reset(seed=seed)

    got: list[Any] = []
    env = jam.record(Listening([]))
    env.reset(seed=1, options=options)
    assert got[0] is options
    jam.episode(env.episode_id).origin  # noqa: B018 - it can be read
