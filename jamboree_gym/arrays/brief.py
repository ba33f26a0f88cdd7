"""Values in a few characters, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["brief"]

MAX_NUMBERS = 6
MAX_PARTS = 4
MAX_TEXT = 40


def brief(value: Any) -> str:
    """A small value as itself, an array as its dtype and shape, the parts of a dict one by one.

    Example:
        >>> brief(np.zeros((23, 4), np.float32))
        'float32 (23, 4)'
    """
    if isinstance(value, np.ndarray):
        if value.ndim < 2 and value.size <= MAX_NUMBERS and value.dtype.kind in "biuf":
            return str(np.array2string(value, precision=4, separator=", "))
        return f"{value.dtype} {value.shape}"
    if isinstance(value, Mapping):
        return _joined([f"{name}: {brief(part)}" for name, part in value.items()], "{}")
    if isinstance(value, tuple):
        return _joined([brief(part) for part in value], "()")
    if isinstance(value, float | np.floating):
        return f"{float(value):.6g}"
    text = " ".join(repr(value.item() if isinstance(value, np.generic) else value).split())
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


def _joined(parts: list[str], around: str) -> str:
    shown = parts[:MAX_PARTS] + (["..."] if len(parts) > MAX_PARTS else [])
    return f"{around[0]}{', '.join(shown)}{around[1]}"
