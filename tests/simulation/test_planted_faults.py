"""The simulation finds faults that are put into the package; `make planted-faults` tries all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from planted_faults import FAULTS, PACKAGE, ROOT, SIMULATE, PlantedFault, plant

pytestmark = pytest.mark.once

QUICK, SEED = "a dead backup's lease never ends", 40_000


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_planted_fault_replaces_one_line(fault: PlantedFault) -> None:
    source = (ROOT / PACKAGE / fault.path).read_text()
    assert source.count(fault.line) == 1
    assert fault.line.rstrip("\n").count("\n") == 0


def test_a_planted_fault_is_found_and_told_as_a_short_story(tmp_path: Path) -> None:
    (fault,) = (one for one in FAULTS if one.name == QUICK)
    plant(fault, tmp_path)
    command = [sys.executable, str(SIMULATE), "--seed", str(SEED)]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    shrunk = re.search(r"breaks a promise; shrunk to (\d+) steps:", done.stdout)
    assert shrunk is not None
    assert int(shrunk[1]) <= 6
    assert done.stdout.rstrip().endswith(
        f"again: python tests/simulation/simulate.py --seed {SEED}"
    )
