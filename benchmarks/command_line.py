"""How long a shell waits: for help, for the completion of a word, for the first lines of a list.

Each runs as a new process, as in a shell, in turn with `python -c pass`. Targets: help and
a completed word within 200 ms, `ls | head` in a store of 100,000 episodes within a second.

Run: .venv/bin/python benchmarks/command_line.py --episodes 100000
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
from _pairs import in_turn, jamboree, machine, median

PROGRAM = Path(sys.executable).with_name("jamboree-gym")
HEAD_LINES = 10


class ShortEnv(gym.Env[np.ndarray, np.int64]):
    """An episode of three steps."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-2, 2, (4,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._count = 0
        return np.zeros(4, np.float32), {}

    def step(self, action):
        self._count += 1
        return np.zeros(4, np.float32), 1.0, self._count == 3, False, {}


def taking(command: str, shows: str, **variables: str) -> Callable[[], float]:
    """Runs a line of a shell, and returns the seconds until it has ended."""

    def run() -> float:
        began = time.perf_counter()
        done = subprocess.run(
            ["sh", "-c", command],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        taken = time.perf_counter() - began
        assert shows in done.stdout, (command, done.stdout, done.stderr)
        return taken

    return run


def completing(line: str, shows: str, url: str) -> Callable[[], float]:
    """As a shell asks for the last word of a line."""
    return taking(
        str(PROGRAM),
        shows,
        JAMBOREE_REDIS_URL=url,
        _JAMBOREE_GYM_COMPLETE="complete_bash",
        COMP_WORDS=line,
        COMP_CWORD=str(len(line.split()) - 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    print(machine())
    with jamboree(backup=False) as jam:
        env = jam.record(ShortEnv(), run="many")
        for _ in range(asked.episodes):
            env.reset()
            for _ in range(3):
                env.step(0)
        env.close()
        jam.flush(60)
        url = f"unix://{jam._connection.store.where}"
        measures = {
            "python -c pass": taking(f"{sys.executable} -c pass", ""),
            "jamboree-gym --help": taking(f"{PROGRAM} --help", "Commands"),
            "jamboree-gym ls --help": taking(f"{PROGRAM} ls --help", "--worst"),
            "a run, completed": completing("jamboree-gym run ma", "many", url),
            f"ls of {asked.episodes:,} | head": taking(
                f"{PROGRAM} ls | head -n {HEAD_LINES}", "many", JAMBOREE_REDIS_URL=url
            ),
        }
        taken = in_turn(asked.rounds, **measures)
    bare = taken["python -c pass"]
    for name, values in taken.items():
        more = sorted(a - b for a, b in zip(values, bare, strict=True))
        print(
            f"{name:<28} {1e3 * median(values):6.0f} ms ({1e3 * min(values):.0f} to "
            f"{1e3 * max(values):.0f}); {1e3 * median(more):6.0f} more than Python itself"
        )


if __name__ == "__main__":
    main()
