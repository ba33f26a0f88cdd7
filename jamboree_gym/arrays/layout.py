"""The layout of a value: how what an environment returns is laid out in columns.

A layout is a tree. Its leaves are columns of fixed dtype and shape (`Leaf`), or of values that are
encoded one by one (`Encoded`): text, sequences, graphs, whatever has no fixed shape. Its branches
are dicts, tuples and lists (`Group`). Layouts are read off the values rather than off the space,
because environments often return another dtype than they declare, and a recorder keeps what was
returned. The space only says where the shape may change from step to step.
"""

from __future__ import annotations

import array
import math
import re
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.tensors import detached, is_tensor, tensor_array
from jamboree_gym.arrays.unicode_text import is_unicode

__all__ = [
    "ENCODED",
    "NOTHING",
    "Column",
    "Encoded",
    "Group",
    "Kind",
    "Layout",
    "Leaf",
    "is_column_name",
    "is_more_than_an_array",
    "as_array",
    "columns_of",
    "has_column",
    "layout_from_json",
    "layout_of",
    "layout_to_json",
    "number_dtype",
    "share_columns",
]

_KINDS_OF_NUMBERS = "biuf"
_KINDS = ("array", "numpy", "python")
_PYTHON_DTYPES = ((bool, np.dtype(bool)), (int, np.dtype(np.int64)), (float, np.dtype(np.float64)))
_INT64 = np.iinfo(np.int64)
_DTYPE_TEXT = re.compile(r"[<>|][biuf]\d{1,2}")
_MAX_SIZE = 2**31 - 1  # elements of a value
_MAX_DEPTH = 150  # a few hundred are as deep as Python can go
_MAX_DIMENSIONS = 63  # one fewer than NumPy has: the first is that of the rows

Kind = Literal["array", "numpy", "python"]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A column of fixed dtype and shape.

    Attributes:
        dtype: NumPy dtype of the values.
        shape: Shape of one value.
        kind: `array` (ndarray), `numpy` (NumPy scalar) or `python` (bool, int, float).
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    kind: Kind

    @property
    def size(self) -> int:
        """Number of elements in one value."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of one value."""
        return self.size * self.dtype.itemsize

    @property
    def is_array(self) -> bool:
        """Whether rows keep its values as bytes."""
        return self.kind == "array"

    @property
    def value_class(self) -> type[Any]:
        """The class of its values."""
        if self.kind == "python":
            return {"b": bool, "i": int}.get(self.dtype.kind, float)
        return np.ndarray if self.is_array else self.dtype.type

    def stack(self, values: Any) -> npt.NDArray[Any]:
        """Values as rows keep them -> one array (n, ...)."""
        if self.is_array:
            content = bytearray().join(values)  # an array on bytes could not be written to
            return np.frombuffer(content, self.dtype).reshape((len(values), *self.shape))
        return np.array(values, self.dtype)

    def restore(self, value: Any) -> Any:
        """An element of the stacked array as it was: an array, a NumPy scalar, a Python number."""
        array = np.asarray(value, self.dtype)
        if self.kind == "array":
            return array
        return array[()] if self.kind == "numpy" else array.item()


@dataclass(frozen=True, slots=True)
class Encoded:
    """A column of values that are encoded one by one, with all that `values` keeps."""


@dataclass(frozen=True, slots=True)
class Group:
    """A dict, tuple or list of parts, each with its layout.

    Attributes:
        kind: What holds the parts.
        names: Keys of a dict, positions of a tuple or list.
        parts: Layouts, in the same order.
    """

    kind: Literal["dict", "tuple", "list"]
    names: tuple[str | int, ...]
    parts: tuple[Layout, ...]

    def build(self, items: Any) -> Any:
        """Hold these items, one for each part, as the values do."""
        if self.kind == "dict":
            return dict(zip(self.names, items, strict=True))
        return tuple(items) if self.kind == "tuple" else list(items)

    def items(self, value: Any) -> list[Any]:
        """Inverse of `build`."""
        return [value[name] for name in self.names] if self.kind == "dict" else list(value)

    def fits(self, value: Any) -> bool:
        """Whether a value has these parts; a list may stand for a tuple, and a tuple for a list."""
        if self.kind == "dict":
            return isinstance(value, dict) and value.keys() == set(self.names)
        return isinstance(value, (list, tuple)) and len(value) == len(self.parts)


