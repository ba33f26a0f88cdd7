"""Rows <-> batches, for every dtype and shape that a space may have."""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from flat_rows import Row, part
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jamboree_gym.arrays.layout import ENCODED, Group, Leaf, layout_of
from jamboree_gym.arrays.step_schema import FindSchema, StepSchema, schema_at
from jamboree_gym.arrays.values import encode_mapping, encode_value
from jamboree_gym.encoding.batch_format import (
    CODEC_RECORDS,
    CODEC_STEPS,
    Batch,
    decode_batch,
    encode_batch,
)
from jamboree_gym.encoding.bulk_decoder import RowCollector, decode_batches
from jamboree_gym.encoding.column_batch import PREFIX, decode_tail, encode_columns, join_columns
from jamboree_gym.encoding.rows import Rows, rows_to_arrays, schema_digest
from jamboree_gym.errors import DecodeError

DTYPES = [
    *("float16", "float32", "float64", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64", "bool", ">f4", ">i8"),
]
SHAPES = [(), (1,), (4,), (2, 3), (0,), (2, 0), (1, 1, 1, 2)]
INT64 = Leaf(np.dtype(np.int64), (), "python")
FLOAT32 = Leaf(np.dtype(np.float32), (2,), "array")
NUMPY = StepSchema(FLOAT32, Leaf(np.dtype(np.int64), (), "numpy"))

arrays = st.builds(np.dtype, st.sampled_from(DTYPES)).flatmap(
    lambda dtype: st.sampled_from(SHAPES).flatmap(
        lambda shape: st.lists(hnp.arrays(dtype, shape), min_size=1, max_size=5)
    )
)


def row(observation: Any, action: Any = 0, info: bytes | None = None, at: float = 1.0) -> Row:
    kept = [v.tobytes() if isinstance(v, np.ndarray) else v for v in (observation, action)]
    return (kept[0], kept[1], 0.5, False, True, at, info, None)


def batch_of(rows: Sequence[Row], schema: StepSchema, start: int = 0, **options: Any) -> Batch:
    blob = encode_batch(
        codec=CODEC_STEPS,
        start=start,
        count=len(rows),
        writer=bytes(8),
        t_first=rows[0][5],
        t_last=rows[-1][5],
        body=part(rows, schema, **options).body,
    )
    return decode_batch(blob, where="log")


def stored_and_read(rows: Sequence[Row], schema: StepSchema, **options: Any) -> Rows:
    return decode_batches([batch_of(rows, schema, **options)], stored(schema, NUMPY), where="log")


def stored(*schemas: StepSchema) -> FindSchema:
    """Finds schemas as they come back from the store."""
    blobs = {schema.digest: schema.blob for schema in schemas}
    return lambda name: StepSchema.from_blob(blobs[name], where="schema")


def assert_same_bits(values: Any, expected: Sequence[np.ndarray]) -> None:
    """In the byte order of this machine: so all arrays are read."""
    native = expected[0].dtype.newbyteorder("=")
    assert values.dtype == native
    assert values.shape == (len(expected), *expected[0].shape)
    assert values.tobytes() == b"".join(value.astype(native).tobytes() for value in expected)


@given(arrays)
def test_observations_come_back_bit_for_bit(observations: list[np.ndarray]) -> None:
    schema = StepSchema(layout_of(observations[0]), INT64)

    read = stored_and_read([row(value) for value in observations], schema)

    assert_same_bits(read.observations, observations)


@given(arrays)
def test_actions_come_back_bit_for_bit(actions: list[np.ndarray]) -> None:
    schema = StepSchema(INT64, layout_of(actions[0]))

    read = stored_and_read([row(0, value) for value in actions], schema)

    assert_same_bits(read.actions, actions)


@given(arrays)
def test_rows_in_memory_look_as_rows_from_the_store(observations: list[np.ndarray]) -> None:
    schema = StepSchema(layout_of(observations[0]), INT64)

    assert_same_bits(
        rows_to_arrays(part([row(value) for value in observations], schema)).observations,
        observations,
    )


@pytest.mark.parametrize(
    "values",
    [
        [math.nan, math.inf, -math.inf, -0.0, 5e-324],
        [2**63 - 1, -(2**63), 0],
        [np.uint64(2**64 - 1), np.uint64(0)],
        [np.float16(65504), np.float16("nan"), np.float16(-0.0)],
        [True, False],
        [np.bool_(True), np.bool_(False)],
        [np.int8(-128), np.int8(127)],
    ],
    ids=str,
)
def test_extreme_scalars_come_back_bit_for_bit(values: list[Any]) -> None:
    leaf = layout_of(values[0])

    read = stored_and_read([row(value) for value in values], StepSchema(leaf, INT64))

    assert read.observations.tobytes() == np.array(values, leaf.dtype).tobytes()


@given(st.lists(st.floats(width=64), min_size=1, max_size=20))
def test_rewards_come_back_bit_for_bit(rewards: list[float]) -> None:
    rows = [(0, 0, reward, False, False, 1.0, None, None) for reward in rewards]

    read = stored_and_read(rows, StepSchema(INT64, INT64))

    assert read.rewards.tobytes() == np.array(rewards).tobytes()


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_ends_come_back(ends: list[tuple[bool, bool]]) -> None:
    rows = [(0, 0, 0.0, *end, 1.0, None, None) for end in ends]

    read = stored_and_read(rows, StepSchema(INT64, INT64))

    assert list(zip(read.terminations, read.truncations, strict=True)) == ends


@given(st.lists(st.dictionaries(st.text(), st.integers() | st.text()), min_size=1, max_size=9))
def test_infos_come_back_each_with_its_row(infos: list[dict[str, Any]]) -> None:
    rows = [row(0, info=encode_mapping(info) if info else None) for info in infos]

    assert stored_and_read(rows, StepSchema(INT64, INT64)).infos == infos


def test_a_batch_without_infos_spends_no_byte_on_them() -> None:
    schema = StepSchema(FLOAT32, INT64)
    observation = np.zeros(2, np.float32)
    plain = part([row(observation)], schema).body

    assert len(part([row(observation, info=encode_mapping({"a": 1}))], schema).body) > len(plain)
    assert plain == part([row(observation)], schema, ()).body


def test_what_actions_were_comes_back() -> None:
    rows = [row(0, 1), row(0, np.int64(1)), row(0, 1)]

    python, numpy = StepSchema(INT64, INT64), StepSchema(INT64, NUMPY.action)
    batch = batch_of(rows, python, start=7, changes=[(1, numpy), (2, python)])

    read = decode_batches([batch], stored(python, numpy), where="log")

    assert [type(read.action(n)) for n in range(3)] == [int, np.int64, int]


def test_arrays_that_were_read_can_be_written_to() -> None:
    schema = StepSchema(FLOAT32, INT64)
    read = Rows.concatenate([stored_and_read([row(np.zeros(2, np.float32))], schema)])

    read.observations[0] = 1.0

    assert read.observations.tolist() == [[1.0, 1.0]]


def test_a_slice_of_rows_knows_where_it_begins() -> None:
    schema = StepSchema(INT64, INT64)
    read = stored_and_read([row(n) for n in range(5)], schema, start=10)

    part = read[2:4]

    assert (part.start, len(part), part.observations.tolist()) == (12, 2, [2, 3])


# -- layouts that change ----------------------------------------------------------------------


def cut(changes: list[tuple[int, StepSchema]], count: int, size: int = 100) -> list[tuple]:
    whole = part([row(n) for n in range(count)], INT_SCHEMA, changes, start=10)
    return [(one.start, one.count, one.schema, list(one.changes)) for one in whole.cut(size)]


INT_SCHEMA = StepSchema(INT64, INT64)
NUMPY_SCHEMA = StepSchema(INT64, NUMPY.action)


def test_rows_of_one_layout_are_cut_by_number_only() -> None:
    assert cut([], 5, size=2) == [
        (10, 2, INT_SCHEMA, []),
        (12, 2, INT_SCHEMA, []),
        (14, 1, INT_SCHEMA, []),
    ]


def test_rows_are_not_cut_where_only_the_kind_of_the_action_changes() -> None:
    changes = [(1, NUMPY_SCHEMA), (3, INT_SCHEMA)]

    assert cut(changes, 5) == [(10, 5, INT_SCHEMA, changes)]


def test_a_part_that_begins_within_another_kind_says_so() -> None:
    assert cut([(1, NUMPY_SCHEMA)], 5, size=3) == [
        (10, 3, INT_SCHEMA, [(1, NUMPY_SCHEMA)]),
        (13, 2, NUMPY_SCHEMA, []),
    ]


@given(
    st.lists(st.sampled_from([INT_SCHEMA, NUMPY_SCHEMA]), min_size=1, max_size=8),
    st.integers(1, 4),
)
def test_every_row_is_in_one_part_with_its_own_layout(layouts: list[StepSchema], size: int) -> None:
    changes = [(i, new) for i, new in enumerate(layouts) if i and new != layouts[i - 1]]
    infos = [encode_mapping({"n": n}) if n % 3 else None for n in range(len(layouts))]
    rows = [row(n, info=info) for n, info in enumerate(infos)]

    found = []
    for one in part(rows, layouts[0], changes, start=7).cut(size):
        assert 0 < one.count <= size
        schemas_here = [(0, one.schema), *one.changes]
        infos_here = dict(one.infos)
        assert one.start == 7 + len(found)
        for offset, observation in enumerate(one.columns[0]):
            found.append((observation, schema_at(schemas_here, offset), infos_here.get(offset)))

    assert found == [(n, *what) for n, what in enumerate(zip(layouts, infos, strict=True))]


# -- damage -----------------------------------------------------------------------------------


def damaged_batch(body: bytes, count: int = 3) -> Batch:
    return Batch(5, count, 1.0, 2.0, CODEC_STEPS, bytes(8), memoryview(body))


GOOD_SCHEMA = StepSchema(FLOAT32, INT64)
GOOD_BODY = part(
    [row(np.ones(2, np.float32), info=encode_mapping({"a": [1, 2]}))] * 3, GOOD_SCHEMA
).body


@given(st.integers(8, len(GOOD_BODY) - 1), st.integers(0, 255))
def test_a_changed_byte_is_read_as_other_values_or_named(position: int, value: int) -> None:
    body = bytearray(GOOD_BODY)
    body[position] = value
    with contextlib.suppress(DecodeError):
        rows = decode_batches([damaged_batch(bytes(body))], stored(GOOD_SCHEMA), where="log")

        assert rows.observations.shape == (3, 2)


@given(st.integers(0, len(GOOD_BODY) - 1))
def test_a_body_that_was_cut_off_is_named(length: int) -> None:
    with pytest.raises(DecodeError, match="log at index 5"):
        decode_batches([damaged_batch(GOOD_BODY[:length])], stored(GOOD_SCHEMA), where="log")


def test_a_body_with_something_behind_it_is_named() -> None:
    with pytest.raises(DecodeError, match=r"log at index 5: .* have a meaning"):
        decode_batches([damaged_batch(GOOD_BODY + b"x")], stored(GOOD_SCHEMA), where="log")


@pytest.mark.parametrize("count", [2, 4, 2**32 - 1])
def test_a_wrong_number_of_rows_is_named(count: int) -> None:
    with pytest.raises(DecodeError, match="log at index 5"):
        decode_batches([damaged_batch(GOOD_BODY, count=count)], stored(GOOD_SCHEMA), where="log")


def test_infos_that_are_no_msgpack_are_named() -> None:
    with pytest.raises(DecodeError, match="log at index 5"):
        decode_batches([damaged_batch(body_with([(1, b"\xc1")]))], stored(GOOD_SCHEMA), where="log")


def test_a_batch_of_records_is_not_one_of_steps() -> None:
    batch = Batch(0, 1, 1.0, 1.0, CODEC_RECORDS, bytes(8), memoryview(GOOD_BODY))

    with pytest.raises(DecodeError, match="not a batch of steps"):
        schema_digest(batch, where="log")


@pytest.mark.parametrize("blob", [b"", b"nonsense", GOOD_SCHEMA.blob[:40]], ids=len)
def test_a_damaged_schema_is_named(blob: bytes) -> None:
    with pytest.raises(DecodeError, match="blob: not a schema"):
        StepSchema.from_blob(blob, where="blob")


def test_a_schema_that_is_written_in_another_way_is_refused() -> None:
    blob = GOOD_SCHEMA.blob.replace(b'"shape": [2]', b'"shape":  [2]')

    with pytest.raises(DecodeError, match="not a schema"):
        StepSchema.from_blob(blob, where="blob")


def test_equal_layouts_have_one_blob() -> None:
    assert StepSchema(FLOAT32, INT64).digest == GOOD_SCHEMA.digest


# -- written on purpose, with everything around it right --------------------------------------


def sealed(body: bytes) -> Batch:
    """A whole batch, with its checksum."""
    times = {"t_first": 1.0, "t_last": 1.0}
    blob = encode_batch(codec=CODEC_STEPS, start=5, count=3, writer=bytes(8), **times, body=body)
    return decode_batch(blob, where="log")


GOOD_COLUMNS = join_columns([(GOOD_BODY, 3)], GOOD_SCHEMA, [decode_tail(GOOD_BODY, GOOD_SCHEMA, 3)])
SAID, DIGEST = encode_mapping({}), GOOD_SCHEMA.digest_bytes


def body_with(infos: list[Any], changes: list[Any] | None = None) -> bytes:
    """The good columns with something else behind them."""
    return encode_columns(GOOD_SCHEMA, GOOD_COLUMNS, infos, changes or [])


@pytest.mark.parametrize(
    "body",
    [
        body_with([(0, encode_value([1]))]),
        body_with([(3, SAID)]),
        body_with([(2**32 - 1, SAID)]),
        body_with([(1, SAID), (1, SAID)]),
        body_with([], [(0, DIGEST)]),
        body_with([], [(3, DIGEST)]),
        body_with([], [(2, DIGEST), (1, DIGEST)]),
    ],
    ids=["no dict", "behind", "far behind", "twice", "first", "too late", "unsorted"],
)
def test_rows_that_are_not_there_are_not_told_of(body: bytes) -> None:
    with pytest.raises(DecodeError, match="log at index 5"):
        decode_batches([sealed(body)], stored(GOOD_SCHEMA), where="log")


def test_rows_of_other_columns_are_refused() -> None:
    other = StepSchema(INT64, INT64)
    body = body_with([], [(1, other.digest_bytes)])

    with pytest.raises(DecodeError, match="other columns"):
        decode_batches([damaged_batch(body)], stored(GOOD_SCHEMA, other), where="log")


@pytest.mark.parametrize(
    "numbers", [(2**32 - 1, 0), (0, 2**32 - 1), (2**32 - 1, 2**32 - 1), (2, 0), (0, 2)]
)
def test_more_infos_and_changes_than_there_are_bytes_are_refused(numbers: tuple[int, int]) -> None:
    body = PREFIX.pack(DIGEST, *numbers) + GOOD_BODY[PREFIX.size :]

    with pytest.raises(DecodeError, match="log at index 5"):
        decode_batches([damaged_batch(body)], stored(GOOD_SCHEMA), where="log")


TEXT = StepSchema(ENCODED, INT64)
ENDS_AT = PREFIX.size


@pytest.mark.parametrize("ends", [(2, 1, 3), (1, 2, 2**32 - 1), (1, 2, 4), (1, 2, 2)])
def test_values_that_end_where_nothing_is_are_refused(ends: tuple[int, ...]) -> None:
    body = bytearray(part([row(encode_value(None))] * 3, TEXT).body)
    struct.pack_into("<3I", body, ENDS_AT, *ends)

    with pytest.raises(DecodeError, match="log at index 5"):
        decode_batches([sealed(bytes(body))], stored(TEXT), where="log")


def test_ends_that_do_not_ascend_are_refused_whatever_the_values_are() -> None:
    body = bytearray(part([row(b"a")] * 3, TEXT).body)
    struct.pack_into("<3I", body, ENDS_AT, 2, 1, 3)

    with pytest.raises(ValueError, match="values end"):
        decode_tail(bytes(body), TEXT, 3)


def test_only_the_first_rows_of_an_episode_are_cut_all_at_once() -> None:
    parts: dict[str, Any] = {"codec": CODEC_STEPS, "start": 0, "count": 3, "writer": bytes(8)}
    body, times = part([row(np.zeros(2, "f4"))] * 3, GOOD_SCHEMA).body, {"t_first": 1.0}

    def is_taken(**others: Any) -> bool:
        blob = encode_batch(**{**parts, **others}, **times, t_last=1.0, body=body)
        return RowCollector(GOOD_SCHEMA).add_alike([blob], 3)

    assert is_taken()
    assert not is_taken(start=3)
    assert not is_taken(count=4)
    assert not is_taken(codec=CODEC_RECORDS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("at_once", [1, 300, 1 << 17])
def test_batches_that_are_cut_all_at_once_have_the_rows_of_each(
    dtype: str, shape: tuple[int, ...], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jamboree_gym.encoding.column_batch._AT_ONCE_BYTES", at_once)
    bits = np.random.default_rng(0).integers(0, 2, (18, *shape)).astype(dtype)
    schema = StepSchema(layout_of(bits[0]), INT64)
    rows = [row(value, number, at=number + 1.0) for number, value in enumerate(bits)]
    pairs, triples, odd = (
        [batch_of(some, schema) for some in np.split(np.array(rows, object)[a:b], parts)]
        for a, b, parts in ((0, 8, 4), (8, 14, 2), (14, 18, 1))
    )

    together, alone = RowCollector(schema), RowCollector(schema)
    assert together.add_alike([one.blob for one in pairs], 2)
    assert together.add_alike([one.blob for one in triples], 3)
    together.add([(odd[0].body, 4)], [decode_tail(odd[0].body, schema, 4)])
    for one in (*pairs, *triples, *odd):
        alone.add([(one.body, one.count)], [decode_tail(one.body, schema, one.count)])

    read, expected = together.rows(), alone.rows()
    assert_same_bits(read.observations, list(bits))
    for name in ("actions", "rewards", "terminations", "truncations", "timestamps"):
        assert getattr(read, name).tobytes() == getattr(expected, name).tobytes()
        assert getattr(read, name).flags.writeable
    assert read.infos == expected.infos


def test_more_rows_than_a_batch_can_have_are_not_cut() -> None:
    collector = RowCollector(GOOD_SCHEMA)

    assert not collector.add_alike([sealed(GOOD_BODY).blob], 2**40)


def test_a_batch_shorter_than_a_batch_is_not_cut() -> None:
    collector = RowCollector(GOOD_SCHEMA)

    assert not collector.add_alike([sealed(GOOD_BODY[:4]).blob], 3)


@pytest.mark.parametrize(
    "change",
    [
        (b"[2]", b"[" * 9000),
        (b"[2]", b"[2147483647, 2147483647]"),
        (b"[2]", b"[0, 2147483647, 2147483647]"),
        (b"[2]", b"[%s]" % b", ".join([b"1"] * 64)),
        (b'"<f4"', b'"(2,)f4"'),
        (b'"array"', b'"numpy"'),
    ],
    ids=[
        "deep",
        "large",
        "large and empty",
        "many dimensions",
        "a dtype to parse",
        "a scalar with a shape",
    ],
)
def test_a_schema_that_is_never_written_is_refused(change: tuple[bytes, bytes]) -> None:
    with pytest.raises(DecodeError, match="blob: not a schema"):
        StepSchema.from_blob(GOOD_SCHEMA.blob.replace(*change), where="blob")


def test_rows_that_were_joined_as_objects_are_joined_again() -> None:
    of_dict = StepSchema(Group("dict", ("a", "b"), (INT64, INT64)), INT64)
    parts = [
        rows_to_arrays(part([row((1, 2))], of_dict)),
        rows_to_arrays(part([row(3)], GOOD_INT, start=1)),
    ]
    joined = Rows.concatenate(parts)

    again = Rows.concatenate([joined[:1], joined[1:]])

    assert again.observations.tolist() == [{"a": 1, "b": 2}, 3]


GOOD_INT = StepSchema(INT64, INT64)
