"""How users say what a class of theirs is kept as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jamboree_gym.arrays.kinds.atoms import ATOMS
from jamboree_gym.arrays.kinds.loaded_class import class_name
from jamboree_gym.arrays.kinds.stand_ins import stand_in
from jamboree_gym.checked import checked
from jamboree_gym.errors import InvalidArgument, InvalidRecord

__all__ = ["Unplain", "build_registered", "register_value", "registered_content", "registrations"]

_OWN = (type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)


class Registration(NamedTuple):
    """A class and its two functions."""

    cls: type
    to_plain: Callable[[Any], Any]
    from_plain: Callable[[Any], Any]


class Unplain(InvalidRecord):
    """A `to_plain` has raised.

    Attributes:
        reason: What it raised, in short.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


_BY_CLASS: dict[type, Registration] = {}
_BY_NAME: dict[str, Registration] = {}


@checked
def register_value(
    cls: type, to_plain: Callable[[Any], Any], from_plain: Callable[[Any], Any]
) -> None:
    """Say what instances of a class are kept as, wherever a value may stand.

    Both functions are yours: a store can only name the class. A process that has not registered it
    reads a stand-in, which shows `class_name` and `fields`. If a function raises, no step is lost:
    what cannot be written becomes a mark with the reason, what cannot be read a stand-in with it.

    Args:
        cls: The class. Subclasses are registered by themselves.
        to_plain: Makes a value that can be kept of an instance: numbers, texts, lists, dicts,
            arrays, and other classes that are kept.
        from_plain: Makes an equal instance of that value.

    Raises:
        InvalidArgument: `cls` is no class, or one that is kept already; or a function is none.

    Example:
        >>> register_value(Temperature, lambda one: one.kelvin, Temperature)
    """
    if cls in _OWN or cls in ATOMS or issubclass(cls, (np.generic, np.ndarray)):
        raise InvalidArgument(f"cls={cls.__name__}: it is kept as it is; give a class of your own")
    _BY_CLASS[cls] = _BY_NAME[class_name(cls)] = Registration(cls, to_plain, from_plain)


def registrations() -> list[Registration]:
    """All of this process."""
    return list(_BY_CLASS.values())


def registered_content(value: Any) -> list[Any] | None:
    """What is kept of a value whose class is registered; None for others.

    Raises:
        Unplain: Its `to_plain` raises.
    """
    found = _BY_CLASS.get(type(value))
    if found is None:
        return None
    name = class_name(found.cls)
    try:
        return [name, found.to_plain(value)]
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        reason = f"to_plain raises {_shown(error)}"
        raise Unplain(f"cannot store a {name}: its {reason}", reason) from error


def build_registered(content: Any) -> Any:
    """The instance, if its class is registered in this process."""
    name, plain = content
    found = _BY_NAME.get(name)
    if found is None:
        return stand_in("registered", content, "not registered here")
    try:
        return found.from_plain(plain)
    except Exception as error:  # noqa: BLE001 - code of users may raise anything
        return stand_in("registered", content, f"from_plain raises {_shown(error)}")


def _shown(error: Exception) -> str:
    try:
        return f"{error!r:.100}"
    except Exception:  # noqa: BLE001 - even that is code of users
        return type(error).__name__
