"""A million CartPole steps into a folder of Parquet files: how long, how much memory, how large.

Beside it the same into one Arrow file. Resident memory is that of a process that does nothing else,
beyond what it had when the store was open. Expected: it hardly grows with the number of steps.

Run: .venv/bin/python benchmarks/export_parquet.py
"""

import argparse
import multiprocessing
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from _pairs import jamboree, machine, median
from gymnasium.envs.classic_control import CartPoleEnv

from jamboree_gym import Jamboree

SAMPLE_EVERY_S = 0.01


def record(jam, steps: int) -> None:
    """Episodes as a random policy makes them, about 22 steps long."""
    env, actions = jam.record(CartPoleEnv(), run="steps"), np.random.default_rng(0)
    done = True
    for _ in range(steps):
        if done:
            env.reset()
        _, _, terminated, truncated, _ = env.step(int(actions.integers(2)))
        done = terminated or truncated
    env.close()
    jam.flush()


class Peak:
    """The most resident memory of this process, MB, beyond what it had at the beginning."""

    def __enter__(self):
        self._process, self._over = psutil.Process(), threading.Event()
        self._began = self.most = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_EVERY_S):
            self.most = max(self.most, self._process.memory_info().rss)

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()
        self.mb = (self.most - self._began) / 2**20


def export(url: str, kind: str, path: str, answers) -> None:
    """In a separate process."""
    with Jamboree(url) as jam:
        query = jam.episodes()
        len(query)
        with Peak() as peak:
            began = time.perf_counter()
            query.to_parquet(path) if kind == "parquet" else query.to_arrow(path)
            took = time.perf_counter() - began
        answers.put((took, peak.mb))


def size_mb(path: Path) -> float:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) / 1e6


def measure(rounds: int, steps: int) -> None:
    spawn = multiprocessing.get_context("spawn")
    with jamboree() as jam, tempfile.TemporaryDirectory() as folder:
        record(jam, steps)
        episodes = len(jam.episodes())
        print(f"{steps:,} steps in {episodes:,} episodes")
        for kind in ("parquet", "arrow"):
            taken, path = [], Path(folder) / kind
            for _ in range(rounds):
                answers = spawn.Queue()
                arguments = (f"unix://{jam._connection.store.where}", kind, str(path), answers)
                process = spawn.Process(target=export, args=arguments)
                process.start()
                taken.append(answers.get())
                process.join()
                size = size_mb(path)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            seconds, memory = median([one for one, _ in taken]), max(mb for _, mb in taken)
            print(
                f"  {kind:8} {seconds:6.2f} s, {steps / seconds:10,.0f} steps/s; "
                f"{memory:5.0f} MB beyond the beginning, {size:6.1f} MB on disk"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs="+", default=[200_000, 1_000_000])
    arguments = parser.parse_args()
    print(machine())
    for steps in arguments.steps:
        measure(arguments.rounds, steps)


if __name__ == "__main__":
    main()
