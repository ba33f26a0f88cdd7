"""The terminal session at the top of README.md: what its commands print on a terminal.

    python tests/cli/shown_session.py

prints it anew, on servers of its own.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from recorded_store import WARM_PROGRAM  # noqa: E402 - it lies beside this folder
from warm import start_warm  # noqa: E402

from jamboree_gym import Jamboree  # noqa: E402
from jamboree_gym.servers.embedded import stop_servers  # noqa: E402

COMMANDS = (
    "jamboree-gym runs",
    "jamboree-gym ls --run random --worst 2",
    "jamboree-gym find @last terminated",
    "jamboree-gym verify --run careful",
)
SEEDS = range(12)
# What is another one each time: ids, ages and speeds.
CHANGES = re.compile(
    r"\b[0-9a-f]{8,32}(?:\.\.[0-9a-f]{4})?(?![\w.])"
    r"|\b\d+ (?:s|min) ago|(?<=  )[\d.,]+(?=  \d+ (?:s|min) ago)"
)


def record(jam: Jamboree) -> None:
    """Two runs of CartPole: one that balances, and one at random."""
    for run in ("careful", "random"):
        env: Any = jam.record(gym.make("CartPole-v1"), run=run)
        env.action_space.seed(0)
        for seed in SEEDS:
            observation, _ = env.reset(seed=seed)
            is_over = False
            while not is_over:
                leans_right = observation[2] + 0.5 * observation[3] > 0
                action = int(leans_right) if run == "careful" else env.action_space.sample()
                observation, _, terminated, truncated, _ = env.step(action)
                is_over = terminated or truncated
        env.close()


def session(environment: dict[str, str]) -> str:
    """The commands, and what each prints on a terminal of 100 columns."""
    printed = []
    for command in COMMANDS:
        printed += [f"$ {command}", shown(shlex.split(command)[1:], environment)]
    return "\n".join(printed)


def shown(arguments: list[str], environment: dict[str, str]) -> str:
    """What a command prints on a terminal, without its progress."""
    ours, theirs = os.openpty()
    variables = {**os.environ, **environment, "COLUMNS": "100"}
    process = start_warm(WARM_PROGRAM, *arguments, environment=variables, stdout=theirs)
    process.communicate(timeout=60)
    os.close(theirs)
    lines = []
    with os.fdopen(ours) as terminal, suppress(OSError):  # Linux says so at the end
        lines += terminal
    return "".join(lines).rstrip()


def alike(text: str) -> list[list[str]]:
    """The words of each line, with those that change left out."""
    return [CHANGES.sub("…", line).split() for line in text.splitlines()]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="jamboree-") as home:
        with Jamboree(home=home) as recorded:
            record(recorded)
        try:
            print(session({"JAMBOREE_HOME": home}))
        finally:
            stop_servers(Path(home))
