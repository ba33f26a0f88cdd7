"""Encodes the infos that an environment returns in each step: the same keys, the same types.

Where all values have a fixed size (floats, NumPy's numbers and arrays), so has the whole: only some
bytes change from info to info. They are written into a copy of the encoded info. An info without
NumPy's values is packed in one call. Both ways give the bytes that `values.encode_value` gives.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.layout import has_column
from jamboree_gym.arrays.value_decoder import NUMBERS
from jamboree_gym.arrays.values import encode_value

__all__ = ["UsualInfo"]

MAX_LEARNED = 16  # an environment with ever new infos does not pay for it
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_NUMBERS = frozenset(NUMBERS)
_FLOAT = np.dtype(">f8")  # as msgpack has it

_pack = msgspec.msgpack.Encoder().encode


class UsualInfo:
    """Encodes plain infos, and those that are as those that it has learned from last."""

    def __init__(self) -> None:
        self._fields: tuple[tuple[str, type], ...] = ()
        self._arrays: list[tuple[str, np.dtype[Any], tuple[int, ...]]] = []
        self._template: npt.NDArray[Any] | None = None
        self._learned = 0

    def encode(self, info: Any) -> bytes | None:
        """The info in bytes; None if it is of another kind."""
        if info.__class__ is not dict:
            return None
        if self._template is not None and len(info) == len(self._fields):
            return self._fill(self._template, info)
        for name, value in info.items():
            if value.__class__ not in _PLAIN or name.__class__ is not str:
                return None
        try:
            return _pack(info)
        except (OverflowError, UnicodeEncodeError):
            return None

    def _fill(self, template: npt.NDArray[Any], info: dict[Any, Any]) -> bytes | None:
        for (name, value), (known, kind) in zip(info.items(), self._fields, strict=True):
            if value.__class__ is not kind or (name is not known and not _is_same(name, known)):
                return None
        for name, dtype, shape in self._arrays:
            array = info[name]
            if array.shape != shape or array.dtype != dtype:
                return None
        template[()] = tuple(info.values())
        return template.tobytes()

    def learn(self, info: dict[Any, Any], encoded: bytes) -> None:
        """The next infos may be of this kind."""
        if self._learned == MAX_LEARNED or any(name.__class__ is not str for name in info):
            return
        self._learned += 1
        template = _template(info, encoded)
        if template is not None:
            self._template = None  # no info is filled in between, if a Ctrl-C comes now
            self._arrays = [(name, x.dtype, x.shape) for name, x in info.items() if _is_array(x)]
            self._fields = tuple([(name, value.__class__) for name, value in info.items()])
            self._template = template


def _is_same(name: Any, known: str) -> bool:
    return name.__class__ is str and name == known


def _is_array(value: Any) -> bool:
    return value.__class__ is np.ndarray


def _template(info: dict[str, Any], encoded: bytes) -> npt.NDArray[Any] | None:
    """A copy of the encoded info with a field for each value; None if not all have a fixed size.

    The bytes of such a value are the last ones of what it is encoded as.
    """
    formats: list[Any] = []
    offsets: list[int] = []
    sizes = [len(_pack(name)) + len(encode_value(value)) for name, value in info.items()]
    at = len(encoded) - sum(sizes)
    for value, size in zip(info.values(), sizes, strict=True):
        at += size
        if value.__class__ is float:
            dtype, shape = _FLOAT, ()
        elif value.__class__ in _NUMBERS or (
            _is_array(value) and has_column(value.dtype) and value.shape and value.size
        ):
            dtype, shape = value.dtype, value.shape
        else:
            return None
        formats.append((dtype, shape))
        offsets.append(at - value.nbytes if hasattr(value, "nbytes") else at - dtype.itemsize)
    fields = {
        "names": [f"value{n}" for n in range(len(info))],
        "formats": formats,
        "offsets": offsets,
        "itemsize": len(encoded),
    }
    template = np.ndarray((), np.dtype(fields), bytearray(encoded))
    template[()] = tuple(info.values())
    return template if template.tobytes() == encoded else None
