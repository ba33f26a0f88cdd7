from __future__ import annotations

import inspect
import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lengths import examples
from test_any_space import FLOATS, INTEGERS, SHAPES, cases

from jamboree_gym.arrays.layout import ENCODED, layout_of, share_columns
from jamboree_gym.environment.spaces import (
    check_space,
    layout_of_space,
    space_from_json,
    space_to_json,
)
from jamboree_gym.errors import DecodeError, UnsupportedSpace

BOX = spaces.Box(-1, 1, (2, 3), np.float32)
SPACES = [
    BOX,
    spaces.Box(0, 255, (4, 4, 3), np.uint8),
    spaces.Box(-1, 1, (), np.float64),
    spaces.Discrete(4, start=-2),
    spaces.MultiBinary([2, 2]),
    spaces.MultiDiscrete([2, 5]),
    spaces.Text(3),
    spaces.Dict(a=spaces.Discrete(2), b=spaces.Tuple([BOX, spaces.Text(2)])),
    spaces.Tuple([]),
    spaces.Sequence(spaces.Discrete(2)),
    spaces.Sequence(BOX, stack=True),
    spaces.Graph(BOX, spaces.Discrete(3)),
    spaces.OneOf([BOX, spaces.Discrete(2)]),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_the_guess_from_a_space_is_the_layout_of_its_samples(space: spaces.Space) -> None:
    check_space(space, "observation")
    guess = layout_of_space(space)

    for _ in range(20):
        assert share_columns(guess, layout_of(space.sample(), guess))


def test_a_subclass_is_recorded_as_its_base() -> None:
    class Angles(spaces.Box):
        pass

    space = Angles(-1, 1, (2,), np.float32)
    check_space(space, "observation")

    assert layout_of_space(space) == layout_of(space.sample())


def test_a_space_of_texts_that_is_not_gymnasiums_is_recorded_as_text() -> None:
    class Missions(spaces.Space[str]):
        def __init__(self) -> None:
            super().__init__(dtype=str)

    check_space(spaces.Dict(mission=Missions()), "observation")

    assert layout_of_space(Missions()) == layout_of_space(spaces.Text(9))
    again = space_from_json(space_to_json(spaces.Dict(mission=Missions())))["mission"]
    assert all(text in again for text in ("", "get the key, then go!", "\u00e9" * 1000))
    assert 5 not in again
    assert again.sample() in again
    check_round_trip(again)


class Moods(spaces.Space):
    """None of Gymnasium's."""

    def __repr__(self) -> str:
        return "Moods()"


@pytest.mark.parametrize(
    "space",
    [
        Moods(),
        spaces.Dict(a=Moods()),
        spaces.Tuple([BOX, Moods()]),
        spaces.Sequence(Moods()),
        spaces.OneOf([Moods()]),
    ],
    ids=lambda space: type(space).__name__,
)
def test_a_space_that_is_none_of_gymnasiums_is_named(space: spaces.Space) -> None:
    with pytest.raises(UnsupportedSpace, match=r"the action space holds Moods\(\)"):
        check_space(space, "action")


def test_a_dict_with_keys_that_are_neither_text_nor_numbers_is_encoded() -> None:
    assert layout_of_space(spaces.Dict({("a", 1): BOX})) == ENCODED


@pytest.mark.parametrize("space", SPACES, ids=str)
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

    assert json.loads(space_to_json(space))["low"] == ["-inf", 0.0]


def test_the_spaces_of_a_dict_are_named() -> None:
    content = json.loads(space_to_json(spaces.Dict(a=spaces.Discrete(2), b=BOX)))

    assert [(name, part["type"]) for name, part in content["spaces"]] == [
        ("a", "Discrete"),
        ("b", "Box"),
    ]


# -- and back ---------------------------------------------------------------------------------


def told(space: spaces.Space[Any] | None) -> Any:
    """All that tells a space from another one; more than `==`, which rounds."""
    kind = type(space).__name__
    if isinstance(space, spaces.Box):
        bounds = [(one.dtype.str, one.shape, one.tobytes()) for one in (space.low, space.high)]
        bounded = [one.tolist() for one in (space.bounded_below, space.bounded_above)]
        return kind, space.dtype.str, space.shape, *bounds, *bounded
    if isinstance(space, spaces.Discrete):
        return kind, space.n, space.start, type(space.n), type(space.start), space.dtype
    if isinstance(space, spaces.MultiDiscrete):
        return kind, space.dtype, space.shape, space.nvec.tolist(), space.start.tolist()
    if isinstance(space, spaces.MultiBinary):
        return kind, space.n, space.shape
    if isinstance(space, spaces.Text):
        return kind, space.min_length, space.max_length, space.character_list
    if isinstance(space, spaces.Sequence):
        return kind, space.stack, told(space.feature_space)
    if isinstance(space, spaces.Graph):
        return kind, told(space.node_space), told(space.edge_space)
    if isinstance(space, spaces.Dict):
        return kind, [(name, type(name), told(part)) for name, part in space.spaces.items()]
    return kind, [told(part) for part in getattr(space, "spaces", ())]


def check_round_trip(space: spaces.Space[Any]) -> None:
    text = space_to_json(space)
    again = space_from_json(text)

    assert again == space
    assert told(again) == told(space)
    assert space_to_json(again) == text
    assert space_from_json(json.loads(text)) == space


INT64 = np.iinfo(np.int64)
HARD = [
    spaces.Box(-np.inf, np.inf, (2,), np.float64),
    spaces.Box(0, np.inf, (2,), np.float32),
    spaces.Box(-np.inf, 5, (2,), np.int64),
    spaces.Box(np.array([-np.inf, 3]), np.array([7, np.inf]), dtype=np.int32),
    spaces.Box(INT64.min, INT64.max - 1, (3,), np.int64),
    spaces.Box(np.array([INT64.min, 1]), np.array([INT64.max, 2]), dtype=np.int64),
    spaces.Box(0, 2**64 - 1, (2,), np.uint64),
    spaces.Box(np.array([-0.0, 0.0]), np.array([0.0, 0.0]), dtype=np.float64),
    spaces.Box(-0.0, 0.0, (2, 2), np.float32),
    spaces.Box(0.1, 0.3, (2,), np.float32),
    spaces.Box(0.1, 0.3, (2,), np.float16),
    spaces.Box(np.array(5e-324), np.array(1.7976931348623157e308), dtype=np.float64),
    spaces.Box(0, 1, (2,), np.bool_),
    spaces.Box(-1, 1, (0, 2), np.float32),
    spaces.Box(-1, 1, (), np.float32),
    spaces.Box(-1, 1, (2,), np.dtype(">f4")),
    spaces.Discrete(1, start=INT64.max - 1),
    spaces.Discrete(5, start=-(2**40)),
    spaces.MultiDiscrete([2, 5], dtype=np.uint8, start=[1, 250]),
    spaces.MultiDiscrete([[2**40], [3]], start=[[-(2**60)], [7]]),
    spaces.MultiBinary([2, 3]),
    spaces.MultiBinary(np.array([3])),
    spaces.Text(0, min_length=0, charset=""),
    spaces.Text(5, charset="zyx\u00e9\U0001f600"),
    spaces.Dict({1: BOX, "a": BOX, 0: BOX}),
    spaces.Dict({("a", 1): BOX, b"b": spaces.Text(2), True: BOX, 2.5: BOX}),
    spaces.Dict([("b", BOX), ("a", BOX)]),
    spaces.Graph(BOX, None),
    spaces.Sequence(spaces.Dict(a=BOX), stack=True),
]


@pytest.mark.parametrize("space", SPACES + HARD, ids=str)
def test_a_space_is_read_back_as_it_was(space: spaces.Space) -> None:
    check_round_trip(space)


def test_bounds_of_more_than_64_bits_are_kept() -> None:
    space = spaces.Box(np.longdouble(1) / 3, 1, (2,), np.longdouble)

    again = space_from_json(space_to_json(space))

    assert again.dtype == space.dtype
    assert again.low.tolist() == space.low.tolist()  # not its bytes, which have a filling


def test_a_dtype_of_a_discrete_space_is_kept_where_gymnasium_knows_it() -> None:
    space = spaces.Discrete(3, start=1)
    if "dtype" in inspect.signature(spaces.Discrete).parameters:
        space = spaces.Discrete(3, start=1, dtype=np.int8)

    check_round_trip(space)


@pytest.mark.deep
@settings(max_examples=examples(300), suppress_health_check=list(HealthCheck))
@given(cases)
def test_any_space_is_read_back_as_it_was(case: tuple[spaces.Space, Any]) -> None:
    check_round_trip(case[0])


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Box:
    """With bounds of their own for each element, infinite and extreme ones too."""
    dtype, shape = np.dtype(draw(st.sampled_from(FLOATS + INTEGERS))), draw(st.sampled_from(SHAPES))
    width = {"width": dtype.itemsize * 8} if dtype.kind == "f" else {}
    elements = hnp.from_dtype(dtype, allow_nan=False) if width else hnp.from_dtype(dtype)
    one, other = (draw(hnp.arrays(dtype, shape, elements=elements)) for _ in range(2))
    low, high = np.where(one <= other, one, other), np.where(one <= other, other, one)
    return spaces.Box(low.astype(dtype), high.astype(dtype), shape, dtype)


@pytest.mark.deep
@settings(max_examples=examples(500), suppress_health_check=list(HealthCheck))
@given(boxes())
def test_any_bounds_are_read_back_as_they_were(box: spaces.Box) -> None:
    check_round_trip(box)


def test_a_subclass_is_read_back_as_its_base() -> None:
    class Angles(spaces.Box):
        pass

    space = Angles(-1, 1, (2,), np.float32)

    assert told(space_from_json(space_to_json(space))) == told(spaces.Box(-1, 1, (2,), np.float32))


def test_a_space_that_is_none_of_gymnasiums_is_named_and_not_read_back() -> None:
    text = space_to_json(spaces.Dict(mood=Moods()))

    with pytest.raises(DecodeError, match="its type is 'Moods'"):
        space_from_json(text)


class Side:
    """Keys that cannot be stored."""

    def __repr__(self) -> str:
        return "<a side>"


def test_a_key_that_could_not_be_stored_is_named() -> None:
    with pytest.raises(DecodeError, match="key <a side> of a Dict space could"):
        space_from_json(space_to_json(spaces.Dict({Side(): BOX})))


VALID = json.loads(space_to_json(BOX))


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "{",
        "[]",
        "7",
        "null",
        "[" * 100_000,
        "{}",
        {"type": "Space"},
        {"type": "__import__"},
        {"type": ["Box"]},
        {**VALID, "dtype": "O"},
        {**VALID, "dtype": "f4,f4"},
        {**VALID, "dtype": "<c8"},
        {**VALID, "dtype": None},
        {**VALID, "low": "low"},
        {**VALID, "low": "nan"},
        {**VALID, "low": 2},
        {**VALID, "low": [1, 2]},
        {**VALID, "low": [[0], [1, 2]]},
        {**VALID, "low": None},
        {**VALID, "low": {}},
        {**VALID, "dtype": "|u1", "low": -1},
        {**VALID, "dtype": "|u1", "low": "-inf"},
        {**VALID, "shape": [-1]},
        {**VALID, "shape": [2**14, 2**14]},
        {**VALID, "shape": ["a"]},
        {**VALID, "shape": None},
        {"type": "Discrete", "n": 0, "start": 0, "dtype": "<i8"},
        {"type": "Discrete", "n": 10**30, "start": 0, "dtype": "<i8"},
        {"type": "Discrete", "n": 2, "dtype": "<i8"},
        {"type": "Discrete", "n": 2, "start": 0, "dtype": "<f8"},
        {"type": "MultiDiscrete", "nvec": [2, 0], "start": [0, 0], "dtype": "<i8"},
        {"type": "MultiDiscrete", "nvec": [2], "start": [0, 0], "dtype": "<i8"},
        {"type": "MultiBinary", "n": -1},
        {"type": "MultiBinary", "n": "3"},
        {"type": "Text", "min_length": 3, "max_length": 2, "characters": "a"},
        {"type": "Text", "min_length": 1, "max_length": 2, "characters": 7},
        {"type": "Dict", "spaces": [["a"]]},
        {"type": "Dict", "spaces": [[[], VALID]]},
        {"type": "Dict", "spaces": [[{"encoded": "zz"}, VALID]]},
        {"type": "Dict", "spaces": [[{"encoded": "c1"}, VALID]]},
        {"type": "Tuple", "spaces": [7]},
        {"type": "OneOf", "spaces": []},
        {"type": "Sequence", "spaces": [], "stack": False},
        {"type": "Sequence", "spaces": [VALID]},
        {"type": "Graph", "spaces": []},
    ],
    ids=lambda damaged: str(damaged)[:60],
)
def test_what_is_no_space_is_an_error(damaged: Any) -> None:
    with pytest.raises(DecodeError, match="space"):
        space_from_json(damaged)


def test_a_dtype_that_would_have_to_be_parsed_is_refused() -> None:
    for dtype in ("(2,)i4", "i4,i4", "9" * 5000, "O", 5):
        with pytest.raises(DecodeError):
            space_from_json(json.dumps({"type": "MultiDiscrete", "nvec": [2], "dtype": dtype}))


def test_a_bound_that_the_dtype_of_a_box_does_not_hold_is_refused() -> None:
    for low, dtype in ((-1e308, "<f4"), (-300, "|i1"), (1e30, "<i8")):
        box = {"type": "Box", "shape": [2], "low": low, "high": low, "dtype": dtype}
        with pytest.raises(DecodeError, match="not a space"):
            space_from_json(json.dumps(box))
