"""A process that plays and records, what it has played, and whether all of it is in Redis."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from processes import wait_until
from stored import scripts_run
from warm import start_warm

import jamboree_gym
from jamboree_gym import Jamboree
from jamboree_gym.errors import StoreFull, StoreUnavailable

ROW = np.dtype([("observation", "f4", 4), ("action", "i8"), ("reward", "f8"), ("ends", "?")])
NO_ACTION = -1  # of a reset

PLAYER = """
import sys
sys.path[:0] = sys.argv[1].split(":")
from playing import play
play(*sys.argv[2:])
"""


class PlayedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps a row of what each reset and step returned: below the recorder, independent of it."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.rows: list[tuple[Any, ...]] = []

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Reset."""
        observation, info = self.env.reset(**options)
        self.rows.append((observation.copy(), NO_ACTION, 0.0, False))
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step."""
        result = self.env.step(action)
        observation, reward, terminated, truncated, _ = result
        self.rows.append((observation.copy(), action, reward, terminated or truncated))
        return result

    @property
    def is_over(self) -> bool:
        """Whether it has to be reset."""
        return not self.rows or bool(self.rows[-1][3])


def play(url: str, namespace: str, write: str, flush_interval_s: str, path: str) -> None:
    """Play CartPole at random, as quickly as it goes, until SIGTERM; then save what was played."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    options: Any = {"write": write, "flush_interval_s": float(flush_interval_s)}
    jam = Jamboree(url, namespace=namespace, **options)
    played = PlayedEnv(gym.make("CartPole-v1"))
    env = jam.record(played, run="played")
    rng, refused, begins = np.random.default_rng(0), 0, True
    print("plays", flush=True)
    while not stopped:
        try:
            if begins or played.is_over:
                begins = (
                    True  # again, where this raises: an episode that could not begin is given up
                )
                env.reset(seed=len(played.rows))
                begins = False
            for action in rng.integers(0, 2, 1000).tolist():
                env.step(action)
                if played.is_over or stopped:
                    break
        except (StoreUnavailable, StoreFull):  # `sync`: it is recorded, and not confirmed
            refused += 1
    jam.close(timeout_s=60)
    np.save(path, np.array(played.rows, ROW))
    print(refused)


class Player:
    """The process."""

    def __init__(
        self,
        url: str,
        namespace: str,
        directory: Path,
        *,
        write: str = "buffered",
        flush_interval_s: float = 0.005,
    ) -> None:
        self.path = directory / "played.npy"
        here = f"{Path(__file__).parent}:{Path(jamboree_gym.__file__).parents[1]}"
        arguments = here, url, namespace, write, flush_interval_s, self.path
        self.process: subprocess.Popen[str] = start_warm(PLAYER, *arguments)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "plays\n":
            raise RuntimeError(self.process.communicate()[1])

    def stop(self) -> tuple[np.ndarray, int, str]:
        """End it; the rows it has played, how many calls were refused, what it logged."""
        self.process.send_signal(signal.SIGTERM)
        refused, said = self.process.communicate(timeout=90)
        if self.process.returncode:
            raise RuntimeError(said)
        return np.load(self.path), int(refused), said

    def kill(self) -> None:
        """For a test that fails."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def check_is_as_played(jam: Jamboree, played: np.ndarray) -> int:
    """Compare all episodes with what was played, row by row; how many there are."""
    begins = np.flatnonzero(played["action"] == NO_ACTION)
    episodes = jam.episodes(run="played")
    summaries = episodes.summaries()
    assert len(summaries) == len(begins), (len(summaries), len(begins))
    for summary, rows in zip(summaries, np.split(played, begins[1:]), strict=True):
        data = jam.episode(summary.id).data()  # raises where a row is missing or damaged
        assert np.array_equal(data.observations, rows["observation"])
        assert np.array_equal(data.actions, rows["action"][1:])
        assert np.array_equal(data.rewards, rows["reward"][1:])
        assert np.array_equal(data.terminations | data.truncations, rows["ends"][1:])
        assert np.all(np.diff(data.timestamps) > 0)
        assert summary.steps == len(data)
        assert (summary.status in ("terminated", "truncated")) == rows["ends"][-1]
    return len(begins)


def wait_for_appends(jam: Jamboree, count: int) -> None:
    """Return once a server that was just started has taken so many scripts."""
    wait_until(lambda: scripts_run(jam) >= count)


if __name__ == "__main__":
    play(*sys.argv[1:])
