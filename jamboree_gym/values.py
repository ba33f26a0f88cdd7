"""Free-form values <-> msgpack, with the types that plain msgpack loses kept by extension types.

Kept exactly: None, bool, int (any size), float, complex, str, bytes, list, tuple, dict, set,
frozenset, datetime, NumPy scalars and arrays (dtype, byte order, shape). Everything else is an
error that names the value's place. Instances of a subclass of tuple, list, dict, set or frozenset
come back as the plain one. Decoding runs no code and imports nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
import numpy as np

from jamboree_gym.errors import DecodeError, InvalidRecord

__all__ = ["decode_value", "encode_mapping", "encode_value"]

_TUPLE: Final = 1
_SET: Final = 2
_FROZENSET: Final = 3
_PAIRS: Final = 4  # a dict whose keys are not all strings
_BIGINT: Final = 5
_COMPLEX: Final = 6
_ARRAY: Final = 7
_SCALAR: Final = 8
_DATETIME: Final = 9

_SEQUENCES: Final = {tuple: _TUPLE, set: _SET, frozenset: _FROZENSET}

_FOLD: Final = b"f"  # the second of two equal times when clocks are set back
_INT_LIMITS = range(-(2**63), 2**64)
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_ARRAY_KINDS = frozenset("biufcSUmMV")
_DTYPE_TEXT = re.compile(r"[<>|][biufcSUmMV]\d+(\[\d*[A-Za-z]+\])?")
_ARRAY_CLASSES = frozenset({np.ndarray, np.memmap})  # another subclass holds more than its bytes

_pack = msgspec.msgpack.Encoder().encode
_Ext = msgspec.msgpack.Ext


def encode_mapping(record: Mapping[str, Any]) -> bytes:
    """Encode a record; quick when every value is None, bool, int, float, str or bytes.

    Raises:
        InvalidRecord: A value cannot be kept; the message names its key.
    """
    for name, value in record.items():
        if value.__class__ not in _PLAIN or name.__class__ is not str:
            return _encode_fields(record)
    try:
        return _pack(record)
    except (OverflowError, TypeError, UnicodeEncodeError):
        return _encode_fields(record)


def _encode_fields(record: Mapping[str, Any]) -> bytes:
    for name in record:
        if not isinstance(name, str):
            raise InvalidRecord(f"a field name is a string, not {name!r}")
    return encode_value(dict(record))


def encode_value(value: Any) -> bytes:
    """Encode any value of the kinds that this module keeps.

    Raises:
        InvalidRecord: Something in it cannot be kept; the message names its place.
    """
    try:
        return _pack(_tag(value, ""))
    except RecursionError as error:
        raise InvalidRecord("the value is nested too deeply, or holds itself") from error


def _tag(value: Any, path: str) -> Any:
    """Replace what msgpack would lose by an extension that remembers it."""
    cls = value.__class__
    if cls in _PLAIN:
        return _tag_plain(value, path)
    if isinstance(value, dict):
        return _tag_dict(value, path)
    if isinstance(value, list):
        return [_tag(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, (tuple, set, frozenset)):
        code = next(code for kind, code in _SEQUENCES.items() if isinstance(value, kind))
        return _Ext(code, _pack([_tag(item, f"{path}[{i}]") for i, item in enumerate(value)]))
    if cls in _ARRAY_CLASSES or isinstance(value, np.generic):
        return _tag_numpy(value, path)
    if cls is complex:
        return _Ext(_COMPLEX, _pack([value.real, value.imag]))
    if cls is datetime:
        return _Ext(_DATETIME, value.isoformat().encode() + _FOLD * value.fold)
    raise InvalidRecord(
        f"{path or 'value'}: cannot store {_shown(value)} of type {cls.__module__}."
        f"{cls.__qualname__}; convert it to numbers, strings, lists, dicts or NumPy arrays"
    )


def _tag_plain(value: Any, path: str) -> Any:
    if value.__class__ is int and value not in _INT_LIMITS:
        return _Ext(_BIGINT, hex(value).encode())
    if value.__class__ is str and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidRecord(f"{path or 'value'}: not valid unicode: {error}") from error
    return value


def _tag_dict(value: dict[Any, Any], path: str) -> Any:
    if all(key.__class__ is str for key in value):
        return {
            _tag_plain(key, f"{path}: key {key!r}"): _tag(
                item, f"{path}.{key}" if path else repr(key)
            )
            for key, item in value.items()
        }
    pairs = [
        [_tag(key, f"{path}: key {key!r}"), _tag(item, f"{path}[{key!r}]")]
        for key, item in value.items()
    ]
    return _Ext(_PAIRS, _pack(pairs))


def _tag_numpy(value: np.ndarray[Any, Any] | np.generic, path: str) -> Any:
    dtype = value.dtype
    if dtype.kind not in _ARRAY_KINDS or dtype.fields is not None:
        raise InvalidRecord(
            f"{path or 'value'}: cannot store a NumPy value of dtype {dtype}; "
            "numbers, bool, bytes, str, datetime64 and timedelta64 can be stored"
        )
    code = _ARRAY if isinstance(value, np.ndarray) else _SCALAR
    return _Ext(code, _pack([dtype.str, list(value.shape), value.tobytes()]))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_DAMAGE = (
    msgspec.MsgspecError,
    ValueError,
    TypeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)


def decode_value(content: bytes, *, where: str) -> Any:
    """Decode what `encode_value` or `encode_mapping` wrote.

    Args:
        content: The bytes.
        where: Place in the store, for the error message.

    Raises:
        DecodeError: The bytes are damaged.
    """
    try:
        return _decoder.decode(content)
    except _DAMAGE as error:
        raise DecodeError(f"{where}: {error}") from error


def _decode_extension(code: int, data: memoryview) -> Any:
    if code == _TUPLE:
        return tuple(_decoder.decode(data))
    if code == _SET:
        return set(_decoder.decode(data))
    if code == _FROZENSET:
        return frozenset(_decoder.decode(data))
    if code == _PAIRS:
        return {key: item for key, item in _decoder.decode(data)}
    if code == _BIGINT:
        return int(bytes(data), 16)
    if code == _COMPLEX:
        real, imaginary = _decoder.decode(data)
        return complex(real, imaginary)
    if code == _DATETIME:
        return _decode_datetime(bytes(data))
    if code in (_ARRAY, _SCALAR):
        return _decode_numpy(code, data)
    raise DecodeError(f"unknown extension type {code}")


def _decode_datetime(content: bytes) -> datetime:
    text = content.removesuffix(_FOLD)
    return datetime.fromisoformat(text.decode()).replace(fold=int(text != content))


def _decode_numpy(code: int, data: memoryview) -> Any:
    dtype_text, shape, content = _decoder.decode(data)
    if not isinstance(dtype_text, str) or not _DTYPE_TEXT.fullmatch(dtype_text):
        raise DecodeError(f"dtype {dtype_text!r} is not one that is ever stored")
    dtype = np.dtype(dtype_text)
    if dtype.itemsize == 0:
        array = np.ndarray(shape, dtype)  # np.zeros would give each item a byte
    else:
        array = np.frombuffer(content, dtype).reshape(shape).copy()
    return array[()] if code == _SCALAR else array


_decoder = msgspec.msgpack.Decoder(ext_hook=_decode_extension)
