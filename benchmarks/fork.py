"""Forking a long MuJoCo episode at its end: from snapshots, beside playing all of its steps.

Target: at least 20 times quicker from snapshots. The same episode is recorded twice, once with a
snapshot every 100 steps. Both forks make the environment, and compare what they play with the
recording; one plays 100 steps, the other all.

Run: .venv/bin/python benchmarks/fork.py
"""

import argparse
import time

import gymnasium as gym
from _pairs import in_turn, jamboree, machine, median, ratio

from jamboree_gym.replay import fork

EVERY = 100


def record(jam, env_id: str, steps: int, snapshot_every: int | None):
    unending = gym.make(env_id, max_episode_steps=-1, terminate_when_unhealthy=False)
    env = jam.record(unending, snapshot_every=snapshot_every)
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(steps):
        env.step(env.action_space.sample())
    env.close()
    return jam.episode(env.episode_id)


def fork_s(episode, step: int) -> float:
    began = time.perf_counter()
    env = fork(episode, step)
    taken = time.perf_counter() - began
    env.close()
    return taken


def measure(env_id: str, rounds: int, steps: int) -> None:
    with jamboree() as jam:
        with_them, without = (record(jam, env_id, steps, every) for every in (EVERY, None))
        assert not jam.diff(with_them, without)
        taken = in_turn(
            rounds,
            played=lambda: fork_s(without, steps),
            restored=lambda: fork_s(with_them, steps),
        )
    print(f"{env_id}, forked after {steps:,} steps")
    print(f"  playing all of them     {median(taken['played']):8.3f} s")
    print(f"  from a snapshot         {median(taken['restored']):8.3f} s")
    print(f"    so many times quicker {ratio(taken['played'], taken['restored'])}; target 20")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10_000)
    arguments = parser.parse_args()
    print(machine())
    for env_id in ("Hopper-v5", "Ant-v5"):
        measure(env_id, arguments.rounds, arguments.steps)


if __name__ == "__main__":
    main()
