"""What it is worth to an agent to see its recent transactions: PPO on Balance, with and without.

Trains several seeds of each, plots what they earn while they learn, and prints what they earn at
the end, with 95 % confidence intervals over the seeds, beside the two bounds that are known
exactly: the best possible return, and the best return without memory.

Needs: pip install 'jamboree-gym[sb3]' matplotlib
Run it: python examples/recent_transactions.py    (or: --seeds 3 --timesteps 20000)
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import gymnasium as gym
import matplotlib as mpl
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import jamboree_envs  # noqa: F401 - registers Balance
from jamboree_envs.balance import memoryless_return, optimal_return
from jamboree_gym.wrappers import RecentTransactionsObservation

ENV_ID = "jamboree/Balance-v0"
ENVS = 8
EVALUATION_EPISODES = 100
POINTS = 30
"""Points of a learning curve; each is the mean of the episodes that ended since the one before."""
COLOURS = {"with": "#1f77b4", "without": "#d62728"}
# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; beyond, the normal one.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Result:
    """One trained agent: its kind, its learning curve (POINTS,), and its mean return at the end."""

    kind: str
    curve: np.ndarray
    final: float


def make_plain() -> gym.Env:
    return gym.make(ENV_ID)


def make_with_recent() -> gym.Env:
    return RecentTransactionsObservation(gym.make(ENV_ID), 3, fields=["actions"], flatten=True)


class ReturnsOfEpisodes(BaseCallback):
    """Notes what each episode earned, and after how many steps."""

    def __init__(self):
        super().__init__()
        self.ended_at, self.returns = [], []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.ended_at.append(self.num_timesteps)
                self.returns.append(info["episode"]["r"])
        return True


def train(kind: str, seed: int, timesteps: int) -> Result:
    """Train one agent, then let it play without exploring."""
    torch.set_num_threads(1)  # for a net this small, more threads only wait for each other
    make = make_with_recent if kind == "with" else make_plain
    envs = make_vec_env(make, n_envs=ENVS, seed=seed)
    model = PPO(
        "MlpPolicy",
        envs,
        n_steps=128,
        batch_size=256,
        learning_rate=1e-3,
        gamma=0.9,
        seed=seed,
        device="cpu",
    )
    noted = ReturnsOfEpisodes()
    model.learn(timesteps, callback=noted)
    episodes_to_play = make_vec_env(make, n_envs=ENVS, seed=10_000 + seed)
    final, _ = evaluate_policy(model, episodes_to_play, EVALUATION_EPISODES)
    return Result(kind, curve_of(noted, timesteps), float(np.mean(final)))


def curve_of(noted: ReturnsOfEpisodes, timesteps: int) -> np.ndarray:
    """Mean return between each two points, NaN where no episode ended."""
    edges = np.linspace(0, timesteps, POINTS + 1)
    points = np.clip(np.searchsorted(edges, noted.ended_at) - 1, 0, POINTS - 1)
    counts = np.bincount(points, minlength=POINTS)
    sums = np.bincount(points, weights=noted.returns, minlength=POINTS)
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))


def half_width(values: np.ndarray) -> np.ndarray:
    """Half the 95 % confidence interval of the mean over the first axis, by Student's t."""
    freedom = len(values) - 1
    quantile = T_QUANTILES[freedom - 1] if freedom <= len(T_QUANTILES) else 1.96
    return np.asarray(quantile * values.std(axis=0, ddof=1) / np.sqrt(len(values)))


def plot(results: list[Result], timesteps: int, path: Path) -> None:
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=110)
    steps = np.linspace(0, timesteps, POINTS + 1)[1:]
    for kind, colour in COLOURS.items():
        curves = np.array([result.curve for result in results if result.kind == kind])
        mean, spread = curves.mean(axis=0), half_width(curves)
        label = "sees its last three actions" if kind == "with" else "sees the demand alone"
        axes.plot(steps, mean, color=colour, label=f"PPO, {label}")
        axes.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.2, lw=0)
    for bound, style, label in (
        (optimal_return(), "--", "best possible"),
        (memoryless_return(), ":", "best without memory"),
    ):
        axes.axhline(bound, color="black", linestyle=style, linewidth=1)
        axes.text(timesteps, bound + 1, f"{label}: {bound:.1f}", ha="right")
    axes.set(xlabel="steps", ylabel="return of an episode", ylim=(0, 88), xlim=(0, timesteps))
    axes.set_title(f"{ENV_ID}: mean of {len(results) // 2} seeds, 95 % confidence", fontsize=11)
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight")


def report(results: list[Result]) -> None:
    print(f"{'PPO on Balance':<34} mean return   95 % confidence")
    for kind, label in (("with", "sees its last three actions"), ("without", "sees the demand")):
        finals = np.array([result.final for result in results if result.kind == kind])
        mean, half = finals.mean(), half_width(finals)
        print(f"{label:<34} {mean:>11.1f}   {mean - half:.1f} to {mean + half:.1f}")
    print(f"{'best without memory (exact)':<34} {memoryless_return():>11.1f}")
    print(f"{'best possible (exact)':<34} {optimal_return():>11.1f}")


def at_least_two(text: str) -> int:
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError("two or more: one seed has no confidence interval")
    return number


def main() -> None:
    """Parse the arguments, train in two processes at a time, plot and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=at_least_two, default=5, help="agents of each kind")
    parser.add_argument("--timesteps", type=int, default=60_000, help="steps to train each")
    parser.add_argument("--workers", type=int, default=2, help="processes that train at a time")
    picture = Path(__file__).resolve().parent.parent / "docs/images/recent_transactions.png"
    parser.add_argument("--output", type=Path, default=picture, help="where the picture goes")
    arguments = parser.parse_args()

    jobs = list(product(COLOURS, range(arguments.seeds)))
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, mp_context=fresh) as pool:
        futures = [pool.submit(train, kind, seed, arguments.timesteps) for kind, seed in jobs]
        results = [future.result() for future in futures]
    plot(results, arguments.timesteps, arguments.output)
    report(results)


if __name__ == "__main__":
    main()
