"""Finds texts in stored arguments that name a module: some environments import such arguments.

The check imports nothing: it only searches for the modules.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import PurePath
from typing import Any, Final

import numpy as np

from jamboree_gym.arrays.kinds.kinds import kind_of
from jamboree_gym.errors import ReplayError

__all__ = ["check_arguments", "names_module"]

MAX_SHOWN: Final = 60
_NEVER_IN_A_NAME: Final = frozenset("/\\\0 \t\r\n")
_MAY_HOLD_TEXT: Final = "SU"
_WITH_CLASS: Final = ("dataclass", "registered")
_SCHEMES: Final = ("http", "redis")  # schemes of URLs that are also names of packages


def check_arguments(
    arguments: Mapping[Any, Any], of: str, registered: Mapping[str, Any] | None = None
) -> None:
    """Check that no argument of the thing `of` names a module that could be imported here.

    Values that are `registered` here for the same arguments do not come from the store.

    Raises:
        ReplayError: An argument names a module; names both.
    """
    for name, value in arguments.items():
        known = {text for _, text in _texts((registered or {}).get(name), "")}
        for where, text in (("its name", name), *_texts(value, f"{name!s:.{MAX_SHOWN}}")):
            if isinstance(text, str) and text not in known and names_module(text):
                raise ReplayError(
                    f"{of} was given {text!r:.{MAX_SHOWN}} ({where!a}), which names a module that "
                    "it could import; nothing that is stored is imported\n"
                    "trust_entry_point=True allows it, for a store that nobody else can write to"
                )


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """All texts in a value, keys included, each with its path."""
    waiting: list[tuple[Any, str]] = [(value, where)]
    while waiting:
        one, at = waiting.pop()
        if isinstance(one, str):
            yield at, one
        elif isinstance(one, bytes):
            yield at, one.decode(errors="replace")
        elif isinstance(one, Mapping):
            for key, inner in one.items():
                inside = f"{at}[{key!r:.{MAX_SHOWN}}]"
                waiting += [(key, f"a key of {at}"), (inner, inside)]
        elif isinstance(one, (np.ndarray, np.void)) and one.dtype.names is not None:
            waiting += [(one[name], f"{at}[{name!r:.{MAX_SHOWN}}]") for name in one.dtype.names]
        elif isinstance(one, np.ndarray):
            if one.dtype.kind in _MAY_HOLD_TEXT or one.dtype.hasobject:
                waiting += [(inner, at) for inner in one.ravel().tolist()]
        elif isinstance(one, PurePath):
            yield at, str(one)
        elif isinstance(one, (list, tuple, set, frozenset)):
            waiting += [(inner, f"{at}[{index}]") for index, inner in enumerate(one)]
        else:
            waiting += [(inner, at) for inner in _content_of(one)]


def _content_of(value: Any) -> list[Any]:
    """What a value of a kind holds; the name of its class has been found here."""
    kind = kind_of(value)
    if kind is None or isinstance(value, Enum):
        return []
    name, content = kind
    return content[1:] if name in _WITH_CLASS else [content]


def names_module(text: str) -> bool:
    """Whether a text is `module.name` or `module:name`, and an import of it could run a module.

    The module must be installed here: the part before the colon, or at least the first of the names
    between the dots. A module that is already loaded has already run: it counts only if the rest of
    the text names something inside it.
    """
    module, colon, rest = text.partition(":")
    names = module.split(".")
    if not colon and len(names) < 2:
        return False
    if not all(names) or not _NEVER_IN_A_NAME.isdisjoint(module):
        return False
    if names[0] in _SCHEMES and rest.startswith("//"):
        return False
    of_it = rest.split(".") if colon else names[1:]
    if module in sys.modules or (not colon and names[0] in sys.modules):
        return all(name.isidentifier() for name in of_it)
    return _runs_something(names)


def _runs_something(names: list[str]) -> bool:
    """Whether one of these names is found and is more than a directory."""
    found = _top_level(names[0])
    for name in names[1:]:
        if found is None or not _is_directory(found):
            break
        # Search only for the last name: a longer name would import its parents.
        found = PathFinder.find_spec(name, list(found.submodule_search_locations or ()))
    return found is not None and not _is_directory(found)


def _top_level(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except ValueError:  # a module without a spec, or an invalid name
        return ModuleSpec(name, None, origin=name) if name in sys.modules else None


def _is_directory(found: ModuleSpec) -> bool:
    """Whether it has no `__init__.py`: importing it runs nothing."""
    return found.origin is None and found.submodule_search_locations is not None
