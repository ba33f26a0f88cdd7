"""`checked`, which refuses wrong arguments: its words, its numbers, and what it leaves alone."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import pytest

from jamboree_gym import InvalidArgument, Jamboree
from jamboree_gym.checked import Count, Seconds, checked, shown


class Store:
    @checked
    def __init__(self, url: str | None = None) -> None:
        self.url = url


@checked
def read(
    name: str,
    n: Count = 1,
    /,
    *,
    run: str | Sequence[str] | None = None,
    since: float | None = None,
    timeout_s: Seconds = 1.0,
    tags: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
    path: str | Path = "a",
    how: Literal["fast", "slow"] = "fast",
    store: type[Store] = Store,
    progress: bool | Callable[[int], object] = False,
) -> tuple[Any, ...]:
    """Read something."""
    return name, n, run, since, progress


@checked
def any_options(**options: Any) -> dict[str, Any]:
    return options


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("a", 2.5), {}, "n=2.5: give a whole number, 0 or more"),
        (("a", -1), {}, "n=-1: give a whole number, 0 or more"),
        (("a", True), {}, "n=True: give a whole number, 0 or more"),
        (("",), {}, "name='': give a text, not an empty one"),
        (("a",), {"run": ["a", 2]}, "run=['a', 2]: give a text, or a list of texts, or None"),
        (("a",), {"since": "yesterday"}, "since='yesterday': give a number, or None"),
        (("a",), {"since": float("nan")}, "since=nan: give a number, or None"),
        (("a",), {"timeout_s": -0.5}, "timeout_s=-0.5: give a number, 0 or more"),
        (("a",), {"tags": ["a"]}, "tags=['a']: give a dict, or None"),
        (("a",), {"names": {"a": 1}}, "names={'a': 1}: give a dict with texts as values, or None"),
        (("a",), {"path": 3}, "path=3: give a path"),
        (("a",), {"how": "quick"}, "how='quick': choose one of fast, slow"),
        (("a",), {"store": dict}, "store=dict: give Store, or a class that inherits from it"),
        (("a",), {"progress": 1}, "progress=1: give True or False, or a function"),
        (("a",), {"sinec": 3}, "read() has no argument 'sinec': did you mean since?"),
    ],
)
def test_a_wrong_argument_is_named_and_what_is_right_is_said(
    arguments: tuple[Any, ...], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read(*arguments, **options)

    assert str(raised.value) == said
    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value, TypeError)


def test_a_misspelt_name_of_a_constructor_is_told_by_its_class() -> None:
    with pytest.raises(InvalidArgument, match=r"^Store\(\) has no argument 'ulr': did you mean ur"):
        Store(ulr="a")  # type: ignore[call-arg]


def test_a_name_that_is_like_none_is_answered_with_all() -> None:
    with pytest.raises(InvalidArgument, match=r"^Store\(\) has no argument 'xyz': it has url$"):
        Store(xyz="a")  # type: ignore[call-arg]


def test_names_of_options_that_are_handed_on_are_not_checked() -> None:
    assert any_options(whatever=3) == {"whatever": 3}


def test_numbers_and_flags_of_numpy_are_handed_on_as_plain_ones() -> None:
    found = read("a", np.int64(3), since=np.float32(0.5), progress=np.bool_(True))

    assert found == ("a", 3, None, 0.5, True)
    assert [type(one) for one in found] == [str, int, type(None), float, bool]


def test_an_iterator_is_not_read_by_the_check() -> None:
    @checked
    def count(names: Iterator[str]) -> int:
        return len(list(names))

    assert count(iter(["a", "b"])) == 2


@pytest.mark.parametrize(
    "value",
    [
        "redis://ann:secret@host:1",
        "redis://:secret@2@host",
        b"redis://:secret@host",
        Path("redis://:secret@host"),
        ["redis://:secret@host"],
        {"url": "mongodb://ann:secret@a,b/?x=1"},
        "redis://host?password=secret",
        "redis://ann:secret" + "x" * 500 + "@host",
    ],
)
def test_no_password_is_shown(value: Any) -> None:
    assert "secret" not in shown(value)
    assert len(shown(value)) < 100


class Unspeakable:
    def __repr__(self) -> str:
        raise AssertionError("its code was run")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Unspeakable(), "<Unspeakable>"),
        ([Unspeakable()] * 10, "[<Unspeakable>, <Unspeakable>, <Unspeakable>, <Unspeakable>, ...]"),
        (np.zeros(10**6), "<ndarray>"),
        (np.float32(0.5), "0.5"),
    ],
)
def test_a_value_is_shown_in_a_line_and_runs_no_code_of_its_own(value: Any, text: str) -> None:
    assert shown(value) == text


def test_signature_and_docstring_stay() -> None:
    assert list(inspect.signature(read).parameters)[:3] == ["name", "n", "run"]
    assert read.__doc__ == "Read something."


def test_an_annotation_that_only_type_checkers_know_takes_everything() -> None:
    @checked
    def take(one: NotImported) -> Any:  # type: ignore[name-defined] # noqa: F821
        return one

    assert take(3) == 3


@pytest.mark.usefixtures("no_garbage")
def test_a_right_call_costs_one_call_for_each_argument() -> None:
    read("a", 1, since=1.0)  # the first one reads the annotations
    calls: list[str] = []
    sys.setprofile(lambda frame, event, _: event == "call" and calls.append(frame.f_code.co_name))
    try:
        read("a", 1, since=1.0)
    finally:
        sys.setprofile(None)

    assert len(calls) <= 12, calls  # the decorator's own, the function, and the tests


def test_a_value_without_a_name_says_which_names_there_are(jam: Jamboree) -> None:
    with pytest.raises(
        InvalidArgument, match=r"episodes\(\) takes 'a' by name only: episodes\(run="
    ):
        jam.episodes("a")  # type: ignore[misc]
    with pytest.raises(InvalidArgument, match=r"runs\(\) takes no further argument: 'a'"):
        jam.runs("a")  # type: ignore[call-arg]


@pytest.mark.usefixtures("no_garbage")
def test_a_right_call_is_checked_without_any_other_call() -> None:
    read("a", 1)  # the first one reads the annotations
    called = list[str]()

    def trace(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_qualname)

    sys.setprofile(trace)
    read("a", 1)
    sys.setprofile(None)

    assert called == ["checked.<locals>.call", "_text", "_at_least.<locals>.test", "read"]
