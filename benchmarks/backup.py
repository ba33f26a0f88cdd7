"""Does the backup keep up with full-speed CartPole tracing, and what does it cost the environment?

A separate process records CartPole as quickly as it can, on embedded servers, in turn without and
with the backup process that their supervisor keeps beside it. The lag of the backup is read four
times a second.

    python benchmarks/backup.py --seconds 20 --rounds 3
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from _pairs import jamboree, machine

from jamboree_gym import DBHandler, Jamboree

TRAINER = """
import sys, time
import gymnasium as gym
from jamboree_gym import Jamboree

with Jamboree(namespace=sys.argv[1]) as jam:
    env = jam.record(gym.make("CartPole-v1"))
    actions = [env.action_space.sample() for _ in range(4096)]
    env.reset(seed=0)
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < float(sys.argv[2]):
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            steps += 1
            if terminated or truncated:
                env.reset()
    print(steps / (time.perf_counter() - began))
"""


class Begin(DBHandler):
    """Something to save."""

    def __init__(self, jam: Jamboree) -> None:
        super().__init__(jam)
        self.entity = "begin"
        self.required = {}


def trained(namespace: str, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TRAINER, namespace, str(seconds)], stdout=subprocess.PIPE, text=True
    )


def end_of(trainer: subprocess.Popen[str]) -> float:
    """Steps a second."""
    out, _ = trainer.communicate()
    return float(out)


def backed_up(namespace: str, seconds: float) -> tuple[float, list[float], float]:
    """Steps a second, the lags seen meanwhile, and how long it took to catch up at the end."""
    with Jamboree(namespace=namespace, backup=True) as jam:
        Begin(jam).save({})  # with the first delivery the backup begins
        while jam.backup.status().follower is None:
            time.sleep(0.05)
        trainer, lags = trained(namespace, seconds), []
        while trainer.poll() is None:
            lags.append(jam.backup.status().lag_s or 0.0)
            time.sleep(0.25)
        speed, began = end_of(trainer), time.perf_counter()
        while jam.backup.status().pending_logs:
            time.sleep(0.05)
        caught_up_s = time.perf_counter() - began
        if not jam.backup.verify():
            raise SystemExit("the backup differs")
    return speed, lags, caught_up_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(machine())
    ratios, all_lags = [], []
    with jamboree() as jam:
        os.environ["JAMBOREE_HOME"] = str(jam._connection.read_options()["home"])
        jam.mongo.command("ping")  # it runs in both cases
        for number in range(arguments.rounds):
            alone = end_of(trained(f"alone-{number}", arguments.seconds))
            speed, lags, caught_up_s = backed_up(f"backed-{number}", arguments.seconds)
            ratios.append(speed / alone)
            all_lags += lags
            print(
                f"round {number}: alone {alone:,.0f} steps/s, beside the backup {speed:,.0f} "
                f"({speed / alone:.2f}); lag p50 {statistics.median(lags):.2f} s, "
                f"max {max(lags):.2f} s; caught up {caught_up_s:.2f} s after the end"
            )
    print(
        f"median of {arguments.rounds}: {statistics.median(ratios):.2f} of the speed without; "
        f"lag p50 {statistics.median(all_lags):.2f} s, max {max(all_lags):.2f} s"
    )


if __name__ == "__main__":
    main()
