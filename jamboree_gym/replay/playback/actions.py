"""Checks whether an action is the recorded one."""

from __future__ import annotations

from typing import Any

import numpy as np

from jamboree_gym.arrays.layout import Encoded, Group, Layout, as_array
from jamboree_gym.arrays.values import encode_value
from jamboree_gym.errors import InvalidRecord

__all__ = ["is_same"]


def is_same(given: Any, recorded: Any, layout: Layout) -> bool:
    """Whether a value is the recorded one, bit for bit: -0.0 is not 0.0, NaN equals the same NaN.

    Numbers are compared in the recorded dtype, if the conversion is exact: the int 1 equals the
    `numpy.int64` 1, but the float64 0.1 does not equal the float32 0.1.

    Args:
        given: Any value.
        recorded: A value of this layout.
        layout: Layout of the recorded value.
    """
    if isinstance(layout, Group):
        parts = _parts(given, layout)
        pairs = zip(parts or (), layout.items(recorded), layout.parts, strict=False)
        return parts is not None and all(is_same(*pair) for pair in pairs)
    if isinstance(layout, Encoded):
        try:
            return encode_value(given) == encode_value(recorded)
        except InvalidRecord:
            return False
    return _is_same_array(given, np.asarray(recorded))


def _parts(given: Any, layout: Group) -> list[Any] | None:
    """Parts of a value with this layout; None for any other value."""
    if layout.kind == "dict":
        is_alike = isinstance(given, dict) and given.keys() == set(layout.names)
    else:
        is_alike = isinstance(given, (list, tuple)) and len(given) == len(layout.parts)
    return layout.items(given) if is_alike else None


def _is_same_array(given: Any, recorded: np.ndarray[Any, Any]) -> bool:
    array = as_array(given)
    if array is None or array.shape != recorded.shape:
        return False
    if array.dtype != recorded.dtype:
        with np.errstate(all="ignore"):
            converted = array.astype(recorded.dtype)
            if converted.astype(array.dtype).tobytes() != array.tobytes():
                return False
        array = converted
    return array.tobytes() == recorded.tobytes()
