"""DQN on CartPole, trained from the store and trained from SB3's own buffer: the same returns?

Both play in a recorded environment, with the same seeds and the hyperparameters that SB3's zoo has
for CartPole. Their trajectories part as soon as the first batch is drawn, so what is compared is
what comes of five seeds each: the return of the episodes that are played on the way, and that of
the policy at the end, over 20 episodes without exploration. (DQN is not stable on CartPole: a
single seed says little.) It draws docs/images/dqn.png.

Run: .venv/bin/python benchmarks/dqn.py
"""

import argparse
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib as mpl
import numpy as np
import torch
from _pairs import jamboree, machine
from stable_baselines3 import DQN
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from jamboree_gym.integrations.sb3 import JamboreeReplayBuffer, Unsaved

mpl.use("Agg")

# rl-baselines3-zoo, hyperparams/dqn.yml
ZOO: dict[str, Any] = {
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1000,
    "gamma": 0.99,
    "target_update_interval": 10,
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
    "policy_kwargs": {"net_arch": [256, 256]},
}
SMOOTHED = 20  # episodes
IMAGE = Path(__file__).parent.parent / "docs" / "images" / "dqn.png"


def train(jam, name: str, seed: int, timesteps: int):
    """Steps at which episodes ended, their returns, the return at the end, and seconds."""
    run = f"{name}-{seed}"
    env = Monitor(jam.record(gym.make("CartPole-v1"), run=run))
    options = dict(ZOO)
    if name == "store":
        options["replay_buffer_class"] = JamboreeReplayBuffer
        options["replay_buffer_kwargs"] = Unsaved(jam=jam, run=run)
    model = DQN("MlpPolicy", env, seed=seed, device="cpu", **options)
    began = time.perf_counter()
    model.learn(timesteps)
    took = time.perf_counter() - began
    ends, returns = np.cumsum(env.get_episode_lengths()), np.array(env.get_episode_rewards())
    at_end: Any = evaluate_policy(model, Monitor(gym.make("CartPole-v1")), n_eval_episodes=20)[0]
    env.close()
    return ends, returns, float(at_end), took


def curve(ends, returns, grid):
    """The mean return of the newest episodes at each of these steps."""
    smooth = [returns[max(0, n - SMOOTHED) : n].mean() for n in range(1, len(returns) + 1)]
    return np.interp(grid, ends, smooth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--timesteps", type=int, default=50_000)
    parser.add_argument("--image", type=Path, default=IMAGE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}, torch {torch.__version__}")
    grid = np.linspace(0, arguments.timesteps, 200)
    curves: dict[str, list[np.ndarray]] = {"own": [], "store": []}
    at_end: dict[str, list[float]] = {"own": [], "store": []}
    seconds: dict[str, list[float]] = {"own": [], "store": []}
    with jamboree() as jam:
        for seed in range(arguments.seeds):
            for name in ("own", "store"):
                ends, returns, value, took = train(jam, name, seed, arguments.timesteps)
                curves[name].append(curve(ends, returns, grid))
                at_end[name].append(value)
                seconds[name].append(took)
                print(f"  seed {seed} {name:6} at the end {value:5.0f}, {took:.0f} s", flush=True)
    print(f"{'buffer':24}{'at the end, each seed':32}{'mean':>6}{'on the way':>12}{'seconds':>9}")
    for name, title in (("own", "SB3's ReplayBuffer"), ("store", "JamboreeReplayBuffer")):
        each = " ".join(f"{value:.0f}" for value in at_end[name])
        print(
            f"{title:24}{each:32}{np.mean(at_end[name]):6.0f}{np.mean(curves[name]):12.0f}"
            f"{np.median(seconds[name]):9.0f}"
        )
    draw(grid, curves, arguments.image)
    print(f"drawn: {arguments.image.name}")


def draw(grid, curves, path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, label in (("own", "SB3's ReplayBuffer"), ("store", "JamboreeReplayBuffer")):
        values = np.array(curves[name])
        (line,) = axes.plot(grid, values.mean(0), label=label)
        axes.fill_between(grid, values.min(0), values.max(0), color=line.get_color(), alpha=0.15)
    axes.set_xlabel("steps")
    axes.set_ylabel(f"return, mean of {SMOOTHED} episodes")
    axes.set_title(f"DQN on CartPole-v1, {len(curves['own'])} seeds: mean, and from least to most")
    axes.legend(loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
