"""Training from stored episodes alone: nothing is played, there is no environment to play in.

Records PPO while it learns, unless the run is stored already: its episodes are the dataset. From it
train, on CartPole, behavioural cloning of the tenth that earned most, and DQN of all of them with
returns of 20 steps and of one; on Pendulum cloning, and SAC. Plots what several seeds of each earn
in an environment that is not recorded, and prints what they earn at the end, with 95 % confidence
intervals over the seeds, beside mean and best of what they have trained from.

Needs: pip install 'jamboree-gym[embedded,sb3]' matplotlib
Run it: python examples/offline.py    (or: --env Pendulum-v1 --seeds 2 --points 5)
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path

import gymnasium as gym
import matplotlib as mpl
import numpy as np
import torch
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import polyak_update

from jamboree_gym import Episode, Jamboree
from jamboree_gym.integrations.sb3 import to_replay_buffer, to_trajectories
from jamboree_gym.reading.query import EpisodeQuery

ENVS = 8
BATCH = 64
LEARNING_RATE = 1e-3
EVALUATION_EPISODES = 20
# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; beyond, the normal one.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

torch.set_num_threads(1)  # for nets this small, more threads only wait for each other


def record(jam: Jamboree, run: str, env_id: str, timesteps: int) -> None:
    """Let PPO learn; what it plays meanwhile is the dataset."""
    envs = jam.record(make_vec_env(env_id, n_envs=ENVS, seed=0), run=run)
    model = PPO(
        "MlpPolicy",
        envs,
        n_steps=128,
        batch_size=256,
        learning_rate=LEARNING_RATE,
        seed=0,
        device="cpu",
    )
    model.learn(timesteps)
    envs.close()
    jam.flush()


def dataset(jam: Jamboree, run: str) -> EpisodeQuery:
    """The episodes of a run that came to their end."""
    ends = ("terminated", "truncated")
    return jam.episodes(run=run, wait=True).where(lambda episode: episode.status in ends)


def spaces_of(episode: Episode) -> gym.Env:
    """An environment that tells what a model has to know, and cannot be played: `step` raises."""
    env: gym.Env = gym.Env()
    env.observation_space, env.action_space = episode.observation_space, episode.action_space
    return env


def learn_bc(episodes: EpisodeQuery, seed: int, every: int) -> Iterator[PPO]:
    """Make the actions of the best tenth likelier."""
    best = episodes.order_by("-episode_return")[: max(1, len(episodes) // 10)]
    trajectories = list(to_trajectories(best))
    observations = torch.as_tensor(np.concatenate([one.obs[:-1] for one in trajectories]))
    actions = torch.as_tensor(np.concatenate([one.acts for one in trajectories]))
    model = PPO(
        "MlpPolicy", spaces_of(episodes[0]), learning_rate=LEARNING_RATE, seed=seed, device="cpu"
    )
    while True:
        for _ in range(every):
            batch = torch.randint(len(actions), (BATCH,))
            _, log_prob, _ = model.policy.evaluate_actions(observations[batch], actions[batch])
            loss = -log_prob.mean()
            model.policy.optimizer.zero_grad()
            loss.backward()
            model.policy.optimizer.step()
        yield model


def learn_dqn(episodes: EpisodeQuery, seed: int, every: int, *, n_steps: int) -> Iterator[DQN]:
    """Train as `DQN.learn` does between two steps of the environment."""
    model = DQN(
        "MlpPolicy",
        spaces_of(episodes[0]),
        buffer_size=1,  # in place of which comes the one with the episodes
        learning_rate=LEARNING_RATE,
        tau=0.02,
        seed=seed,
        device="cpu",
    )
    model.set_logger(configure(None, []))  # `learn` makes one, and `train` needs it
    model.replay_buffer = to_replay_buffer(
        episodes, NStepReplayBuffer, n_steps=n_steps, gamma=model.gamma, device="cpu"
    )
    while True:
        for _ in range(every):
            model.train(1, BATCH)
            # `learn` does this, `train` does not: without it, values stay those of one step.
            polyak_update(model.q_net.parameters(), model.q_net_target.parameters(), model.tau)
        yield model


def learn_sac(episodes: EpisodeQuery, seed: int, every: int) -> Iterator[SAC]:
    """Train as `SAC.learn` does between two steps of the environment."""
    model = SAC(
        "MlpPolicy",
        spaces_of(episodes[0]),
        buffer_size=1,
        learning_rate=LEARNING_RATE,
        policy_kwargs={"net_arch": [64, 64]},
        seed=seed,
        device="cpu",
    )
    model.set_logger(configure(None, []))
    model.replay_buffer = to_replay_buffer(episodes, device="cpu")
    while True:
        model.train(every, BATCH)
        yield model


Learn = Callable[[EpisodeQuery, int, int], Iterator[BaseAlgorithm]]
"""From episodes and a seed: the model after every so many gradient steps, without an end."""

ALGORITHMS: dict[str, dict[str, Learn]] = {
    "CartPole-v1": {
        "BC of the best tenth": learn_bc,
        "DQN, 20-step returns": partial(learn_dqn, n_steps=20),
        "DQN, one-step returns": partial(learn_dqn, n_steps=1),
    },
    "Pendulum-v1": {"BC of the best tenth": learn_bc, "SAC": learn_sac},
}


@dataclass(frozen=True)
class Result:
    """One trained agent: its learning curve, (points,), and the value it expects at the end."""

    kind: str
    curve: np.ndarray
    expected: float


def train(kind: str, seed: int, *, env_id: str, run: str, every: int, points: int) -> Result:
    """Train one agent from the stored episodes of a run, and let it play at each point."""
    envs = make_vec_env(env_id, n_envs=EVALUATION_EPISODES, seed=10_000 + seed)
    curve = []
    with Jamboree() as jam:
        models = ALGORITHMS[env_id][kind](dataset(jam, run), seed, every)
        for model in islice(models, points):
            mean, _ = evaluate_policy(model, envs, EVALUATION_EPISODES)
            curve.append(mean)
    return Result(kind, np.array(curve), expected_value(model))


def expected_value(model: BaseAlgorithm) -> float:
    """The discounted return that it expects, as a mean over recorded observations; NaN for BC."""
    if not isinstance(model, DQN | SAC) or model.replay_buffer is None:
        return np.nan
    seen = model.replay_buffer.sample(1000).observations
    with torch.no_grad():
        if isinstance(model, DQN):
            values = model.q_net(seen).amax(dim=1)
        else:
            values = torch.cat(model.critic(seen, model.actor(seen)), dim=1).amin(dim=1)
    return float(values.mean())


def train_all(
    train_one: Callable[[str, int], Result], jobs: list[tuple[str, int]], workers: int
) -> list[Result]:
    """Train an agent of each kind and seed, in processes, and tell how far it is."""
    results = []
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=fresh) as pool:
        for future in as_completed([pool.submit(train_one, *job) for job in jobs]):
            result = future.result()
            results.append(result)
            done = f"{len(results)} of {len(jobs)} trained"
            tell(f"{done}: {result.kind}, return {result.curve[-1]:.0f}")
    return results


def tell(text: str) -> None:
    """Say how far it is, apart from what is printed at the end."""
    print(text, file=sys.stderr, flush=True)


def half_width(values: np.ndarray) -> np.ndarray:
    """Half the 95 % confidence interval of the mean over the first axis, by Student's t."""
    freedom = len(values) - 1
    quantile = T_QUANTILES[freedom - 1] if freedom <= len(T_QUANTILES) else 1.96
    return np.asarray(quantile * values.std(axis=0, ddof=1) / np.sqrt(len(values)))


