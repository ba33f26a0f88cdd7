"""Processor instructions that recording a step costs, on all threads of the trainer (callgrind).

Instructions do not drift with the machine, as times do. They are counted from the 200th step to the
end of the last delivery; of a vector environment, for each sub-environment. Valgrind makes a
program about fifty times slower, so deliveries go by size here, not by time.

Run: .venv/bin/python benchmarks/instructions.py [--case pendulum]    (needs valgrind)
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from _pairs import jamboree, machine
from gymnasium import spaces

from jamboree_gym import Jamboree

NEVER_S = 3600.0
MAX_PENDING_BYTES = 1 << 30
WARM_STEPS = 200
STEPS = 2000


class Giving(gym.Env[Any, Any]):
    """Gives the same observation and info again; an episode has 200 steps."""

    def __init__(self, space: spaces.Space[Any], observation: Any, info: dict[str, Any]) -> None:
        self.observation_space = space
        self.action_space = spaces.Discrete(4)
        self._observation, self._info, self._steps = observation, info, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self._observation, self._info

    def step(self, action):
        self._steps += 1
        return self._observation, 1.0, False, self._steps == 200, self._info


def box(*shape: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


def frame() -> gym.Env:
    space = spaces.Box(0, 255, (84, 84, 4), np.uint8)
    return Giving(space, space.sample(), {})


def nested() -> gym.Env:
    space = spaces.Dict({"position": box(3), "velocity": box(3), "goal": spaces.Discrete(5)})
    return Giving(space, space.sample(), {})


def infos() -> gym.Env:
    return Giving(box(4), np.zeros(4, np.float32), {"lives": 3, "x": 0.5, "name": "level-1"})


def mujoco() -> gym.Env:
    """With the info of HalfCheetah-v5."""
    names = ("x_position", "x_velocity", "reward_forward")
    info = {name: np.float64(0.1) for name in names} | {"reward_ctrl": np.float32(-0.1)}
    return Giving(box(17), np.zeros(17, np.float32), info)


def minigrid() -> gym.Env:
    """With an observation as that of MiniGrid: an image, a number and a text."""
    image = spaces.Box(0, 255, (7, 7, 3), np.uint8)
    space = spaces.Dict(image=image, direction=spaces.Discrete(4), mission=spaces.Text(99))
    observation = {"image": image.sample(), "direction": 1, "mission": "get to the green square"}
    return Giving(space, observation, {})


def made(env_id: str) -> Callable[[], gym.Env]:
    return lambda: gym.make(env_id, disable_env_checker=True)


CASES: dict[str, Callable[[], gym.Env]] = {
    "cartpole": made("CartPole-v1"),
    "pendulum": made("Pendulum-v1"),
    "frame": frame,
    "dict": nested,
    "infos": infos,
    "mujoco": mujoco,
    "minigrid": minigrid,
    "annotations": made("CartPole-v1"),
}


VECTOR_CASES = {"vector64": 64, "vector256": 256}  # CartPoleVectorEnv with so many environments
VECTOR_WARM_STEPS, VECTOR_STEPS = 30, 300


def run_vector(case: str, steps: int, home: str | None) -> None:
    """The same with a vector environment."""
    envs = gym.make_vec(
        "CartPole-v1", num_envs=VECTOR_CASES[case], vectorization_mode="vector_entry_point"
    )
    if home is not None:
        jam = opened(home)
        envs = jam.record(envs, run=case)
    actions = np.random.default_rng(0).integers(0, 2, (VECTOR_WARM_STEPS + steps, envs.num_envs))
    envs.reset(seed=0)
    for step, action in enumerate(actions):
        if step == VECTOR_WARM_STEPS:
            count("on")
        envs.step(action)
    if home is not None:
        jam.flush()
    count("off")
    os._exit(0)


def opened(home: str) -> Jamboree:
    return Jamboree(
        home=home, backup=False, flush_interval_s=NEVER_S, max_pending_bytes=MAX_PENDING_BYTES
    )


def run(case: str, steps: int, home: str | None) -> None:
    """Step an environment, recorded if there is a home; nothing is printed."""
    env = CASES[case]()
    recorded = None
    if home is not None:
        jam = opened(home)
        env = recorded = jam.record(env, run=case)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(200)]
    env.reset(seed=0)
    for step in range(WARM_STEPS + steps):
        if step == WARM_STEPS:
            count("on")
        if recorded is not None and case == "annotations":
            recorded.annotate(value=0.5, log_prob=-0.7, policy_version=step // 100)
        _, _, terminated, truncated, _ = env.step(actions[step % 200])
        if terminated or truncated:
            env.reset()
    if home is not None:
        jam.flush()
    count("off")
    os._exit(0)


def count(switch: str) -> None:
    subprocess.run(["callgrind_control", "-i", switch, str(os.getpid())], check=True)


def a_step(case: str, steps: int, home: str | None) -> float:
    command = ["valgrind", "--tool=callgrind", "--instr-atstart=no"]
    command += [
        "--callgrind-out-file=/dev/null",
        sys.executable,
        __file__,
        "--case",
        case,
        "--counted",
        str(steps),
    ]
    done = subprocess.run(
        command if home is None else [*command, "--home", home],
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise SystemExit(f"valgrind failed: {done.stderr[-400:]}")
    return int(found[1]) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=[*CASES, *VECTOR_CASES], dest="cases")
    parser.add_argument("--counted", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--home", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    cases = arguments.cases or [*CASES, *VECTOR_CASES]
    if arguments.counted is not None:
        played = run_vector if cases[0] in VECTOR_CASES else run
        played(cases[0], arguments.counted, arguments.home)
    if shutil.which("valgrind") is None:
        print("left out: it needs valgrind (apt-get install valgrind)")
        return
    print(machine())
    home = tempfile.mkdtemp(prefix="jamboree-bench-")
    with jamboree(home=Path(home)):
        for case in cases:
            steps = VECTOR_STEPS if case in VECTOR_CASES else STEPS
            width = VECTOR_CASES.get(case, 1)
            raw = a_step(case, steps, None) / width
            recorded = a_step(case, steps, home) / width
            print(
                f"{case:<12} raw {raw:>9,.0f}  recorded {recorded:>9,.0f}  "
                f"recording +{recorded - raw:>8,.0f} instructions a step"
            )


if __name__ == "__main__":
    main()
