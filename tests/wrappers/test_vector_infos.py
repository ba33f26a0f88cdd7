"""The infos of a vector environment, taken apart again."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv, VectorEnv
from vector_envs import check_equal

from jamboree_gym.wrappers.vector_infos import split_infos

NUM = 3


def together(infos: list[dict[Any, Any]]) -> dict[str, Any]:
    """What Gymnasium makes of the infos of sub-environments."""
    env: VectorEnv[Any, Any, Any] = VectorEnv()
    env.num_envs = len(infos)
    joined: dict[str, Any] = {}
    for index, info in enumerate(infos):
        joined = env._add_info(joined, info, index)
    return joined


@pytest.mark.parametrize(
    "value",
    [
        3,
        0.5,
        True,
        None,
        "text",
        b"bytes",
        np.float32(0.5),
        np.uint8(3),
        np.bool_(True),
        np.array([1, 2], np.int16),
        np.zeros((2, 0)),
        np.array(["a", "bc"]),
        [1, "a", None],
        (1, 2),
        {1, 2},
        {},
        {"a": {"b": 1, "c": {}}, "d": [1]},
    ],
    ids=repr,
)
def test_a_value_comes_back_as_the_sub_environment_gave_it(value: Any) -> None:
    infos = [{"key": value}, {}, {"key": value, "other": 1}]

    check_equal(split_infos(together(infos), NUM), infos)


@pytest.mark.parametrize(
    ("value", "back"), [(np.int64(3), 3), (np.float64(0.5), 0.5), (np.array(0.5), 0.5)], ids=repr
)
def test_what_gymnasium_cannot_tell_from_a_python_number_comes_back_as_one(
    value: Any, back: Any
) -> None:
    infos = split_infos(together([{"key": value}, {}, {}]), NUM)

    check_equal(infos, [{"key": back}, {}, {}])


@pytest.mark.parametrize("key", ["_key", "__key", "", "_", 3])
def test_keys_that_look_like_masks_are_keys(key: Any) -> None:
    infos: list[dict[Any, Any]] = [{key: True}, {key: False}, {}]

    check_equal(split_infos(together(infos), NUM), infos)


def test_values_without_a_mask_are_everyones() -> None:
    infos = {"each": np.array([1, 2, 3]), "all": "fast", "short": np.array([1, 2]), "one": 7}

    check_equal(
        split_infos(infos, NUM),
        [{"each": i, "all": "fast", "short": np.array([1, 2]), "one": 7} for i in (1, 2, 3)],
    )


def test_statistics_of_gymnasiums_own_wrapper_go_to_those_that_ended() -> None:
    env = SyncVectorEnv([lambda: gym.make("CartPole-v1", max_episode_steps=2)] * 2)
    envs = gym.wrappers.vector.RecordEpisodeStatistics(env)
    envs.reset(seed=1)
    for _ in range(2):
        *_, infos = envs.step(np.zeros(2, int))
    infos["_episode"] = np.array([True, False])
    envs.close()

    first, second = split_infos(infos, 2)
    assert (first["episode"]["r"], first["episode"]["l"]) == (2.0, 2)
    assert second == {}


def test_a_list_of_infos_is_taken_as_it_is_and_left_alone() -> None:
    infos = [{"final_obs": 1}, {}]
    split = split_infos(infos, 2)
    split[0].pop("final_obs")

    assert infos == [{"final_obs": 1}, {}]


@pytest.mark.torch
def test_masks_and_values_that_are_tensors_are_taken_apart() -> None:
    torch = pytest.importorskip("torch")
    mask = torch.tensor([True, False, True])
    infos = {"a": torch.arange(3.0), "_a": mask, "b": np.arange(3), "_b": mask}

    first, second, third = split_infos(infos, NUM)

    assert (first, second) == ({"a": 0.0, "b": 0}, {})
    assert third == {"a": 2.0, "b": 2}
