"""`jamboree-gym video`: once in a process of its own, as a user runs it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import gymnasium as gym
import pytest
from processes import PATHS
from typer.testing import CliRunner, Result

import jamboree_envs.faults
from jamboree_gym import Jamboree
from jamboree_gym.cli import app

PROGRAM = "from jamboree_gym.cli import main; main()"
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
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "video", episode_id, "out.mp4", *options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "out.mp4: 10 frames\n"
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


def test_an_environment_that_nobody_registers_is_named(jam: Jamboree, run: Run) -> None:
    episode_id, *options = record(jam, fault=False)
    failed = run(episode_id, "out.mp4", *options[:2])

    assert failed.exit_code == 1
    assert "'tests/Shown-v0' is not registered here" in failed.stderr
