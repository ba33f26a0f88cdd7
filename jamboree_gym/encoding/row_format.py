"""How a row of an episode lies in memory: packed fields of fixed size.

`RowFormat.pack_into` is called inside `env.step`. `row_columns` in `column_batch` makes NumPy views
of many rows. A value that has no fixed size (an encoded value, an info) lies elsewhere in the same
block. The row has its place.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from jamboree_gym.arrays.layout import Column, Group, Layout, Leaf, columns_of
from jamboree_gym.arrays.step_schema import ONE_NUMBER, StepSchema
from jamboree_gym.compiled import compiled_core

__all__ = [
    "ANNOTATED",
    "NOWHERE",
    "TERMINATED",
    "TRUNCATED",
    "Place",
    "RowFormat",
    "pack_leading",
    "row_format",
]

TERMINATED, TRUNCATED, ANNOTATED = 1, 2, 4  # bits of `flags`

Place = tuple[int, int]
"""Where bytes are in a block: offset and size."""

NOWHERE: Place = (0, 0)

LARGE_ARRAY_BYTES = 1024  # from here on it costs less to copy an array by itself

_LEADING_STRUCT = "<BIddII"  # where a reward is one number
_LEADING_ROW = struct.Struct(_LEADING_STRUCT)
pack_leading = _LEADING_ROW.pack_into
"""Writes what a row begins with, at an offset of a buffer."""

_PLACE_STRUCT = "II"
# Python and NumPy numbers pack exactly as these; by the dtype's size.
_CODES = {
    "b1": "?",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "Q",
    "f8": "d",
}
# How the compiled core writes values of an annotation, by class: see `native/template.h`.
_HOW = {np.ndarray: "a", float: "d", int: "q", bool: "?", np.float32: "f"}
_CODES_OF_ANNOTATIONS = {**_CODES, "f4": "f"}  # but for the kind of a NaN


class RowFormat:
    """The fields of rows that share their columns.

    Attributes:
        nbytes: Bytes of a row.
        dtype: Of a row, as NumPy sees it: the leading fields, then one for each column.
        pack_into: Writes a row at an offset of a buffer. Its values: flags, number of the schema,
            reward (its bytes where it is an array), timestamp, place of the info (2), then one for
            each column, or two (its place) where the column is encoded.
        flat: Makes the packed observation, action and annotation one tuple, a value for each
            column; those of `encoded_at` are bytes that have no place yet.
        encoded_at: Which columns are encoded.
        takes_plain: Whether the columns are an array that is small, a packed action, and an
            annotation of leaves, or none.
        takes_arrays: Whether `pack_into` takes nothing else for the columns: the array's bytes, and
            a packed action.
        annotation_at: Where the annotation is in a row that `takes_plain`.
        annotation: Writes an annotation there, compiled; None where Python has to do it.
        observation_dtype: Of an observation that is one array; else None.
        observation_shape: Likewise.
        action_at: Where the action is in such a row, but of an array that is large; else 0.
        pack_action: Writes the action alone there.
        fillers: What stands for the annotation where there is none.
        fields: Of observation and action, and of the annotation: the name of each column in
            `dtype`, and whether it is encoded, so that the field is its place.
        places: Of the columns of a batch: offset in a row, bytes, and the bit of a flag, else 0.
        reward_at: Offset of the reward in a row.
        time_at: Likewise of the timestamp.
        info_at: Likewise of the place of the info.
    """

    __slots__ = (
        "action_at",
        "annotation",
        "annotation_at",
        "dtype",
        "encoded_at",
        "fields",
        "fillers",
        "flat",
        "info_at",
        "nbytes",
        "observation_dtype",
        "observation_shape",
        "pack_action",
        "pack_into",
        "places",
        "reward_at",
        "takes_arrays",
        "takes_plain",
        "time_at",
    )

    def __init__(self, schema: StepSchema) -> None:
        roles = (schema.observation, schema.action, schema.annotation)
        codes = (_CODES, _CODES, _CODES_OF_ANNOTATIONS)
        columns = [
            (column, known)
            for role, known in zip(roles, codes, strict=True)
            for _, column in columns_of(role, "")
        ]
        leading = _LEADING_STRUCT
        if not schema.has_one_number:
            leading = f"<BI{schema.reward.nbytes}sdII"
        code = leading + "".join(_struct_code(*one) for one in columns)
        fields = [(f"column{n}", *_field(column)) for n, (column, _) in enumerate(columns)]
        row = struct.Struct(code)
        self.pack_into = row.pack_into
        self.nbytes = row.size
        self.dtype = np.dtype([*_leading_fields(schema.reward), *fields])
        if self.dtype.itemsize != row.size:
            raise TypeError(f"{self.dtype} has not the size of {code}")
        named = [(f"column{n}", not isinstance(one, Leaf)) for n, (one, _) in enumerate(columns)]
        self.fields = named[: schema.first_number], named[schema.first_number :]
        self.encoded_at = tuple(n for n, (_, is_encoded) in enumerate(named) if is_encoded)
        converted = [
            (n, column.dtype)
            for n, (column, known) in enumerate(columns)
            if isinstance(column, Leaf) and not _is_direct(column, known)
        ]
        self.flat = _flattener(roles, converted)
        observed = schema.observation
        self.observation_dtype: np.dtype[Any] | None = None
        self.observation_shape: tuple[int, ...] | None = None
        if isinstance(observed, Leaf) and observed.is_array:
            self.observation_dtype, self.observation_shape = observed.dtype, observed.shape
        self.takes_plain = self.takes_arrays = False
        self.action_at, self.pack_action = 0, row.pack_into
        self.annotation_at, self.annotation = row.size, None
        is_plain = not isinstance(schema.action, Group) and schema.has_one_number
        said_from = len(self.fields[0])
        is_plain = is_plain and all(n >= said_from for n in (*self.encoded_at, *dict(converted)))
        if is_plain and self.observation_dtype is not None:
            self._take_arrays(schema, *columns[said_from - 1])
        self.fillers: tuple[Any, ...] = schema.annotation_filler
        self.places = self._places(is_annotated=schema.is_annotated)
        self.reward_at, self.time_at, self.info_at = [
            self._place(name)[0] for name in ("reward", "timestamp", "info_at")
        ]

    def _place(self, name: str, bit: int = 0) -> tuple[int, int, int]:
        assert self.dtype.fields is not None
        dtype, at, *_ = self.dtype.fields[name]
        return at, dtype.itemsize, bit

    def _places(self, *, is_annotated: bool) -> tuple[tuple[int, int, int], ...]:
        leading, annotation = ([name for name, _ in fields] for fields in self.fields)
        places = [*map(self._place, leading), self._place("reward")]
        places += [self._place("flags", TERMINATED), self._place("flags", TRUNCATED)]
        places.append(self._place("timestamp"))
        if is_annotated:
            places += [self._place("flags", ANNOTATED), *map(self._place, annotation)]
        return tuple(places)

    def _take_arrays(self, schema: StepSchema, action: Column, codes: Mapping[str, str]) -> None:
        assert isinstance(schema.observation, Leaf)
        is_small = schema.observation.nbytes < LARGE_ARRAY_BYTES
        self.takes_plain = is_small and _is_of_leaves(schema.annotation)
        self.takes_arrays = is_small and not schema.is_annotated
        action_at = _LEADING_ROW.size + schema.observation.nbytes
        code = "<" + _struct_code(action, codes)
        self.annotation_at = action_at + struct.calcsize(code)
        if self.takes_plain and schema.is_annotated:
            self.annotation = _compiled_annotation(schema.annotation)
        elif not is_small and not schema.is_annotated:
            self.action_at, self.pack_action = action_at, struct.Struct(code).pack_into


def _is_of_leaves(layout: Group) -> bool:
    """Whether it is a dict of values of a fixed size each, none of them empty."""
    return layout.kind == "dict" and all(
        isinstance(part, Leaf) and part.dtype.isnative and part.size and name.__class__ is str
        for name, part in zip(layout.names, layout.parts, strict=True)
    )


def _compiled_annotation(layout: Group) -> Any:
    """What writes annotations of this layout, which is of leaves; None without a compiled core."""
    told: list[Any] = []
    at = 0
    for name, leaf in zip(layout.names, layout.parts, strict=True):
        assert isinstance(leaf, Leaf)
        kind = leaf.value_class
        told.append((name, kind, _HOW.get(kind, "s"), at, leaf.dtype, leaf.shape))
        at += leaf.nbytes
    core = compiled_core()
    return None if core is None else core.Template(b"", at, tuple(told))


@lru_cache(maxsize=1024)
def row_format(schema: StepSchema) -> RowFormat:
    """The format of the rows of a schema."""
    return RowFormat(schema)


def _leading_fields(reward: Leaf) -> list[tuple[Any, ...]]:
    """What a row begins with, as NumPy sees it."""
    return [
        ("flags", "u1"),
        ("schema", "<u4"),
        ("reward", "<f8") if reward == ONE_NUMBER else ("reward", reward.dtype, reward.shape),
        ("timestamp", "<f8"),
        ("info_at", "<u4"),
        ("info_size", "<u4"),
    ]


def _is_direct(leaf: Leaf, codes: Mapping[str, str]) -> bool:
    """Whether its packed values can be packed as they are."""
    return leaf.is_array or (leaf.dtype.isnative and leaf.dtype.str[1:] in codes)


Flat = Sequence[Any]
"""Packed values, one for each column."""


def _flattener(
    roles: tuple[Layout, Layout, Group], converted: Sequence[tuple[int, np.dtype[Any]]]
) -> Callable[[Any, Any, Any], Flat]:
    observation, action, annotation = map(_spreader, roles)
    if converted:

        def flat_converted(observed: Any, acted: Any, said: Any) -> Flat:
            values = [*observation(observed), *action(acted), *annotation(said)]
            for n, dtype in converted:
                values[n] = np.asarray(values[n], dtype).tobytes()
            return values

        return flat_converted
    if not isinstance(roles[1], Group) and _is_flat(roles[2]):  # most are: it saves calls
        if not isinstance(roles[0], Group):
            return lambda observed, acted, said: (observed, acted, *said)
        if _is_flat(roles[0]):
            return lambda observed, acted, said: (*observed, acted, *said)
    return lambda observed, acted, said: (
        *observation(observed),
        *action(acted),
        *annotation(said),
    )


def _is_flat(layout: Layout) -> bool:
    """Whether its packed values are tuples of what columns hold."""
    return isinstance(layout, Group) and not any(isinstance(one, Group) for one in layout.parts)


def _spreader(layout: Layout) -> Callable[[Any], Flat]:
    if not isinstance(layout, Group):
        return lambda value: (value,)
    if _is_flat(layout):
        return lambda value: value
    parts = list(map(_spreader, layout.parts))

    def spread(value: Any) -> Flat:
        pairs = zip(parts, value, strict=True)
        return tuple([one for spread_part, part in pairs for one in spread_part(part)])

    return spread


def _struct_code(column: Column, codes: Mapping[str, str]) -> str:
    if not isinstance(column, Leaf):
        return _PLACE_STRUCT
    if _is_direct(column, codes) and not column.is_array:
        return codes[column.dtype.str[1:]]
    return f"{column.nbytes}s"


def _field(column: Column) -> tuple[Any, ...]:
    if isinstance(column, Leaf):
        return (column.dtype, column.shape)
    return ("<u4", (2,))
