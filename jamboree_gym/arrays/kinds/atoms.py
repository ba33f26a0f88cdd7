"""Values that are kept as a few bytes: dates, exact numbers, paths, dtypes."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

import numpy as np

from jamboree_gym.errors import DecodeError, InvalidRecord

__all__ = ["ATOMS", "Atom", "decode_dtype"]

_FOLD: Final = b"f"  # the second of two equal times when clocks are set back
_DTYPE_TEXT = re.compile(r"[<>|][biufcSUmMV]\d+(\[\d*[A-Za-z]+\])?")
_TYPE: Final = b"t"  # the class of a dtype's numbers, as `np.float32`


class Atom(NamedTuple):
    """How values of one class are kept: the code of the extension, and both directions.

    What `decode` raises for damage is any of Python's errors.
    """

    code: int
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


@lru_cache(maxsize=256)
def decode_dtype(text: str) -> np.dtype[Any]:
    """The dtype with this `str`; a `DecodeError` if it is none that is ever stored."""
    if not _DTYPE_TEXT.fullmatch(text):
        raise DecodeError(f"dtype {text!r} is not one that is ever stored")
    return np.dtype(text)


def _encode_datetime(value: datetime) -> bytes:
    return value.isoformat().encode() + _FOLD * value.fold


def _decode_datetime(content: bytes) -> datetime:
    text = content.removesuffix(_FOLD)
    return datetime.fromisoformat(text.decode()).replace(fold=int(text != content))


def _encode_time(value: time) -> bytes:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise InvalidRecord(f"cannot store the time {value}: its zone needs a date; give both")
    return value.isoformat().encode() + _FOLD * value.fold


def _decode_time(content: bytes) -> time:
    text = content.removesuffix(_FOLD)
    return time.fromisoformat(text.decode()).replace(fold=int(text != content))


def _encode_timedelta(value: timedelta) -> bytes:
    return f"{value.days},{value.seconds},{value.microseconds}".encode()


def _decode_timedelta(content: bytes) -> timedelta:
    days, seconds, microseconds = map(int, content.decode().split(","))
    return timedelta(days, seconds, microseconds)


def _encode_fraction(value: Fraction) -> bytes:
    return f"{value.numerator:x}/{value.denominator:x}".encode()


def _decode_fraction(content: bytes) -> Fraction:
    numerator, denominator = content.decode().split("/")
    return Fraction(int(numerator, 16), int(denominator, 16))


def _encode_dtype(value: np.dtype[Any]) -> bytes:
    is_plain = value.names is None and not value.metadata and _DTYPE_TEXT.fullmatch(value.str)
    if not is_plain or value != np.dtype(value.str):
        raise InvalidRecord(f"cannot store the dtype {value!r}")
    return value.str.encode()


def _encode_type(value: type) -> bytes:
    if not issubclass(value, np.generic):
        raise InvalidRecord(f"cannot store the class {value.__module__}.{value.__qualname__}")
    return _TYPE + _encode_dtype(np.dtype(value))


def _decode_dtype(content: bytes) -> Any:
    text = content.removeprefix(_TYPE)
    dtype = decode_dtype(text.decode())
    return dtype if text == content else dtype.type


_DTYPE: Final = 18
ATOMS: Final[dict[type, Atom]] = {
    datetime: Atom(9, _encode_datetime, _decode_datetime),
    date: Atom(
        11, lambda value: value.isoformat().encode(), lambda c: date.fromisoformat(c.decode())
    ),
    time: Atom(12, _encode_time, _decode_time),
    timedelta: Atom(13, _encode_timedelta, _decode_timedelta),
    Decimal: Atom(14, lambda value: str(value).encode(), lambda content: Decimal(content.decode())),
    Fraction: Atom(15, _encode_fraction, _decode_fraction),
    UUID: Atom(16, lambda value: value.bytes, lambda content: UUID(bytes=content)),
    type(Path()): Atom(
        17, lambda value: str(value).encode(), lambda content: Path(content.decode())
    ),
    np.dtype: Atom(_DTYPE, _encode_dtype, _decode_dtype),
    type: Atom(_DTYPE, _encode_type, _decode_dtype),
}
"""By class; only instances of the class itself."""
