from __future__ import annotations

import collections
import pickle
import struct
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from gymnasium.spaces import GraphInstance
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lengths import examples
from processes import run_python

from jamboree_gym.arrays.values import decode_value, encode_mapping, encode_value
from jamboree_gym.errors import DecodeError, InvalidRecord

# A busy machine makes an example slow, not wrong.
PATIENT = settings(suppress_health_check=[HealthCheck.too_slow])

dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    hnp.complex_number_dtypes(endianness="?"),
    hnp.datetime64_dtypes(endianness="?"),
    hnp.timedelta64_dtypes(endianness="?"),
    hnp.byte_string_dtypes(endianness="?"),
    hnp.unicode_string_dtypes(endianness="?"),
)
arrays = dtypes.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))
)
scalars = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, ())).map(lambda array: array[()])
zones = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
text = st.text(st.characters(exclude_categories=["Cs"]))
bits = st.binary(min_size=8, max_size=8).map(lambda content: np.frombuffer(content, "<f8"))
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63, -(2**63) - 1, 2**64 - 1, 2**64, -(10**50)]),
    st.floats(),
    st.complex_numbers(),
    text,
    st.binary(),
    st.datetimes(timezones=st.none() | zones),
)
hashable = st.one_of(plain, st.tuples(plain, plain), st.frozensets(plain, max_size=3))
graphs = st.builds(GraphInstance, arrays, st.none() | arrays, st.none() | arrays)
leaves = st.one_of(
    plain, arrays, scalars, bits, bits.map(lambda array: array[0]), st.frozensets(hashable), graphs
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(hashable, max_size=4),
        st.dictionaries(text, inner, max_size=4),
        st.dictionaries(hashable, inner, max_size=4),
    ),
    max_leaves=12,
)


def fingerprint(value: Any) -> Any:
    """Equal for values of the same types, dtypes, shapes and bits."""
    if isinstance(value, (np.ndarray, np.generic)):
        return type(value), value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, float):
        return float, struct.pack("<d", value)
    if isinstance(value, complex):
        return complex, struct.pack("<dd", value.real, value.imag)
    if isinstance(value, dict):
        return dict, [(fingerprint(key), fingerprint(item)) for key, item in value.items()]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(repr(fingerprint(item)) for item in value)
    if isinstance(value, (list, tuple)):
        return type(value), [fingerprint(item) for item in value]
    if isinstance(value, datetime):
        return datetime, value.replace(tzinfo=None), value.utcoffset()
    return type(value), value


@pytest.mark.deep
@settings(PATIENT, max_examples=examples(2000))
@given(values)
@example(-0.0)
@example(float("nan"))
@example(float("-inf"))
@example(np.array(5))
@example(np.ndarray((2, 3), "<U0"))
@example(np.void(b"\x00\x01"))
@example(np.datetime64("NaT", "ns"))
@example(np.zeros((0, 4), ">f4"))
@example(np.float64(-0.0))
@example(np.float16("inf"))
@example([np.int64(-(2**63)), np.uint64(2**64 - 1), np.int8(-1), True, np.True_, 1, 1.0])
@example([np.str_("\N{SNOWMAN}"), np.bytes_(b"\x00a"), np.longdouble(0.1), np.complex64(1j)])
@example({np.str_("a"): 1, "a\x00": {None: (), (): None, 0.5: b"", np.int64(3): [[]]}})
@example({"graph": GraphInstance(np.zeros((0, 2), np.float16), None, None)})
def test_a_value_comes_back_with_its_types_and_bits(value: Any) -> None:
    assert fingerprint(decode_value(encode_value(value), where="k")) == fingerprint(value)


@pytest.mark.deep
@settings(PATIENT, max_examples=examples(300))
@given(st.dictionaries(text, values, max_size=5))
def test_a_record_comes_back_with_its_types_and_bits(record: dict[str, Any]) -> None:
    assert fingerprint(decode_value(encode_mapping(record), where="k")) == fingerprint(record)


