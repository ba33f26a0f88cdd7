from __future__ import annotations

import json
from enum import IntEnum

import numpy as np
import pytest
from gymnasium import spaces

from jamboree_gym.errors import UnsupportedSpace
from jamboree_gym.spaces import (
    Leaf,
    check_space,
    join_arrays,
    leaf_of,
    leaf_of_space,
    plain,
    space_to_json,
)

RECORDABLE = [
    spaces.Box(-1, 1, (2, 3), np.float32),
    spaces.Box(0, 255, (4, 4, 3), np.uint8),
    spaces.Box(-1, 1, (), np.float64),
    spaces.Discrete(4, start=-2),
    spaces.MultiBinary([2, 2]),
    spaces.MultiDiscrete([2, 5]),
]


@pytest.mark.parametrize("space", RECORDABLE, ids=str)
def test_the_guess_from_a_space_is_the_layout_of_its_samples(space: spaces.Space) -> None:
    check_space(space, "observation")

    assert leaf_of_space(space).shares_column_with(leaf_of(space.sample(), "observation"))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(3),
        spaces.Dict(a=spaces.Discrete(2)),
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Sequence(spaces.Discrete(2)),
    ],
    ids=lambda space: type(space).__name__,
)
def test_other_spaces_are_refused_by_name(space: spaces.Space) -> None:
    with pytest.raises(UnsupportedSpace, match=f"observation space {type(space).__name__}"):
        check_space(space, "observation")


class Turn(IntEnum):
    LEFT = 0
    RIGHT = 1


@pytest.mark.parametrize(
    ("value", "kind", "dtype"),
    [
        (True, "python", "bool"),
        (3, "python", "int64"),
        (0.5, "python", "float64"),
        (Turn.RIGHT, "python", "int64"),
        (np.int32(3), "numpy", "int32"),
        (np.float64(0.5), "numpy", "float64"),
        (np.zeros(2, np.float16), "array", "float16"),
    ],
)
def test_scalars_and_arrays_have_a_layout(value: object, kind: str, dtype: str) -> None:
    leaf = leaf_of(plain(value, "action"), "action")

    assert (leaf.kind, leaf.dtype) == (kind, np.dtype(dtype))


@pytest.mark.parametrize("value", [[0.5, 1.0], (1, 0), np.ma.array([1.0, 2.0], mask=[0, 1])])
def test_what_numpy_makes_an_array_of_is_kept_as_a_plain_array(value: object) -> None:
    kept = plain(value, "action")

    assert type(kept) is np.ndarray
    assert kept.tolist() == np.asarray(value).tolist()


@pytest.mark.parametrize(
    "value", [None, "left", print, {"a": 1}, [[1], [2, 3]], np.array(["a"])], ids=str
)
def test_what_is_no_array_of_numbers_is_refused_by_role(value: object) -> None:
    with pytest.raises(UnsupportedSpace, match="the action"):
        leaf_of(plain(value, "action"), "action")


@pytest.mark.parametrize("dtype", ["complex128", "longdouble", "datetime64[s]", "V4"])
def test_a_dtype_without_a_column_is_refused_by_name(dtype: str) -> None:
    with pytest.raises(UnsupportedSpace, match="dtype"):
        leaf_of(np.zeros(2, dtype), "observation")


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(UnsupportedSpace) as caught:
        plain("x" * 10_000, "action")

    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "content",
    [
        {"dtype": "O", "shape": [], "kind": "array"},
        {"dtype": "<f4", "shape": [-1], "kind": "array"},
        {"dtype": "<f4", "shape": [2], "kind": "pickle"},
        {"dtype": "<c16", "shape": [2], "kind": "array"},
        {"dtype": "<f4", "shape": ["2"], "kind": "array"},
    ],
)
def test_a_stored_layout_that_is_never_written_is_refused(content: dict) -> None:
    with pytest.raises(ValueError, match="not a layout"):
        Leaf.from_json(content)


def test_a_layout_survives_json() -> None:
    leaf = Leaf(np.dtype(">f4"), (2, 0), "array")

    assert Leaf.from_json(json.loads(json.dumps(leaf.to_json()))) == leaf


def test_arrays_of_one_dtype_are_joined_in_it() -> None:
    joined = join_arrays([np.array([1], np.float16), np.array([2], np.float16)])

    assert joined.dtype == np.float16


def test_arrays_of_two_dtypes_are_joined_in_the_wider() -> None:
    joined = join_arrays([np.array([0.1], np.float32), np.array([0.1], np.float64)])

    assert joined.dtype == np.float64
    assert joined.tolist() == [float(np.float32(0.1)), 0.1]


@pytest.mark.parametrize(
    "parts",
    [
        [np.array([2**63 + 1], np.uint64), np.array([-1], np.int64)],
        [np.array([2**53 + 1], np.int64), np.array([0.5])],
        [np.zeros((1, 2)), np.zeros((1, 3))],
    ],
    ids=["unsigned with signed", "large integers with floats", "two shapes"],
)
def test_what_no_dtype_holds_exactly_is_joined_as_objects(parts: list[np.ndarray]) -> None:
    joined = join_arrays(parts)

    assert joined.dtype == object
    assert [np.asarray(value).tobytes() for value in joined] == [part.tobytes() for part in parts]


@pytest.mark.parametrize("space", RECORDABLE, ids=str)
def test_a_space_is_written_as_strict_json(space: spaces.Space) -> None:
    content = json.loads(space_to_json(space), parse_constant=pytest.fail)

    assert content["type"] == type(space).__name__


def test_the_bounds_of_an_image_are_one_number_each() -> None:
    text = space_to_json(spaces.Box(0, 255, (210, 160, 3), np.uint8))

    assert json.loads(text)["high"] == 255
    assert json.loads(text)["shape"] == [210, 160, 3]
    assert len(text) < 200


def test_infinite_bounds_are_text() -> None:
    space = spaces.Box(np.array([-np.inf, 0], np.float32), np.array([np.inf, 1], np.float32))

    assert json.loads(space_to_json(space))["low"] == ["-inf", "0.0"]
