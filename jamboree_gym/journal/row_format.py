"""How a row of an episode lies in memory: packed fields of fixed size.

`write` is called inside `env.step`; `of_columns` reads many rows as NumPy views. A value that has
no fixed size (an encoded value, an info) lies elsewhere in the same block. The row has its place.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from jamboree_gym.arrays.layout import Column, Group, Layout, Leaf, columns_of
from jamboree_gym.arrays.step_schema import StepSchema

__all__ = ["ANNOTATED", "NOWHERE", "TERMINATED", "TRUNCATED", "Place", "RowFormat", "row_format"]

TERMINATED, TRUNCATED, ANNOTATED = 1, 2, 4  # bits of `flags`

Place = tuple[int, int]
"""Where bytes are in a block: offset and size."""

NOWHERE: Place = (0, 0)

_LEADING = [
    ("flags", "u1"),
    ("schema", "<u4"),
    ("reward", "<f8"),
    ("timestamp", "<f8"),
    ("info_at", "<u4"),
    ("info_size", "<u4"),
]
_LEADING_STRUCT = "<BIddII"
_PLACE_STRUCT = "II"
_CODES = {"?": "?", "l": "q", "q": "q", "d": "d"}  # Python and NumPy numbers pack exactly
_CODES_OF_ANNOTATIONS = {**_CODES, "f": "f"}  # but for the kind of a NaN


class RowFormat:
    """The fields of rows that share their columns.

    Attributes:
        nbytes: Bytes of a row.
        dtype: Of a row, as NumPy sees it: the leading fields, then one for each column.
        pack_into: Writes a row at an offset of a buffer. Its values: flags, number of the schema,
            reward, timestamp, place of the info (2), then one for each column, or two (its place)
            where the column is encoded.
        is_direct: Whether `pack_into` takes the packed values of all columns as they are.
        is_single: Whether observation and action are one column each.
        is_common: Whether the format is direct, and nothing in an annotation is nested.
        observation_dtype: Of an observation that is one array; else None.
        observation_shape: Likewise.
        spread: For observation, action and annotation a function that makes a flat tuple of a
            packed value, if the format is direct.
        fillers: What stands for the annotation where there is none.
        fields: Of observation and action, and of the annotation: the name of each column in
            `dtype`, and whether it is encoded, so that the field is its place.
    """

    def __init__(self, schema: StepSchema) -> None:
        roles = (schema.observation, schema.action, schema.annotation)
        self._columns = [column for role in roles for _, column in columns_of(role, "")]
        codes = (_CODES, _CODES, _CODES_OF_ANNOTATIONS)
        self._flatten = [_flattener(*one) for one in zip(roles, codes, strict=True)]
        code = _LEADING_STRUCT + "".join(
            _struct_code(column, known)
            for role, known in zip(roles, codes, strict=True)
            for _, column in columns_of(role, "")
        )
        fields = [(f"column{n}", *_field(column)) for n, column in enumerate(self._columns)]
        row = struct.Struct(code)
        self.pack_into = row.pack_into
        self.nbytes = row.size
        self.dtype = np.dtype([*_LEADING, *fields])
        if self.dtype.itemsize != row.size:
            raise TypeError(f"{self.dtype} has not the size of {code}")
        self.is_direct = all(
            _is_direct(column, known)
            for role, known in zip(roles, codes, strict=True)
            for _, column in columns_of(role, "")
        )
        self.is_single = all(isinstance(role, Leaf) for role in roles[:2])
        self.spread = tuple(map(_spreader, roles))
        is_flat = not any(isinstance(part, Group) for part in schema.annotation.parts)
        self.is_common = self.is_direct and is_flat
        observed = schema.observation
        self.observation_dtype: np.dtype[Any] | None = None
        self.observation_shape: tuple[int, ...] | None = None
        if isinstance(observed, Leaf) and observed.is_array:
            self.observation_dtype, self.observation_shape = observed.dtype, observed.shape
        named = [(f"column{n}", not isinstance(one, Leaf)) for n, one in enumerate(self._columns)]
        self.fields = named[: schema.first_number], named[schema.first_number :]
        self.fillers: tuple[Any, ...] = schema.annotation_filler

    def flattened(
        self,
        observation: Any,
        action: Any,
        annotation: Any,
        keep: Callable[[bytes], Place],
    ) -> list[Any]:
        """Packed values of a row -> what `pack_into` takes for the columns.

        Args:
            observation: Packed.
            action: Packed.
            annotation: Packed; None = the agent said nothing.
            keep: Puts bytes into the block, and says where.
        """
        flat: list[Any] = []
        values = (observation, action, self.fillers if annotation is None else annotation)
        for flatten, value in zip(self._flatten, values, strict=True):
            flatten(value, flat, keep)
        return flat


@lru_cache(maxsize=1024)
def row_format(schema: StepSchema) -> RowFormat:
    """The format of the rows of a schema."""
    return RowFormat(schema)


def _is_direct(layout: Layout, codes: Mapping[str, str]) -> bool:
    if not isinstance(layout, Leaf):
        return False
    return layout.is_array or (layout.dtype.isnative and layout.dtype.char in codes)


def _spreader(layout: Layout) -> Callable[[Any], tuple[Any, ...]]:
    if not isinstance(layout, Group):
        return lambda value: (value,)
    if not any(isinstance(part, Group) for part in layout.parts):
        return tuple
    parts = list(map(_spreader, layout.parts))

    def spread(value: Any) -> tuple[Any, ...]:
        pairs = zip(parts, value, strict=True)
        return tuple([one for spread_part, part in pairs for one in spread_part(part)])

    return spread


def _struct_code(column: Column, codes: Mapping[str, str]) -> str:
    if not isinstance(column, Leaf):
        return _PLACE_STRUCT
    if _is_direct(column, codes) and not column.is_array:
        return codes[column.dtype.char]
    return f"{column.nbytes}s"


def _field(column: Column) -> tuple[Any, ...]:
    if isinstance(column, Leaf):
        return (column.dtype, column.shape)
    return ("<u4", (2,))


def _flattener(
    layout: Layout, codes: Mapping[str, str]
) -> Callable[[Any, list[Any], Callable[[bytes], Place]], None]:
    if isinstance(layout, Group):
        parts = [_flattener(part, codes) for part in layout.parts]

        def flatten_group(value: Any, flat: list[Any], keep: Callable[[bytes], Place]) -> None:
            for flatten, part in zip(parts, value, strict=True):
                flatten(part, flat, keep)

        return flatten_group
    if not isinstance(layout, Leaf):
        return lambda value, flat, keep: flat.extend(keep(value))
    if _is_direct(layout, codes):
        return lambda value, flat, keep: flat.append(value)
    dtype = layout.dtype
    return lambda value, flat, keep: flat.append(np.asarray(value, dtype).tobytes())
