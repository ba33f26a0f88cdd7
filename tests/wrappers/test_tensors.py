"""Tensors wherever a value may stand, and vector environments of tensors."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lengths import examples, quick_and_long
from recorded_envs import CountingEnv

from jamboree_gym import Jamboree
from jamboree_gym.arrays.tensors import on_host
from jamboree_gym.errors import InvalidArgument, InvalidRecord
from jamboree_gym.replay import verify
from jamboree_gym.wrappers.vector import RecordEpisodes

torch: Any = pytest.importorskip("torch")
if torch is not None:
    from torch_envs import LIMIT, CarsEnv, CarsVectorEnv

pytestmark = pytest.mark.torch

MANY = settings(max_examples=examples(40), suppress_health_check=list(HealthCheck))
DTYPES = ["float32", "float64", "float16", "bfloat16", "float8_e5m2", "int64", "uint8", "bool"]


class Told:
    """What a vector environment returned for each of its parts, since their resets."""

    def __init__(self, num_envs: int) -> None:
        self.episodes: list[list[dict[str, Any]]] = [[] for _ in range(num_envs)]

    def reset(self, observations: Any) -> None:
        for i, one in enumerate(self.episodes):
            one.append({"seen": [numbers(observations, i)], "rewards": [], "ends": []})

    def step(self, result: Any) -> None:
        observations, rewards, terminated, truncated, infos = result
        for i, one in enumerate(self.episodes):
            ends = bool(terminated[i]), bool(truncated[i])
            one[-1]["rewards"].append(float(rewards[i].detach()))
            one[-1]["ends"].append(ends)
            one[-1]["seen"].append(numbers(infos["final_obs"] if any(ends) else observations, i))
            if any(ends):
                one.append({"seen": [numbers(observations, i)], "rewards": [], "ends": []})


def numbers(observations: Any, index: int) -> Any:
    """A part of a dict of tensors, with what no dtype of NumPy's holds as float32."""
    if isinstance(observations, dict):
        return {name: numbers(one, index) for name, one in observations.items()}
    one = observations[index].detach().clone()
    return (one.float() if one.dtype is torch.bfloat16 else one).numpy()


@pytest.mark.parametrize(
    ("kind", "num_envs"),
    quick_and_long(
        product(["CarsEnv", "CarsVectorEnv"], [3, 9]), quick=[("CarsEnv", 3), ("CarsVectorEnv", 9)]
    ),
)
def test_an_environment_of_isaac_lab_s_shape_is_recorded(
    jam: Jamboree, kind: str, num_envs: int
) -> None:
    inner = {"CarsEnv": CarsEnv, "CarsVectorEnv": CarsVectorEnv}[kind](num_envs)
    envs = jam.record(inner, run="cars")
    assert envs.unwrapped is inner
    told, actions = Told(num_envs), torch.zeros(num_envs, 1, requires_grad=True)
    told.reset(envs.reset(seed=1)[0])
    for _ in range(20):
        result = envs.step(actions + 0.25)
        assert result[0]["policy"] is inner.at
        told.step(result)
    envs.close()

    found = list(jam.episodes(run="cars"))
    assert len(found) == sum(map(len, told.episodes)) > 2 * num_envs
    for index, expected in enumerate(told.episodes):
        own = [one for one in found if one.summary.vector_index == index]
        for episode, right in zip(own, expected, strict=True):
            data = episode.data()
            assert data.rewards.tolist() == right["rewards"]
            ends = zip(data.terminations.tolist(), data.truncations.tolist(), strict=True)
            assert list(ends) == right["ends"]
            assert data.actions.tolist() == [[0.25]] * len(data)
            for k, seen in enumerate(right["seen"]):
                assert np.array_equal(data.observations["policy"][k], seen["policy"])
                for name, one in seen["critic"].items():
                    column = data.observations["critic"][name]
                    assert column.dtype == one.dtype
                    assert np.array_equal(column[k], one)
            logs = [one.get("log") for one in data.infos]
            assert all(one["cars"] == num_envs and one["mean"].shape == () for one in logs[1:-1])
            assert len(data) <= LIMIT