def by_kind(env_id: str, results: list[Result]) -> dict[str, list[Result]]:
    return {
        kind: [result for result in results if result.kind == kind] for kind in ALGORITHMS[env_id]
    }


def plot(env_id: str, results: list[Result], recorded: np.ndarray, every: int, path: Path) -> None:
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=110)
    steps = every * np.arange(1, len(results[0].curve) + 1)
    for kind, agents in by_kind(env_id, results).items():
        curves = np.array([agent.curve for agent in agents])
        mean, spread = curves.mean(axis=0), half_width(curves)
        (line,) = axes.plot(steps, mean, label=kind)
        axes.fill_between(
            steps, mean - spread, mean + spread, color=line.get_color(), alpha=0.2, lw=0
        )
    for bound, style, label in (
        (recorded.max(), "--", "best recorded"),
        (recorded.mean(), ":", "mean recorded"),
    ):
        axes.axhline(bound, color="black", linestyle=style, linewidth=1)
        axes.annotate(f"{label}: {bound:.0f}", (0, bound), (3, 3), textcoords="offset points")
    axes.set(xlabel="gradient steps", ylabel="return of an episode", xlim=(0, steps[-1]))
    axes.set_title(f"{env_id}: mean of {len(agents)} seeds, 95 % confidence", fontsize=11)
    axes.legend(loc="center right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight")


