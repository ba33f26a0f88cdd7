"""A store for the commands that read: recorded once, and the commands on it, in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from processes import HEAR_CTRL_C, PATHS
from recorded_envs import ScriptedEnv
from typer.testing import CliRunner, Result
from warm import start_warm

from jamboree_gym import Jamboree
from jamboree_gym.cli import app
from jamboree_gym.runs.checkpoints import CheckpointHandler
from jamboree_gym.runs.metrics import MetricHandler
from jamboree_gym.runs.sessions import SessionHandler

PROGRAM = HEAR_CTRL_C + "from jamboree_gym.cli import main; main()"
# In a process that was forked, the streams are those of another one: they are opened anew.
WARM_PROGRAM = """
import os
import sys

sys.stdin = open(0, closefd=False)
sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
sys.argv[0] = "jamboree-gym"
from jamboree_gym.cli import main

main()
"""
# What the library needs, and help and completion do not; loading it takes half a second.
LIBRARY = {"gymnasium", "numpy", "psutil", "pyarrow", "pydantic", "pymongo", "redis", "rich"}
SEEDS = (1, 2, 3)
ODD = "odd\x1b[2J\n\t"  # the name of a run that would clear the terminal


@dataclass
class Store:
    """Where it is, and commands on it."""

    redis_url: str
    mongo_url: str
    namespace: str
    first_id: str = ""

    @property
    def environment(self) -> dict[str, str]:
        return {
            "JAMBOREE_REDIS_URL": self.redis_url,
            "JAMBOREE_MONGO_URL": self.mongo_url,
            "NO_COLOR": "1",
            "COLUMNS": "100",
        }

    def open(self) -> Jamboree:
        return Jamboree(self.redis_url, self.mongo_url, namespace=self.namespace)

    def command(self, *arguments: object) -> list[str]:
        return [*map(str, arguments), "--namespace", self.namespace]

    def run(self, *arguments: object, stdin: str = "") -> Result:
        return self.run_elsewhere(*self.command(*arguments), stdin=stdin)

    def run_elsewhere(self, *arguments: str, stdin: str = "") -> Result:
        """A command that has no namespace."""
        return CliRunner().invoke(app, arguments, env=self.environment, input=stdin)

    def lines(self, *arguments: object, stdin: str = "") -> list[list[str]]:
        """The columns of each line that a command prints."""
        done = self.run(*arguments, stdin=stdin)
        assert done.exit_code == 0, done.output
        return [line.split("\t") for line in done.stdout.splitlines()]

    def objects(self, *arguments: object) -> list[dict[str, Any]]:
        """What a command prints as JSON."""
        done = self.run(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    def start(self, *arguments: object, **streams: int) -> Any:
        """A process of its own, forked from one that has imported the package.

        Args:
            arguments: Of the command.
            streams: Descriptors for `stdin` and `stdout`, where they are no pipes.
        """
        variables = {**os.environ, **self.environment}
        return start_warm(WARM_PROGRAM, *self.command(*arguments), environment=variables, **streams)

    def start_python(self, *arguments: object, **streams: Any) -> subprocess.Popen[str]:
        """A process of its own, begun as a shell does it."""
        usual = {name: one for name, one in os.environ.items() if name != "PYTHONUNBUFFERED"}
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *self.command(*arguments)],
            # As in a shell, Python keeps what it could not write, and tries again at its end.
            env={**usual, **self.environment, "PYTHONPATH": os.pathsep.join(PATHS)},
            text=True,
            stderr=subprocess.PIPE,
            **streams,
        )


def record_store(redis_url: str, mongo_url: str) -> Store:
    """Three episodes of CartPole and a training in the run `ppo`, and an odd one in `ODD`."""
    store = Store(redis_url, mongo_url, f"test-{uuid.uuid4().hex[:12]}")
    with store.open() as jam:
        env = jam.record(gym.make("CartPole-v1"), run="ppo", tags={"lr": 0.001})
        for seed in SEEDS:
            play(env, seed)
        env.close()
        rewards = [1.0, float("nan")]
        odd = jam.record(ScriptedEnv(rewards=rewards), run=ODD, tags={"note": "\x1b[2J", "lr": 0.1})
        odd.reset(seed=4)
        odd.step(odd.action_space.sample())
        odd.step(odd.action_space.sample())
        odd.close()
        sessions = SessionHandler(jam, "ppo")
        sessions.begin("s1", timesteps=0, resumed_from=None, steps={}, info={})
        MetricHandler(jam, "ppo").put(50, session="s1", values={"train/loss": 0.25})
        CheckpointHandler(jam, "ppo").put(b"zip", timesteps=50, policy_version=1, session="s1")
        sessions.end("s1", "finished", timesteps=60)
    return store


def play(env: Any, seed: int) -> None:
    env.action_space.seed(seed)
    env.reset(seed=seed)
    is_over = False
    while not is_over:
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        is_over = terminated or truncated
