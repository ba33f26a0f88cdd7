"""Columns of a frame: which there are, and what is in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jamboree_gym.records import Transitions
from jamboree_gym.tables.columns import to_columns, to_frame


def transitions(infos: list[dict[Any, Any]]) -> Transitions:
    n = len(infos)
    flags = np.zeros(n, np.bool_)
    return Transitions(
        np.arange(n), np.zeros(n), np.zeros(n), np.ones(n), np.zeros(n), flags, flags, infos,
        np.arange(n, dtype=np.float64), flags, {}, [],
    )  # fmt: skip


def info_columns(*infos: dict[Any, Any]) -> dict[str, Any]:
    columns = to_columns(transitions(list(infos)))
    return {name: column for name, column in columns.items() if name.startswith("info_")}


def column_of(*values: Any) -> Any:
    return info_columns(*({"a": value} for value in values)).get("info_a")


def test_infos_without_keys_add_no_column() -> None:
    assert info_columns({}, {}) == {}
    assert info_columns() == {}


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([True, np.False_], "bool"),
        ([1, -2], "int64"),
        ([np.uint8(1), np.uint8(255)], "uint8"),
        ([np.float32(0.1), np.float32(0.2)], "float32"),
        ([np.float32(0.1), 0.2], "float64"),
        ([1, 0.5], "float64"),
        ([True, 2], "int64"),
        ([2**63, 2**64 - 1], "uint64"),
        ([np.float16(0.1), np.float16(1)], "float32"),
        ([np.array(3, np.int8), np.int8(4)], "int8"),
        ([float("nan"), -0.0], "float64"),
    ],
    ids=str,
)
def test_numbers_have_the_type_that_holds_all_of_them(values: list[Any], dtype: str) -> None:
    column = column_of(*values)

    assert column.dtype == dtype
    np.testing.assert_array_equal(column, np.array(values))


@pytest.mark.parametrize("values", [[1, None], [True, None], [np.int64(2**60 + 1), None]], ids=str)
def test_a_value_that_is_missing_is_neither_zero_nor_nan(values: list[Any]) -> None:
    for column in (column_of(*values), info_columns({"a": values[0]}, {})["info_a"]):
        assert column.to_pylist() == values


def test_nan_is_not_missing() -> None:
    column = column_of(float("nan"), None, 1.0)

    assert column.null_count == 1
    assert column.is_valid().to_pylist() == [True, False, True]


def test_texts_are_a_column_of_texts() -> None:
    column = column_of("a", None, np.str_("ü"))

    assert column.type == pa.string()
    assert column.to_pylist() == ["a", None, "ü"]


@pytest.mark.parametrize(
    "values",
    [
        [None, None],
        [1, "one"],
        [1, [1]],
        [1, np.zeros(1)],
        [b"a"],
        [1j],
        [np.complex64(1)],
        [np.longdouble(1)],
        [2**64],
        [2**53 + 1, 0.5],
        [np.uint64(2**64 - 1), -1],
        [np.datetime64("2020-01-01")],
        ["a", "<not recorded: builtins.object>"],
        [{}],
        [1, {"b": 2}],
    ],
    ids=str,
)
def test_what_fits_into_no_column_exactly_has_none(values: list[Any]) -> None:
    assert column_of(*values) is None


def test_nested_dicts_have_dotted_names() -> None:
    columns = info_columns({"a": {"b": 1, "c": {"d": 2}}, "TimeLimit.truncated": True, 3: 4})

    assert {name: column.tolist() for name, column in columns.items()} == {
        "info_a.b": [1],
        "info_a.c.d": [2],
        "info_TimeLimit.truncated": [True],
        "info_3": [4],
    }


@pytest.mark.parametrize(
    "info", [{"a": {"b": 1}, "a.b": 2}, {"a.b": 2, "a": {"b": 1}}, {1: 1, "1": 2}]
)
def test_a_name_that_would_stand_for_two_values_has_no_column(info: dict[Any, Any]) -> None:
    assert info_columns(info) == {}


@pytest.mark.vaex
def test_a_frame_can_be_asked_for_infos() -> None:
    frame = to_frame(transitions([{"x": 1, "a": {"b": "one"}}, {}, {"x": 3, "a": {"b": "two"}}]))

    assert frame.mean("info_x") == 2.0
    assert frame["info_x"].tolist() == [1, None, 3]
    assert frame["info_x"].ismissing().tolist() == [False, True, False]
    assert frame[frame["info_a.b"] == "two"]["index"].tolist() == [2]


# -- nested values, annotations ---------------------------------------------------------------


def with_values(**changes: Any) -> dict[str, Any]:
    return to_columns(replace(transitions([{}, {}]), **changes))


def test_parts_of_nested_values_have_columns_named_after_them() -> None:
    columns = with_values(
        observations={"joints": (np.zeros((2, 2)), np.ones(2)), "image": np.zeros((2, 100))}
    )

    assert [name for name in columns if name.startswith("observation")] == [
        "observation_joints_0_0",
        "observation_joints_0_1",
        "observation_joints_1",
        "observation_image",
    ]


def test_texts_are_a_column_and_other_values_without_shape_are_none() -> None:
    texts, sets = np.array(["go", "stop"], object), np.empty(2, object)

    columns = with_values(actions={"say": texts, "seen": sets})

    assert columns["action_say"].to_pylist() == ["go", "stop"]
    assert "action_seen" not in columns


def test_what_the_agent_said_is_missing_where_it_said_nothing() -> None:
    columns = with_values(
        annotated=np.array([False, True]),
        annotations={"value": np.array([np.nan, 0.5]), "version": np.array([0, 7])},
    )

    assert np.isnan(columns["annotation_value"][0])
    assert columns["annotation_version"].to_pylist() == [None, 7]
