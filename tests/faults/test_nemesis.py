"""Whatever happens while others go on, nothing that was promised is broken; see `nemesis.py`.

How many histories is said by the environment variable JAMBOREE_NEMESIS_SEEDS; `make faults` tries
100 of 20 s each.
"""

from __future__ import annotations

import os

import nemesis
import pytest

pytestmark = [pytest.mark.faults, pytest.mark.long, pytest.mark.once]

SEEDS = int(os.environ.get("JAMBOREE_NEMESIS_SEEDS", "1"))
SECONDS = 20.0 if "JAMBOREE_NEMESIS_SEEDS" in os.environ else 8.0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_that_was_promised_is_broken(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    history = nemesis.run(seed, SECONDS)
    with capsys.disabled():
        print(f"\nseed {seed}: {len(history.claims)} claims, {dict(history.counts)}")
    assert history.violations == []
    assert history.claims
