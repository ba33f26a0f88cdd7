from __future__ import annotations

import json
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import pytest

from jamboree_gym.arrays.layout import (
    ENCODED,
    Group,
    Leaf,
    columns_of,
    layout_from_json,
    layout_of,
    layout_to_json,
    share_columns,
)

FLOATS = Leaf(np.dtype(np.float32), (2,), "array")
NUMBER = Leaf(np.dtype(np.int64), (), "python")
NESTED = Group("dict", ("a", 3), (FLOATS, Group("tuple", (0, 1), (NUMBER, ENCODED))))


class Turn(IntEnum):
    LEFT = 0
    RIGHT = 1


class Pair(NamedTuple):
    left: int
    right: int


@pytest.mark.parametrize(
    ("value", "kind", "dtype", "shape"),
    [
        (True, "python", "bool", ()),
        (3, "python", "int64", ()),
        (0.5, "python", "float64", ()),
        (Turn.RIGHT, "python", "int64", ()),
        (np.int32(3), "numpy", "int32", ()),
        (np.float64(0.5), "numpy", "float64", ()),
        (np.zeros(2, np.float16), "array", "float16", (2,)),
        (np.array(0.5), "array", "float64", ()),
        (np.zeros((0, 2), np.uint8), "array", "uint8", (0, 2)),
    ],
    ids=str,
)
def test_numbers_and_arrays_have_a_column(
    value: object, kind: str, dtype: str, shape: tuple[int, ...]
) -> None:
    assert layout_of(value) == Leaf(np.dtype(dtype), shape, kind)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "left",
        b"left",
        2**63,
        [[1], [2, 3]],
        np.array(["a"]),
        np.zeros(2, "complex128"),
        np.zeros(2, "datetime64[s]"),
        {(1, 2): 3},
    ],
    ids=str,
)
def test_what_has_no_fixed_shape_or_column_type_is_encoded(value: object) -> None:
    assert layout_of(value) == ENCODED


def test_where_the_space_says_encoded_the_value_is() -> None:
    expected = Group("dict", ("a",), (ENCODED,))

    assert layout_of({"a": np.zeros(2)}, expected) == expected


def test_dicts_and_expected_tuples_are_groups() -> None:
    value = {"a": np.zeros(2, np.float32), 3: (5, "text")}

    assert layout_of(value, NESTED) == NESTED
    assert layout_of(value["a"], NESTED) == FLOATS


def test_a_list_where_a_tuple_is_expected_stays_a_list() -> None:
    layout = layout_of([5, "text"], NESTED.parts[1])

    assert layout == Group("list", (0, 1), (NUMBER, ENCODED))


def test_a_list_where_an_array_is_expected_stands_for_one() -> None:
    assert layout_of([0.5, 1.0], FLOATS) == Leaf(np.dtype(np.float64), (2,), "array")
    assert layout_of([0.5, 1.0]) == ENCODED


def test_a_named_tuple_is_encoded_whole() -> None:
    assert layout_of(Pair(1, 2), Group("tuple", (0, 1), (NUMBER, NUMBER))) == ENCODED


@pytest.mark.parametrize("layout", [FLOATS, NUMBER, ENCODED, NESTED, Group("tuple", (), ())])
def test_a_layout_survives_json(layout: object) -> None:
    assert layout_from_json(json.loads(json.dumps(layout_to_json(layout)))) == layout


def test_columns_are_named_by_the_way_to_them() -> None:
    names = [name for name, _ in columns_of(NESTED, "observation")]

    assert names == ["observation.a", "observation.3.0", "observation.3.1"]


def test_a_python_number_shares_its_column_with_a_numpy_scalar_only() -> None:
    numpy = Leaf(np.dtype(np.int64), (), "numpy")

    assert share_columns(Group("list", (0,), (NUMBER,)), Group("list", (0,), (numpy,)))
    assert not share_columns(NUMBER, Leaf(np.dtype(np.int64), (), "array"))
    assert not share_columns(NUMBER, ENCODED)
    assert not share_columns(Group("list", (0,), (NUMBER,)), Group("tuple", (0,), (NUMBER,)))


@pytest.mark.parametrize(
    "content",
    [
        {"dtype": "O", "shape": [], "kind": "array"},
        {"dtype": "<f4", "shape": [-1], "kind": "array"},
        {"dtype": "<c16", "shape": [2], "kind": "array"},
        {"dtype": "<f4", "shape": ["2"], "kind": "array"},
        {"kind": "pickle", "names": [], "parts": []},
        {"kind": "dict", "names": ["a"], "parts": []},
        {"kind": "dict", "names": [["a"]], "parts": [{"kind": "encoded"}]},
    ],
    ids=str,
)
def test_a_stored_layout_that_is_never_written_is_refused(content: dict) -> None:
    with pytest.raises(ValueError, match=r"not a (layout|dtype)"):
        layout_from_json(content)


@pytest.mark.parametrize("value", [np.float32(0.5), np.array(0.5, ">f4"), True, 7, 0.25])
def test_an_element_of_a_column_is_restored_with_its_type(value: object) -> None:
    leaf = layout_of(value)
    kept = value.tobytes() if isinstance(value, np.ndarray) else value

    restored = leaf.restore(leaf.stack([kept])[0])

    assert type(restored) is type(value)
    assert restored == value
    assert np.asarray(restored).dtype == np.asarray(value).dtype
