"""Values of classes without a form of their own: they come back equal, or a mark stands there."""

from __future__ import annotations

import enum
import threading
import uuid
from collections import deque, namedtuple
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PureWindowsPath
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lengths import examples
from test_values import PATIENT, fingerprint, text, values

from jamboree_gym.arrays.difference import differences
from jamboree_gym.arrays.values import decode_value, encode_value
from jamboree_gym.encoding.info_codec import InfoEncoder, holds_unrecorded
from jamboree_gym.errors import InvalidRecord


class Level(enum.IntEnum):
    HIGH = 3


class Mode(enum.StrEnum):
    FAST = "fast"


class Half(float):
    pass


Point = namedtuple("Point", "x y")
PACKED = np.array([(1, 2.5, "a")], [("n", "<i4"), ("x", ">f8"), ("t", "<U3")])
NESTED = np.zeros((2, 3), [("a", [("b", "u1", (2,)), ("c", "?")]), ("d", "<f4", (2, 2))])


def back(value: Any) -> Any:
    return decode_value(encode_value(value), where="k")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Half(0.1), 0.1),
        (MappingProxyType({1: "a"}), {1: "a"}),
        (memoryview(b"ab"), np.array([97, 98], np.uint8)),
        (np.dtype(">f4"), np.dtype(">f4")),
        (np.float32, np.float32),
        (Path("a/b"), Path("a/b")),
    ],
    ids=lambda one: type(one).__name__,
)
def test_an_equal_value_of_a_plain_class_comes_back(value: Any, plain: Any) -> None:
    assert fingerprint(back(value)) == fingerprint(plain)


exact = st.one_of(
    st.dates(),
    st.times(
        timezones=st.none() | st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m)))
    ),
    st.timedeltas(),
    st.decimals(),
    st.sampled_from([Decimal("-0E-50"), Decimal("1E+999999"), Decimal("NaN123"), Decimal("sNaN")]),
    st.fractions(),
    st.uuids(),
)


@pytest.mark.deep
@settings(PATIENT, max_examples=examples(1000))
@given(exact)
def test_dates_and_exact_numbers_come_back_as_they_were(value: Any) -> None:
    found = back(value)

    assert type(found) is type(value)
    assert str(found) == str(value)
    assert getattr(found, "fold", 0) == getattr(value, "fold", 0)


@pytest.mark.deep
@settings(PATIENT, max_examples=examples(500))
@given(st.lists(values, max_size=6), st.booleans())
def test_an_array_of_objects_comes_back_with_all_it_holds(
    items: list[Any], is_square: bool
) -> None:
    objects = np.empty(len(items), object)
    for position, item in enumerate(items):
        objects[position] = item
    if is_square and len(items) % 2 == 0:
        objects = objects.reshape(2, -1)

    found = back({"objects": objects})["objects"]

    assert (found.dtype, found.shape) == (objects.dtype, objects.shape)
    assert fingerprint(found.ravel().tolist()) == fingerprint(objects.ravel().tolist())


@pytest.mark.parametrize("value", [PACKED, PACKED[0], NESTED, NESTED[:, 1], PACKED[:0]])
def test_an_array_with_fields_comes_back_with_them(value: Any) -> None:
    found = back(value)

    assert type(found) is type(value)
    assert (found.dtype.names, found.shape) == (value.dtype.names, value.shape)
    assert repr(found.tolist()) == repr(value.tolist())
    assert all(found[name].dtype == value[name].dtype for name in value.dtype.names)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Level.HIGH, 3),
        (Mode.FAST, "fast"),
        (Point(1, 2), (1, 2)),
        (deque([1, (2,)]), [1, (2,)]),
        (bytearray(b"ab"), b"ab"),
        (pd.Timestamp("2020-01-02 03:04:05.000006"), datetime(2020, 1, 2, 3, 4, 5, 6)),
        (pd.Timestamp(1577934245000006789), np.datetime64(1577934245000006789, "ns")),
        (pd.Timedelta(5, "s"), timedelta(seconds=5)),
        (pd.Timedelta(5, "ns"), np.timedelta64(5, "ns")),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_value_equals_the_plain_one_that_an_older_release_has_recorded(
    value: Any, plain: Any
) -> None:
    assert not list(differences("info", {"a": [plain]}, {"a": [value]}))


