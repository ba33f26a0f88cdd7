"""Gymnasium spaces <-> columns.

A *leaf* is one array of fixed dtype and shape. Its layout is read off the first value rather than
off the space, because environments often return another dtype than they declare, and a recorder
keeps what was returned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from gymnasium import spaces

from jamboree_gym.errors import UnsupportedSpace

__all__ = [
    "Kind",
    "Leaf",
    "check_space",
    "join_arrays",
    "leaf_of",
    "leaf_of_space",
    "plain",
    "space_to_json",
]

_RECORDABLE = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)
_PYTHON_DTYPES = ((bool, np.dtype(bool)), (int, np.dtype(np.int64)), (float, np.dtype(np.float64)))
_ARROW_KINDS = "biuf"
_KINDS = ("array", "numpy", "python")

Kind = Literal["array", "numpy", "python"]


@dataclass(frozen=True, slots=True)
class Leaf:
    """Layout of one column.

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
    def is_array(self) -> bool:
        """Whether rows keep its values as bytes."""
        return self.kind == "array"

    def shares_column_with(self, other: Leaf) -> bool:
        """Whether values of both fit into one column; a Python int and an int64 do."""
        return (
            self.dtype == other.dtype
            and self.shape == other.shape
            and self.is_array == other.is_array
        )

    def arrow_type(self) -> pa.DataType:
        """Arrow type of the column. Arrow has native byte order and no empty lists."""
        if self.size == 0:
            return pa.null()
        element = pa.from_numpy_dtype(self.dtype.newbyteorder("="))
        return element if self.shape == () else pa.list_(element, self.size)

    def to_arrow(self, values: npt.NDArray[Any]) -> pa.Array:
        """Stacked values -> one Arrow array of the same length."""
        if not self.dtype.isnative:
            values = values.astype(self.dtype.newbyteorder("="))
        if self.shape == ():
            return pa.array(values)
        if self.size == 0:
            return pa.nulls(len(values))
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), self.size)

    def from_arrow(self, column: pa.Array) -> npt.NDArray[Any]:
        """Inverse of `to_arrow`; may share its memory.

        Raises:
            ValueError: A value is missing.
        """
        if self.size == 0:
            return np.empty((len(column), *self.shape), self.dtype)
        flat = column if self.shape == () else column.flatten()
        if column.null_count or flat.null_count:
            raise ValueError("a value is missing")
        values = flat.to_numpy(zero_copy_only=self.dtype.kind != "b")
        values = values.reshape((len(column), *self.shape)).astype(self.dtype, copy=False)
        return cast("npt.NDArray[Any]", values)

    def to_json(self) -> dict[str, Any]:
        """For the schema's metadata."""
        return {"dtype": self.dtype.str, "shape": list(self.shape), "kind": self.kind}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Leaf:
        """Inverse of `to_json`.

        Raises:
            ValueError: It is not a layout that is ever written.
        """
        dtype, shape, kind = np.dtype(str(content["dtype"])), content["shape"], content["kind"]
        sizes = all(type(n) is int and n >= 0 for n in shape)
        if not _has_column(dtype) or kind not in _KINDS or not sizes:
            raise ValueError(f"not a layout: {content}")
        return cls(dtype, tuple(shape), kind)


def join_arrays(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Join along the first axis; where no dtype holds all of them exactly, as an object array."""
    first = parts[0]
    if all(part.dtype == first.dtype and part.shape[1:] == first.shape[1:] for part in parts):
        return np.concatenate(parts)
    if all(part.shape[1:] == first.shape[1:] for part in parts):
        joined: npt.NDArray[Any] = np.concatenate(parts)
        if _holds_exactly(joined, parts):
            return joined
    values = [value for part in parts for value in part]
    joined = np.empty(len(values), object)
    for position, value in enumerate(values):
        joined[position] = value
    return joined


def _holds_exactly(joined: npt.NDArray[Any], parts: Sequence[npt.NDArray[Any]]) -> bool:
    first = 0
    with np.errstate(all="ignore"):
        for part in parts:
            back = joined[first : first + len(part)].astype(part.dtype)
            if back.tobytes() != part.tobytes():
                return False
            first += len(part)
    return True


def check_space(space: spaces.Space[Any], role: str) -> None:
    """Refuse a space that cannot be recorded.

    Args:
        space: Observation or action space.
        role: What it is, for the message.

    Raises:
        UnsupportedSpace: Not a Box, Discrete, MultiBinary or MultiDiscrete.
    """
    if not isinstance(space, _RECORDABLE):
        raise UnsupportedSpace(
            f"the {role} space {space} cannot be recorded yet: Box, Discrete, MultiBinary and "
            "MultiDiscrete can"
        )


def plain(value: Any, role: str) -> Any:
    """A value as it can be kept: a NumPy array of exactly that class, or a scalar.

    Whatever NumPy turns into an array of numbers is taken: lists, tuples, masked arrays, tensors.

    Raises:
        UnsupportedSpace: It is not a number or an array of numbers; names it.
    """
    if value.__class__ is np.ndarray or isinstance(value, (np.generic, bool, int, float)):
        return value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: tensors that need grad
        raise UnsupportedSpace(f"the {role} {_shown(value)} is not an array: {error}") from error
    if not _has_column(array.dtype):
        raise UnsupportedSpace(
            f"the {role} {_shown(value)} of type {type(value).__name__} is not an array of numbers"
        )
    return array


def leaf_of(value: Any, role: str) -> Leaf:
    """Layout of a value that `plain` has let through.

    Raises:
        UnsupportedSpace: Its dtype cannot be recorded.
    """
    if isinstance(value, np.ndarray):
        leaf = Leaf(value.dtype, value.shape, "array")
    elif isinstance(value, np.generic):
        leaf = Leaf(value.dtype, (), "numpy")
    else:
        dtype = next(dtype for kind, dtype in _PYTHON_DTYPES if isinstance(value, kind))
        leaf = Leaf(dtype, (), "python")
    if not _has_column(leaf.dtype):
        raise UnsupportedSpace(f"the {role} has dtype {leaf.dtype}, which has no column type")
    return leaf


def _has_column(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in _ARROW_KINDS and dtype.itemsize <= 8


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def leaf_of_space(space: spaces.Space[Any]) -> Leaf:
    """Layout of what `space.sample()` returns, the best guess before a value is seen."""
    kind: Kind = "numpy" if isinstance(space, spaces.Discrete) else "array"
    return Leaf(np.dtype(space.dtype), tuple(space.shape or ()), kind)


def space_to_json(space: spaces.Space[Any]) -> str:
    """A space as JSON, for whoever reads the store without the environment."""
    content: dict[str, Any] = {"type": type(space).__name__}
    for name in ("n", "start", "nvec", "shape"):
        value = getattr(space, name, None)
        if value is not None:
            content[name] = np.asarray(value).tolist()
    for name in ("low", "high"):
        if hasattr(space, name):
            content[name] = _compact(getattr(space, name))
    content["dtype"] = np.dtype(space.dtype).str
    return json.dumps(content, sort_keys=True)


def _compact(values: npt.NDArray[Any]) -> Any:
    """As lists, or as the one number that all of them are; JSON knows no infinity but as text."""
    if values.ndim and values.size and (values == values.flat[0]).all():
        values = values.flat[0]
    if not np.isfinite(values).all():
        return np.vectorize(str, otypes=[object])(values).tolist()
    return values.tolist()
