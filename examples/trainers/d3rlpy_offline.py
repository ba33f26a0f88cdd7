"""d3rlpy: learn from recorded episodes, without playing.

First it records what a random policy plays, unless the run is there already. Then it hands the
stored episodes to d3rlpy, which learns a discrete CQL from them.

Needs: pip install 'jamboree-gym[embedded]' d3rlpy
Run it: python examples/trainers/d3rlpy_offline.py    (or: --run mine --updates 10000)
"""

from __future__ import annotations

import argparse

import d3rlpy
import gymnasium as gym
import numpy as np
from d3rlpy.dataset import Episode, InfiniteBuffer, ReplayBuffer

from jamboree_gym import Jamboree
from jamboree_gym.reading.query import EpisodeQuery

ENV_ID = "CartPole-v1"


def record(jam: Jamboree, run: str, episodes: int) -> None:
    """Play at random."""
    env = jam.record(gym.make(ENV_ID), run=run)
    env.action_space.seed(1)
    for seed in range(episodes):
        env.reset(seed=seed)
        is_over = False
        while not is_over:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            is_over = terminated or truncated
    env.close()


def dataset(episodes: EpisodeQuery) -> ReplayBuffer:
    """The episodes as d3rlpy holds them: without their last observation, which it does not use."""
    made = []
    for episode in episodes:
        data = episode.data()
        made.append(
            Episode(
                observations=data.observations[:-1],
                actions=data.actions.reshape(len(data), -1),
                rewards=data.rewards.astype(np.float32).reshape(-1, 1),
                terminated=bool(data.terminations[-1]),
            )
        )
    return ReplayBuffer(InfiniteBuffer(), episodes=made)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", default="d3rlpy")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--updates", type=int, default=2000)
    arguments = parser.parse_args()

    with Jamboree() as jam:
        ended = ("terminated", "truncated")
        recorded = jam.episodes(run=arguments.run, wait=True)  # there is none at the first time
        episodes = recorded.where(lambda one: one.status in ended)
        if not episodes:
            record(jam, arguments.run, arguments.episodes)
        buffer = dataset(episodes)
        print(f"{buffer.size()} episodes, {buffer.transition_count} transitions")
        algorithm = d3rlpy.algos.DiscreteCQLConfig(batch_size=64).create(device="cpu:0")
        algorithm.fit(
            buffer,
            n_steps=arguments.updates,
            n_steps_per_epoch=arguments.updates,
            show_progress=False,
            logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        )
        environment = gym.make(ENV_ID)
        score = d3rlpy.metrics.utility.evaluate_qlearning_with_environment(algorithm, environment)
        print(f"mean return of the learned policy: {score:.1f}")


if __name__ == "__main__":
    main()
