"""Values whose class comes back: enums, dataclasses, named tuples, those of pandas, registered."""

from __future__ import annotations

import copy
import pickle
import sys
from collections import deque
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lengths import examples
from odd_values import (
    ALL,
    FRAME,
    HASHABLE,
    Bits,
    Broken,
    Cell,
    Color,
    Level,
    Mode,
    Plan,
    Point,
    Right,
    Temperature,
    Weight,
)
from processes import run_python
from test_values import text

from jamboree_gym import InvalidArgument, register_value
from jamboree_gym.arrays.kinds.stand_ins import StandIn
from jamboree_gym.arrays.values import decode_value, encode_value
from jamboree_gym.encoding.info_codec import InfoEncoder
from jamboree_gym.errors import DecodeError, InvalidRecord

MODULE = "odd_values"


def back(value: Any) -> Any:
    return decode_value(encode_value(value), where="k")


def same(one: Any, other: Any) -> bool:
    """Of one class, and stored as the same bytes; sets may be in another order."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (set, frozenset)):
        return bool(one == other)
    if isinstance(one, (list, tuple, deque)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Plan):
        return same(vars(one), vars(other))
    if type(one) is dict:
        return list(one) == list(other) and all(same(item, other[key]) for key, item in one.items())
    return encode_value(one) == encode_value(other)


nested = st.recursive(
    st.sampled_from(ALL),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(deque),
        st.dictionaries(text, inner, max_size=3),
        st.dictionaries(st.sampled_from(HASHABLE), inner, max_size=3),
        st.sets(st.sampled_from(HASHABLE), max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Plan, text, inner),
    ),
    max_leaves=8,
)


@pytest.mark.deep
@settings(max_examples=examples(300), suppress_health_check=list(HealthCheck), deadline=None)
@given(nested)
def test_a_value_comes_back_of_its_class(value: Any) -> None:
    assert same(back(value), value)


@pytest.mark.parametrize("value", ALL, ids=lambda one: type(one).__name__)
def test_what_comes_back_is_equal(value: Any) -> None:
    found = back(value)

    assert type(found) is type(value)
    if hasattr(value, "equals"):
        assert found.equals(value)
    elif isinstance(value, np.ma.MaskedArray):
        assert found.tolist() == value.tolist()
        assert (found.fill_value, found.data.tolist()) == (value.fill_value, value.data.tolist())
    elif isinstance(value, np.ndarray):
        assert (found.dtype, found.tolist()) == (value.dtype, value.tolist())
    else:
        assert found is value or found == value
    assert repr(found) == repr(value)


def test_a_member_that_comes_back_is_the_very_one() -> None:
    for member in (Color.RED, Color.ODD, Level.HIGH, Mode.FAST, Weight.HALF, Right.READ, Bits.TWO):
        assert back([member])[0] is member


def test_a_dataclass_comes_back_without_running_its_code() -> None:
    plan = Plan("a")

    assert back(plan).ran == ["__post_init__"]  # once, where it was made


READ = """
import sys
from jamboree_gym.arrays.values import decode_value, encode_value
content = bytes.fromhex(sys.argv[1])
found = decode_value(content, where="k")
assert "odd_values" not in sys.modules and "pandas" not in sys.modules, "imported"
assert encode_value(found) == content  # stored again as what it stands for
assert found == decode_value(content, where="k")
for one in found:
    print(type(one).__name__, one)
