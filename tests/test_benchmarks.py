"""Each benchmark runs to its end: the smallest measurement of everything that it measures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "backup": "--seconds 1 --rounds 1",
    "capacity": "--share 0.01",
    "command_line": "--episodes 300 --rounds 1",
    "dqn": "--seeds 1 --timesteps 300 --image {folder}/dqn.png",
    "export": "--steps 2000",
    "export_parquet": "--rounds 1 --steps 2000",
    "fork": "--rounds 1 --steps 300",
    "import_time": "--rounds 7",
    "instructions": "--case Pendulum-v1",
    "live": "--steps 100",
    "many": "--recorders 2 --episodes 4 --followers 1 --seconds 6",
    "memory": "--steps 20000 --picture {folder}/memory.png",
    "outage": "--away 1 --there 1",
    "page": "--episodes 200 --minutes 0.1 --pairs 1",
    "ppo": "--rounds 1 --timesteps 256",
    "query": "--rounds 2 --episodes 500 --steps 3000",
    "sample": "--rounds 1 --steps 2000 --calls 5",
    "save": "--rounds 1",
    "step_cost": "--rounds 1 --steps 300",
    "tracing": "--rounds 1 --steps 500",
    "training_step": "--rounds 1",
    "vector": "--rounds 1 --steps 5 --envs 8",
    "verify": "--rounds 1 --steps 500",
    "whole_machine": "--seconds 1",
}
WITHOUT_A_TEST = {"instructions": "needs valgrind, and minutes"}


def test_every_benchmark_is_here() -> None:
    assert {file.stem for file in (ROOT / "benchmarks").glob("[!_]*.py")} == set(SMALL)


@pytest.mark.once
@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [name for name in SMALL if name not in WITHOUT_A_TEST])
def test_a_benchmark_runs_to_its_end(name: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            *(sys.executable, ROOT / f"benchmarks/{name}.py"),
            *SMALL[name].format(folder=tmp_path).split(),
        ],
        env=os.environ | {"JAMBOREE_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.strip()
