"""A call is the same bytes, whether the compiled core packs it or hiredis."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jamboree_gym.store.redis.link import _packed_by_hiredis, packed_call

pytestmark = pytest.mark.compiled

parts = (
    st.text()
    | st.binary()
    | st.binary().map(lambda part: memoryview(part))
    | st.integers()
    | st.floats()
    | st.booleans()
)


@given(st.lists(parts, max_size=20).map(tuple))
def test_a_call_is_packed_as_hiredis_packs_it(call: tuple[Any, ...]) -> None:
    assert packed_call(call) == _packed_by_hiredis(call)


def test_lengths_of_several_digits_are_written_whole() -> None:
    call = ("SET", *[b"x" * 10**digits for digits in range(7)], *["1"] * 1000)

    assert packed_call(call) == _packed_by_hiredis(call)


@pytest.mark.parametrize("part", [None, object(), ["a"], "\ud800"])
def test_what_cannot_be_sent_is_refused(part: Any) -> None:
    with pytest.raises((TypeError, UnicodeEncodeError)):
        packed_call(("SET", "a", part))