def test_each_tensor_is_fetched_once_a_step(jam: Jamboree, monkeypatch: pytest.MonkeyPatch) -> None:
    envs = jam.record(CarsEnv(4))
    envs.reset(seed=1)
    envs.step(torch.zeros(4, 1))
    fetched, inner = list[Any](), envs.unwrapped
    inner.ages[:] = LIMIT  # so that all episodes end
    cpu = torch.Tensor.cpu

    def watched(tensor: Any) -> Any:
        fetched.append(tuple(tensor.shape))
        return cpu(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", watched)
    envs.step(torch.zeros(4, 1))

    observation = [(4, 2), (4, 2), (4,)]
    action, reward, flags, log = (4, 1), (4,), [(4,), (4,)], ()
    assert fetched == [action, *observation, reward, *flags, log, *observation]


def test_what_would_be_refused_later_is_refused_at_once(jam: Jamboree) -> None:
    with pytest.raises(InvalidArgument, match=r"on the device 'meta'.*'cpu' or 'cuda'"):
        jam.record(CarsEnv(device="meta"))
    with pytest.raises(InvalidArgument, match=r"last observation .*compute_final_obs=True"):
        jam.record(CarsVectorEnv(compute_final_obs=False))
    with pytest.raises(InvalidArgument, match=r"single environment: .*jam\.record"):
        RecordEpisodes(CountingEnv(), jam)
    with pytest.raises(InvalidArgument, match=r"record_frames= is for single environments"):
        jam.record(CarsEnv(), record_frames=2)


def test_without_its_log_an_environment_is_recorded_in_blocks(jam: Jamboree) -> None:
    class Flat(ManyTensors):
        def observed(self) -> Any:
            return self.at

    inner = Flat(9)
    inner.single_observation_space = inner.single_observation_space["policy"]
    inner.give = torch.ones(9, 2), {"log": {"a": torch.tensor(1)}}
    envs = jam.record(inner, record_infos=False)
    envs.reset(seed=1)
    for _ in range(2):
        envs.step(torch.zeros(9, 1))

    blocks = envs._recorder._blocks
    assert blocks is not None
    assert sum(one is not None for one in blocks._inside) == 9
    assert len(jam.episode(envs.episode_ids[8])) == 2
    envs.close()


def test_a_registered_vector_environment_of_torch_happens_again(jam: Jamboree) -> None:
    gym.register("tests/Cars-v0", vector_entry_point=CarsVectorEnv)
    try:
        envs = jam.record(gym.make_vec("tests/Cars-v0", 3, "vector_entry_point"), run="again")
        envs.reset(seed=3)
        for k in range(12):
            envs.step(torch.full((3, 1), k / 12))
        envs.close()
        reports = verify(list(jam.episodes(run="again")))
        assert len(reports) > 3
        assert reports, str(reports)
    finally:
        gym.registry.pop("tests/Cars-v0")


# -- any tensor, anywhere -----------------------------------------------------------------------


def tensors(size: int | None = None) -> st.SearchStrategy[Any]:
    """Of any dtype and shape; with a gradient, sparse, or without numbers."""

    def built(shape: tuple[int, ...], dtype: str, how: str) -> Any:
        kind = getattr(torch, dtype)
        tensor = torch.arange(int(np.prod(shape))).reshape(shape).to(kind)
        if how == "grad" and kind.is_floating_point and kind.itemsize > 1:
            return tensor.requires_grad_() * 1
        if how == "meta":
            return tensor.to("meta")
        if how == "sparse" and kind is torch.float32 and shape:
            return tensor.to_sparse()
        return tensor.T.contiguous().T if how == "strided" and len(shape) == 2 else tensor

    first = () if size is None else (size,)
    shapes = st.sampled_from([(), (1,), (2,), (2, 1), (0,)]).map(lambda one: (*first, *one))
    ways = st.sampled_from(["plain", "plain", "grad", "strided", "sparse", "meta"])
    return st.builds(built, shapes, st.sampled_from(DTYPES), ways)


def is_whole(value: Any) -> bool:
    """Whether a tensor has numbers that can be read."""
    return not (value.is_sparse or value.is_meta)


class GivingTensors(CountingEnv):
    """Returns what it is told to; the reward counts the steps."""

    def __init__(self, give: Callable[[], Any]) -> None:
        super().__init__(length=99)
        self.give = give

    def step(self, action: Any) -> Any:
        _, reward, *ends, _ = super().step(action)
        observation, info = self.give()
        return observation, torch.tensor(reward), *map(torch.tensor, ends), info


@MANY
@given(st.lists(st.tuples(tensors(), tensors(), tensors()), min_size=1, max_size=3))
def test_a_tensor_anywhere_costs_no_step(jam: Jamboree, script: list[Any]) -> None:
    given_now: list[Any] = []
    env = jam.record(GivingTensors(lambda: given_now[-1]))
    env.reset(seed=1, options={"start": script[0][0]})
    kept = list[Any]()
    for seen, told, action in script:
        given_now.append(({"at": seen}, {"deep": [{"value": told}], "number": len(kept)}))
        env.annotate(note=told if is_whole(told) else 1.0)
        try:
            env.step(action)
        except InvalidRecord:
            assert not is_whole(seen) or not is_whole(action)
            break
        kept.append((seen, told, action))
    steps = list(jam.episode(env.episode_id).steps())

    assert [step.info["number"] for step in steps] == list(range(len(kept)))
    for step, (seen, told, action) in zip(steps, kept, strict=True):
        assert same(step.next_observation["at"], seen)
        assert same(step.action, action)
        back = step.info["deep"][0]["value"]
        if not is_whole(told):
            assert back == "<not recorded: torch.Tensor>"
        else:
            assert (back.dtype, back.shape) == (told.dtype, told.shape)
            assert same(on_host(back), told)


def same(array: Any, tensor: Any) -> bool:
    """Whether an array has the numbers and the shape of a tensor."""
    numbers = tensor.detach().to(torch.float64).numpy()
    return array.shape == numbers.shape and bool(np.array_equal(array, numbers))


class ManyTensors(CarsVectorEnv):
    """Returns what it is told to."""

    give: Any = None

    def step(self, actions: Any) -> Any:
        seen, info = self.give
        never = torch.zeros(self.num_envs, dtype=torch.bool)
        return seen, torch.ones(self.num_envs), never, never, info


@MANY
@given(
    st.lists(
        st.tuples(tensors(2), st.one_of(tensors(), tensors(2)), tensors(2)), min_size=1, max_size=2
    )
)
def test_a_batch_of_tensors_costs_no_step(jam: Jamboree, script: list[Any]) -> None:
    inner = ManyTensors(2)
    envs = jam.record(inner)
    envs.reset(seed=1)
    kept = list[Any]()
    for seen, told, actions in script:
        inner.give = {"policy": seen, "critic": {"more": seen}}, {"value": told, "log": {"x": told}}
        try:
            envs.step(actions)
        except InvalidRecord:
            assert not is_whole(seen) or not is_whole(actions)
            break
        kept.append((seen, told, actions))
    for index, id in enumerate(envs.episode_ids):
        steps = list(jam.episode(id).steps())
        assert len(steps) == len(kept)
        for step, (seen, _, actions) in zip(steps, kept, strict=True):
            assert same(np.asarray(step.next_observation["critic"]["more"]), seen[index])
            assert same(np.asarray(step.action), actions[index])


def test_on_host_leaves_alone_what_is_no_tensor() -> None:
    for value in (None, 1, "a", [1, (2,)], np.ones(2), np.float32(1), object(), b"a"):
        assert on_host(value) is value
    pair = spaces.Discrete(2), torch.ones(2)
    found = on_host({"a": pair, "b": [torch.tensor(1)]})
    assert found["a"][0] is pair[0]
    assert found["a"][1].tolist() == [1, 1]
    assert found["b"][0].shape == ()
