"""Members of enums, dataclasses, named tuples: by the name of their class, and by their fields.

They come back as themselves only if their class is loaded and still has these fields. Neither
`__init__` nor any other code of the class runs.
"""

from __future__ import annotations

import dataclasses
from enum import Enum, EnumMeta, Flag
from inspect import getattr_static
from types import FunctionType, MemberDescriptorType
from typing import Any, Final

from jamboree_gym.arrays.kinds.loaded_class import class_name, loaded_class
from jamboree_gym.arrays.kinds.stand_ins import StandIn, is_alike, stand_in

__all__ = [
    "UNKEPT",
    "build_dataclass",
    "build_enum",
    "build_flag",
    "build_named_tuple",
    "dataclass_content",
    "enum_content",
    "hashes_by_itself",
    "is_dataclass_value",
    "is_named_tuple",
    "named_tuple_content",
]

UNKEPT: Final = "value"
"""Kind of the value of a member that itself cannot be kept: its class is."""

_BASES: Final = (int, float, str)
_PLAIN: Final = (type(None), bool, int, float, str, bytes)


def enum_content(value: Enum) -> tuple[str, list[Any]]:
    """Kind and content of a member of an enum."""
    base = next((base.__name__ for base in _BASES if isinstance(value, base)), "")
    cls, known = type(value), value._value_
    if isinstance(value, Flag):
        names = [one._name_ for one in cls if one._value_ & known == one._value_]
        return "flag", [class_name(cls), base, names, known]
    return "enum", [class_name(cls), base, value._name_, known]


def build_enum(content: Any) -> Any:
    """The member of this name, if it has the same value."""
    name, _, member, value = content
    cls = loaded_class(name)
    if isinstance(cls, EnumMeta):
        found = cls._member_map_.get(member)
        if found is not None and _has_value(found, value):
            return found
    return stand_in("enum", content)


def _has_value(member: Enum, value: Any) -> bool:
    known = member._value_
    if isinstance(value, StandIn) and value.kind == UNKEPT:
        return bool(value.content == class_name(type(known)))
    return (
        is_alike(known, value) if known.__class__ in _PLAIN else known.__class__ is value.__class__
    )


def build_flag(content: Any) -> Any:
    """The flags that are set, if the class has all of them."""
    name, _, members, value = content
    cls = loaded_class(name)
    if isinstance(cls, EnumMeta) and issubclass(cls, Flag) and value.__class__ is int:
        found = cls._value2member_map_.get(value)
        names = [one._name_ for one in cls if one._value_ & value == one._value_]
        if found is None and names == members and _is_plain_flag(cls):
            found = EnumMeta.__call__(cls, value)
        if found is not None and names == members:
            return found
    return stand_in("flag", content)


def _is_plain_flag(cls: type[Flag]) -> bool:
    """Whether what makes a member of a number is Python's own."""
    own = Flag.__dict__["_missing_"].__func__
    return getattr_static(cls, "_missing_").__func__ is own


def is_named_tuple(value: Any) -> bool:
    """Whether a tuple is a named one."""
    names = getattr(type(value), "_fields", None)
    return isinstance(names, tuple) and len(names) == len(value)


def named_tuple_content(value: Any) -> list[Any]:
    """Its class, names and values."""
    return [class_name(type(value)), list(value._fields), list(value)]


def build_named_tuple(content: Any) -> Any:
    """The named tuple, if its class has these names."""
    name, names, values = content
    cls = loaded_class(name)
    if cls is not None and issubclass(cls, tuple):
        known = getattr_static(cls, "_fields", None)
        if isinstance(known, tuple) and list(known) == names and len(values) == len(names):
            return tuple.__new__(cls, values)
    return stand_in("named tuple", content)


def is_dataclass_value(value: Any) -> bool:
    """Whether it is an instance of a dataclass."""
    return dataclasses.is_dataclass(type(value))


def dataclass_content(value: Any) -> list[Any]:
    """Its class, and the fields that it has."""
    names = [one.name for one in dataclasses.fields(value)]
    return [class_name(type(value)), {name: getattr(value, name) for name in names}]


def build_dataclass(content: Any) -> Any:
    """The instance, if its class has these fields, and takes them without running code."""
    name, fields = content
    cls = loaded_class(name)
    known = getattr_static(cls, "__dataclass_fields__", None) if cls is not None else None
    if cls is None or not isinstance(known, dict) or not isinstance(fields, dict):
        return stand_in("dataclass", content)
    names = [one.name for one in dataclasses.fields(cls)]
    if names != list(fields):
        return stand_in("dataclass", content)
    try:
        made: Any = object.__new__(cls)
        for field, value in fields.items():
            slot = getattr_static(cls, field, None)
            if isinstance(slot, MemberDescriptorType):
                slot.__set__(made, value)
            elif hasattr(type(slot), "__set__"):
                return stand_in("dataclass", content)
            else:
                object.__getattribute__(made, "__dict__")[field] = value
    except (AttributeError, TypeError):  # a class of another library, or with other slots
        return stand_in("dataclass", content)
    return made


def hashes_by_itself(value: Any) -> bool:
    """Whether code of its class would run where it becomes a key."""
    cls = type(value)
    if not is_dataclass_value(value) and not is_named_tuple(value):
        return False
    found = [getattr_static(cls, name) for name in ("__hash__", "__eq__")]
    return any(isinstance(one, FunctionType) and not _is_generated(one) for one in found)


def _is_generated(function: FunctionType) -> bool:
    """Whether `dataclass` has made it."""
    return function.__code__.co_filename == "<string>"
