"""What runs other people's test suites says what a recorder changes, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMPARE = Path(__file__).with_name("compare.py")
SUITE = """
import gymnasium as gym

def test_steps():
    env = gym.make("CartPole-v1")
    env.reset(seed=1)
    assert len(env.step(0)) == 5

def test_a_vector_environment():
    envs = gym.make_vec("CartPole-v1", num_envs=2)
    assert envs.reset(seed=1)[0].shape == (2, 4)

def test_looks_at_the_outermost_wrapper():
    assert isinstance(gym.make("CartPole-v1"), gym.wrappers.TimeLimit)
"""


@pytest.mark.once
@pytest.mark.long  # of a tool; the tests of the wrappers prove that they alter nothing
def test_it_names_the_tests_that_end_otherwise_where_environments_are_recorded(
    tmp_path: Path,
) -> None:
    (tmp_path / "test_theirs.py").write_text(SUITE)
    done = subprocess.run(
        [sys.executable, COMPARE, tmp_path, "test_theirs.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    *_, bare, recorded, difference = done.stdout.splitlines()
    assert bare == "bare: 3 passed", done.stdout + done.stderr
    assert recorded == "recorded: 2 passed 1 failed"
    name = "test_theirs::test_looks_at_the_outermost_wrapper"
    assert difference == f"{name}: passed, recorded failed"
    assert "3 environments were recorded" in done.stdout
