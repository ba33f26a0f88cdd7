"""What recording costs of a step within a real training, where caches are cold after the policy.

PPO learns. Timers stand around the recorder of the VecEnv, around the `forward` of the
policy and around the callback; what runs within (environments, the policy) is taken off. The same
timers around a wrapper and a callback that do nothing say what the timers and SB3 cost: that is
taken off, too. Medians, in µs for one step of the VecEnv.

Run: .venv/bin/python benchmarks/training_step.py [--rounds 5] [--env Hopper-v5]
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from _pairs import jamboree, machine, median
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper

from jamboree_gym import Jamboree
from jamboree_gym.integrations.sb3 import JamboreeCallback
from jamboree_gym.integrations.sb3.training.policy_watch import PolicyWatch

TIMESTEPS = 4096
Times = defaultdict[str, list[int]]


def timed(function: Callable[..., Any], times: list[int]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter_ns()
        result = function(*args, **kwargs)
        times.append(time.perf_counter_ns() - began)
        return result

    return call


class Passing(VecEnvWrapper):
    """Does nothing."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_async(self, actions: Any) -> None:
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        return self.venv.step_wait()


class Timed(Passing):
    """Measures what is below."""

    def __init__(self, venv: Any, name: str, times: Times) -> None:
        super().__init__(venv)
        self.step_async = timed(self.step_async, times[f"{name} async"])  # type: ignore[method-assign]
        self.step_wait = timed(self.step_wait, times[f"{name} wait"])  # type: ignore[method-assign]


class Idle(BaseCallback):
    """Stands where `JamboreeCallback` does, and does nothing."""

    def _on_training_start(self) -> None:
        PolicyWatch(self.model.policy, lambda result: None)

    def _on_step(self) -> bool:
        return True


def learn(jam: Jamboree | None, env_id: str, num_envs: int) -> dict[str, float]:
    """Medians of a learn: of the step, and of the callback with its part of `forward`."""
    times = Times(list)
    inner = Timed(DummyVecEnv([lambda: gym.make(env_id)] * num_envs), "inner", times)
    recorded = Passing(inner) if jam is None else jam.record(inner, run="step")
    model = PPO(
        "MlpPolicy",
        Timed(recorded, "outer", times),
        n_steps=1024 // num_envs,
        seed=1,
        device="cpu",
    )
    model.policy.forward = timed(model.policy.forward, times["inner forward"])  # type: ignore[method-assign]
    callback = Idle() if jam is None else JamboreeCallback(jam, verbose=0)
    callback.on_step = timed(callback.on_step, times["on_step"])  # type: ignore[method-assign]
    call = PolicyWatch.__call__

    def timed_call(self: PolicyWatch, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter_ns()
        result = call(self, *args, **kwargs)
        times["outer forward"].append(time.perf_counter_ns() - began)
        return result

    PolicyWatch.__call__ = timed_call  # type: ignore[method-assign]
    try:
        model.learn(TIMESTEPS, callback=callback)
    finally:
        PolicyWatch.__call__ = call  # type: ignore[method-assign]
    us = {name: np.array(taken) / 1e3 for name, taken in times.items()}
    step = us["outer async"] - us["inner async"] + us["outer wait"] - us["inner wait"]
    forward = us["outer forward"] - us["inner forward"]
    return {
        "step": float(np.median(step)),
        "callback": float(np.median(forward) + np.median(us["on_step"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--env", default="CartPole-v1", help="Hopper-v5 has infos in each step")
    arguments = parser.parse_args()
    rounds, env_id = arguments.rounds, arguments.env
    torch.set_num_threads(1)
    print(machine())
    with jamboree() as jam:
        for num_envs in (1, 4):
            taken = [
                (learn(None, env_id, num_envs), learn(jam, env_id, num_envs)) for _ in range(rounds)
            ]
            found = {
                what: sorted(ours[what] - idle[what] for idle, ours in taken)
                for what in ("step", "callback")
            }
            print(
                f"{num_envs} x {env_id}: "
                + ", ".join(
                    f"{what} {median(own):.1f} µs ({own[0]:.1f} to {own[-1]:.1f})"
                    for what, own in found.items()
                )
            )


if __name__ == "__main__":
    main()
