"""d3rlpy learns from stored episodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Server
from run_example import run_example

from jamboree_gym import Jamboree

pytestmark = pytest.mark.timeout(300)  # a busy machine takes its time


def test_it_learns_from_what_was_recorded(valkey: Server, namespace: str, tmp_path: Path) -> None:
    options = ("--run", namespace, "--episodes", 10, "--updates", 50)
    said = run_example("d3rlpy_offline", *options, redis_url=valkey.url, folder=tmp_path)

    with Jamboree(valkey.url, backup=False) as jam:
        summaries = jam.episodes(run=namespace).summaries()
    steps = sum(one.steps for one in summaries)
    assert len(summaries) == 10
    assert f"10 episodes, {steps} transitions" in said
    assert "mean return of the learned policy" in said
