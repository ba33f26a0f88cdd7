"""The body of a batch, byte by byte: from rows, from columns, and back."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from flat_rows import part
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lengths import examples

from jamboree_gym.arrays.layout import ENCODED, NOTHING, Group, Leaf
from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.compiled import compiled_core
from jamboree_gym.encoding import column_batch
from jamboree_gym.encoding.batch_format import decode_batch
from jamboree_gym.encoding.column_batch import (
    NO_TAIL,
    PREFIX,
    encode_columns,
    encode_step_batches,
    join_columns,
)
from jamboree_gym.encoding.column_batch import decode_tail as tail_of
from jamboree_gym.encoding.row_format import row_format

DTYPES = ["float16", "float32", "int8", "int64", "uint8", "uint64", "bool", ">f4", ">i8"]
SHAPES = [(), (1,), (3,), (2, 2), (11,), (0,), (2, 0)]
NUMBER = Leaf(np.dtype(np.int64), (), "python")

leaves = st.builds(
    lambda dtype, shape: Leaf(np.dtype(dtype), shape, "array"),
    st.sampled_from(DTYPES),
    st.sampled_from(SHAPES),
)
columns = leaves | st.just(ENCODED)
layouts = columns | st.lists(columns, max_size=3).map(
    lambda parts: Group("tuple", tuple(range(len(parts))), tuple(parts))
)
annotations = st.none() | columns
schemas = st.builds(
    lambda observation, action, said: StepSchema(
        observation, action, Group("dict", ("a",), (said,)) if said else NOTHING
    ),
    layouts,
    layouts,
    annotations,
)


class Written(NamedTuple):
    columns: Sequence[Any]
    infos: list[tuple[int, bytes]]
    changes: list[tuple[int, bytes]]


@st.composite
def batches(draw: st.DrawFn, schema: StepSchema) -> tuple[int, Written]:
    """Count and columns of a batch."""
    count = draw(st.integers(1, 9))
    drawn = [
        draw(hnp.arrays(column.dtype, (count, *column.shape)))
        if isinstance(column, Leaf)
        else draw(st.lists(st.binary(max_size=9), min_size=count, max_size=count))
        for column in schema.columns
    ]
    rows = st.lists(st.integers(0, count - 1), unique=True).map(sorted)
    infos = [(row, draw(st.binary(max_size=9))) for row in draw(rows)]
    changes = [(row, draw(st.binary(min_size=8, max_size=8))) for row in draw(rows) if row]
    return count, Written(drawn, infos, changes)


def plainly(schema: StepSchema, batch: Written) -> bytes:
    """The body as docs/storage.md describes it, without haste."""
    body = schema.digest_bytes + struct.pack("<2I", len(batch.infos), len(batch.changes))
    for leaf, values in zip(schema.columns, batch.columns, strict=True):
        if not isinstance(leaf, Leaf):
            body += struct.pack(f"<{len(values)}I", *np.cumsum([len(v) for v in values]))
        elif leaf.dtype == bool:
            for value in values:
                body += np.packbits(value.ravel(), bitorder="little").tobytes()
        else:
            body += values.tobytes()
    for leaf, values in zip(schema.columns, batch.columns, strict=True):
        body += b"" if isinstance(leaf, Leaf) else b"".join(values)
    body += b"".join(struct.pack("<I", row) for row, _ in batch.infos)
    body += b"".join(
        struct.pack("<I", sum(len(one) for _, one in batch.infos[: n + 1]))
        for n in range(len(batch.infos))
    )
    body += b"".join(info for _, info in batch.infos)
    body += b"".join(struct.pack("<I", row) for row, _ in batch.changes)
    return body + b"".join(name for _, name in batch.changes)


def assert_same(read: Any, written: Any) -> None:
    assert len(read) == len(written)
    for one, other in zip(read, written, strict=True):
        if isinstance(other, np.ndarray):
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            assert one.tobytes() == other.tobytes()
        else:
            assert list(one) == list(other)


@pytest.mark.deep
@settings(max_examples=examples(500))
@given(st.data(), schemas)
def test_columns_come_back_from_the_bytes_that_the_page_describes(
    data: st.DataObject, schema: StepSchema
) -> None:
    count, batch = data.draw(batches(schema))

    body = encode_columns(schema, *batch)

    assert body == plainly(schema, batch)
    tail = tail_of(body, schema, count)
    assert (list(tail.infos), list(tail.changes)) == (batch.infos, batch.changes)


@pytest.mark.compiled
@settings(max_examples=examples(200))
@given(st.data(), schemas.filter(lambda schema: not schema.has_encoded))
def test_the_compiled_core_makes_the_batches_that_python_makes(
    data: st.DataObject, schema: StepSchema
) -> None:
    counts = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    starts = data.draw(st.lists(st.integers(0, 2**53), min_size=len(counts), max_size=len(counts)))
    dtype, block = row_format(schema).dtype, bytes(range(256))
    size = sum(counts) * dtype.itemsize
    rows = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), dtype).copy()
    rows["info_at"] %= 200
    rows["info_size"] %= data.draw(st.sampled_from([1, 2, 56]))
    blocks = data.draw(
        st.lists(st.sampled_from([None, block]), min_size=len(counts), max_size=len(counts))
    )

    arguments = schema, rows, starts, counts, blocks, b"a writer"
    compiled = encode_step_batches(*arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(column_batch, "_core", None)
        assert encode_step_batches(*arguments) == compiled
    first = 0
    for batch, start, count, infos in zip(compiled, starts, counts, blocks, strict=True):
        found = decode_batch(batch, where="log")  # the checksum, too
        assert (found.start, found.count, found.writer) == (start, count, b"a writer")
        kept = tail_of(found.body, schema, count).infos
        assert list(kept) == ([] if infos is None else told(rows[first : first + count], infos))
        first += count


def told(rows: Any, block: bytes) -> list[tuple[int, bytes]]:
    """The infos of rows that are not empty."""
    places = enumerate(zip(rows["info_at"].tolist(), rows["info_size"].tolist(), strict=True))
    return [(row, block[at : at + size]) for row, (at, size) in places if size]


@given(st.data(), schemas)
def test_several_batches_are_joined_in_native_byte_order(
    data: st.DataObject, schema: StepSchema
) -> None:
    written = [data.draw(batches(schema)) for _ in range(data.draw(st.integers(1, 3)))]
    bodies = [(encode_columns(schema, *batch), count) for count, batch in written]

    tails = [tail_of(body, schema, count) for body, count in bodies]
    joined = join_columns(bodies, schema, tails)

    parts = zip(*[batch.columns for _, batch in written], strict=True)
    expected = [
        np.concatenate(some) if isinstance(some[0], np.ndarray) else [*chain(*some)]
        for some in parts
    ]
    assert_same(joined, expected)
    assert all(one.flags.writeable for one in joined if isinstance(one, np.ndarray))


SINGLE = Leaf(np.dtype("bool"), (), "python")
SEVERAL = Leaf(np.dtype("float32"), (2, 3), "array")


@pytest.mark.compiled
@given(st.data(), schemas | st.just(StepSchema(SEVERAL, SINGLE)))
def test_the_compiled_core_joins_columns_as_python_does(
    data: st.DataObject, schema: StepSchema
) -> None:
    written = [data.draw(batches(schema)) for _ in range(data.draw(st.integers(1, 3)))]
    bodies = [(encode_columns(schema, *batch), count) for count, batch in written]
    tails = [tail_of(body, schema, count) for body, count in bodies]

    joined = join_columns([(memoryview(body), count) for body, count in bodies], schema, tails)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(column_batch, "_core", None)
        assert_same(joined, join_columns(bodies, schema, tails))


@pytest.mark.compiled
def test_flags_that_are_no_bits_are_read_as_python_reads_them() -> None:
    schema = StepSchema(NUMBER, SINGLE)
    count, damaged = 4, bytes(range(16 + 4 * schema.stored_row_bytes))

    joined = join_columns([(damaged, count)], schema, [NO_TAIL])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(column_batch, "_core", None)
        assert_same(joined, join_columns([(damaged, count)], schema, [NO_TAIL]))


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("bodies", "columns", "error", "said"),
    [
        (((bytes(31), 2),), ((np.dtype("f8"), ()),), ValueError, "ends before its columns"),
        (((bytes(9), 2),), ((np.dtype("f8"), ()),), ValueError, "ends before its columns"),
        (((bytes(32), 0),), ((np.dtype("f8"), ()),), ValueError, "ends before its columns"),
        (((bytes(32), 2),), ((np.dtype("f8"), (2**62,)),), ValueError, "column of numbers"),
        (((bytes(32), 2),), ((np.dtype("f8"), (1,) * 64),), ValueError, "column of numbers"),
        (((bytes(32), 2),), ((np.dtype("f8"), ("two",)),), ValueError, "column of numbers"),
        (((bytes(32), 2),), ((np.dtype("O"), ()),), ValueError, "column of numbers"),
        (((bytes(32), 2), None), ((np.dtype("f8"), ()),), TypeError, "a body is a tuple"),
        (((bytes(32), 2), ("no bytes", 2)), ((np.dtype("f8"), ()),), TypeError, "bytes-like"),
        (((bytes(32), 2),), ((np.dtype("f8"), ()), None), TypeError, "a column is a tuple"),
    ],
)
def test_the_compiled_core_reads_no_byte_behind_a_body(
    bodies: Any, columns: Any, error: type[Exception], said: str
) -> None:
    core = compiled_core()
    assert core is not None

    with pytest.raises(error, match=said):
        core.join_columns(bodies, PREFIX.size, columns)


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"rows": bytes(47)}, ValueError),
        ({"columns": ((16, 1, 0),)}, ValueError),
        ({"columns": ((-1, 1, 0),)}, ValueError),
        ({"columns": ((0, 0, 0),)}, ValueError),
        ({"columns": ((0, 2, 1),)}, ValueError),
        ({"columns": (None,)}, TypeError),
        ({"row_bytes": 0}, ValueError),
        ({"time_at": 9}, ValueError),
        ({"info_at": 9}, ValueError),
        ({"info_at": -1}, ValueError),
        ({"prefix": bytes(15)}, ValueError),
        ({"header": bytes(39)}, ValueError),
        ({"parts": ((0, 2, None), (2, 0, None))}, ValueError),
        ({"parts": ((0, 2, None), (2, -1, None))}, ValueError),
        ({"parts": ((0, 2**62, None),)}, ValueError),
        ({"parts": ((0, 2),)}, TypeError),
        ({"parts": ((0, 2, 5),)}, TypeError),
        ({"rows": np.array([[5, 12, 0, 0]], "u4"), "parts": ((0, 1, bytes(16)),)}, ValueError),
        ({"rows": np.array([[17, 0, 0, 0]], "u4"), "parts": ((0, 1, bytes(16)),)}, ValueError),
        ({"rows": np.array([[2**32 - 1] * 4], "u4"), "parts": ((0, 1, bytes(16)),)}, ValueError),
        ({"parts": (None,)}, TypeError),
    ],
)
def test_the_compiled_core_reads_no_byte_behind_the_rows(
    changed: dict[str, Any], error: type[Exception]
) -> None:
    core = compiled_core()
    assert core is not None
    usual = {"rows": bytes(48), "row_bytes": 16, "columns": ((8, 8, 0), (0, 1, 2)), "time_at": 8}
    usual |= {"info_at": 0, "header": bytes(40), "prefix": bytes(16)}
    usual |= {"parts": ((0, 2, None), (2, 1, bytes(16)))}
    assert len(core.encode_batches(*usual.values())) == 2

    with pytest.raises(error):
        core.encode_batches(*(usual | changed).values())


@pytest.mark.compiled
def test_the_columns_of_most_schemas_are_joined_by_the_compiled_core() -> None:
    assert StepSchema(SEVERAL, NUMBER).plain_columns is not None
    assert StepSchema(ENCODED, NUMBER).plain_columns is None
    assert StepSchema(SEVERAL, Leaf(np.dtype(">f4"), (), "numpy")).plain_columns is None


KINDS: dict[str, tuple[str, list[Any]]] = {
    "floats": ("f8", [0.5, -0.0, 5e-324]),
    "ints": ("i8", [2**63 - 1, -(2**63), 0]),
    "bools": ("?", [True, False, True]),
    "numbers of Python and NumPy": ("i8", [1, np.int64(-2), 3]),
    "floats of Python and NumPy": ("f8", [1.0, np.float64(-2), 3.0]),
    "bools of Python and NumPy": ("?", [True, np.bool_(False), np.bool_(True)]),
    "NumPy's own": ("f4", list(np.arange(3, dtype="f4"))),
    "of the other byte order": (">i2", list(np.arange(3, dtype=">i2"))),
}


CASES = {
    f"{name}, {kind}": (kind, *case)
    for name, case in KINDS.items()
    for kind in (("numpy",) if case[0] in ("f4", ">i2") else ("python", "numpy"))
}


@pytest.mark.parametrize(("kind", "dtype", "values"), CASES.values(), ids=CASES)
def test_rows_and_columns_make_the_same_bytes(kind: Any, dtype: str, values: list[Any]) -> None:
    schema = StepSchema(NUMBER, Leaf(np.dtype(dtype), (), kind))
    rows = [(n, v, 0.5, n == 2, False, 1.0, None, None) for n, v in enumerate(values)]

    body = part(rows, schema).body

    flags = [np.array([False, False, True]), np.zeros(3, bool)]
    columns = [np.arange(3), np.array(values, dtype), np.full(3, 0.5), *flags, np.ones(3)]
    assert body == encode_columns(schema, columns)


def test_columns_of_a_larger_array_are_taken_as_they_lie_there() -> None:
    schema = StepSchema(Leaf(np.dtype("f4"), (4,), "array"), NUMBER)
    names = ["o", "a", "r", "t", "u", "s"]
    rows = np.zeros(9, [*zip(names, ["(4,)f4", "i8", "f8", "?", "?", "f8"], strict=True)])
    rows["o"], rows["a"], rows["t"] = np.arange(36).reshape(9, 4), np.arange(9), True

    body = encode_columns(schema, [rows[name][2:7] for name in names])

    read = join_columns([(body, 5)], schema, [tail_of(body, schema, 5)])
    assert_same(read, [np.ascontiguousarray(rows[name][2:7]) for name in names])


@pytest.mark.parametrize("place", range(6))
def test_a_column_with_a_row_too_few_is_refused(place: int) -> None:
    schema = StepSchema(NUMBER, ENCODED)
    columns: list[Any] = [np.zeros(3, int), [b"a"] * 3, np.zeros(3), *[np.zeros(3, bool)] * 2]
    columns.append(np.zeros(3))
    columns[place] = columns[place][1:]

    with pytest.raises(ValueError, match="bytes where a row has"):
        encode_columns(schema, columns)


@pytest.mark.parametrize("dtype", [">i8", "f8", "u8"])
def test_a_column_of_another_dtype_is_refused(dtype: str) -> None:
    columns = [np.zeros(3, dtype), np.zeros(3, "i8"), np.zeros(3), *[np.zeros(3, bool)] * 2]

    with pytest.raises(ValueError, match="where the layout has int64"):
        encode_columns(StepSchema(NUMBER, NUMBER), [*columns, np.zeros(3)])


def test_a_batch_without_infos_and_changes_has_nothing_behind_its_columns() -> None:
    schema = StepSchema(NUMBER, NUMBER)
    body = part([(0, 0, 0.0, False, False, 1.0, None, None)], schema).body

    assert len(body) == PREFIX.size + 8 + 8 + 8 + 1 + 1 + 8
    assert tail_of(body, schema, 1) is NO_TAIL


def test_rows_are_written_and_read_without_arrow() -> None:
    program = """
import sys
sys.modules["pyarrow"] = None
import numpy as np
from jamboree_gym.arrays.layout import Leaf, ENCODED
from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.arrays.values import encode_value
from jamboree_gym.encoding.batch_format import decode_batch
from jamboree_gym.encoding.bulk_decoder import decode_batches
from flat_rows import part

schema = StepSchema(ENCODED, Leaf(np.dtype(">f4"), (2,), "array"))
row = (encode_value("text"), bytes(8), 0.5, False, False, 1.0, None, None)
batch = decode_batch(part([row] * 3, schema).sealed(b"writer-1"), where="log")
print(decode_batches([batch], lambda _: schema, where="log").observations.tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parent
    )

    assert done.stdout.strip() == str(["text"] * 3), done.stderr
