"""How much tracing slows PPO (Stable-Baselines3, 4 CartPole environments), measured in turn.

Target: at most 2 %. The weights at the end are compared: they have to be the same, bit for bit.

Run: .venv/bin/python benchmarks/ppo.py
"""

import argparse
import time

import gymnasium as gym
import torch
from _pairs import in_turn, jamboree, machine, median, ratio
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

ENVS = 4


def train(make_env, timesteps: int) -> tuple[float, list[torch.Tensor]]:
    """Timesteps a second, and the weights that came of it."""
    envs = VecMonitor(DummyVecEnv([make_env] * ENVS))
    model = PPO("MlpPolicy", envs, n_steps=256, seed=1, device="cpu")
    began = time.perf_counter()
    model.learn(timesteps)
    rate = timesteps / (time.perf_counter() - began)
    envs.close()
    return rate, [weight.detach().clone() for weight in model.policy.parameters()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--timesteps", type=int, default=8192)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    weights: dict[str, list[torch.Tensor]] = {}

    def run(name: str, make_env) -> float:
        rate, weights[name] = train(make_env, arguments.timesteps)
        return rate

    with jamboree() as jam:
        taken = in_turn(
            arguments.rounds,
            traced=lambda: run("traced", lambda: jam.record(gym.make("CartPole-v1"), run="ppo")),
            untraced=lambda: run("untraced", lambda: gym.make("CartPole-v1")),
        )
        steps = sum(summary.steps for summary in jam.episodes().summaries())
    same = all(map(torch.equal, weights["traced"], weights["untraced"]))
    slower = [1 - t / u for t, u in zip(taken["traced"], taken["untraced"], strict=True)]
    print(
        f"PPO, {ENVS} x CartPole-v1: untraced {median(taken['untraced']):,.0f} timesteps/s, traced "
        f"{median(taken['traced']):,.0f}, ratio {ratio(taken['traced'], taken['untraced'])}: "
        f"{100 * median(slower):.1f} % slower, target 2; {steps:,} steps recorded; "
        f"weights {'equal' if same else 'DIFFER'}"
    )


if __name__ == "__main__":
    main()
