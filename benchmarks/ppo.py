"""How much tracing slows PPO (Stable-Baselines3, 4 CartPole environments), measured in turn.

Target: at most 2 %. The weights at the end are compared: they have to be the same, bit for bit.
A noisy machine spoils the comparison, so a run with clocks says where tracing spends time.

Run: .venv/bin/python benchmarks/ppo.py
"""

import argparse
import time
from typing import ClassVar

import gymnasium as gym
import torch
from _pairs import in_turn, jamboree, machine, median, ratio
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

ENVS = 4


def train(make_env, timesteps: int) -> tuple[float, float, list[torch.Tensor]]:
    """Timesteps a second, those a second of processor time, and the weights that came of it."""
    envs = VecMonitor(DummyVecEnv([make_env] * ENVS))
    model = PPO("MlpPolicy", envs, n_steps=256, seed=1, device="cpu")
    began, cpu_began = time.perf_counter(), time.process_time()
    model.learn(timesteps)
    took, cpu_took = time.perf_counter() - began, time.process_time() - cpu_began
    envs.close()
    return (
        timesteps / took,
        timesteps / cpu_took,
        [weight.detach().clone() for weight in model.policy.parameters()],
    )


class Clock(gym.Wrapper):
    """Adds up the time of what it wraps."""

    seconds: ClassVar[dict[str, float]] = {}

    def __init__(self, env, name: str) -> None:
        super().__init__(env)
        self.name = name

    def step(self, action):
        began = time.perf_counter()
        result = self.env.step(action)
        self._add("step", began)
        return result

    def reset(self, **options):
        began = time.perf_counter()
        result = self.env.reset(**options)
        self._add("reset", began)
        return result

    def _add(self, call: str, began: float) -> None:
        name = f"{call} {self.name}"
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def where_the_time_goes(jam, timesteps: int) -> str:
    """What tracing takes of a timestep."""

    def make_env():
        return Clock(jam.record(Clock(gym.make("CartPole-v1"), "untraced"), run="ppo"), "traced")

    Clock.seconds.clear()
    cpu_began, main_began = time.process_time(), time.thread_time()
    rate, _, _ = train(make_env, timesteps)
    thread_s = (time.process_time() - cpu_began) - (time.thread_time() - main_began)
    taken = {
        call: Clock.seconds[f"{call} traced"] - Clock.seconds[f"{call} untraced"]
        for call in ("step", "reset")
    } | {"threads": thread_s}
    us = {name: 1e6 * seconds / timesteps for name, seconds in taken.items()}
    return (
        f"of a timestep's {1e6 / rate:.0f} µs, step takes {us['step']:.1f}, reset "
        f"{us['reset']:.1f}, the threads {us['threads']:.1f}: "
        f"{sum(us.values()) * rate / 1e4:.1f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--timesteps", type=int, default=4096)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    weights: dict[str, list[torch.Tensor]] = {}
    cpu: dict[str, list[float]] = {"traced": [], "untraced": []}

    def run(name: str, make_env) -> float:
        rate, cpu_rate, weights[name] = train(make_env, arguments.timesteps)
        cpu[name].append(cpu_rate)
        return rate

    with jamboree() as jam:
        taken = in_turn(
            arguments.rounds,
            traced=lambda: run("traced", lambda: jam.record(gym.make("CartPole-v1"), run="ppo")),
            untraced=lambda: run("untraced", lambda: gym.make("CartPole-v1")),
        )
        where = where_the_time_goes(jam, 4 * arguments.timesteps)
        steps = sum(summary.steps for summary in jam.episodes().summaries())
    same = all(map(torch.equal, weights["traced"], weights["untraced"]))
    print(f"PPO, {ENVS} x CartPole-v1, target 2 % slower")
    for what, of in (("on the clock", taken), ("of processor time", cpu)):
        slower = [100 * (1 - t / u) for t, u in zip(of["traced"], of["untraced"], strict=True)]
        print(
            f"  a second {what}: untraced {median(of['untraced']):,.0f} timesteps, traced "
            f"{median(of['traced']):,.0f}: {median(slower):.1f} % slower, "
            f"ratio {ratio(of['traced'], of['untraced'])}"
        )
    print(f"  {where}")
    print(f"  {steps:,} steps recorded; weights {'equal' if same else 'DIFFER'}")


if __name__ == "__main__":
    main()
