"""How much recording slows the training of Stable-Baselines3, in learns that take turns.

A round is one `learn` each of: plain, recorded, recorded with `JamboreeCallback`, plain again. What
recording costs is measured against the mean of the two plain ones; their difference is the noise.
PPO on 4 CartPole environments, PPO on 4 of MuJoCo, SAC on Pendulum. Target: at most 2 % slower when
recorded. The weights at the end have to be the same in all four, bit for bit.

Run: .venv/bin/python benchmarks/ppo.py [--case cartpole] [--rounds 9]
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from _pairs import jamboree, machine, median
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from jamboree_gym.integrations.sb3 import JamboreeCallback


@dataclass(frozen=True)
class Case:
    """A training: its environments, and how it makes a model of them."""

    env_id: str
    envs: int
    model: Callable[[Any], Any]


CASES = {
    "cartpole": Case(
        "CartPole-v1", 4, lambda envs: PPO("MlpPolicy", envs, n_steps=256, seed=1, device="cpu")
    ),
    "mujoco": Case(
        "Hopper-v5", 4, lambda envs: PPO("MlpPolicy", envs, n_steps=256, seed=1, device="cpu")
    ),
    "pendulum": Case(
        "Pendulum-v1",
        1,
        lambda envs: SAC("MlpPolicy", envs, learning_starts=100, seed=1, device="cpu"),
    ),
}


@dataclass(frozen=True)
class Learned:
    """What a learn took, on the clock and of processor time, and the weights that came of it."""

    seconds: float
    cpu_seconds: float
    weights: list[torch.Tensor]


def learn(
    case: Case, make_env: Callable[[], gym.Env], timesteps: int, callback: BaseCallback | None
) -> Learned:
    envs = VecMonitor(DummyVecEnv([make_env] * case.envs))
    model = case.model(envs)
    began, cpu_began = time.perf_counter(), time.process_time()
    model.learn(timesteps, callback=callback)
    took, cpu_took = time.perf_counter() - began, time.process_time() - cpu_began
    envs.close()
    weights = [weight.detach().clone() for weight in model.policy.parameters()]
    return Learned(took, cpu_took, weights)


def measure(name: str, case: Case, rounds: int, timesteps: int) -> None:
    def plain() -> gym.Env:
        return gym.make(case.env_id)

    taken: defaultdict[str, list[Learned]] = defaultdict(list)
    with jamboree(backup=True) as jam:

        def recorded() -> gym.Env:
            env: gym.Env = jam.record(gym.make(case.env_id), run=name)
            return env

        for counted in range(rounds + 1):
            callback = JamboreeCallback(jam, verbose=0)
            learns = {
                "plain": learn(case, plain, timesteps, None),
                "recorded": learn(case, recorded, timesteps, None),
                "with callback": learn(case, recorded, timesteps, callback),
                "plain again": learn(case, plain, timesteps, None),
            }
            if counted:  # the first round does not count
                for what, one in learns.items():
                    taken[what].append(one)
    print(f"{name}: {case.envs} x {case.env_id}, {timesteps:,} timesteps a learn")
    for what, of in (("on the clock", "seconds"), ("of processor time", "cpu_seconds")):
        took = {one: [getattr(each, of) for each in them] for one, them in taken.items()}
        base = [(a + b) / 2 for a, b in zip(took["plain"], took["plain again"], strict=True)]
        us = 1e6 * median(base) / timesteps
        noise = slower(took["plain again"], took["plain"])
        print(
            f"  {what}: plain {us:.0f} µs a timestep; "
            f"recorded {slower(took['recorded'], base)}, "
            f"with callback {slower(took['with callback'], base)}; noise {noise}"
        )
    first = taken["plain"][0].weights
    same = all(all(map(torch.equal, one.weights, first)) for them in taken.values() for one in them)
    print(f"  weights {'equal' if same else 'DIFFER'}")


def slower(these: list[float], than: list[float]) -> str:
    """Median of the differences in percent, and their middle half."""
    percents = sorted(100 * (a / b - 1) for a, b in zip(these, than, strict=True))
    quarter = len(percents) // 4
    return f"{median(percents):+.1f} % ({percents[quarter]:+.1f} to {percents[-quarter - 1]:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--timesteps", type=int, default=2048)
    parser.add_argument("--case", action="append", choices=CASES, dest="cases")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    for name in arguments.cases or CASES:
        measure(name, CASES[name], arguments.rounds, arguments.timesteps)


if __name__ == "__main__":
    main()
