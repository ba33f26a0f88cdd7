"""An environment whose observations tell where they are, for tests and the actors they start."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

SPACE = spaces.Box(-1e6, 1e6, (2,), np.float32)


class Line(gym.Env[Any, Any]):
    """Tells the number of its episode and of the step; ends when it is told to."""

    observation_space, action_space = SPACE, spaces.Discrete(9)

    def __init__(self, first: int = 0) -> None:
        self.episode = first - 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.episode, self.at = self.episode + 1, 0
        return self._observed(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.at += 1
        return self._observed(), float(self.at), bool(action == 7), bool(action == 8), {}

    def _observed(self) -> Any:
        return np.array([self.episode, self.at], np.float32)


def play(env: Any, *lengths: int, end: int | None = 7) -> None:
    """Episodes of such lengths; the last action of each is `end`."""
    for length in lengths:
        env.reset()
        for step in range(length):
            env.step(end if end is not None and step == length - 1 else 1)
