"""How much tracing slows PPO (Stable-Baselines3, 4 CartPole environments), measured in turn.

Three times: untraced, traced, and traced with `JamboreeCallback`, which makes a checkpoint at the
end. Target of tracing: at most 2 %. The weights at the end are compared: they have to be the same,
bit for bit. A noisy machine spoils the comparison, so a run with clocks says where tracing spends
time.

Run: .venv/bin/python benchmarks/ppo.py
"""

import argparse
import time
from typing import ClassVar

import gymnasium as gym
import torch
from _pairs import in_turn, jamboree, machine, median, ratio
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from jamboree_gym.integrations.sb3 import JamboreeCallback

ENVS = 4


def train(
    make_env, timesteps: int, callback: BaseCallback | None = None
) -> tuple[float, float, list[torch.Tensor]]:
    """Timesteps a second, those a second of processor time, and the weights that came of it."""
    envs = VecMonitor(DummyVecEnv([make_env] * ENVS))
    model = PPO("MlpPolicy", envs, n_steps=256, seed=1, device="cpu")
    began, cpu_began = time.perf_counter(), time.process_time()
    model.learn(timesteps, callback=callback)
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
    cpu: dict[str, list[float]] = {}

    with jamboree() as jam:

        def recorded():
            return jam.record(gym.make("CartPole-v1"), run="ppo")

        def run(name: str, make_env, callback: BaseCallback | None = None) -> float:
            rate, cpu_rate, weights[name] = train(make_env, arguments.timesteps, callback)
            cpu.setdefault(name, []).append(cpu_rate)
            return rate

        taken = in_turn(
            arguments.rounds,
            untraced=lambda: run("untraced", lambda: gym.make("CartPole-v1")),
            traced=lambda: run("traced", recorded),
            followed=lambda: run("followed", recorded, JamboreeCallback(jam, verbose=0)),
        )
        for rates in cpu.values():
            del rates[0]  # of the round that does not count
        where = where_the_time_goes(jam, 4 * arguments.timesteps)
        steps = sum(summary.steps for summary in jam.episodes().summaries())
    print(f"PPO, {ENVS} x CartPole-v1, target 2 % slower; followed = traced with JamboreeCallback")
    for what, of in (("on the clock", taken), ("of processor time", cpu)):
        print(f"  timesteps a second {what}: untraced {median(of['untraced']):,.0f}")
        for name in ("traced", "followed"):
            print(f"    {name} {median(of[name]):,.0f}: {slower(of[name], of['untraced'])}")
    print(f"  {where}")
    same = all(
        all(map(torch.equal, weights[name], weights["untraced"])) for name in ("traced", "followed")
    )
    print(f"  {steps:,} steps recorded; weights {'equal' if same else 'DIFFER'}")


def slower(these: list[float], than: list[float]) -> str:
    percent = median([100 * (1 - a / b) for a, b in zip(these, than, strict=True)])
    return f"{percent:.1f} % slower, ratio {ratio(these, than)}"


if __name__ == "__main__":
    main()
