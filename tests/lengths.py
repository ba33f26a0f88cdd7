"""How much is tried: a tenth in `make test`, all of it with JAMBOREE_LONG=1; a first round, or all.

Also which cases of a square `make test` takes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest

IS_LONG = bool(os.environ.get("JAMBOREE_LONG"))


def examples(many: int) -> int:
    """So many examples, or a tenth of them."""
    return many if IS_LONG else many // 10


def rounds(many: int) -> list[Any]:
    """Parameters for a test that is the same each time: the first round, and others as `long`."""
    return quick_and_long(range(many), quick=[0])


def quick_and_long(cases: Iterable[Any], *, quick: Iterable[Any]) -> list[Any]:
    """Parameters, tuples or single ones: those of `quick` for `make test`, others as `long`."""
    cases, quick = list(cases), list(quick)
    assert all(case in cases for case in quick), (quick, cases)
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if case in quick else pytest.mark.long,
        )
        for case in cases
    ]
