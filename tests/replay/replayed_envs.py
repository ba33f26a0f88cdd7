"""Environments and wrappers for what is simulated again, also in other processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from recorded_envs import CountingEnv

from jamboree_gym import Jamboree
from jamboree_gym.reading.episode import Episode


class LivesEnv(CountingEnv):
    """Tells its lives, nested too."""

    def __init__(self, lives: int = 3, length: int = 3) -> None:
        super().__init__(length=length)
        self.lives = lives

    def info(self) -> dict[str, Any]:
        return {"lives": self.lives - self.count, "state": {"x": 0.5 * self.count, "y": (1, 2)}}


class TalliedEnv(LivesEnv):
    """Counts how often it is made, and how many steps are taken, in this process."""

    made = taken = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1

    def observe(self) -> np.ndarray:
        return self.np_random.random(2, np.float32)

    def step(self, action: object) -> object:
        type(self).taken += 1
        return super().step(action)


class PictureEnv(CountingEnv):
    """Observes a picture and a text, in which one pixel may be another one."""

    def __init__(self, odd: bool = False) -> None:
        super().__init__()
        parts = {"image": spaces.Box(0, 255, (4, 3, 2), np.uint8), "text": spaces.Text(9)}
        self.observation_space = spaces.Dict(parts)
        self.odd = odd

    def observe(self) -> Any:
        image = np.full((4, 3, 2), self.count, np.uint8)
        if self.odd and self.count == 2:
            image[3, 2, 0] = image[3, 2, 1] = 9
        return {"image": image, "text": "odd" if self.odd and self.count == 2 else "even"}


class OffEnv(CountingEnv):
    """Observes a little more than it should."""

    def __init__(self, off: float = 0.0) -> None:
        super().__init__()
        self.off = off

    def observe(self) -> Any:
        return np.array([self.count + self.off, np.nan], np.float32)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, *rest = super().step(action)
        return observation, reward + self.off, *rest


class RememberingEnv(CountingEnv):
    """Carries the number of its episodes from one to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.episodes = 0

    def reset(self, **options: Any) -> Any:
        self.episodes += 1
        return super().reset(**options)

    def observe(self) -> Any:
        return np.array([self.count, self.episodes], np.float32)


class KilledEnv(CountingEnv):
    """Kills its process in the second step, but not the one that recorded it."""

    def __init__(self, recorder: int = 0) -> None:
        super().__init__()
        self.recorder = recorder

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self.count == 1 and os.getpid() != self.recorder:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class MirrorObservation(gym.ObservationWrapper):
    """Needs no arguments, and does not tell them."""

    def observation(self, observation: Any) -> Any:
        return -observation


class ScaleObservation(gym.ObservationWrapper, RecordConstructorArgs):
    """Tells its argument."""

    def __init__(self, env: gym.Env, scale: float) -> None:
        RecordConstructorArgs.__init__(self, scale=scale)
        gym.ObservationWrapper.__init__(self, env)
        self.scale = scale

    def observation(self, observation: Any) -> Any:
        return observation * np.float32(self.scale)


class ShyObservation(gym.ObservationWrapper):
    """Has an argument, and does not tell it."""

    def __init__(self, env: gym.Env, scale: float = 2.0) -> None:
        super().__init__(env)
        self.scale = scale

    def observation(self, observation: Any) -> Any:
        return observation * np.float32(self.scale)


@contextmanager
def registered(**envs: Any) -> Iterator[None]:
    """These are registered as `tests/<name>-v0`."""
    for name, entry_point in envs.items():
        gym.register(f"tests/{name}-v0", entry_point=entry_point, disable_env_checker=True)
    try:
        yield
    finally:
        for name in envs:
            gym.registry.pop(f"tests/{name}-v0", None)


def record(
    jam: Jamboree, env: gym.Env[Any, Any], *, steps: int = 60, run: str | None = None, **reset: Any
) -> Episode:
    """Record an episode of random actions, or its first steps."""
    recorded = jam.record(env, run=run)
    recorded.action_space.seed(4)
    recorded.reset(**reset)
    for _ in range(steps):
        *_, terminated, truncated, _ = recorded.step(recorded.action_space.sample())
        if terminated or truncated:
            break
    recorded.close()
    return jam.episode(recorded.episode_id)
