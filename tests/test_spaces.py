from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium import spaces

from jamboree_gym.errors import UnsupportedSpace
from jamboree_gym.layouts import ENCODED, layout_of, share_columns
from jamboree_gym.spaces import check_space, layout_of_space, space_to_json

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
    assert json.loads(space_to_json(Missions())) == {"type": "Missions"}


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

    assert json.loads(space_to_json(space))["low"] == ["-inf", "0.0"]


def test_the_spaces_of_a_dict_are_named() -> None:
    content = json.loads(space_to_json(spaces.Dict(a=spaces.Discrete(2), b=BOX)))

    assert [(name, part["type"]) for name, part in content["spaces"]] == [
        ("a", "Discrete"),
        ("b", "Box"),
    ]
