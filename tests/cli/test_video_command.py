"""`jamboree-gym video`: once in a process of its own, as a user runs it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import gymnasium as gym
import pytest
from recorded_store import WARM_PROGRAM
from typer.testing import CliRunner, Result
from warm import start_warm

import jamboree_envs.faults
from jamboree_gym import Jamboree
from jamboree_gym.cli import app

ENVS = """
import gymnasium as gym
import numpy as np
from jamboree_envs.faults import GlobalRandom

class ShownEnv(GlobalRandom):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, render_mode=None, fault=False):
        super().__init__(fault=fault)

    def render(self):
        return np.full((16, 16, 3), self.steps, np.uint8)

gym.register("tests/Shown-v0", entry_point=ShownEnv)
"""

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def shell(as_in_a_shell: Path) -> Iterator[None]:
    """A working directory with the module `shown_envs`."""
    (as_in_a_shell / "shown_envs.py").write_text(ENVS)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("shown_envs", None)
    gym.registry.pop("tests/Shown-v0", None)


@pytest.fixture
def run() -> Run:
    """The command, in this process."""
    return lambda *arguments: CliRunner().invoke(app, ["video", *arguments])


def record(jam: Jamboree, *, fault: bool) -> list[str]:
    """An episode's id, and the options that find it."""
    name = "tests/Shown-v0"
    gym.register(name, entry_point=jamboree_envs.faults.GlobalRandom)
    env = jam.record(gym.make(name, fault=fault))
    gym.registry.pop(name)
    env.reset(seed=1)
    for _ in range(9):
        env.step(1)
    env.close()
    jam.flush()
    return [
        env.episode_id,
        "--namespace",
        jam._connection.keyspace.namespace,
        "--import",
        "shown_envs",
    ]


def test_it_writes_a_video_and_says_how_many_frames(jam: Jamboree, tmp_path: Path) -> None:
    episode_id, *options = record(jam, fault=False)
    process = start_warm(WARM_PROGRAM, "video", episode_id, "out.mp4", *options)
    printed, said = process.communicate(timeout=60)

    assert (process.returncode, said) == (0, "")
    assert printed == "out.mp4: 10 frames\n"
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].average_rate == 5
        assert len(list(container.decode(video=0))) == 10


def test_a_replay_that_differs_is_an_error_unless_it_is_wanted(
    jam: Jamboree, run: Run, tmp_path: Path
) -> None:
    episode_id, *options = record(jam, fault=True)
    refused = run(episode_id, "out.gif", *options)

    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"error: no video: episode {episode_id} does not happen again")
    assert len(refused.stderr.splitlines()) == 2
    assert not (tmp_path / "out.gif").exists()

    wanted = run(episode_id, "out.gif", "--unverified", "--fps", "10", *options)
    assert wanted.exit_code == 0
    assert wanted.stderr.startswith(f"unverified: episode {episode_id} differs: observation[1]")
    assert wanted.stdout == "out.gif: 10 frames\n"
    with av.open(str(tmp_path / "out.gif")) as container:
        assert container.streams.video[0].average_rate == 10


def test_of_a_run_it_takes_the_worst_the_best_or_the_newest(jam: Jamboree, tmp_path: Path) -> None:
    env = jam.record(gym.make("FrozenLake-v1", render_mode="rgb_array"), run="lake")
    for steps in (3, 2, 1):  # it slides at once into no hole
        env.reset(seed=1)
        for _ in range(steps):
            env.step(0)
    env.close()
    jam.flush()
    ids = jam.episodes(run="lake").ids()
    where = ("--namespace", jam._connection.keyspace.namespace)

    def filmed(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["video", *arguments, *where])

    done = filmed("lake", "--last")
    assert (done.exit_code, done.stdout) == (0, f"{ids[-1][:12]}.mp4: 2 frames\n"), done.stderr
    assert (tmp_path / f"{ids[-1][:12]}.mp4").exists()
    assert filmed("lake", "--worst", "a.gif").stdout.startswith("a.gif: ")
    assert filmed("lake", "--worst", "--best", "b.gif").exit_code == 2
    misspelt = filmed("lak", "--best", "b.gif")
    assert misspelt.exit_code == 1
    assert misspelt.stderr.startswith("error: no run 'lak'; there ")
    assert "lake" in misspelt.stderr


def test_an_environment_that_nobody_registers_is_named(jam: Jamboree, run: Run) -> None:
    episode_id, *options = record(jam, fault=False)
    failed = run(episode_id, "out.mp4", *options[:2])

    assert failed.exit_code == 1
    assert "'tests/Shown-v0' is not registered here" in failed.stderr
