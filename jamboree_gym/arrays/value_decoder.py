"""msgpack -> free-form values; runs no code and imports nothing. `values` writes them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np
from gymnasium.spaces import GraphInstance

from jamboree_gym.arrays.kinds.atoms import ATOMS, decode_dtype
from jamboree_gym.arrays.kinds.classes import hashes_by_itself
from jamboree_gym.arrays.kinds.kinds import build, kind_of
from jamboree_gym.arrays.kinds.stand_ins import StandIn
from jamboree_gym.errors import DecodeError

__all__ = ["NUMBERS", "Code", "decode_packed", "decode_value"]


class Code:
    """Types of msgpack extensions."""

    TUPLE: Final = 1
    SET: Final = 2
    FROZENSET: Final = 3
    PAIRS: Final = 4  # a dict whose keys are not all strings
    BIGINT: Final = 5
    COMPLEX: Final = 6
    ARRAY: Final = 7
    SCALAR: Final = 8
    GRAPH: Final = 10  # 9, and 11 to 18, are those of `atoms`
    OBJECTS: Final = 19  # an array of objects: shape, items
    STRUCTURED: Final = 20  # an array with fields: shape, whether it is a scalar, names and arrays
    KIND: Final = 21  # what `kinds` keeps: the name of the kind, its content
    NUMBER: Final = 32  # the first of those for NumPy's numbers, which are kept as their bytes


NUMBERS: Final = (
    *(np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
    *(np.float16, np.float32, np.float64, np.complex64, np.complex128),
)
_PLAIN_KEYS: Final = frozenset({str, int, float, bool, bytes, type(None), *NUMBERS})
_MAX_EMPTY: Final = 2**24  # elements without a byte; more is damage, and would take all memory
_DAMAGE = (
    *(msgspec.MsgspecError, ValueError, TypeError),
    *(ArithmeticError, RecursionError, MemoryError),
)


def decode_value(content: bytes, *, where: str) -> Any:
    """Decode what `encode_value` or `encode_mapping` wrote; `where` is for the error message.

    Raises:
        DecodeError: The bytes are damaged.
    """
    try:
        return decode_packed(content)
    except _DAMAGE as error:
        raise DecodeError(f"{where}: {error}") from error


def _decode_extension(code: int, data: memoryview) -> Any:
    decode = _DECODERS.get(code)
    if decode is None:
        raise DecodeError(f"unknown extension type {code}: a newer release may know it")
    return decode(data)


def _decode_number(dtype: np.dtype[Any], data: memoryview) -> Any:
    if data.nbytes != dtype.itemsize:  # not its len, which is wrong in msgspec 0.19
        raise DecodeError(f"{data.nbytes} bytes are not one {dtype}")
    return np.ndarray((), dtype, data)[()]


def _decode_scalar(data: memoryview) -> Any:
    return _decode_array(data)[()]


def _decode_array(data: memoryview) -> Any:
    dtype_text, shape, content = _decode_parts(data)
    dtype = decode_dtype(dtype_text)
    _checked_shape(shape, dtype)
    if dtype.itemsize == 0:
        array = np.ndarray(shape, dtype)  # np.zeros would give each item a byte
    else:
        array = np.frombuffer(content, dtype).reshape(shape).copy()
    if dtype.kind == "U" and array.size:
        _check_characters(array)
    return array


def _check_characters(texts: np.ndarray[Any, Any]) -> None:
    """NumPy takes any four bytes for a character, and fails only when it is looked at."""
    codes = texts.reshape(-1).view(np.dtype(np.uint32).newbyteorder(texts.dtype.byteorder))
    if codes.max(initial=0) > sys.maxunicode:
        raise DecodeError("not valid unicode in an array of texts")


def _decode_objects(data: memoryview) -> Any:
    shape, items = _decode_items(data)
    array = np.empty(len(items), object)
    for position, item in enumerate(items):
        array[position] = item  # NumPy would look into a list of lists
    return array.reshape(_checked_shape(shape))


def _decode_structured(data: memoryview) -> Any:
    shape, is_scalar, fields = _decode_fields(data)
    shape = list(_checked_shape(shape))
    for name, array in fields:
        if not isinstance(array, np.ndarray) or list(array.shape[: len(shape)]) != shape:
            raise DecodeError(f"the field {name!r} is no array of shape {shape}")
    formats = [(array.dtype, array.shape[len(shape) :]) for _, array in fields]
    dtype = np.dtype({"names": [name for name, _ in fields], "formats": formats})
    structured = np.empty(_checked_shape(shape, dtype), dtype)
    for name, array in fields:
        structured[name] = array
    return structured[()] if is_scalar else structured


def _decode_kind(data: memoryview) -> Any:
    name, content = _decode_named(data)
    try:
        return build(name, content)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        raise DecodeError(f"a damaged {name!r:.60}: {error!r:.100}") from error


def _as_key(key: Any) -> Any:
    """A key of a dict, or an item of a set, that runs no code of the user where it becomes one."""
    if key.__class__ in _PLAIN_KEYS:
        return key
    if key.__class__ is tuple:
        return tuple(map(_as_key, key))
    if not hashes_by_itself(key):
        try:
            hash(key)
        except Exception:  # noqa: BLE001 - its class has become another one since it was written
            return _standing(key)
        return key
    return _standing(key)


def _standing(key: Any) -> Any:
    kind = kind_of(key)
    return key if kind is None else StandIn(*kind)


def _checked_shape(shape: list[int], dtype: np.dtype[Any] | None = None) -> list[int]:
    if min(shape, default=0) < 0:  # to `reshape`, -1 is whatever fits
        raise DecodeError(f"{shape} is no shape")
    if dtype is not None and dtype.itemsize == 0 and math.prod(shape) > _MAX_EMPTY:
        raise DecodeError(f"an array of shape {shape} is never stored without its elements")
    return shape


def _decoder(kind: Any) -> Callable[[Any], Any]:
    return msgspec.msgpack.Decoder(kind, ext_hook=_decode_extension).decode


decode_packed: Final = _decoder(Any)
# What extensions hold. An array in the place of a list could claim more items than there are bytes.
_decode_list = _decoder(list[Any])
_decode_pairs = _decoder(list[tuple[Any, Any]])
_decode_complex = _decoder(tuple[float, float])
_decode_parts = _decoder(tuple[str, list[int], bytes])
_decode_items = _decoder(tuple[list[int], list[Any]])
_decode_named = _decoder(tuple[str, Any])
_decode_fields = _decoder(tuple[list[int], bool, list[tuple[str, Any]]])


def _decode_atom(code: int) -> Callable[[memoryview], Any]:
    decode = next(atom.decode for atom in ATOMS.values() if atom.code == code)
    return lambda data: decode(bytes(data))


_DECODERS: Final[dict[int, Callable[[memoryview], Any]]] = {
    Code.TUPLE: lambda data: tuple(_decode_list(data)),
    Code.SET: lambda data: set(map(_as_key, _decode_list(data))),
    Code.FROZENSET: lambda data: frozenset(map(_as_key, _decode_list(data))),
    Code.PAIRS: lambda data: {
        key if key.__class__ in _PLAIN_KEYS else _as_key(key): item
        for key, item in _decode_pairs(data)
    },
    Code.BIGINT: lambda data: int(bytes(data), 16),
    Code.COMPLEX: lambda data: complex(*_decode_complex(data)),
    Code.ARRAY: _decode_array,
    Code.SCALAR: _decode_scalar,
    Code.GRAPH: lambda data: GraphInstance(*_decode_list(data)),
    Code.OBJECTS: _decode_objects,
    Code.STRUCTURED: _decode_structured,
    Code.KIND: _decode_kind,
    **{atom.code: _decode_atom(atom.code) for atom in ATOMS.values()},
    **{Code.NUMBER + n: partial(_decode_number, np.dtype(cls)) for n, cls in enumerate(NUMBERS)},
}
