"""Steps a second of an environment with and without `RecordEpisodes`, measured in turn.

Targets: CartPole traced at >= 65 % of raw steps/s, Pendulum and MountainCar at >= 85 %; bytes in
Redis a step and an episode beside it.

Run: .venv/bin/python benchmarks/tracing.py
"""

import argparse
import time

import gymnasium as gym
from _pairs import in_turn, jamboree, machine, median, ratio

ENVS = {"CartPole-v1": 0.65, "Pendulum-v1": 0.85, "MountainCar-v0": 0.85}


def steps_per_s(env: gym.Env, steps: int) -> float:
    """Steps a second of a random policy whose actions were drawn before."""
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(steps)]
    env.reset(seed=0)
    began = time.perf_counter()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return steps / (time.perf_counter() - began)


def traced_steps_per_s(jam, env_id: str, steps: int) -> float:
    """The same, recorded; what is still queued at the end is not waited for."""
    env = jam.record(gym.make(env_id, disable_env_checker=True))
    rate = steps_per_s(env, steps)
    env.close()
    jam.flush()
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=100_000)
    arguments = parser.parse_args()
    print(machine())
    for env_id, target in ENVS.items():
        with jamboree() as jam:
            raw = gym.make(env_id, disable_env_checker=True)
            taken = in_turn(
                arguments.rounds,
                traced=lambda env_id=env_id, jam=jam: traced_steps_per_s(
                    jam, env_id, arguments.steps
                ),
                raw=lambda raw=raw: steps_per_s(raw, arguments.steps),
            )
            summaries = jam.episodes().summaries()
            steps = sum(summary.steps for summary in summaries)
            memory = sum(jam.redis.memory_usage(key, samples=0) for key in jam.redis.scan_iter("*"))
        per_step_us = [
            1e6 / t - 1e6 / r for t, r in zip(taken["traced"], taken["raw"], strict=True)
        ]
        print(
            f"{env_id:<15} raw {median(taken['raw']):>9,.0f}/s  "
            f"traced {median(taken['traced']):>9,.0f}/s  "
            f"ratio {ratio(taken['traced'], taken['raw'])}, target {target}  "
            f"+{median(per_step_us):.2f} µs a step  "
            f"{memory / steps:.0f} B a step in Redis ({len(summaries):,} episodes)"
        )


if __name__ == "__main__":
    main()
