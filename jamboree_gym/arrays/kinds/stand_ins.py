"""What is read where the class of a value is not loaded here: it shows class and fields.

A stand-in is stored again as the value that it stands for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

import numpy as np

from jamboree_gym.wording import shortened

__all__ = ["REFERENCE", "StandIn", "is_alike", "stand_in"]

MAX_SHOWN: Final = 200
REFERENCE: Final = "reference"
"""Kind of a class or function that an argument was; the content is its name."""

_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "enum": ("name", "value"),
    "flag": ("names", "value"),
    "registered": ("plain",),
}


class StandIn:
    """Stands for a value whose class is not loaded in this process.

    Two are equal if they stand for equal values of one class. A member of an enum that is an int,
    float or text is one here, too, and a named tuple is a tuple: they equal these.

    Attributes:
        kind: As docs/storage.md names it: `enum`, `dataclass`, ...
        content: What is stored of it.
        reason: Why it could not be made, if that is more than a class that is not loaded.
    """

    kind: str
    content: Any
    reason: str

    def __init__(self, kind: str, content: Any, reason: str = "") -> None:
        self.kind, self.content, self.reason = kind, content, reason

    @property
    def class_name(self) -> str:
        """The class, as `module:name`; the kind, where it has no class of its own."""
        has_name = isinstance(self.content, list) and self.content[:1]
        if self.kind == REFERENCE:
            return str(self.content)
        if not has_name or not isinstance(self.content[0], str):
            return self.kind
        return f"pandas.{self.content[0]}" if self.kind == "pandas" else self.content[0]

    @property
    def fields(self) -> dict[str, Any]:
        """The parts by name."""
        content = self.content
        if self.class_name == self.kind or len(content) < 2:
            return dict(content) if isinstance(content, Mapping) else {"content": content}
        if self.kind in _FIELDS:
            names = _FIELDS[self.kind]
            return dict(zip(names, content[-len(names) :], strict=False))
        if self.kind == "named tuple" and len(content) == 3:
            return dict(zip(content[1], content[2], strict=False))
        return dict(content[1]) if isinstance(content[1], Mapping) else {"content": content[1:]}

    def __eq__(self, other: object) -> bool:
        """Whether the other stands for an equal value of the same class."""
        if not isinstance(other, StandIn):
            return NotImplemented
        return self.kind == other.kind and is_alike(self.content, other.content)

    def __hash__(self) -> int:
        """The same for all of one class: their fields may be of any kind."""
        return hash((self.kind, self.class_name))

    def __repr__(self) -> str:
        """Class, fields, and why the value itself is not here."""
        fields = ", ".join(f"{name}={value!r}" for name, value in self.fields.items())
        why = self.reason or "not loaded here"
        return f"<{self.class_name}({shortened(fields, MAX_SHOWN)}), {why}>"


class _WithValue(StandIn):
    """One that is a number, text or tuple, too: the base of the classes below it."""

    _base: ClassVar[Any]

    def __new__(cls, value: Any, *_: Any) -> Self:
        made: Self = cls._base.__new__(cls, value)
        return made

    def __init__(self, _: Any, *of: Any) -> None:
        super().__init__(*of)

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self._base(self), self.kind, self.content, self.reason


class _Number(_WithValue, int):
    _base = int
    __eq__, __ne__, __hash__ = int.__eq__, int.__ne__, int.__hash__
    __str__ = int.__repr__


class _Float(_WithValue, float):
    _base = float
    __eq__, __ne__, __hash__ = float.__eq__, float.__ne__, float.__hash__
    __str__ = float.__repr__


class _Text(_WithValue, str):
    _base = str
    __eq__, __ne__, __hash__ = str.__eq__, str.__ne__, str.__hash__


class _Named(_WithValue, tuple[Any, ...]):
    _base = tuple
    __eq__, __ne__, __hash__ = tuple.__eq__, tuple.__ne__, tuple.__hash__

    def __init__(self, *of: Any) -> None:
        super().__init__(*of)
        self._fields = tuple(self.content[1])


_BASES: Final[dict[str, tuple[type, Any]]] = {
    "int": (int, _Number),
    "float": (float, _Float),
    "str": (str, _Text),
}


def stand_in(kind: str, content: Any, reason: str = "") -> StandIn:
    """What stands for a value of this kind, and is a number, text or tuple if the value was one."""
    if isinstance(content, list):
        if kind in ("enum", "flag") and len(content) == 4 and isinstance(content[1], str):
            known = _BASES.get(content[1])
            if known is not None and isinstance(content[3], known[0]):
                found: StandIn = known[1](content[3], kind, content, reason)
                return found
        if kind == "named tuple" and len(content) == 3 and isinstance(content[2], list):
            return _Named(content[2], kind, content, reason)
    return StandIn(kind, content, reason)


def is_alike(one: Any, other: Any) -> bool:
    """Whether two values are of the same classes throughout, and equal; NaN equals NaN."""
    if one is other:
        return True
    if one.__class__ is not other.__class__:
        return False
    if isinstance(one, StandIn):
        return one.kind == other.kind and is_alike(one.content, other.content)
    if isinstance(one, Mapping):
        return len(one) == len(other) and all(
            key in other and is_alike(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(is_alike, one, other))
    if isinstance(one, (np.ndarray, np.generic)):
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            return False
        if one.dtype.hasobject:
            return is_alike(one.ravel().tolist(), other.ravel().tolist())
        return bool(one.tobytes() == other.tobytes())
    return bool(one == other or (one != one and other != other))
