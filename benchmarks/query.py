"""Finding among 100,000 episodes, and reading 1 M CartPole steps, beside what Redis takes for them.

Targets: listing 100,000 episodes, filtering them by tag and return, and the table of those found
<= 0.5 s; all of 1 M steps as arrays, and as a vaex frame, >= 1 M steps/s. The steps are written
once in short episodes (22 steps, as a random policy makes them) and once in long ones (500).

Run: .venv/bin/python benchmarks/query.py
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import vaex
from _pairs import in_turn, jamboree, machine, median, ratio
from gymnasium.envs.classic_control import CartPoleEnv

from jamboree_gym.encoding.summary_codec import encode_summary
from jamboree_gym.records import EpisodeSummary

RUNS = 10
RATES = (1e-4, 3e-4, 1e-3)


def list_episodes(jam, count: int) -> None:
    """Listings of so many episodes in ten runs; the episodes themselves are not needed."""
    rng = random.Random(0)
    for number in range(count):
        summary = EpisodeSummary(
            jam._connection.new_episode_id(),
            "CartPole-v1",
            f"run-{number % RUNS}",
            "terminated",
            22,
            rng.uniform(8, 500),
            1.7e9 + number * 0.01,
            0.01,
            None if number % 2 else number,
            {"lr": RATES[number % len(RATES)], "branch": "main", "policy": "random"},
            None,
            jam._connection.writer_name,
        )
        key = jam._connection.keyspace.episode(summary.id)
        bucket = jam._connection.redis_store.buckets.of(key)
        jam.redis.hset(bucket.summaries(summary.run), summary.id, encode_summary(summary))
        jam.redis.zadd(bucket.runs, {summary.run: number})


class Everlasting(CartPoleEnv):
    """CartPole that ends when its time is up, never before."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.lasts, self.left = length, length

    def reset(self, **options):
        self.left = self.lasts
        return super().reset(**options)

    def step(self, action):
        observation, reward, is_over, _, _ = super().step(action)
        if is_over:
            super().reset()
        self.left -= 1
        return observation, reward, False, self.left == 0, {}


def record(jam, run: str, steps: int, length: int) -> None:
    env = jam.record(Everlasting(length), run=run)
    for _ in range(steps // length):
        env.reset()
        for _ in range(length):
            env.step(0)
    env.close()
    jam.flush()


def seconds(action) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def raw_listing(jam) -> None:
    """What Redis and its client take for the listings."""
    for run in jam._connection.store.listings.runs():
        jam._connection.store.listings.summaries(run)


def raw_episodes(jam, keys) -> None:
    """What Redis and its client take for the episodes."""
    for first in range(0, len(keys), 1000):
        jam._connection.store.whole(keys[first : first + 1000])


def as_arrays(query) -> list[np.ndarray]:
    return [column.to_numpy() for column in query.table().columns[1:]]


def through_a_file(query, path: Path) -> None:
    query.to_arrow(path, overwrite=True)
    opened = vaex.open(str(path))
    opened.mean("reward")
    opened.close()


def measure_listing(rounds: int, count: int) -> None:
    with jamboree() as jam:
        list_episodes(jam, count)
        wanted = jam.episodes(tags={"lr": 3e-4}, min_return=300)
        taken = in_turn(
            rounds,
            raw=lambda: seconds(lambda: raw_listing(jam)),
            ids=lambda: seconds(jam.episodes().ids),
            found=lambda: seconds(wanted.summary_table),
            whole=lambda: seconds(jam.episodes().summary_table),
            summaries=lambda: seconds(jam.episodes().summaries),
        )
        print(f"{count:,} episodes, of which {len(wanted):,} are wanted")
    print(f"  HGETALL of their listings         {median(taken['raw']):6.2f} s")
    print(f"  ids of all                        {median(taken['ids']):6.2f} s")
    print(f"  listed, filtered, table of those  {median(taken['found']):6.2f} s; target 0.5")
    print(f"    in times of HGETALL             {ratio(taken['found'], taken['raw'])}")
    print(f"  table of all                      {median(taken['whole']):6.2f} s")
    print(f"  EpisodeSummary of all             {median(taken['summaries']):6.2f} s")


def measure_steps(rounds: int, steps: int, length: int) -> None:
    with jamboree() as jam, tempfile.TemporaryDirectory() as folder:
        record(jam, "steps", steps, length)
        query = jam.episodes()
        keys = [jam._connection.keyspace.episode(name) for name in query.ids()]
        rows = len(keys) * length
        taken = in_turn(
            rounds,
            raw=lambda: seconds(lambda: raw_episodes(jam, keys)),
            arrays=lambda: seconds(lambda: as_arrays(query)),
            frame=lambda: seconds(lambda: query.frame().mean("reward")),
            file=lambda: seconds(lambda: through_a_file(query, Path(folder) / "steps.arrow")),
        )
    print(f"{rows:,} steps in {len(keys):,} episodes of {length}")
    print(f"  LRANGE of all                     {rows / median(taken['raw']):12,.0f} steps/s")
    print(f"  as arrays                         {rows / median(taken['arrays']):12,.0f} steps/s")
    print(f"    in times of LRANGE              {ratio(taken['arrays'], taken['raw'])}")
    print(f"  as a vaex frame, with a mean      {rows / median(taken['frame']):12,.0f} steps/s")
    print(f"  to a file, opened, with a mean    {rows / median(taken['file']):12,.0f} steps/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=1_000_000)
    arguments = parser.parse_args()
    print(machine())
    measure_listing(arguments.rounds, arguments.episodes)
    for length in (22, 500):
        measure_steps(arguments.rounds, arguments.steps, length)


if __name__ == "__main__":
    main()
