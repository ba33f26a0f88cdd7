"""Verifying episodes, beside stepping their environment alone with the same actions.

Target: at least 80 % of the raw steps a second. Raw is the loop that anybody would write: one
environment, and for each episode a reset with its seed and its actions. Verifying reads the
episodes from Redis, makes the environment, and compares every bit. CartPole is measured in episodes
of 500 steps, as a good policy makes them, and of 22, as a random one does.

Run: .venv/bin/python benchmarks/verify.py
"""

import argparse
import time

import gymnasium as gym
from _pairs import in_turn, jamboree, machine, median, ratio

from jamboree_gym.replay import verify


def balancing(observation) -> int:
    """A policy that keeps CartPole up for 500 steps."""
    return int(observation[2] * 3 + observation[3] > 0)


def record(jam, env_id: str, steps: int, policy, seeded: bool) -> str:
    env = jam.record(gym.make(env_id), run=env_id)
    env.action_space.seed(0)
    taken, episode = 0, 0
    while taken < steps:
        observation, _ = env.reset(seed=episode if seeded or not episode else None)
        is_over = False
        while not is_over:
            action = env.action_space.sample() if policy is None else policy(observation)
            observation, _, terminated, truncated, _ = env.step(action)
            is_over = terminated or truncated
            taken += 1
        episode += 1
    env.close()
    jam.flush()
    return env_id


def plain_actions(query) -> list:
    """Seed, state of the generator and actions of each episode, as they were given."""
    found = []
    for episode in query:
        rows, origin = episode._rows(), episode.origin
        actions = [rows.action(row) for row in range(1, len(rows))]
        found.append((origin.seed, origin.rng_state, actions))
    return found


def raw_s(env_id: str, episodes: list) -> float:
    began = time.perf_counter()
    env = gym.make(env_id, disable_env_checker=True)
    generator = env.unwrapped.np_random
    for seed, rng_state, actions in episodes:
        if rng_state is not None:
            generator.bit_generator.state = rng_state
        env.reset(seed=seed)
        for action in actions:
            env.step(action)
    env.close()
    return time.perf_counter() - began


def verify_s(query) -> float:
    began = time.perf_counter()
    reports = verify(query)
    taken = time.perf_counter() - began
    assert reports, str(reports)
    return taken


def verify_one_by_one_s(episodes) -> float:
    began = time.perf_counter()
    assert all(verify(episode) for episode in episodes)
    return time.perf_counter() - began


def measure(name: str, env_id: str, rounds: int, steps: int, policy=None, seeded=True) -> None:
    with jamboree() as jam:
        record(jam, env_id, steps, policy, seeded)
        query = jam.episodes()
        episodes = plain_actions(query)
        listed = list(query)
        count = sum(len(actions) for *_, actions in episodes)
        taken = in_turn(
            rounds,
            raw=lambda: raw_s(env_id, episodes),
            verified=lambda: verify_s(query),
            single=lambda: verify_one_by_one_s(listed),
        )
    print(f"{name}: {count:,} steps in {len(episodes):,} episodes")
    print(f"  raw                    {count / median(taken['raw']):10,.0f} steps/s")
    print(f"  verify(query)          {count / median(taken['verified']):10,.0f} steps/s")
    print(f"    share of raw         {ratio(taken['raw'], taken['verified'])}; target 0.80")
    print(f"  verify, one by one     {count / median(taken['single']):10,.0f} steps/s")
    print(f"    share of raw         {ratio(taken['raw'], taken['single'])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20_000)
    arguments = parser.parse_args()
    print(machine())
    rounds, steps = arguments.rounds, arguments.steps
    measure("CartPole-v1, balanced", "CartPole-v1", rounds, steps, balancing)
    measure("CartPole-v1, random", "CartPole-v1", rounds, steps)
    measure("CartPole-v1, random, unseeded", "CartPole-v1", rounds, steps, seeded=False)
    measure("Pendulum-v1, random", "Pendulum-v1", rounds, steps)
    measure("MountainCar-v0, random", "MountainCar-v0", rounds, steps)


if __name__ == "__main__":
    main()
