"""CI runs the long tests in parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slices import Slice


@given(tests=st.integers(1, 40), parts=st.integers(1, 12))
def test_all_parts_together_are_all_tests_and_none_is_empty(tests: int, parts: int) -> None:
    names = [f"test_{number}" for number in range(tests)]
    slices = [Slice(index, parts).of(names) for index in range(parts)]

    assert set().union(*slices) == set(names)
    assert all(slices)
    assert max(map(len, slices)) <= -(-tests // parts)


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/", "-1/3"])
def test_a_part_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(pytest.UsageError, match="such as 3/8"):
        Slice.parse(text)
