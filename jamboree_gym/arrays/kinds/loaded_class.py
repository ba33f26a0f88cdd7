"""Finds a class by the name that a store gives, among what is loaded. Imports and runs nothing."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

__all__ = ["class_name", "loaded", "loaded_class"]

_MAIN = "__main__"
_MAIN_OF_A_CHILD = "__mp_main__"  # the same script, in a process of multiprocessing


def class_name(cls: Any) -> str:
    """The name of a class or function, as `module:qualified.name`."""
    module = str(getattr(cls, "__module__", ""))
    return f"{_MAIN if module == _MAIN_OF_A_CHILD else module}:{cls.__qualname__}"


def loaded(name: Any) -> Any:
    """What has this `class_name` in a module that is loaded; None if nothing has it.

    Only what stands in the dicts of modules and classes counts: asking a module for an attribute
    may run its code.
    """
    if not isinstance(name, str):
        return None
    module_name, _, path = name.partition(":")
    module = sys.modules.get(module_name)
    if module is None or not issubclass(type(module), ModuleType):
        return None
    found: Any = None
    names: Any = ModuleType.__getattribute__(module, "__dict__")
    for part in path.split("."):
        found = names.get(part)
        names = type.__dict__["__dict__"].__get__(found) if isinstance(found, type) else {}
    return found


def loaded_class(name: Any) -> type | None:
    """The class of this name, if it is loaded and is really the one of that name."""
    found = loaded(name)
    is_it = isinstance(found, type) and not _is_restless(found) and class_name(found) == name
    return found if is_it else None


def _is_restless(cls: type) -> bool:
    """Whether the end of its instances runs code, which nobody must choose by what they store."""
    return any("__del__" in vars(base) for base in cls.__mro__)
