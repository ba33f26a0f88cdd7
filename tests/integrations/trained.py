"""Algorithms of SB3 and sb3-contrib, each on a small environment, trained for a few steps."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from jamboree_gym import Jamboree

SMALL = {"net_arch": [16]}


def everything_is_allowed(env: gym.Env[Any, Any]) -> Any:
    """A mask that leaves out one action every now and then."""
    return np.array([True, env.unwrapped.state[0] > -0.01])


def make_masked() -> Any:
    """CartPole for MaskablePPO."""
    from sb3_contrib.common.wrappers import ActionMasker

    return ActionMasker(gym.make("CartPole-v1"), everything_is_allowed)


@dataclass(frozen=True)
class Case:
    """How an algorithm is trained.

    Attributes:
        name: Of its class.
        make: Makes an environment.
        options: For its constructor.
        policy: Name of the policy.
        num_envs: How many environments.
        steps: For how many timesteps.
        package: Where the class is.
    """

    name: str
    make: Callable[[], Any]
    options: dict[str, Any] = field(default_factory=dict)
    policy: str = "MlpPolicy"
    num_envs: int = 2
    steps: int = 256
    package: str = "stable_baselines3"

    @property
    def algorithm(self) -> Any:
        """The class."""
        return getattr(importlib.import_module(self.package), self.name)

    def make_venv(self) -> Any:
        """The VecEnv, as anyone would make it."""
        from stable_baselines3.common.monitor import Monitor
        from stable_baselines3.common.vec_env import DummyVecEnv

        return DummyVecEnv([lambda: Monitor(self.make())] * self.num_envs)

    def model(self, venv: Any, **options: Any) -> Any:
        """A fresh model."""
        kwargs = copy.deepcopy({"policy_kwargs": SMALL, **self.options, **options})
        return self.algorithm(self.policy, venv, seed=3, device="cpu", **kwargs)


cartpole = partial(gym.make, "CartPole-v1")
pendulum = partial(gym.make, "Pendulum-v1", max_episode_steps=50)
ROLLOUT = {"n_steps": 32, "n_epochs": 2, "batch_size": 32}
REPLAY = {"learning_starts": 40, "batch_size": 16, "buffer_size": 5000}
RECURRENT = {"policy_kwargs": {"net_arch": [8], "lstm_hidden_size": 8}}

CASES = {
    one.name: one
    for one in (
        Case("PPO", cartpole, ROLLOUT),
        Case("A2C", pendulum, {"n_steps": 8}),
        Case(
            "RecurrentPPO",
            cartpole,
            {**ROLLOUT, **RECURRENT},
            "MlpLstmPolicy",
            2,
            128,
            "sb3_contrib",
        ),
        Case("MaskablePPO", make_masked, ROLLOUT, "MlpPolicy", 2, 256, "sb3_contrib"),
        Case("DQN", cartpole, {**REPLAY, "target_update_interval": 50}, num_envs=1),
        Case("SAC", pendulum, {**REPLAY, "train_freq": 4, "ent_coef": "auto_0.1"}, steps=160),
        Case("TD3", pendulum, {**REPLAY, "train_freq": 4}, steps=160),
        Case("DDPG", pendulum, {**REPLAY, "train_freq": (1, "episode")}, num_envs=1, steps=160),
    )
}
ON_POLICY = [name for name, one in CASES.items() if "n_steps" in one.options]
OFF_POLICY = [name for name in CASES if name not in ON_POLICY]


def weights(model: Any) -> dict[str, Any]:
    """All parameters, those of optimisers aside."""
    return {
        f"{part}.{name}": tensor.clone()
        for part, state in model.get_parameters().items()
        if "optimizer" not in part
        for name, tensor in state.items()
    }


def recorded(jam: Jamboree, run: str, vector_index: int | None) -> dict[str, Any]:
    """What one environment's episodes hold, one after the other."""
    episodes = [one for one in jam.episodes(run=run) if one.summary.vector_index == vector_index]
    found = [one.data() for one in episodes]
    names = found[0].annotations
    return {
        "observations": np.concatenate([one.observations[:-1] for one in found]),
        "next_observations": np.concatenate([one.observations[1:] for one in found]),
        "actions": np.concatenate([one.actions for one in found]),
        "rewards": np.concatenate([one.rewards for one in found]),
        "dones": np.concatenate([one.terminations | one.truncations for one in found]),
        "annotated": np.concatenate([one.annotated for one in found]),
        **{name: np.concatenate([one.annotations[name] for one in found]) for name in names},
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """Small networks on a busy machine: torch's threads would mostly wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
