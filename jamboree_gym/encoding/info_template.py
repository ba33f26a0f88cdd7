"""Infos whose values all have a fixed size: floats, NumPy's numbers, arrays of a known shape.

Environments return them in each step, with the same keys and types. Then only some bytes change
from info to info. They are written into a copy of the first one, at much less than what
`values.encode_value` takes. The bytes are the same.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from jamboree_gym.arrays.layout import has_column
from jamboree_gym.arrays.value_decoder import NUMBERS
from jamboree_gym.arrays.values import encode_value
from jamboree_gym.compiled import compiled_core

__all__ = ["InfoTemplate"]

_NUMBERS = frozenset(NUMBERS)
_FLOAT = np.dtype(">f8")  # as msgpack has it

_pack = msgspec.msgpack.Encoder().encode
_core = compiled_core()


class InfoTemplate:
    """Encodes infos that have the keys, types and shapes of the one it was made of.

    Args:
        info: All its values have a fixed size: see `of`.
        encoded: What `encode_value` makes of it.

    Attributes:
        compiled: The same in C, for `add_plain_step`; None if Python does all.
    """

    def __init__(self, info: dict[str, Any], encoded: bytes) -> None:
        self._names = tuple(info)
        self._kinds = tuple([value.__class__ for value in info.values()])
        self._arrays = [(key, one.dtype, one.shape) for key, one in info.items() if _is_array(one)]
        sizes = [len(_pack(key)) + len(encode_value(value)) for key, value in info.items()]
        offsets: list[int] = []
        formats: list[Any] = []
        at = len(encoded) - sum(sizes)
        for value, size in zip(info.values(), sizes, strict=True):
            at += size
            dtype, shape = (_FLOAT, ()) if value.__class__ is float else (value.dtype, value.shape)
            formats.append((dtype, shape))
            offsets.append(at - np.dtype((dtype, shape)).itemsize)  # its bytes are the last
        fields: Any = {
            "names": [f"value{n}" for n in range(len(formats))],
            "formats": formats,
            "offsets": offsets,
            "itemsize": len(encoded),
        }
        told = tuple(
            (name, kind, _how_of(kind), offset, *of)
            for name, kind, offset, of in zip(info, self._kinds, offsets, formats, strict=True)
        )
        self._row: Any = np.ndarray((), np.dtype(fields), bytearray(encoded))
        self.compiled = None if _core is None else _core.Template(encoded, len(encoded), told)

    @classmethod
    def of(cls, info: dict[Any, Any], encoded: bytes) -> InfoTemplate | None:
        """A template made of an info; None if not all of its values have a fixed size."""
        for name, value in info.items():
            is_fixed = value.__class__ in _NUMBERS or value.__class__ is float or _is_array(value)
            if not is_fixed or name.__class__ is not str:
                return None
        template = cls(info, encoded)
        return template if template.encode(info) == encoded else None

    def encode(self, info: dict[Any, Any]) -> bytes | None:
        """The info in bytes; None if it is of another kind."""
        if self.compiled is not None:
            found: bytes | None = self.compiled.encode(info)
            if found is not None:
                return found
        names, kinds = self._names, self._kinds
        if len(info) != len(kinds):
            return None
        values = tuple(info.values())
        for name, known, value, kind in zip(info, names, values, kinds, strict=True):
            if value.__class__ is not kind or (name is not known and not _is_same(name, known)):
                return None
        for name, dtype, shape in self._arrays:
            array = info[name]
            if array.shape != shape or array.dtype != dtype:
                return None
        self._row[()] = values
        content: bytes = self._row.tobytes()
        return content


def _how_of(kind: type[Any]) -> str:
    """How the compiled core writes values of a class: see `native/template.h`."""
    return "m" if kind is float else "a" if kind is np.ndarray else "s"


def _is_same(name: Any, known: str) -> bool:
    return name.__class__ is str and name == known


def _is_array(value: Any) -> bool:
    """Whether it is an array of numbers; one without a shape is as odd as one without numbers."""
    if value.__class__ is not np.ndarray or not has_column(value.dtype):
        return False
    return min(value.shape, default=0) > 0
