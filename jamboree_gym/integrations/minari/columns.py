"""Infos and annotations of an episode <-> Minari's infos: a column for each key.

A key is a column if every step's info has it, with values of one layout. (If the reset's info lacks
it, the column has NaN, 0 or an empty text there.) Everything else is encoded, row by row, in a
column of texts: it is restored as it was recorded, and other readers of the dataset can ignore it.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.layout import (
    Encoded,
    Group,
    Layout,
    Leaf,
    layout_from_json,
    layout_of,
    layout_to_json,
)
from jamboree_gym.arrays.packing import Arrays, Misfit, as_objects, item, packer, stack, unsaid
from jamboree_gym.arrays.trees import map_leaves, zip_leaves
from jamboree_gym.arrays.values import decode_value, encode_value
from jamboree_gym.errors import DecodeError, InvalidRecord

__all__ = [
    "ANNOTATED",
    "ANNOTATION",
    "OWN",
    "REST",
    "TIMESTAMP",
    "InfoColumns",
    "is_name",
    "is_text",
]

OWN = "jamboree."
TIMESTAMP = f"{OWN}timestamp"
ANNOTATED = f"{OWN}annotated"
ANNOTATION = f"{OWN}annotation."
REST = f"{OWN}rest"
_TEXT = "text"
_DAMAGE = (DecodeError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class InfoColumns:
    """The columns of one episode's infos by key, T + 1 rows each, and their layouts as JSON."""

    def __init__(self, infos: Sequence[Mapping[str, Any]]) -> None:
        self.columns: dict[str, Any] = {}
        self.layouts: dict[str, Any] = {}
        self._rests = [dict(info) for info in infos]
        self._absent: list[list[str]] = [[] for _ in infos]
        self._annotations: list[dict[str, Any]] = [{} for _ in infos]
        for key in _common_keys(infos[1:]):
            self._add(key)

    def _add(self, key: str) -> None:
        values = [info[key] for info in self._rests if key in info]
        column = _column_of(values)
        if column is None:
            return
        self.layouts[key], arrays = column
        if len(values) < len(self._rests):  # the reset's info lacks it
            arrays = _with_empty_row(arrays)
            self._absent[0].append(key)
        self.columns[key] = arrays
        for rest in self._rests:
            rest.pop(key, None)

    def add_annotations(
        self, annotated: npt.NDArray[np.bool_], arrays: Mapping[str, Arrays], layout: Group
    ) -> None:
        """Add the annotations of the steps (arrays of T rows)."""
        self.columns[ANNOTATED] = np.concatenate([[False], annotated])
        known = dict(zip(layout.names, layout.parts, strict=True))
        for name, values in arrays.items():
            if is_name(name) and isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
                self.columns[ANNOTATION + name] = _with_empty_row(values)
                continue
            for row in np.flatnonzero(annotated).tolist():
                self._annotations[row + 1][name] = item(values, row, known[name])

    def close(self) -> dict[str, Any]:
        """All columns, with that of the rest if there is any."""
        rows = list(zip(self._rests, self._absent, self._annotations, strict=True))
        if any(map(any, rows)):
            texts = [
                b64encode(encode_value(list(row))).decode() if any(row) else "" for row in rows
            ]
            self.columns[REST] = texts
        return self.columns

    @staticmethod
    def read(
        columns: Mapping[str, Any], layouts: Mapping[str, Any], count: int
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Inverse: the infos of `count` rows, and the annotations by name, T rows each.

        Raises:
            DecodeError: They are not as they were written.
        """
        try:
            return _read(columns, layouts, count)
        except _DAMAGE as error:
            raise DecodeError(f"the infos are not as to_minari writes them: {error!r}") from error


def _read(
    columns: Mapping[str, Any], layouts: Mapping[str, Any], count: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    infos: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, layout in layouts.items():
        for info, value in zip(infos, _values(columns[key], layout, count), strict=True):
            info[key] = value
    annotations = {
        key.removeprefix(ANNOTATION): values[1:]
        for key, values in columns.items()
        if key.startswith(ANNOTATION)
    }
    others: dict[str, list[Any]] = {}
    for row, text in enumerate(columns.get(REST, ())):
        if not text:
            continue
        rest, absent, named = decode_value(b64decode(text), where=REST)
        infos[row] = {**{k: v for k, v in infos[row].items() if k not in absent}, **rest}
        for name, value in named.items():
            others.setdefault(name, [None] * (count - 1))[row - 1] = value
    return infos, annotations | {name: as_objects(values) for name, values in others.items()}


def _values(column: Any, stored_layout: Any, count: int) -> list[Any]:
    """The values of a column as they were."""
    if stored_layout == _TEXT:
        return [text.decode() if isinstance(text, bytes) else str(text) for text in column]
    layout = layout_from_json(stored_layout)
    return [item(column, row, layout) for row in range(count)]


def _common_keys(infos: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that all of them have, and that can name a column."""
    first = infos[0] if infos else {}
    return [
        key
        for key in first
        if is_name(key) and not key.startswith(OWN) and all(key in info for info in infos)
    ]


def is_name(key: Any) -> bool:
    """Whether HDF5 takes it as a name."""
    return type(key) is str and is_text(key) and "/" not in key and key not in ("", ".")


def is_text(value: Any) -> bool:
    """Whether it is a text that HDF5 can hold."""
    return isinstance(value, str) and "\0" not in value


def _column_of(values: Sequence[Any]) -> tuple[Any, Any] | None:
    """Layout and arrays of values that all have the same one; None where they have not."""
    if all(map(is_text, values)):
        return _TEXT, list(values)
    try:
        layout = layout_of(values[0])
        if not _is_fixed(layout):
            return None
        pack = packer(layout)
        return layout_to_json(layout), stack([pack(value) for value in values], layout)
    except (Misfit, InvalidRecord):
        return None


def _is_fixed(layout: Layout) -> bool:
    """Whether Minari has columns for it: numbers, arrays, dicts of them."""
    if isinstance(layout, Leaf):
        return layout.size > 0
    if isinstance(layout, Encoded) or layout.kind != "dict" or not layout.names:
        return False
    return all(map(is_name, layout.names)) and all(map(_is_fixed, layout.parts))


def _with_empty_row(arrays: Any) -> Any:
    """Arrays with one more row at the front, which holds NaN, 0 or an empty text."""
    if isinstance(arrays, list):
        return ["", *arrays]
    empty = map_leaves(lambda array: unsaid(np.zeros_like(array[:1])), arrays)
    return zip_leaves(np.concatenate, [empty, arrays])
