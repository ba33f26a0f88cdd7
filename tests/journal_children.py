"""What `test_journal_kill.py` kills: recording processes that note what has returned.

The note is a mapped file, which outlives its process: first how many calls have returned, then a
record for each: its episode, the step in it, and how that ended it (0: it goes on).
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

NOTE = struct.Struct("<32sqqq")  # episode, step, observed, end
FIRST = 8
MAX_NOTES = 40_000
FULL_SPEED_NOTES = 8_000  # then slowly, so that a process has something to do for a minute
SLOW_S = 0.004
ENDS = ("running", "terminated", "truncated")


class NumberedEnv(gym.Env[np.ndarray, Any]):
    """Observes how many steps it has taken in its life, and ends in both ways.

    Its rewards tell of that, and of the action.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - as gymnasium.Env has it

    def __init__(self, first: int = 0) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Discrete(8)
        self.moved, self.left = first, 0

    def observe(self) -> np.ndarray:
        """The number, and half of it."""
        return np.array([self.moved, self.moved / 2])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode of some other length."""
        super().reset(seed=seed)
        self.left = 5 + self.moved % 37
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Count on."""
        self.moved += 1
        self.left -= 1
        is_over = self.left <= 0
        info = {"moved": self.moved, "text": "x" * (self.moved % 7)} if self.moved % 5 == 0 else {}
        is_even = self.moved % 2 == 0
        reward = self.moved / 8 + float(action)
        return self.observe(), reward, is_over and is_even, is_over and not is_even, info


