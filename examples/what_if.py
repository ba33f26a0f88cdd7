"""What if: hand a recorded episode over to another policy, 200 times, from one of its steps on.

A beginner plays Balance with values at random. What would have come of the rest of the episode if
the best rule without memory had taken over after 20 steps? And once more, step by step, by hand.

    python examples/what_if.py
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from jamboree_envs.balance import BEST_MEMORYLESS_VALUES
from jamboree_gym import Jamboree
from jamboree_gym.replay import fork, verify, what_if

STEP = 20


def rule(observation: np.int64) -> int:
    """The value for a demand."""
    return BEST_MEMORYLESS_VALUES[observation]


def main() -> None:
    """Record, ask, and try one continuation."""
    with Jamboree() as jam:
        env = jam.record(gym.make("jamboree/Balance-v0"), run="what-if")
        random = np.random.default_rng(1)
        env.reset(seed=1)
        ends = False
        while not ends:
            *_, terminated, truncated, _ = env.step(int(random.integers(8)))
            ends = terminated or truncated
        episode = jam.episode(env.episode_id)

        print(what_if(episode, STEP, rule, n=200))

        forked = fork(episode, STEP)
        observation, ends = forked.observation, False
        while not ends:
            observation, _, terminated, truncated, _ = forked.step(rule(observation))
            ends = terminated or truncated
        child = jam.episode(forked.episode_id)
        print(jam.diff(episode, child))
        print(verify(child))


if __name__ == "__main__":
    main()
