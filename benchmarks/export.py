"""1 M CartPole steps out to files and in again: time, and how much memory the process takes for it.

The steps are in short episodes (22 steps, as a random policy makes them), which cost Minari the
most. Each is done with a quarter of the steps first: memory that does not grow with them is
bounded.

Run: .venv/bin/python benchmarks/export.py
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
from _pairs import jamboree, machine
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.envs.registration import EnvSpec

from jamboree_gym.integrations.minari import from_minari, to_minari

LENGTH = 22


class Short(CartPoleEnv):
    """CartPole that ends when its time is up, never before."""

    left = LENGTH

    def reset(self, **options):
        self.left = LENGTH
        return super().reset(**options)

    def step(self, action):
        observation, reward, is_over, _, _ = super().step(action)
        if is_over:
            super().reset()
        self.left -= 1
        return observation, reward, False, self.left == 0, {}


def record(jam, steps: int) -> None:
    env = Short()
    env.spec = EnvSpec("CartPole-v1", "gymnasium.envs.classic_control:CartPoleEnv")
    env = jam.record(env, run="steps")
    for seed in range(steps // LENGTH):
        env.reset(seed=seed)
        for step in range(LENGTH):
            env.step(step % 2)
    env.close()
    jam.flush()


def measured(action: Callable[[], object]) -> tuple[float, float, float]:
    """Seconds, and resident memory before and at most meanwhile, MiB."""
    process, ended = psutil.Process(), threading.Event()
    sizes = [process.memory_info().rss]

    def watch() -> None:
        while not ended.wait(0.02):
            sizes.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    action()
    taken = time.perf_counter() - began
    ended.set()
    watcher.join()
    return taken, sizes[0] / 2**20, max(sizes) / 2**20


def size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def minari_out(jam, folder: Path) -> None:
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    to_minari(jam.episodes(run="steps"), "bench/cartpole-v0", progress=True)


def minari_in(jam, folder: Path) -> None:
    from_minari(jam, "bench/cartpole-v0", progress=True)


# In this order; each with the folder that the ones of its name before it have written to.
ACTIONS = {"to Minari": minari_out, "from Minari": minari_in}


def measure(steps: int) -> None:
    print(f"{steps:,} steps in {steps // LENGTH:,} episodes")
    with jamboree() as jam, tempfile.TemporaryDirectory() as folder:
        record(jam, steps)
        for name, action in ACTIONS.items():
            place = Path(folder) / name.split()[-1]
            place.mkdir(exist_ok=True)
            taken, before, most = measured(partial(action, jam, place))
            print(
                f"  {name:12} {taken:8.1f} s  {steps / taken:10,.0f} steps/s  memory "
                f"{before:.0f} -> {most:.0f} MiB  files {size_mb(place):,.0f} MB"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    arguments = parser.parse_args()
    print(machine())
    for steps in (arguments.steps // 4, arguments.steps):
        measure(steps)


if __name__ == "__main__":
    main()