class NumberedEnvs(VectorEnv[Any, Any, Any]):
    """Sixteen of them, stepped by array operations. The first tells an info now and then."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - as Gymnasium has it

    def __init__(self) -> None:
        self.num_envs, one = 16, NumberedEnv()
        self.single_observation_space = one.observation_space
        self.single_action_space = one.action_space
        self.observation_space = batch_space(one.observation_space, self.num_envs)
        self.action_space = batch_space(one.action_space, self.num_envs)
        self.moved = np.arange(self.num_envs) * 1_000_000
        self.left = 5 + self.moved % 37
        self.over = np.zeros(self.num_envs, np.bool_)

    def observe(self) -> np.ndarray:
        """The number of each, and half of it."""
        return np.stack([self.moved, self.moved / 2], axis=1)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode of each."""
        return self.observe(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Count on; those whose episode was over begin another."""
        begins = self.over
        self.moved += ~begins
        self.left = np.where(begins, 5 + self.moved % 37, self.left - 1)
        self.over = self.left <= 0
        is_even = self.moved % 2 == 0
        infos: dict[str, Any] = {}
        if self.moved[0] % 30 == 0 and not begins[0]:
            number = int(self.moved[0])
            infos = self._add_info(infos, {"moved": number, "text": "x" * (number % 7)}, 0)
        rewards = np.where(begins, 0.0, self.moved / 8 + actions)
        return self.observe(), rewards, self.over & is_even, self.over & ~is_even, infos


class Notes:
    """The mapped file."""

    def __init__(self, path: Path | str, *, is_new: bool = False) -> None:
        if is_new:
            with open(path, "wb") as file:
                file.truncate(FIRST + MAX_NOTES * NOTE.size)
        with open(path, "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._counts = memoryview(self._memory)[:FIRST].cast("q")

    @property
    def count(self) -> int:
        """How many calls have returned."""
        return self._counts[0]

    @property
    def is_full(self) -> bool:
        """Whether no more can be noted."""
        return self.count + 64 > MAX_NOTES

    def add(self, episode: str, step: int, observed: int, end: int) -> None:
        """Note a call that has returned."""
        count = self._counts[0]
        NOTE.pack_into(
            self._memory, FIRST + count * NOTE.size, episode.encode(), step, observed, end
        )
        self._counts[0] = count + 1
        if count > FULL_SPEED_NOTES:
            time.sleep(SLOW_S)

    def read(self) -> Iterator[tuple[str, int, int, int]]:
        """All of them."""
        for n in range(self.count):
            episode, *rest = NOTE.unpack_from(self._memory, FIRST + n * NOTE.size)
            yield episode.rstrip(b"\0").decode(), *rest


OPEN = """
import sys, time
import gymnasium as gym, numpy as np
from jamboree_gym import Jamboree
from journal_children import Notes, NumberedEnv
from processes import NoteHandler

url, namespace, home, interval_s, path = sys.argv[1:]
notes = Notes(path)
jam = Jamboree(
    url or None, namespace=namespace, home=home, flush_interval_s=float(interval_s), backup=False
)
"""

SINGLE = """
env = jam.record(NumberedEnv(), run="r")
while not notes.is_full:
    env.reset()
    step, end = 0, 0
    while not end:
        observation, _, terminated, truncated, _ = env.step(7)
        step, end = step + 1, terminated + 2 * truncated
        notes.add(env.episode_id, step, int(observation[0]), end)
"""

VECTOR = """
made = gym.vector.SyncVectorEnv(
    [lambda n=n: NumberedEnv(n * 1_000_000) for n in range(3)],
    autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
)
envs = jam.record(made, run="r")
envs.reset()
steps = [0] * 3
while not notes.is_full:
    ids = envs.episode_ids
    _, _, terminations, truncations, infos = envs.step(np.array([7] * 3))
    for n in range(3):
        steps[n] += 1
        end = int(terminations[n]) + 2 * int(truncations[n])
        observed = made.envs[n].unwrapped.moved
        notes.add(ids[n], steps[n], observed, end)
        if end:
            steps[n] = 0
"""

VEC_ENV = """
from stable_baselines3.common.vec_env import DummyVecEnv
made = DummyVecEnv([lambda n=n: NumberedEnv(n * 1_000_000) for n in range(3)])
envs = jam.record(made, run="r")
envs.reset()
steps = [0] * 3
while not notes.is_full:
    ids = envs.episode_ids
    _, _, dones, infos = envs.step(np.array([7] * 3))
    for n in range(3):
        steps[n] += 1
        truncated = infos[n].get("TimeLimit.truncated", False)
        end = 0 if not dones[n] else 2 if truncated else 1
        notes.add(ids[n], steps[n], made.envs[n].unwrapped.moved, end)
        if end:
            steps[n] = 0
"""

BLOCK = """
from journal_children import NumberedEnvs
made = NumberedEnvs()
envs = jam.record(made, run="r")
envs.reset()
steps = [0] * made.num_envs
while not notes.is_full:
    resets = made.over.tolist()
    _, _, terminations, truncations, _ = envs.step(np.array([7] * made.num_envs))
    ids, ends = envs.episode_ids, (terminations + 2 * truncations).tolist()
    for n, observed in enumerate(made.moved.tolist()):
        steps[n] = 0 if resets[n] else steps[n] + 1
        if steps[n]:
            notes.add(ids[n], steps[n], observed, ends[n])
"""

SAVES = """
handler = NoteHandler(jam, "killed")
name = sys.argv[-1][-20:]
number = 0
while not notes.is_full:
    handler.save({"n": number, "by": name})
    notes.add(name, number, number, 0)
    number += 1
"""

# What notes is above the recorder: what the one returns, the other has returned.
LEARN = """
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper
from jamboree_gym.integrations.sb3 import JamboreeCallback

class Noting(VecEnvWrapper):
    def __init__(self, venv, made):
        super().__init__(venv)
        self.made, self.taken = made, [0] * 3

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        ids = self.venv.episode_ids
        observations, rewards, dones, infos = self.venv.step_wait()
        for n in range(3):
            self.taken[n] += 1
            truncated = infos[n].get("TimeLimit.truncated", False)
            end = 0 if not dones[n] else 2 if truncated else 1
            notes.add(ids[n], self.taken[n], self.made.envs[n].unwrapped.moved, end)
            if end:
                self.taken[n] = 0
        if notes.is_full:
            time.sleep(3600)
        return observations, rewards, dones, infos

torch.set_num_threads(1)
made = DummyVecEnv([lambda n=n: NumberedEnv(n * 1_000_000) for n in range(3)])
model = PPO(
    "MlpPolicy", Noting(jam.record(made, run="r"), made), n_steps=64, batch_size=192, n_epochs=1,
    policy_kwargs={"net_arch": [4]}, device="cpu",
)
model.learn(10**9, callback=JamboreeCallback(jam, checkpoint_every=3000, verbose=0))
"""

CHILDREN = {
    "single": SINGLE,
    "vector": VECTOR,
    "VecEnv": VEC_ENV,
    "block": BLOCK,
    "saves": SAVES,
    "learn": LEARN,
}
CHILDREN = {kind: source + "time.sleep(3600)\n" for kind, source in CHILDREN.items()}


def info_of(kind: str, moved: int) -> dict[str, Any]:
    """What the info of a step is."""
    is_first = moved < 1_000_000
    is_told = (is_first and moved % 30 == 0) if kind == "block" else moved % 5 == 0
    return {"moved": moved, "text": "x" * (moved % 7)} if is_told else {}


# So many calls may be stored that have not returned.
AT_ONCE = {"single": 1, "vector": 3, "VecEnv": 3, "block": 16, "saves": 1, "learn": 3}
