"""A collector of TorchRL plays in several processes, each of which records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Server
from run_example import run_example

from jamboree_gym import Jamboree

pytestmark = pytest.mark.timeout(300)  # a busy machine takes its time

FRAMES = 1024  # two updates of 512, in two processes


def test_each_process_records_what_it_plays(valkey: Server, namespace: str, tmp_path: Path) -> None:
    options = ("--run", namespace, "--timesteps", FRAMES)
    said = run_example("torchrl_ppo", *options, redis_url=valkey.url, folder=tmp_path)

    assert "episodes ended; the best:" in said
    with Jamboree(valkey.url, backup=False) as jam:
        episodes = list(jam.episodes(run=namespace))
        assert sum(len(one) for one in episodes) >= FRAMES
        assert len({one.provenance["pid"] for one in episodes}) == 2
        ended = [one for one in episodes if one.status == "terminated"]
        assert all(one.verify() for one in ended)
        annotations = [one.data().annotations for one in ended]
        assert {int(number) for one in annotations for number in one["policy_version"]} == {0, 1}
        assert all(np.isfinite(one["value"]).all() for one in annotations)
        assert all((one["log_prob"] < 0).all() for one in annotations)