def test_an_array_that_is_not_contiguous_keeps_its_numbers() -> None:
    array = np.asfortranarray(np.arange(12).reshape(3, 4))[::2, ::-1]
    np.testing.assert_array_equal(decode_value(encode_value(array), where="k"), array)


def test_a_decoded_array_can_be_written_to() -> None:
    array = decode_value(encode_value(np.zeros(3)), where="k")
    array[0] = 1.0
    assert array.tolist() == [1.0, 0.0, 0.0]


@given(st.binary(max_size=200))
def test_random_bytes_decode_to_a_value_or_to_decode_error(content: bytes) -> None:
    assert_decodes_or_refuses(content)


@settings(PATIENT)
@given(values, st.data())
def test_damaged_bytes_decode_to_a_value_or_to_decode_error(
    value: Any, data: st.DataObject
) -> None:
    content = bytearray(encode_value(value))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    assert_decodes_or_refuses(bytes(content))


def assert_decodes_or_refuses(content: bytes) -> None:
    try:
        decode_value(content, where="the place")
    except DecodeError as error:
        message = str(error)
    else:
        return
    assert message.startswith("the place: ")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\xc7\x01\x63\x00",
        pickle.dumps(print),
    ],
    ids=["empty", "unused code", "huge length", "deep", "unknown extension", "pickle"],
)
def test_bytes_that_are_no_value_give_decode_error(content: bytes) -> None:
    with pytest.raises(DecodeError, match="the place: "):
        decode_value(content, where="the place")


ARRAY_EXTENSION = 7
DTYPES = ["O", "|O8", "<f3", "f8", "<M8[(1).__class__]", "V8,V8", "(2,)i4", "<U9999999999", "|V-1"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dtype_that_is_never_stored_gives_decode_error(dtype: str) -> None:
    pack = msgspec.msgpack.encode
    array = pack(msgspec.msgpack.Ext(ARRAY_EXTENSION, pack([dtype, [1], bytes(8)])))
    with pytest.raises(DecodeError):
        decode_value(array, where="k")


def extension(code: int, content: Any) -> bytes:
    inner = content if isinstance(content, bytes) else msgspec.msgpack.encode(content)
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(code, inner))


WATCHED = """
import random, sys
from jamboree_gym.errors import DecodeError
from jamboree_gym.arrays.values import decode_value

def decode(content):
    try:
        decode_value(content, where="k")
    except DecodeError:
        pass

EVENTS = ("import", "exec", "compile", "open", "os.system", "pickle.find_class")

def watch(event, arguments):
    if watching and event in EVENTS:
        print(event, arguments)

content, chance, watching = bytes.fromhex(sys.argv[1]), random.Random(0), False
decode(content), decode(b"")
sys.addaudithook(watch)
watching = True
for _ in range(30_000):
    damaged = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    decode(bytes(damaged))
watching = False
"""


def test_decoding_runs_and_imports_and_opens_nothing() -> None:
    record = {
        "array": np.zeros(2, "<f8"),
        "scalar": np.datetime64("2020-01-01", "s"),
        "time": datetime(2020, 1, 1, tzinfo=UTC),
        "graph": GraphInstance(np.zeros((1, 2), np.float32), None, None),
        "exact": [date(2020, 1, 1), Decimal("1.5"), Fraction(1, 3), Path("a"), np.dtype("<f4")],
        "objects": np.array([None, "a"], object),
        "fields": np.zeros(1, "i4,f4"),
        "rest": ({1, 2}, 2**70, 1j, {1: 2}, b"cos\nsystem\n"),
    }
    watched = run_python(WATCHED, encode_mapping(record).hex())
    assert (watched.stdout, watched.stderr) == ("", "")


