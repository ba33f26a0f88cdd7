"""Batches are laid out as pyarrow lays them out, whoever writes them."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from flat_rows import part
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lengths import examples

from jamboree_gym.arrays.layout import Group, Leaf, layout_of
from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.encoding import row_encoder
from jamboree_gym.encoding.row_encoder import MAX_ROW_BYTES, serialize_batch
from jamboree_gym.environment.spaces import layout_of_space

DTYPES = ["float16", "float32", "int8", "int64", "uint8", "uint64", "bool", ">f4"]
Columns = list[list[Any]]
SHAPES = [(), (3,), (2, 2), (0,)]


def serialized(schema: StepSchema, columns: Columns) -> bytes:
    rows = [(*row, None, None) for row in zip(*columns, strict=True)]
    return serialize_batch(schema, part(rows, schema).columns)


def by_pyarrow(schema: StepSchema, columns: Columns) -> bytes:
    arrays = [
        schema.observation.to_arrow(schema.observation.stack(columns[0])),
        schema.action.to_arrow(schema.action.stack(columns[1])),
        *(pa.array(column) for column in columns[2:6]),
    ]
    return bytes(pa.RecordBatch.from_arrays(arrays, schema=schema.arrow).serialize())


@pytest.mark.deep
@settings(max_examples=examples(400))
@given(st.data(), st.sampled_from(DTYPES), st.sampled_from(SHAPES), st.integers(1, 20))
def test_every_batch_is_byte_for_byte_what_pyarrow_writes(
    data: st.DataObject, dtype: str, shape: tuple[int, ...], count: int
) -> None:
    schema = StepSchema(
        Leaf(np.dtype(dtype), shape, "array"), Leaf(np.dtype(np.int64), (), "python")
    )
    flags = st.lists(st.booleans(), min_size=count, max_size=count)
    floats = st.lists(st.floats(), min_size=count, max_size=count)
    for _ in range(2):  # the second one does not ask pyarrow any more
        columns = [
            [data.draw(hnp.arrays(dtype, shape)).tobytes() for _ in range(count)],
            data.draw(st.lists(st.integers(-9, 9), min_size=count, max_size=count)),
            *(data.draw(kind) for kind in (floats, flags, flags, floats)),
        ]

        assert serialized(schema, columns) == by_pyarrow(schema, columns)


@pytest.mark.parametrize("kind", ["array", "numpy", "python"])
def test_bits_are_packed_as_pyarrow_packs_them(kind: str) -> None:
    leaf = Leaf(np.dtype(bool), (), kind)
    schema = StepSchema(leaf, leaf)
    values = [True, False, True] * 5
    kept = [np.bool_(value).tobytes() for value in values] if kind == "array" else values
    columns = [kept, kept, [0.0] * 15, values, values, [1.0] * 15]

    for _ in range(2):
        assert serialized(schema, columns) == by_pyarrow(schema, columns)


NUMBERS = spaces.Box(-1, 1, (4,), np.float32)
NESTED = spaces.Dict(
    {
        "picture": spaces.Box(0, 255, (2, 3), np.uint8),
        "pair": spaces.Tuple((NUMBERS, spaces.Discrete(2))),
        "bits": spaces.MultiBinary(5),
    }
)
SAID = {"value": 0.0, "seen": np.zeros(3, np.bool_)}
SPACES_AND_ANNOTATIONS = {
    "plain": (NUMBERS, spaces.Discrete(2), {}),
    "nested": (NESTED, spaces.Tuple((NUMBERS, NUMBERS)), {}),
    "annotated": (NUMBERS, spaces.MultiDiscrete([2, 3]), SAID),
    "of one value each": (spaces.Discrete(2), spaces.Discrete(3), {"n": 1}),
}


@pytest.mark.parametrize(
    ("observation_space", "action_space", "annotation"),
    SPACES_AND_ANNOTATIONS.values(),
    ids=SPACES_AND_ANNOTATIONS,
)
def test_headers_for_any_number_of_rows_are_those_of_pyarrow(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    annotation: dict[str, Any],
) -> None:
    schema = StepSchema(
        layout_of_space(observation_space),
        layout_of_space(action_space),
        cast(Group, layout_of(annotation)),
    )
    template = row_encoder.template_of(schema)
    assert template is not None

    for count in [*range(1, 300), 1000, 1 << 16]:
        message = row_encoder._by_pyarrow(schema, row_encoder._zeros(schema, count))
        assert message.startswith(template.header(count))


def test_a_schema_of_large_rows_is_left_to_pyarrow() -> None:
    rows = Leaf(np.dtype(np.uint8), (MAX_ROW_BYTES + 1,), "array")
    schema = StepSchema(rows, Leaf(np.dtype(np.int64), (), "python"))
    columns = [[bytes(rows.nbytes)] * 2, [0] * 2, [0.0] * 2, [False] * 2, [False] * 2, [0.0] * 2]

    assert row_encoder.template_of(schema) is None
    assert serialized(schema, columns) == by_pyarrow(schema, columns)
