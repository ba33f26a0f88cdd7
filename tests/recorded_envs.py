"""Environments that do what recorders have to cope with."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from nested import NESTED


class CountingEnv(gym.Env[np.ndarray, Any]):
    """Observes the number of its steps; ends after `length` of them."""

    metadata = {"render_modes": []}  # noqa: RUF012 - as gymnasium.Env has it

    def __init__(self, length: int = 3, ending: str = "terminated") -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.length, self.ending = length, ending
        self.count = 0

    def observe(self) -> Any:
        """What is seen now."""
        return np.array([self.count, 0.5], np.float32)

    def info(self) -> dict[str, Any]:
        """What is told beside it."""
        return {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin to count."""
        super().reset(seed=seed)
        self.count = 0
        return self.observe(), self.info()

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Count one on."""
        self.count += 1
        done = self.count >= self.length
        ends = done and self.ending == "terminated", done and self.ending == "truncated"
        return self.observe(), float(self.count), *ends, self.info()


class DiscreteEnv(CountingEnv):
    """The same, with a Discrete action space."""

    def __init__(self, length: int = 3, ending: str = "terminated") -> None:
        super().__init__(length, ending)
        self.action_space = spaces.Discrete(3)


class ReusingEnv(CountingEnv):
    """Returns one buffer again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = np.zeros(2, np.float32)

    def observe(self) -> Any:
        self.buffer[:] = self.count
        return self.buffer


class ActionChangingEnv(CountingEnv):
    """Changes the action that it is given."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        action[:] = 99.0
        return super().step(action)


class FailingEnv(CountingEnv):
    """Fails in its second step."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self.count == 1:
            raise RuntimeError("the robot fell over")
        return super().step(action)


class ScriptedEnv(CountingEnv):
    """Returns given observations, rewards and infos, one after the other."""

    def __init__(
        self,
        observations: list[Any] | None = None,
        rewards: list[Any] | None = None,
        infos: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(length=10**9)
        self.observations, self.rewards, self.infos = observations, rewards, infos

    def observe(self) -> Any:
        return super().observe() if self.observations is None else self.observations[self.count]

    def info(self) -> dict[str, Any]:
        return {} if self.infos is None else self.infos[self.count]

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, *rest = super().step(action)
        return observation, reward if self.rewards is None else self.rewards[self.count - 1], *rest


class RenderingEnv(CountingEnv):
    """Renders its count; what it observes and renders comes from its random generator."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        length: int = 10**9,
        shape: tuple[int, ...] = (6, 4, 3),
        render_mode: str | None = "rgb_array",
    ) -> None:
        super().__init__(length)
        self.shape, self.render_mode = shape, render_mode

    def observe(self) -> Any:
        return self.np_random.random(2, np.float32)

    def render(self) -> Any:
        """Noise, which hardly gets smaller when it is compressed, and the count."""
        frame = self.np_random.integers(0, 255, self.shape, np.uint8)
        frame.flat[:4] = np.frombuffer(np.uint32(self.count).tobytes(), np.uint8)
        return frame


class MixingEnv(CountingEnv):
    """Computes in float32, where a Python number gives other bits than a NumPy scalar."""

    def __init__(self) -> None:
        super().__init__(length=50)
        self.action_space = spaces.Discrete(3)
        self.observation_space = spaces.Box(-np.inf, np.inf, (), np.float64)
        self.x = np.float32(0.1)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self.x = np.float32(0.1)
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.x = np.float32(self.x * (action * 0.3 + 0.7) + np.float32(0.1))
        return super().step(action)

    def observe(self) -> Any:
        return np.float64(self.x)


ACTION = np.array([0.25, -0.5], np.float32)


def play(env: gym.Env[Any, Any], actions: list[Any], **reset: Any) -> list[Any]:
    """Reset, take these actions, and return all that came back."""
    returned: list[Any] = [env.reset(**reset)]
    returned += [env.step(action) for action in actions]
    return returned


class NestedEnv(CountingEnv):
    """Observes what its seed has drawn, and takes actions of the same kind."""

    def __init__(self) -> None:
        super().__init__(length=4)
        self.observation_space = self.action_space = copy.deepcopy(NESTED)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.observation_space.seed(seed)
        return super().reset(seed=seed)

    def observe(self) -> Any:
        return self.observation_space.sample()
