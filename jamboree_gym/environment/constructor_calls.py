"""Remembers with which arguments each wrapper of Gymnasium was made.

Most wrappers do not keep their arguments. So `gymnasium.Wrapper` gets a `__new__`, which notes the
arguments and makes the same object as before. Notes lie beside the wrappers, in a table that does
not keep them alive. A wrapper, its class, its signature, its pickle and its copies stay as they
are; a copy and an unpickled wrapper have no note.

This module imports only what Gymnasium has loaded: `import jamboree_gym` may import it.
"""

from __future__ import annotations

import datetime
import enum
import weakref
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePath
from types import BuiltinFunctionType, NoneType
from typing import Any, Final, NamedTuple
from uuid import UUID

import gymnasium as gym
import numpy as np

__all__ = ["ConstructorCall", "NotCopied", "call_of", "noted_wrappers", "remember_calls"]

MAX_VALUES: Final = 10_000  # of one argument that is copied
MAX_BYTES: Final = 2**20
_NEVER_CHANGE: Final = (
    *(NoneType, bool, int, float, complex, str, bytes, range, type, BuiltinFunctionType),
    *(enum.Enum, np.generic, np.dtype, PurePath, Decimal, Fraction, UUID),
    *(datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo),
)
_COLLECTIONS: Final = (list, tuple, set, frozenset)


class NotCopied:
    """Stands for an argument that was not copied: it is too large, or may be of any class."""

    def __init__(self, value: Any) -> None:
        self._words = f"<a {type(value).__qualname__} that was not copied>"
        try:
            self._find: Any = weakref.ref(value)
        except TypeError:
            self._find = lambda: None

    def __repr__(self) -> str:
        return self._words

    def found(self) -> Any:
        """The argument as it is now; this object if it is gone."""
        value = self._find()
        return self if value is None else value


class ConstructorCall(NamedTuple):
    """The arguments of a constructor, copied before it could change them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


_noted: dict[int, tuple[weakref.ref[Any], ConstructorCall]] = {}


def call_of(wrapper: gym.Env[Any, Any]) -> ConstructorCall | None:
    """With what a wrapper was made; None if nobody noted it."""
    found = _noted.get(id(wrapper))
    if found is None or found[0]() is not wrapper:
        return None
    args, kwargs = found[1]
    return ConstructorCall(
        tuple(map(_found, args)), {name: _found(value) for name, value in kwargs.items()}
    )


def noted_wrappers() -> Iterator[Any]:
    """The wrappers of this process whose arguments are noted."""
    for found, _ in list(_noted.values()):
        wrapper = found()
        if wrapper is not None:
            yield wrapper


def remember_calls() -> None:
    """Note the arguments of each wrapper that is made from now on."""
    before = vars(gym.Wrapper).get("__new__")
    if hasattr(getattr(before, "__func__", None), "_notes_calls"):
        return

    def __new__(cls: type, *args: Any, **kwargs: Any) -> Any:
        if before is not None:
            wrapper = before.__func__(cls, *args, **kwargs)
        else:
            inherited: Any = super(gym.Wrapper, cls).__new__  # type: ignore[misc]
            is_plain = inherited is object.__new__
            wrapper = inherited(cls) if is_plain else inherited(cls, *args, **kwargs)
        if args or kwargs:  # a copy and an unpickled wrapper are made without
            try:
                _note(wrapper, args, kwargs)
            except Exception:  # noqa: BLE001 - an odd argument must not keep a wrapper from being made
                _noted.pop(id(wrapper), None)
        return wrapper

    __new__.__qualname__ = "Wrapper.__new__"
    # A class without a constructor of its own shows the signature that it had before.
    __new__.__wrapped__ = gym.Wrapper.__init__  # type: ignore[attr-defined]
    __new__._notes_calls = True  # type: ignore[attr-defined]
    gym.Wrapper.__new__ = staticmethod(__new__)  # type: ignore[method-assign]


def _note(wrapper: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    key = id(wrapper)
    call = ConstructorCall(
        tuple(map(_copied, args)), {name: _copied(value) for name, value in kwargs.items()}
    )
    _noted[key] = weakref.ref(wrapper, lambda _: _noted.pop(key, None)), call


def _copied(value: Any) -> Any:
    return NotCopied(value) if _is_large(value) else _copy(value)


def _is_large(value: Any) -> bool:
    waiting, seen, size = [value], 0, 0
    while waiting:
        one = waiting.pop()
        seen += 1
        size += one.nbytes if one.__class__ is np.ndarray else 0
        if one.__class__ in (dict, *_COLLECTIONS):
            seen += len(one)
            if seen <= MAX_VALUES:
                waiting += [*one, *one.values()] if one.__class__ is dict else one
        if seen > MAX_VALUES or size > MAX_BYTES:
            return True
    return False


def _copy(value: Any) -> Any:
    kind = value.__class__
    if kind in _COLLECTIONS:
        return kind([_copy(one) for one in value])
    if kind is dict:
        return {_copy(key): _copy(one) for key, one in value.items()}
    if kind is np.ndarray and not value.dtype.hasobject:
        return value.copy()
    return value if isinstance(value, _NEVER_CHANGE) else NotCopied(value)


def _found(value: Any) -> Any:
    """The copy of an argument, with what was not copied as it is now."""
    kind = value.__class__
    if kind is NotCopied:
        return value.found()
    if kind in _COLLECTIONS:
        return kind([_found(one) for one in value])
    if kind is dict:
        return {_found(key): _found(one) for key, one in value.items()}
    return value.copy() if kind is np.ndarray else value


remember_calls()
