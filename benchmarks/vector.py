"""A 256-environment vector CartPole: steps and bytes a second traced, against a bare pipelined SET.

Target: the bytes that tracing brings to Redis in a second are at least half of those that a
pipeline of SET commands with the very same values reaches.

Run: .venv/bin/python benchmarks/vector.py
"""

import argparse
import time

import gymnasium as gym
import numpy as np
from _pairs import in_turn, jamboree, machine, median, ratio

COMMANDS_PER_PIPELINE = 256


def play(envs, steps: int) -> float:
    """Seconds for so many vector steps of a random policy whose actions were drawn before."""
    actions = np.random.default_rng(0).integers(0, 2, (steps, envs.num_envs))
    envs.reset(seed=0)
    began = time.perf_counter()
    for action in actions:
        envs.step(action)
    return time.perf_counter() - began


def make(num_envs: int, mode: str):
    return gym.make_vec("CartPole-v1", num_envs=num_envs, vectorization_mode=mode)


def frames_in(jam) -> list[bytes]:
    """All that the logs hold."""
    keys = list(jam._connection.redis_store.log_keys())
    return [frame for log in jam._connection.store.whole(keys) for frame in log[1:]]


def traced(arguments, written: list[bytes]) -> tuple[float, float]:
    """Steps and bytes a second, until the last byte is in Redis; keeps the frames of the first."""
    with jamboree() as jam:
        envs = jam.record(make(arguments.envs, arguments.mode))
        began = time.perf_counter()
        play(envs, arguments.steps)
        jam.flush(60)
        seconds = time.perf_counter() - began
        envs.close()
        jam.flush(60)
        if not written:
            written += frames_in(jam)
    return arguments.steps * arguments.envs / seconds, sum(map(len, written)) / seconds


def bare_set(values: list[bytes]) -> float:
    """Bytes a second of a pipeline of SET commands."""
    with jamboree() as jam:
        began = time.perf_counter()
        for first in range(0, len(values), COMMANDS_PER_PIPELINE):
            pipeline = jam.redis.pipeline(transaction=False)
            for number, value in enumerate(values[first : first + COMMANDS_PER_PIPELINE], first):
                pipeline.set(f"bare:{number}", value)
            pipeline.execute()
        return sum(map(len, values)) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000, help="vector steps a round")
    parser.add_argument("--envs", type=int, default=256)
    parser.add_argument("--mode", default="vector_entry_point", help="or sync, async")
    arguments = parser.parse_args()
    print(machine())
    written: list[bytes] = []
    steps_per_s: list[float] = []

    def traced_bytes_per_s() -> float:
        steps, size = traced(arguments, written)
        steps_per_s.append(steps)
        return size

    taken = in_turn(
        arguments.rounds,
        traced=traced_bytes_per_s,
        bare=lambda: bare_set(written),
        raw=lambda: (
            arguments.steps
            * arguments.envs
            / play(make(arguments.envs, arguments.mode), arguments.steps)
        ),
    )
    size = sum(map(len, written))
    print(
        f"{arguments.envs} environments, {arguments.mode}: raw {median(taken['raw']):,.0f} "
        f"steps/s, traced {median(steps_per_s):,.0f} steps/s; "
        f"{len(written):,} frames of {size / len(written):.0f} bytes"
    )
    print(
        f"traced {median(taken['traced']) / 1e6:.1f} MB/s, "
        f"bare SET {median(taken['bare']) / 1e6:.1f} MB/s, "
        f"ratio {ratio(taken['traced'], taken['bare'])}, target 0.5"
    )


if __name__ == "__main__":
    main()
