"""An environment in which it shows which action belongs to which observation."""

from __future__ import annotations

from typing import Any

import numpy as np
from recorded_envs import CountingEnv, play

from jamboree_gym import Jamboree


class PayingEnv(CountingEnv):
    """Counts, and pays what the first number of the action says."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, _, *rest = super().step(action)
        return observation, float(action[0]), *rest


def actions(steps: int, episode: int = 0) -> list[Any]:
    """Each says which step it is of, and of which episode."""
    return [np.array([k / 100, episode / 100], np.float32) for k in range(steps)]


def record(jam: Jamboree, env: Any, taken: list[Any], **options: Any) -> str:
    """Record an episode of these actions; its id."""
    env = jam.record(env, **options)
    play(env, taken)
    env.close()
    return str(env.episode_id)