Column: TypeAlias = Leaf | Encoded
Layout: TypeAlias = Leaf | Encoded | Group

ENCODED = Encoded()
NOTHING = Group("dict", (), ())
"""Layout of an empty dict."""


def columns_of(layout: Layout, name: str) -> Iterator[tuple[str, Column]]:
    """Columns of a layout, each with its name: that of the root, then the keys to it."""
    if isinstance(layout, Group):
        for key, part in zip(layout.names, layout.parts, strict=True):
            yield from columns_of(part, f"{name}.{key}")
    else:
        yield name, layout


def share_columns(one: Layout, other: Layout) -> bool:
    """Whether values of both fit into the same columns; a Python int and an int64 do."""
    if one is other:
        return True
    if isinstance(one, Group) and isinstance(other, Group):
        is_alike = (one.kind, one.names) == (other.kind, other.names)
        return is_alike and all(map(share_columns, one.parts, other.parts))
    if isinstance(one, Leaf) and isinstance(other, Leaf):
        is_alike = one.is_array == other.is_array
        return is_alike and (one.dtype, one.shape) == (other.dtype, other.shape)
    return one == other


# -- read off a value -------------------------------------------------------------------------


def layout_of(value: Any, expected: Layout | None = None) -> Layout:
    """Layout of a value; `expected` is what the space says.

    Where that is `Encoded`, the value will be, because its shape may be another one at the next
    step. A list or tuple is a group where a group is expected, stands for an array where a column
    is, and is encoded elsewhere.
    """
    if isinstance(expected, Encoded):
        return ENCODED
    if isinstance(value, dict):
        return _layout_of_dict(value, expected)
    if isinstance(value, (list, tuple)) and not isinstance(expected, Leaf):
        return ENCODED if expected is None else _layout_of_sequence(value, expected)
    if isinstance(value, np.ma.MaskedArray):  # an array would lose the mask
        return ENCODED
    if not isinstance(expected, Leaf) and is_more_than_an_array(value):
        return ENCODED
    return _column_of(value)


def is_more_than_an_array(value: Any) -> bool:
    """Whether an array of the same numbers would be another value."""
    kinds = (deque, range, array.array, np.ma.MaskedArray)
    return isinstance(value, kinds) or hasattr(type(value), "iloc")


def is_column_name(key: Any) -> bool:
    """Whether a key of a dict can name columns."""
    return type(key) is int or (type(key) is str and is_unicode(key))


def _layout_of_dict(value: Mapping[Any, Any], expected: Layout | None) -> Layout:
    if not all(map(is_column_name, value)):
        return ENCODED
    known, names = {}, tuple(value)
    if isinstance(expected, Group) and expected.kind == "dict":
        known = dict(zip(expected.names, expected.parts, strict=True))
        names = expected.names if known.keys() == value.keys() else names  # the order may vary
    return Group("dict", names, tuple(layout_of(value[key], known.get(key)) for key in names))


def _layout_of_sequence(value: Any, expected: Group) -> Layout:
    if value.__class__ not in (list, tuple):
        return ENCODED  # a named tuple: as a plain one it would not be equal
    known = expected.parts if len(expected.parts) == len(value) else (None,) * len(value)
    parts = tuple(map(layout_of, value, known))
    return Group("list" if isinstance(value, list) else "tuple", tuple(range(len(value))), parts)