def report(env_id: str, results: list[Result], recorded: np.ndarray) -> None:
    print(f"{env_id:<24} mean return   95 % confidence   value it expects")
    for kind, agents in by_kind(env_id, results).items():
        finals = np.array([agent.curve[-1] for agent in agents])
        mean, half = finals.mean(), half_width(finals)
        interval = f"{mean - half:.1f} to {mean + half:.1f}"
        value = np.mean([agent.expected for agent in agents])
        told = "" if np.isnan(value) else f"{value:,.1f}"
        print(f"{kind:<24} {mean:>11.1f} {interval:>17} {told:>18}".rstrip())
    print(f"{'mean recorded':<24} {recorded.mean():>11.1f}")
    print(f"{'best recorded':<24} {recorded.max():>11.1f}")


def at_least_two(text: str) -> int:
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError("two or more: one seed has no confidence interval")
    return number


def main() -> None:
    """Record what is not there, train in two processes at a time, plot and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", choices=ALGORITHMS, default="CartPole-v1")
    parser.add_argument("--run", help="name of the dataset; without it, offline-<env>")
    parser.add_argument("--timesteps", type=int, default=30_000, help="steps to record")
    parser.add_argument("--seeds", type=at_least_two, default=5, help="agents of each kind")
    parser.add_argument("--every", type=int, default=500, help="gradient steps between two points")
    parser.add_argument("--points", type=int, default=10, help="of a curve: when agents play")
    parser.add_argument("--workers", type=int, default=2, help="processes that train at a time")
    parser.add_argument("--output", type=Path, help="the picture; without it, in docs/images")
    arguments = parser.parse_args()

    env_id, run = arguments.env, arguments.run or f"offline-{arguments.env}"
    images = Path(__file__).resolve().parent.parent / "docs/images"
    picture = arguments.output or images / f"offline-{env_id}.png"
    with Jamboree() as jam:
        if not dataset(jam, run):
            tell(f"recording {arguments.timesteps:,} steps of PPO in run {run!r}")
            record(jam, run, env_id, arguments.timesteps)
        summaries = dataset(jam, run).summaries()
        steps = sum(summary.steps for summary in summaries)
        tell(f"run {run!r} has {len(summaries):,} episodes, {steps:,} steps")
        sizes = {"every": arguments.every, "points": arguments.points}
        jobs = list(product(ALGORITHMS[env_id], range(arguments.seeds)))
        results = train_all(
            partial(train, env_id=env_id, run=run, **sizes), jobs, arguments.workers
        )
    recorded = np.array([summary.episode_return for summary in summaries])
    plot(env_id, results, recorded, arguments.every, picture)
    report(env_id, results, recorded)


if __name__ == "__main__":
    main()
