"""A value whose class has no stored form becomes an equal value of a class that has one."""

from __future__ import annotations

import array
from collections import deque
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

import numpy as np

from jamboree_gym.arrays.tensors import is_tensor, plain_array, tensor_array

__all__ = ["NO_FORM", "plain_form"]

NO_FORM: Final = object()
_CONTAINERS: Final = (
    *((dict, dict), (MappingProxyType, dict), (list, list), (deque, list)),
    *((tuple, tuple), (set, set), (frozenset, frozenset)),
)
_LOCAL_PATH: Final = type(PurePath())


def plain_form(value: Any) -> Any:
    """An equal value of a class that is kept; `NO_FORM` where there is none."""
    if isinstance(value, np.generic):
        return _plain_number(value)
    for kind, plain in _CONTAINERS:
        if isinstance(value, kind):
            return plain(value)
    if isinstance(value, (int, float, complex, str, bytes, bytearray)):
        return _plain_scalar(value)
    if isinstance(value, (datetime, date, time, timedelta)):
        return _plain_time(value)
    if isinstance(value, (Decimal, Fraction)):
        return Decimal(value) if isinstance(value, Decimal) else Fraction(value)
    if isinstance(value, UUID):
        return UUID(int=value.int)
    if isinstance(value, PurePath):
        return Path(value) if isinstance(value, _LOCAL_PATH) else NO_FORM
    if isinstance(value, (memoryview, array.array)):
        return np.array(value)
    found = tensor_array(value) if is_tensor(value) else None
    return NO_FORM if found is None else found


def _plain_number(value: np.generic) -> Any:
    """Of a number whose dtype is that of another library."""
    if value.dtype.kind != "V" or issubclass(value.dtype.type, np.void):
        return NO_FORM
    found = plain_array(np.asarray(value))
    return NO_FORM if found is None else found[()]


def _plain_scalar(value: Any) -> Any:
    """Also of members of an enum that are numbers or texts."""
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, complex):
        return complex.__complex__(value)
    return str.__str__(value) if isinstance(value, str) else bytes(memoryview(value))


def _plain_time(value: Any) -> Any:
    """Those of pandas hold nanoseconds, too."""
    if isinstance(value, timedelta):
        if getattr(value, "nanoseconds", 0):
            return value.to_timedelta64()  # type: ignore[attr-defined]
        return timedelta(value.days, value.seconds, value.microseconds)
    if isinstance(value, datetime):
        if value != value:  # pandas' NaT
            return np.datetime64("NaT", "ns")
        if getattr(value, "nanosecond", 0):
            return NO_FORM if value.tzinfo else value.to_datetime64()  # type: ignore[attr-defined]
        return datetime.combine(date(value.year, value.month, value.day), _clock(value))
    if isinstance(value, date):
        return date(value.year, value.month, value.day)
    return _clock(value)


def _clock(value: Any) -> time:
    parts = (value.hour, value.minute, value.second, value.microsecond)
    return time(*parts, tzinfo=value.tzinfo, fold=value.fold)
