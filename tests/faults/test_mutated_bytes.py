"""Whatever stands in the store: a decoder gives what it is for, or an error of ours.

How many inputs each engine gets is said by the environment variable JAMBOREE_MUTATED_INPUTS;
`make faults` gives them 100,000.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from decoders import DECODERS, Decoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = [pytest.mark.faults, pytest.mark.once]

INPUTS = int(os.environ.get("JAMBOREE_MUTATED_INPUTS", "1000"))
PROGRAM = Path(__file__).parent / "fuzz_decoders.py"


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_what_is_really_written_is_taken(decoder: Decoder) -> None:
    assert all(map(decoder.check, decoder.seeds))


@pytest.mark.timeout(3600)
@settings(max_examples=INPUTS, database=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(DECODERS), st.integers(0, 2**64 - 1))
def test_mutated_bytes_are_decoded_or_refused_with_an_error_of_ours(
    decoder: Decoder, number: int
) -> None:
    rng = Random(number)

    decoder.check(decoder.mutate(rng, rng.choice(decoder.seeds)))


@pytest.mark.long  # by chance alone: the tests above
@pytest.mark.timeout(3600)
def test_a_search_by_coverage_finds_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(INPUTS)],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr[-4000:]
    assert int(re.findall(r"number_of_executed_units: (\d+)", done.stderr)[0]) >= INPUTS