class Unknown:
    def __repr__(self) -> str:
        return "<Unknown>"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"a": Unknown()}, r"'a': cannot store <Unknown> of type .*Unknown"),
        ({"a": {"b": [1, Unknown()]}}, r"'a'\.b\[1\]: cannot store <Unknown>"),
        ({"a": ({Unknown: 1},)}, r"'a'\[0\]: key .*: cannot store"),
        ({"a": np.array([Unknown()])}, r"'a'\[0\]: cannot store <Unknown>"),
        ({"a": {frozenset([Unknown]): 1}}, r"'a': key .*: cannot store the class"),
        ({"a": [np.polynomial.Polynomial([1])]}, r"'a'\[0\]: cannot store Polynomial"),
        ({"a": ["\ud800"]}, r"'a'\[0\]: .* is not valid unicode"),
        ({"a": {"\ud800": 1}}, r"'a': key .*.*is not valid unicode"),
        ({1: 2}, "a field name is a string, not 1"),
    ],
)
def test_what_cannot_be_kept_is_named_with_its_place(record: Any, message: str) -> None:
    with pytest.raises(InvalidRecord, match=message):
        encode_mapping(record)


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidRecord, match="holds itself"):
        encode_mapping({"a": loop})


def test_a_place_in_a_large_value_is_found() -> None:
    value: Any = {
        "good": list(range(1000)),
        "bad": [{}, {3: ({"deep": [np.float32(1), Unknown()]},)}],
    }
    with pytest.raises(InvalidRecord, match=r"'bad'\[1\]\[3\]\[0\]\.deep\[1\]: cannot store <Unk"):
        encode_value(value)


@pytest.mark.parametrize("size", [0, 7, 9])
def test_a_number_of_the_wrong_size_gives_decode_error(size: int) -> None:
    (code,) = (msgspec.msgpack.decode(encode_value(np.float64(1))).code,)
    content = msgspec.msgpack.encode(msgspec.msgpack.Ext(code, bytes(size)))
    with pytest.raises(DecodeError, match="not one float64"):
        decode_value(content, where="k")


def test_an_instance_of_a_subclass_comes_back_as_the_plain_container() -> None:
    class Pair(tuple[int, int]):
        pass

    class Names(dict[str, int]):
        pass

    record = {"a": Pair((1, 2)), "b": Names(c=1)}
    decoded = decode_value(encode_mapping(record), where="k")
    assert fingerprint(decoded) == fingerprint({"a": (1, 2), "b": {"c": 1}})


def test_what_is_refused_is_shown_in_few_words() -> None:
    with pytest.raises(InvalidRecord) as caught:
        encode_mapping({"a": collections.UserList(range(10_000))})
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "content",
    [
        extension(1, extension(7, ["<f8", [2**40, 0], b""])),
        extension(4, extension(7, ["<f8", [2**40, 2, 0], b""])),
        extension(7, ["|S0", [2**40], b""]),
        extension(7, ["<f8", [-1, 2], bytes(32)]),
        extension(7, ["<f8", "12", bytes(32)]),
        extension(7, ["<U1", [1], b"\x00\x00\x11\x00"]),
        extension(8, [">U2", [], b"\xff" * 8]),
        extension(11, b"2020-13-01"),
        extension(13, b"9999999999,0,0"),
        extension(14, b"x"),
        extension(15, b"1/0"),
        extension(16, b"short"),
        extension(18, b"|O8"),
        extension(19, [[2**40], [1]]),
        extension(19, [[-1], [1]]),
        extension(20, [[2**40], False, []]),
        extension(20, [[1], False, [["a", 1]]]),
    ],
    ids=[
        "tuple of an array",
        "pairs of an array",
        "without bytes",
        "any shape",
        "text for shape",
        "no character",
        "no characters",
        "no date",
        "no timedelta",
        "no decimal",
        "no fraction",
        "no uuid",
        "no dtype",
        "more objects than there are",
        "objects of any shape",
        "fields without bytes",
        "a field that is no array",
    ],
)
def test_an_extension_that_is_never_written_gives_decode_error(content: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_value(content, where="k")
