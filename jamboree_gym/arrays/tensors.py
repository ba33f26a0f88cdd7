"""Tensors of other libraries, on whatever device, as NumPy arrays; none of them is imported."""

from __future__ import annotations

from operator import is_not
from typing import Any, cast

import numpy as np
import numpy.typing as npt

__all__ = ["detached", "is_tensor", "on_host", "plain_array", "tensor_array"]

_ARRAY_METHODS = ("__dlpack__", "__array__", "__array_interface__")
_LABELS = ("iloc", "coords")  # of pandas and xarray: an array would lose them
_PLAIN_SUBCLASSES = (np.matrix, np.recarray)  # they hold no more than their numbers


def is_tensor(value: Any) -> bool:
    """Whether a value says that it is an array, and is nothing beside that."""
    cls = type(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return isinstance(value, _PLAIN_SUBCLASSES)
    return any(hasattr(cls, name) for name in _ARRAY_METHODS) and not any(
        hasattr(cls, name) for name in _LABELS
    )


def tensor_array(value: Any) -> npt.NDArray[Any] | None:
    """A tensor as an array; None where it has no exact one. It may share its memory.

    With a gradient it is taken without, from another device it is fetched. What NumPy has no dtype
    for (bfloat16, float8) becomes float32, which holds the same numbers.
    """
    value = _fetched(value)
    for read in (_as_it_is, _forced, _widened):
        try:
            array = plain_array(read(value))
        except Exception:  # noqa: BLE001 - code of other libraries may raise anything
            continue
        if array is not None:
            return array
    return None


def on_host(value: Any) -> Any:
    """A tensor as an array, also in dicts, lists and tuples: each is fetched from its device once.

    What is no tensor, or has no exact numbers (a sparse one), stays as it is.
    """
    if isinstance(value, (np.ndarray, np.generic)):
        return value
    if value.__class__ is dict:
        return {name: on_host(part) for name, part in value.items()}
    if value.__class__ in (list, tuple):
        parts = [on_host(part) for part in value]
        return value.__class__(parts) if any(map(is_not, parts, value)) else value
    array = tensor_array(value) if is_tensor(value) else None
    return value if array is None else array


def detached(value: Any) -> Any:
    """A torch tensor as an array, without its gradient, also in lists and tuples."""
    if value.__class__ in (list, tuple):
        parts = [detached(part) for part in value]
        return parts if any(map(is_not, parts, value)) else value
    if callable(getattr(value, "detach", None)):
        array = tensor_array(value)
        return value if array is None else array
    return value


def plain_array(array: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """An array with a dtype of NumPy's own; None where none holds the same."""
    if array.dtype.kind == "O":
        return None
    if array.dtype.kind != "V" or issubclass(array.dtype.type, np.void):
        return array
    try:
        wide, wider = array.astype(_wider_kind(array.dtype.name)), array.astype(np.float64)
    except (TypeError, ValueError):
        return None
    return wide if np.array_equal(wide, wider, equal_nan=True) else None


def _wider_kind(name: str) -> type[np.generic]:
    """Of a dtype of another library, by its name: int4, uint2, bfloat16, float8_e5m2."""
    kinds: dict[str, type[np.generic]] = {"int": np.int8, "uint": np.uint8}
    return kinds.get(name.rstrip("0123456789"), np.float32)


def _fetched(value: Any) -> Any:
    """A tensor of torch in the memory of the host, without its gradient; all else as it is."""
    try:
        return value.detach().cpu()
    except Exception:  # noqa: BLE001 - as above
        return value


def _as_it_is(value: Any) -> npt.NDArray[Any]:
    return cast("npt.NDArray[Any]", np.asarray(value).view(np.ndarray))


def _forced(value: Any) -> npt.NDArray[Any]:
    """Of torch and of cupy, which copy from a device only when they are asked to."""
    if hasattr(value, "detach"):
        return np.asarray(value.resolve_conj().resolve_neg().numpy())
    return np.asarray(value.get() if hasattr(value, "get") else np.from_dlpack(value))


def _widened(value: Any) -> npt.NDArray[Any]:
    floats, doubles = value.float(), value.double()
    array = np.asarray(floats.numpy())
    if not np.array_equal(array, doubles.numpy(), equal_nan=True):
        raise ValueError("float32 does not hold the same numbers")
    return array
