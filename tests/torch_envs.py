"""A vector environment of torch, in the shape of Isaac Lab's; needs torch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

LIMIT = 7


class Cars:
    """Cars on a line, on one device; a car beyond 3 is out, and one on the line for too long, too.

    Observations are a dict of tensors, of which the space names only one; buffers are used again.
    A car that is out is put back in the same step. What it saw last is in `final_obs`, which has
    the observations of all cars and no mask. `log` is of all cars together.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - as gymnasium has it

    def __init__(
        self, num_envs: int = 3, *, device: str = "cpu", compute_final_obs: bool = True
    ) -> None:
        self.num_envs, self.device = num_envs, torch.device(device)
        self.cfg = SimpleNamespace(compute_final_obs=compute_final_obs)
        box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.single_observation_space = spaces.Dict({"policy": box})
        self.single_action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.observation_space = batch_space(box, num_envs)  # of the policy alone, as in Isaac Lab
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.generator = torch.Generator()
        self.at, self.ages = torch.zeros(num_envs, 2), torch.zeros(num_envs, dtype=torch.long)
        self.rewards = torch.zeros(num_envs)
        self.extras: dict[str, Any] = {}

    def draw(self, count: int) -> Any:
        return torch.randn(count, 2, generator=self.generator)

    def observed(self) -> dict[str, Any]:
        half = (self.at * 2).to(torch.bfloat16)
        return {"policy": self.at, "critic": {"half": half, "age": self.ages}}

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        if seed is not None:
            self.generator.manual_seed(seed)
        self.at[:], self.ages[:], self.extras = self.draw(self.num_envs), 0, {}
        return self.observed(), self.extras

    def step(self, actions: Any) -> Any:
        self.at += torch.as_tensor(actions) + self.draw(self.num_envs)
        self.ages += 1
        self.rewards[:] = self.at[:, 0]
        terminated, truncated = self.at[:, 0].abs() > 3, self.ages >= LIMIT
        over = (terminated | truncated).nonzero().squeeze(-1)
        self.extras = {"log": {"mean": self.rewards.mean(), "cars": self.num_envs}}
        if len(over):
            if self.cfg.compute_final_obs:
                seen = self.observed()
                critic = {name: one.clone() for name, one in seen["critic"].items()}
                self.extras["final_obs"] = {"policy": seen["policy"].clone(), "critic": critic}
            self.at[over], self.ages[over] = self.draw(len(over)), 0
        return self.observed(), self.rewards, terminated, truncated, self.extras


class CarsVectorEnv(Cars, VectorEnv[Any, Any, Any]):
    """The same, as Gymnasium has it."""


class CarsEnv(Cars, gym.Env[Any, Any]):
    """The same, as Isaac Lab has it: one environment that steps many."""

    is_vector_env = True
