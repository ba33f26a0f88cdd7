"""The trainer that `test_trainer_kill.py` kills, and what it notes where the test can read it."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

import numpy as np

from jamboree_gym.delivery import lease

THOROUGH = "JAMBOREE_KILLED_TRAINERS" in os.environ
# Thoroughly: as a user has it. Among other tests: a longer interval, so that more is left to the
# journal, and a shorter lease.
FLUSH_INTERVAL_S = 0.05 if THOROUGH else 0.3
LEASE_S = lease.LEASE_S if THOROUGH else 2.0
STEPS = 80_000 if THOROUGH else 20_000
EPISODES = 1 << 14
MAX_EPISODE_STEPS = 4000

# Shared memory outlives the trainer: number of episodes begun and of steps returned; of each
# episode its id and the steps before it.
COUNTS = struct.Struct("qq")
EPISODE = struct.Struct("32sq")
SIZE = COUNTS.size + EPISODES * EPISODE.size

TRAINER = """
import mmap, sys, time
import gymnasium as gym
from jamboree_gym import Jamboree
from jamboree_gym.delivery import lease
from killed_trainer import (
    COUNTS, EPISODE, FLUSH_INTERVAL_S, LEASE_S, MAX_EPISODE_STEPS, STEPS, policy
)

url, namespace, run, path = sys.argv[1:]
with open(path, "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
counts = memoryview(memory)[:COUNTS.size].cast("q")  # COUNTS.pack_into would set all to 0 first
lease.LEASE_S, lease.RENEW_S, lease.LATEST_RENEWAL_S = LEASE_S, LEASE_S / 3, LEASE_S * 2 / 3
jam = Jamboree(url, namespace=namespace, flush_interval_s=FLUSH_INTERVAL_S)
env = jam.record(gym.make("CartPole-v1", max_episode_steps=MAX_EPISODE_STEPS), run=run)
episodes = steps = 0
while steps < STEPS:
    observation, _ = env.reset(seed=None if episodes % 2 else episodes)
    EPISODE.pack_into(
        memory, COUNTS.size + EPISODE.size * episodes, env.episode_id.encode(), steps
    )
    act = policy(episodes)
    episodes += 1
    counts[0] = episodes
    while True:
        action = act(observation)
        observation, _, terminated, truncated, _ = env.step(action)
        steps += 1
        counts[1] = steps
        if terminated or truncated or steps == STEPS:
            break
time.sleep(3600)
"""


def policy(episode: int) -> Callable[[np.ndarray], int]:
    """What the trainer does: some 20 steps at random, or 4,000 in which it balances the pole."""
    if episode % 8:
        actions = iter(np.random.default_rng(episode).integers(0, 2, 500).tolist())
        return lambda _: next(actions)
    return lambda seen: int(0.05 * seen[0] + 0.1 * seen[1] + seen[2] + 0.5 * seen[3] > 0)
