"""Recorded episodes -> replay buffers of SB3."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from jamboree_gym.episode import Episode
from jamboree_gym.query import EpisodeQuery

__all__ = ["fill_replay_buffer"]


def fill_replay_buffer(buffer: ReplayBuffer, query: EpisodeQuery | Iterable[Episode]) -> int:
    """Put the transitions of these episodes into a buffer; the newest stay.

    Returns:
        How many were put.
    """
    count, rows = 0, []
    space = buffer.action_space
    for episode in query:
        for step in episode.steps():
            action: Any = step.action
            if isinstance(space, spaces.Box):
                action = 2.0 * (action - space.low) / (space.high - space.low) - 1.0
            done = step.terminated or step.truncated
            rows.append((step.observation, step.next_observation, action, step.reward, done, step))
            count += 1
            if len(rows) == buffer.n_envs:
                obs, after, actions, rewards, dones, steps = zip(*rows, strict=True)
                infos = [{"TimeLimit.truncated": one.truncated} for one in steps]
                buffer.add(
                    np.array(obs),
                    np.array(after),
                    np.array(actions),
                    np.array(rewards, np.float32),
                    np.array(dones),
                    infos,
                )
                rows = []
    return count
