"""The main job from end to end, on embedded servers; every fact that is printed has been checked.

Trains a small PPO agent on CartPole with and without tracing, shows its newest transactions,
simulates every episode again, backs up, wipes Redis and restores it.

Run it: make demo    (or: python examples/demo.py --timesteps 4096)
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
import time
from pathlib import Path

import gymnasium as gym
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from jamboree_gym import EpisodeHandler, Jamboree
from jamboree_gym.replay import verify
from jamboree_gym.servers.embedded import stop_servers

ENV_ID = "CartPole-v1"
ENVS = 4
SEED = 7
RUN = "demo"

console = Console()


class DemoFailed(SystemExit):
    """A check did not hold: the demo ends with exit code 1."""


def check(holds: bool, fact: str) -> None:
    """Print a fact that holds, or end the demo."""
    if not holds:
        console.print(f"[bold red]✗ not true:[/] {fact}")
        raise DemoFailed(1)
    console.print(f"[green]✓[/] {fact}")


def progress_bar() -> Progress:
    """One bar with its count and time."""
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=console, transient=True)


class ShowProgress(BaseCallback):
    """Moves the bar while SB3 trains."""

    def __init__(self, progress: Progress, timesteps: int, description: str) -> None:
        super().__init__()
        self._progress = progress
        self._task = progress.add_task(description, total=timesteps)

    def _on_step(self) -> bool:
        self._progress.update(self._task, completed=self.num_timesteps)
        return True


def train(jam: Jamboree | None, timesteps: int, description: str) -> tuple[PPO, float]:
    """Train PPO from the same seed, traced where a Jamboree is given; the model and its steps/s."""

    def make_env() -> gym.Env:
        env = gym.make(ENV_ID)
        return env if jam is None else jam.record(env, run=RUN, tags={"algorithm": "PPO"})

    envs = VecMonitor(DummyVecEnv([make_env] * ENVS))
    model = PPO("MlpPolicy", envs, seed=SEED, n_steps=256, batch_size=256, device="cpu")
    with progress_bar() as progress:
        began = time.perf_counter()
        model.learn(timesteps, callback=ShowProgress(progress, timesteps, description))
        steps_per_s = model.num_timesteps / (time.perf_counter() - began)
    envs.close()
    return model, steps_per_s


def same_weights(a: PPO, b: PPO) -> bool:
    """Whether two policies are equal in every bit."""
    pairs = zip(a.policy.state_dict().values(), b.policy.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def stored_bytes(jam: Jamboree) -> dict[str, bytes]:
    """Every log in Redis, byte for byte."""
    keys = list(jam._connection.redis_store.log_keys())
    return {
        key: b"".join(log) for key, log in zip(keys, jam._connection.store.whole(keys), strict=True)
    }


def redis_memory(jam: Jamboree) -> int:
    """Bytes that Redis uses for all keys."""
    return sum(jam.redis.memory_usage(key, samples=0) or 0 for key in jam.redis.scan_iter("*"))


def transactions_table(steps: list[dict]) -> Table:
    """Transactions as a person reads them."""
    table = Table(*("step", "observation", "action", "reward", "terminated", "truncated"))
    for step in steps:
        observation = " ".join(f"{value:+.3f}" for value in step["observation"])
        ends = (str(step["terminated"]), str(step["truncated"]))
        table.add_row(
            str(step["index"]), observation, str(step["action"]), str(step["reward"]), *ends
        )
    return table


def run(jam: Jamboree, timesteps: int) -> Table:
    """The whole story; the table at its end."""
    console.rule("1  train, with and without tracing")
    train(None, ENVS * 256, "warming up")
    plain, plain_steps_per_s = train(None, timesteps, "PPO, not traced")
    traced, traced_steps_per_s = train(jam, timesteps, "PPO, traced")
    jam.flush()
    episodes = jam.episodes(run=RUN)
    summaries = episodes.summaries()
    steps = sum(summary.steps for summary in summaries)
    check(same_weights(plain, traced), "the traced agent is the untraced one, bit for bit")
    check(steps == traced.num_timesteps, f"every one of its {steps:,} steps is in Redis")

    console.rule("2  look at the newest transactions of its longest episode")
    longest = max(summaries, key=lambda summary: summary.steps)
    handler = EpisodeHandler(jam)
    handler["episode"] = longest.id
    newest = handler.many(5)[::-1]
    console.print(transactions_table(newest))
    last = longest.steps - 1
    check([step["index"] for step in newest] == list(range(last, last - 5, -1)), "newest first")

    console.rule("3  replay every episode from its spec, seed or RNG state, and actions")
    equal = 0
    with progress_bar() as progress:
        for episode in progress.track(list(episodes), description="simulating again"):
            report = verify(episode)
            equal += bool(report)
            if not report:
                console.print(f"[red]{report}[/]")
    check(equal == len(summaries), f"{equal} of {len(summaries)} episodes are equal, bit for bit")

    console.rule("4  back up, wipe Redis, restore")
    console.print(f"the backup is {jam.backup.status().kind}")
    with progress_bar() as progress:
        task = progress.add_task("backing up", total=None)
        jam.backup.flush(progress=lambda done, of: progress.update(task, completed=done, total=of))
    check(bool(jam.backup.verify()), "the backup holds every batch, byte for byte")
    memory = redis_memory(jam)
    before = stored_bytes(jam)
    jam.redis.flushall()
    check(stored_bytes(jam) == {}, "Redis holds no episode any more")
    kept_steps = sum(one.steps for one in jam.episodes().summaries())
    check(bool(verify(jam.episode(longest.id))), "one that is asked for comes from the backup")
    with progress_bar() as progress:
        task = progress.add_task("restoring", total=None)
        jam.backup.restore(
            progress=lambda done, of: progress.update(task, completed=done, total=of)
        )
    after = stored_bytes(jam)
    restored = sum(after.get(key) == content for key, content in before.items())
    check(after == before, f"{restored} of {len(before)} episodes are back, byte for byte")
    check(bool(verify(jam.episode(longest.id))), "and the longest one still replays equal")

    table = Table(title=f"PPO on {ENV_ID}, {ENVS} environments")
    table.add_column("what")
    table.add_column("how much", justify="right")
    for what, how_much in (
        ("episodes", f"{len(summaries):,}"),
        ("steps", f"{steps:,}"),
        ("steps/s without tracing", f"{plain_steps_per_s:,.0f}"),
        ("steps/s with tracing", f"{traced_steps_per_s:,.0f}"),
        ("bytes in Redis", f"{memory:,}"),
        ("steps in the backup", f"{kept_steps:,}"),
        ("replays equal", f"{equal} of {len(summaries)}"),
        ("restored equal", f"{restored} of {len(before)}"),
    ):
        table.add_row(what, how_much)
    check(kept_steps == steps, f"all {steps:,} steps are in the backup")
    return table


def main() -> None:
    """Parse the arguments, run on servers in a new directory, clean up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--timesteps", type=int, default=20_480, help="steps to train, each time")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)  # for a net this small, more threads only wait for each other
    home = Path(tempfile.mkdtemp(prefix="jamboree-demo-"))
    try:
        with Jamboree(home=home) as jam:
            console.print(run(jam, arguments.timesteps))
    finally:
        stop_servers(home)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