class Liar:
    """Whatever is asked of it fails."""

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise KeyError("no")


class Shy:
    """Cannot even be shown."""

    def __repr__(self) -> str:
        raise ValueError("no")


def test_what_cannot_be_shown_is_refused_like_all_else() -> None:
    with pytest.raises(InvalidRecord, match=r"'a'\[0\]: cannot store <a Shy,"):
        encode_value({"a": [Shy()]})
    assert "Shy" in InfoEncoder().copy({"a": [Shy()]})["a"][0]


class Listed(list[Any]):
    __hash__ = object.__hash__  # type: ignore[assignment]


ODD = [object(), threading.Lock(), len, Liar(), PureWindowsPath("a"), int, iter(())]


@pytest.mark.parametrize("key", [Listed([1]), (1, Listed())], ids=type)
def test_what_could_not_be_a_key_when_it_is_read_is_refused(key: Any) -> None:
    for value in ({key: 1}, {key}):
        try:
            content = encode_value(value)
        except InvalidRecord:
            continue
        assert decode_value(content, where="k") == value


def with_odd(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Containers in which something odd may stand."""
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(inner, max_size=4).map(deque),
        st.dictionaries(text, inner, max_size=4),
        st.dictionaries(text, inner, max_size=4).map(MappingProxyType),
        st.lists(inner, min_size=1, max_size=4).map(as_object_array),
        st.tuples(inner, inner).map(lambda pair: Point(*pair)),
    )


def as_object_array(items: list[Any]) -> Any:
    objects = np.empty(len(items), object)
    for position, item in enumerate(items):
        objects[position] = item
    return objects


def expected(value: Any) -> Any:
    """What comes back: a mark exactly in the place of what is odd."""
    if any(value is one for one in ODD) or (isinstance(value, str) and holds_unrecorded(value)):
        return "mark"  # also for a text that reads like one
    if isinstance(value, (dict, MappingProxyType)):
        return {name: expected(item) for name, item in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return "objects", [expected(item) for item in value]
    if isinstance(value, (list, deque)):
        return type(value)(expected(item) for item in value)
    if isinstance(value, tuple):
        return tuple(expected(item) for item in value)
    return fingerprint(value)


def seen(value: Any) -> Any:
    if isinstance(value, str) and holds_unrecorded(value):
        return "mark"
    if isinstance(value, dict):
        return {name: seen(item) for name, item in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return "objects", [seen(item) for item in value]
    if isinstance(value, (list, deque)):
        return type(value)(seen(item) for item in value)
    if isinstance(value, tuple):
        return tuple(seen(item) for item in value)
    return fingerprint(value)


scalars = st.none() | st.integers() | text | st.dates() | st.decimals(allow_nan=False)


@pytest.mark.deep
@settings(max_examples=examples(1000), suppress_health_check=list(HealthCheck))
@given(st.dictionaries(text, st.recursive(scalars | st.sampled_from(ODD), with_odd, max_leaves=12)))
def test_an_info_keeps_all_but_a_mark_exactly_where_something_is_odd(info: dict[str, Any]) -> None:
    assert seen(InfoEncoder().copy(info)) == expected(info)


def test_two_keys_that_cannot_be_kept_lose_neither_value() -> None:
    (first, one), (second, two) = InfoEncoder().copy({len: 1, max: 2}).items()

    assert (one, two) == (1, 2)
    assert first != second
    assert holds_unrecorded(first)
    assert holds_unrecorded(second)


def test_a_set_keeps_what_stands_beside_something_odd() -> None:
    kept = InfoEncoder().copy({"set": {1, len}})["set"]

    assert 1 in kept
    assert holds_unrecorded(kept)


@pytest.mark.parametrize(
    "value", [date(1, 1, 1), time(1, fold=1), Fraction(-1, 3), uuid.UUID(int=5)]
)
def test_exact_values_can_be_keys(value: Any) -> None:
    assert back({value: {value}}) == {value: {value}}
