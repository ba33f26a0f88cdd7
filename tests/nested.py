"""A space with all kinds of spaces in it, and what it means that two values are the same."""

from __future__ import annotations

from string import ascii_lowercase
from typing import Any

import numpy as np
from gymnasium import spaces

# Without a charset, gymnasium 1.1 draws from a set, whose order is another one in each process.
NESTED = spaces.Dict(
    camera=spaces.Box(0, 255, (4, 4, 3), np.uint8),
    joints=spaces.Tuple([spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3, start=-1)]),
    seen=spaces.Sequence(spaces.Discrete(5)),
    say=spaces.Text(8, charset=ascii_lowercase),
    map=spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Discrete(3)),
    either=spaces.OneOf([spaces.Discrete(2), spaces.MultiBinary(3)]),
)


def is_same(one: Any, other: Any) -> bool:
    """Equal in value, dtype, shape and type, bit for bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, (np.ndarray, np.generic)):
        same_layout = one.dtype == other.dtype and one.shape == other.shape
        return same_layout and one.tobytes() == other.tobytes()
    return bool(one == other)
