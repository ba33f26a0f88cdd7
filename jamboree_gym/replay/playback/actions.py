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
    `numpy.int64` 1, but the float64 0.1 does not equal the float32 0.1. `layout` is that of the
    recorded value.
    """
    if isinstance(layout, Group):
        if not layout.fits(given):
            return False
        return all(map(is_same, layout.items(given), layout.items(recorded), layout.parts))
    if isinstance(layout, Encoded):
        try:
            return encode_value(given) == encode_value(recorded)
        except InvalidRecord:
            return False
    return _is_same_array(given, np.asarray(recorded))


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
