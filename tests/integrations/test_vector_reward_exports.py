"""Rewards that are several numbers, in the formats of other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import polars
import pytest
from gymnasium import spaces
from nested import is_same
from test_imports import WAYS

from jamboree_gym import Jamboree
from jamboree_gym.errors import BufferMismatch, ExportError
from jamboree_gym.integrations.datasets import from_datasets, to_datasets
from jamboree_gym.integrations.hdf5 import from_hdf5, to_hdf5
from jamboree_gym.integrations.lerobot import to_lerobot
from jamboree_gym.integrations.minari import from_minari, to_minari
from jamboree_gym.integrations.rlds import from_rlds, to_rlds
from jamboree_gym.replay import verify

BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class TwoObjectives(gym.Env[Any, Any]):
    """Pays by chance, and takes a step's time."""

    metadata = {"render_modes": []}  # noqa: RUF012 - as gymnasium.Env has it
    observation_space, action_space = BOX, spaces.Discrete(2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        reward = np.array([self.np_random.normal(), -1.0], np.float32)
        return np.full(2, self.count, np.float32), reward, self.count == 4, False, {}


gym.register("test/TwoObjectives-v0", TwoObjectives, disable_env_checker=True)


@pytest.fixture
def recorded(jam: Jamboree) -> Jamboree:
    """Has two episodes."""
    env = jam.record(gym.make("test/TwoObjectives-v0"), run="r")
    for seed in range(2):
        env.reset(seed=seed)
        for _ in range(4):
            env.step(1)
    return jam


def rewards_in(jam: Jamboree) -> Any:
    return np.concatenate([one.data().rewards for one in jam.episodes(run="r")])


def test_they_come_back_from_minari(
    recorded: Jamboree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    dataset = to_minari(recorded.episodes(run="r"), "test/several-v0")
    assert is_same(np.concatenate([one.rewards for one in dataset]), rewards_in(recorded))
    ids = from_minari(recorded, "test/several-v0", run="again")

    for before, id in zip(recorded.episodes(run="r"), ids, strict=True):
        after = recorded.episode(id)
        assert is_same(after.data().rewards, before.data().rewards)
        assert after.summary.returns == before.summary.returns
        assert verify(after)


def from_hdf5_file(jam: Jamboree, episodes: Any, folder: Path) -> list[str]:
    return from_hdf5(jam, to_hdf5(episodes, folder / "back"), run="again")


def from_datasets_folder(jam: Jamboree, episodes: Any, folder: Path) -> list[str]:
    to_datasets(episodes, folder / "back", streaming=True)
    return from_datasets(jam, folder / "back", run="again")


def from_rlds_steps(jam: Jamboree, episodes: Any, folder: Path) -> list[str]:
    return from_rlds(jam, to_rlds(episodes), run="again")


@pytest.mark.parametrize("back", [from_hdf5_file, from_datasets_folder, from_rlds_steps])
def test_they_come_back_from_other_formats(recorded: Jamboree, tmp_path: Path, back: Any) -> None:
    episodes = recorded.episodes(run="r")
    for before, id in zip(episodes, back(recorded, episodes, tmp_path), strict=True):
        after = recorded.episode(id)
        assert is_same(after.data().rewards, before.data().rewards)
        assert after.summary.returns == before.summary.returns


def test_they_are_in_files(recorded: Jamboree, tmp_path: Path) -> None:
    episodes, expected = recorded.episodes(run="r"), rewards_in(recorded)
    table = polars.read_parquet(episodes.to_parquet(tmp_path / "parquet") / "*.parquet")
    assert is_same(np.stack([table["reward_0"], table["reward_1"]], 1), expected)
    with h5py.File(to_hdf5(episodes, tmp_path / "hdf5")) as file:
        groups = [file[name] for name in sorted(file) if name.startswith("episode_")]
        assert is_same(np.concatenate([one["rewards"][:] for one in groups]), expected)
        assert groups[0].attrs["returns"].tolist() == list(episodes.first().summary.returns or ())
    folder = to_lerobot(episodes, tmp_path / "lerobot", fps=10)
    frames = polars.read_parquet(folder / "data" / "**" / "*.parquet")
    assert np.array(frames["next.reward"].to_list(), np.float32).tolist() == expected.tolist()


@pytest.mark.parametrize("way", WAYS)
def test_they_are_imported_again(
    way: str, recorded: Jamboree, open_jamboree: Any, namespace: str, tmp_path: Path
) -> None:
    other = open_jamboree(namespace=f"{namespace}-other")
    ids = WAYS[way](recorded, tmp_path / "files")(other, run="back")

    for before, id in zip(recorded.episodes(run="r"), ids, strict=True):
        after = other.episode(id)
        assert is_same(after.data().rewards, before.data().rewards)
        assert after.summary.returns == before.summary.returns


def test_rlds_has_them_as_arrays(recorded: Jamboree) -> None:
    steps = next(iter(to_rlds(recorded.episodes(run="r"))))["steps"]
    assert is_same(np.stack([one["reward"] for one in steps[:-1]]), rewards_in(recorded)[:4])
    assert is_same(steps[-1]["reward"], np.zeros(2, np.float32))


def test_lerobot_takes_no_matrix(jam: Jamboree, tmp_path: Path) -> None:
    env = jam.record(gym.wrappers.TransformReward(TwoObjectives(), lambda one: np.ones((2, 2))))
    env.reset()
    env.step(0)
    env.close()
    with pytest.raises(ExportError, match=r"shape \(2, 2\): LeRobot takes a vector"):
        to_lerobot(jam.episodes(), tmp_path / "lerobot", fps=10)


@pytest.mark.torch
def test_torchrl_and_datasets_have_them(recorded: Jamboree, tmp_path: Path) -> None:
    from jamboree_gym.integrations.torchrl import to_tensordict

    episodes, expected = recorded.episodes(run="r"), rewards_in(recorded)
    assert is_same(to_tensordict(episodes)["next", "reward"].numpy(), expected)
    found = to_datasets(episodes, tmp_path / "steps", cache_dir=tmp_path / "cache")
    assert is_same(np.array(found["reward"][:], np.float32), expected)


@pytest.mark.torch
def test_buffers_of_sb3_refuse_them_and_say_what_to_do(recorded: Jamboree) -> None:
    from stable_baselines3.common.buffers import ReplayBuffer

    from jamboree_gym.integrations.sb3 import (
        JamboreeReplayBuffer,
        fill_replay_buffer,
        to_trajectories,
    )

    episodes = recorded.episodes(run="r")
    buffer = ReplayBuffer(9, BOX, spaces.Discrete(2))
    live = JamboreeReplayBuffer(9, BOX, spaces.Discrete(2), jam=recorded, run="r")
    for fill in (
        lambda: fill_replay_buffer(buffer, episodes),
        lambda: live.sample(2),
        lambda: list(to_trajectories(episodes)),
    ):
        with pytest.raises(BufferMismatch, match=r"shape \(2,\) .*LinearReward") as caught:
            fill()
        assert str(caught.value).count("\n") == 0


@pytest.mark.torch
def test_a_vec_env_of_ones_own_may_give_them(jam: Jamboree) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    class Several(DummyVecEnv):
        def __init__(self, env_fns: Any) -> None:
            super().__init__(env_fns)
            self.buf_rews = np.zeros((self.num_envs, 2), np.float32)

        def step_wait(self) -> Any:
            return super().step_wait()

    venv = jam.record(Several([TwoObjectives] * 2), run="v")
    venv.reset()
    given = [venv.step(np.zeros(2, int))[1] for _ in range(9)]
    jam.flush()

    found = jam.episodes(run="v").where(status="terminated")
    assert len(found) == 4
    for number, vector_index in ((0, 0), (1, 1)):
        data = found[number].data()
        assert data.rewards.dtype == np.float32
        assert is_same(data.rewards, np.stack([one[vector_index] for one in given[:4]]))