def _column_of(value: Any) -> Column:
    if isinstance(value, np.generic):
        leaf = Leaf(value.dtype, (), "numpy")
    elif isinstance(value, (bool, int, float)):
        if isinstance(value, int) and not _INT64.min <= value <= _INT64.max:
            return ENCODED
        dtype = next(dtype for kind, dtype in _PYTHON_DTYPES if isinstance(value, kind))
        return Leaf(dtype, (), "python")
    else:
        found = as_array(value, strict=True)
        if found is None:
            return ENCODED
        leaf = Leaf(found.dtype, found.shape, "array")
    return leaf if has_column(leaf.dtype) else ENCODED


def as_array(value: Any, *, strict: bool = False) -> npt.NDArray[Any] | None:
    """A value as a plain array of numbers, where NumPy makes one of it: lists, tensors, ...

    It may share the value's memory. Where it is `strict`, what an object's own conversion raises is
    raised; else the object is no array.
    """
    if value.__class__ is np.ndarray:
        return cast("npt.NDArray[Any]", value)
    if value is None or isinstance(value, (str, bytes, bytearray)):
        return None
    failure = None
    try:
        found = np.asarray(value)
    except Exception as error:  # noqa: BLE001 - whatever the code of an odd class raises
        failure = error
    else:
        if has_column(found.dtype):
            return found
    with suppress(Exception):
        plain = tensor_array(value) if is_tensor(value) else np.asarray(detached(value))
        if plain is not None and has_column(plain.dtype):
            return plain
    if strict and failure is not None and hasattr(type(value), "__array__"):
        raise failure
    return None


def number_dtype(text: Any) -> np.dtype[Any]:
    """The dtype that has this `str`; ValueError if it is none of numbers.

    NumPy by itself takes much more for a dtype, and parses some of it as Python.
    """
    if not isinstance(text, str) or not _DTYPE_TEXT.fullmatch(text):
        raise ValueError(f"{text!r} is not a dtype of numbers")
    return np.dtype(text)


def has_column(dtype: np.dtype[Any]) -> bool:
    """Whether values of it have a column, and are not encoded one by one."""
    return dtype.kind in _KINDS_OF_NUMBERS and dtype.itemsize <= 8


# -- stored -----------------------------------------------------------------------------------


def layout_to_json(layout: Layout) -> dict[str, Any]:
    """For the blob of a schema."""
    if isinstance(layout, Encoded):
        return {"kind": "encoded"}
    if isinstance(layout, Leaf):
        return {"dtype": layout.dtype.str, "shape": list(layout.shape), "kind": layout.kind}
    parts = [layout_to_json(part) for part in layout.parts]
    return {"kind": layout.kind, "names": list(layout.names), "parts": parts}


def layout_from_json(content: Mapping[str, Any], depth: int = 0) -> Layout:
    """Inverse of `layout_to_json`; ValueError if it is no layout that is ever written."""
    kind = content["kind"]
    if kind == "encoded":
        return ENCODED
    if kind in _KINDS:
        return _leaf_from_json(content)
    names, parts = content["names"], content["parts"]
    are_names = all(type(name) in (str, int) for name in names) and len(set(names)) == len(names)
    if kind != "dict":
        are_names = kind in ("tuple", "list") and names == list(range(len(names)))
    if not are_names or len(names) != len(parts):
        raise ValueError(f"not a layout: {content}")
    if depth > _MAX_DEPTH:
        raise ValueError(f"not a layout: more than {_MAX_DEPTH} values within each other")
    return Group(kind, tuple(names), tuple(layout_from_json(part, depth + 1) for part in parts))


def _leaf_from_json(content: Mapping[str, Any]) -> Leaf:
    dtype, shape = number_dtype(content["dtype"]), content["shape"]
    if not has_column(dtype) or not all(type(n) is int and 0 <= n <= _MAX_SIZE for n in shape):
        raise ValueError(f"not a layout: {content}")
    leaf = Leaf(dtype, tuple(shape), content["kind"])
    extent = math.prod(n or 1 for n in shape)  # NumPy multiplies them so for an empty array, too
    if extent > _MAX_SIZE or len(shape) > (_MAX_DIMENSIONS if leaf.is_array else 0):
        raise ValueError(f"not a layout: {content}")
    return leaf