point, level, mode, weight, cells = found[0], found[1], found[2], found[3], found[-1]
assert (point[0], point, level + 1, mode, weight) == (1, (1, 2), 4, "fast", 0.5)
assert len(cells) == 2
print(found[4].class_name, found[4].fields)
"""


def test_where_the_class_is_not_loaded_a_stand_in_shows_class_and_fields() -> None:
    values = [
        *(Point(1, 2), Level.HIGH, Mode.FAST, Weight.HALF, Plan("a", [Color.RED])),
        *(Color.RED, Right.READ, Temperature(3.5), FRAME, {Cell(1): 1, Cell(2): 2}),
    ]

    read = run_python(READ, encode_value(values).hex())

    assert read.stderr == ""
    assert "<odd_values:Point(x=1, y=2), not loaded here>" in read.stdout
    assert "<odd_values:Color(name='RED', value=1), not loaded here>" in read.stdout
    assert "<odd_values:Temperature(plain={'kelvin': 3.5}), not registered here>" in read.stdout
    assert "odd_values:Plan {'name': 'a', 'steps': [" in read.stdout


def test_a_stand_in_can_be_copied_pickled_and_be_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [encode_value(one) for one in (Point(1, [2]), Level.HIGH, Mode.FAST, Weight.HALF)]
    contents += [encode_value(one) for one in (Color.RED, Cell([1]), Plan("a"))]
    monkeypatch.delitem(sys.modules, MODULE)

    for content in contents:
        found = decode_value(content, where="k")
        assert isinstance(found, StandIn)
        for copied in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
            assert copied == found
            assert encode_value(copied) == content
    assert len({decode_value(contents[4], where="k"), decode_value(contents[4], where="k")}) == 1


@pytest.mark.parametrize(
    ("value", "name", "attribute", "replacement"),
    [
        (Color.RED, "Color", "_member_map_", {}),
        (Cell(1), "Cell", "__dataclass_fields__", {}),
        (Point(1, 2), "Point", "_fields", ("a", "b")),
    ],
)
def test_a_class_whose_fields_have_changed_gives_a_stand_in(
    monkeypatch: pytest.MonkeyPatch, value: Any, name: str, attribute: str, replacement: Any
) -> None:
    content = encode_value(value)
    monkeypatch.setattr(getattr(sys.modules[MODULE], name), attribute, replacement)

    assert isinstance(decode_value(content, where="k"), StandIn)


def kind(name: str, content: Any) -> bytes:
    return encode_value(StandIn(name, content))


@pytest.mark.parametrize(
    "content",
    [
        kind("enum", ["os:environ", "", "A", 1]),
        kind("enum", ["odd_values:Color", "", "RED", 2]),
        kind("enum", ["odd_values:Color", "", "__class__", 1]),
        kind("flag", ["odd_values:Color", "", ["RED"], 1]),
        kind("dataclass", ["odd_values:Temperature", {"kelvin": 1}]),
        kind("dataclass", ["subprocess:Popen", {"args": "true"}]),
        kind("dataclass", ["odd_values:Cell", {"row": 1}]),
        kind("dataclass", ["odd_values:Plan.__init__", {}]),
        kind("named tuple", ["odd_values:Cell", ["row", "column"], [1, 2]]),
        kind("registered", ["subprocess:Popen", "true"]),
        kind("a kind of tomorrow", [1, 2]),
    ],
)
def test_what_a_store_names_is_neither_made_nor_called(content: bytes) -> None:
    found = decode_value(content, where="k")

    assert isinstance(found, StandIn)
    assert encode_value(found) == content


class Tidy:
    """Its end would run code."""

    ended = 0

    def __del__(self) -> None:
        Tidy.ended += 1


Tidy.__dataclass_fields__ = {}  # type: ignore[attr-defined]


def test_a_class_whose_end_runs_code_is_not_made() -> None:
    found = decode_value(kind("dataclass", [f"{__name__}:Tidy", {}]), where="k")

    assert isinstance(found, StandIn)
    assert Tidy.ended == 0


@pytest.mark.parametrize(
    "content",
    [
        kind("enum", []),
        kind("range", [1]),
        kind("range", [0, 1, 0]),
        kind("deque", [1, 2]),
        kind("OrderedDict", 1),
        kind("array.array", ["u", [1]]),
        kind("matrix", 1),
        kind("namespace", {1: 2}),
        kind("tensor", ["torch", "system", np.zeros(1)]),
        kind("tensor", ["torch", "key:rbg", np.zeros(4, np.uint32)]),
        kind("tensor", ["jax", "key:system", np.zeros(4, np.uint32)]),
        kind("named tuple", ["a"]),
        kind("pandas", []),
        msgspec.msgpack.encode(msgspec.msgpack.Ext(21, b"\x93")),
    ],
)
def test_a_damaged_content_gives_decode_error(content: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_value(content, where="k")


def test_a_damaged_frame_of_pandas_gives_a_stand_in() -> None:
    for name in ("DataFrame", "Series", "Index", "Timestamp", "Nothing"):
        assert isinstance(decode_value(kind("pandas", [name, 1, 2, 3]), where="k"), StandIn)


def test_a_registered_function_that_raises_leaves_a_mark_with_the_reason() -> None:
    with pytest.raises(InvalidRecord, match=r"'a': cannot store a odd_values:Broken: its to_plain"):
        encode_value({"a": Broken()})

    kept = InfoEncoder().copy({"good": 1, "bad": [Broken()], Color.RED: Plan("a", Broken())})

    mark = "<not recorded: odd_values.Broken: to_plain raises ValueError('not today')>"
    assert (kept["good"], kept["bad"], kept[Color.RED]) == (1, [mark], Plan("a", mark))


def test_what_cannot_be_read_shows_the_reason() -> None:
    found = decode_value(kind("registered", ["odd_values:Broken", [1]]), where="k")

    assert found.fields == {"plain": [1]}
    assert "from_plain raises ValueError('not today')" in repr(found)


@pytest.mark.parametrize(
    "arguments", [(1, repr, repr), (dict, repr, repr), (np.float32, repr, repr), (Plan, 1, repr)]
)
def test_what_cannot_be_registered_is_refused(arguments: Any) -> None:
    with pytest.raises(InvalidArgument, match="give a"):
        register_value(*arguments)


@pytest.mark.torch
def test_a_tensor_comes_back_as_a_tensor() -> None:
    torch = pytest.importorskip("torch")
    kept = {
        "plain": torch.tensor([1.0, 2.0]),
        "zero": torch.tensor(3),
        "grad": (torch.ones(2, requires_grad=True) * 2),
        "half": torch.tensor([0.1, float("nan")], dtype=torch.bfloat16),
        "tiny": torch.tensor([0.5, 448.0]).to(torch.float8_e4m3fn),
        "conj": torch.tensor([1j]).conj(),
        "large": torch.tensor([2**16 - 1], dtype=torch.uint16),
    }

    found = back(kept)

    for name, tensor in kept.items():
        assert type(found[name]) is torch.Tensor
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        numbers = [one.detach().to(torch.complex64).nan_to_num(7) for one in (found[name], tensor)]
        assert torch.equal(*numbers)
    for odd in (torch.eye(2).to_sparse(), torch.ones(1, device="meta")):
        with pytest.raises(InvalidRecord, match=r"type torch\.Tensor"):
            encode_value(odd)
