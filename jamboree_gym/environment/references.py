"""Arguments that are classes, functions or spaces: kept by name, or as JSON, and found again.

A store can name any function, and an environment may call what it gets. So a name is looked up only
among what the caller, the registration or this process itself has used as an argument.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final

import numpy as np
from gymnasium import spaces

from jamboree_gym.arrays.kinds.loaded_class import class_name, loaded
from jamboree_gym.arrays.kinds.stand_ins import REFERENCE, StandIn
from jamboree_gym.arrays.values import renewed
from jamboree_gym.environment.spaces import space_from_json, space_to_json
from jamboree_gym.errors import ReplayError

__all__ = ["known_references", "learn_references", "referenced", "resolved"]

_SPACE: Final = "space"
_NAMED = (type, FunctionType, BuiltinFunctionType, np.ufunc)
_HARMLESS: Final = {
    class_name(cls): cls
    for cls in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
}
_USED: dict[str, Any] = {}  # what this process itself has given to environments


def referenced(value: Any) -> Any:
    """The value, with the names of the classes, functions and spaces in it in their place."""
    if value.__class__ is dict:
        return {key: referenced(item) for key, item in value.items()}
    if value.__class__ in (list, tuple):
        return value.__class__(map(referenced, value))
    if isinstance(value, _NAMED) and not _is_of_numpy(value):
        name = _name_of(value)
        if loaded(name) is value:
            _USED[name] = value
            return StandIn(REFERENCE, name)
    if isinstance(value, spaces.Space):
        with suppress(Exception):  # one of another library
            content = space_to_json(value)
            if space_from_json(content) == value:
                return StandIn(_SPACE, content)
    return value


def _is_of_numpy(value: Any) -> bool:
    """Whether it is a class that values keep by themselves."""
    return isinstance(value, type) and issubclass(value, np.generic)


def _name_of(value: Any) -> str:
    if isinstance(value, np.ufunc):
        return f"numpy:{value.__name__}"
    return class_name(value) if isinstance(getattr(value, "__module__", None), str) else ""


def known_references() -> list[Any]:
    """What `resolved` finds, for another process."""
    return list(_USED.values())


def learn_references(used: Iterable[Any]) -> None:
    """Say what another process of the same user has given to environments."""
    _USED.update({_name_of(one): one for one in used})


def resolved(
    arguments: Mapping[str, Any],
    of: str,
    registered: Mapping[str, Any] | None = None,
    *,
    trust: bool = False,
) -> dict[str, Any]:
    """Stored arguments with the classes, functions and spaces themselves.

    Args:
        arguments: By name, as `arguments_from_json` gives them.
        of: What they are for, for the message.
        registered: What the registration here brings.
        trust: Import what they name.

    Raises:
        ReplayError: An argument names something that nobody here has used, or is of a class that
            is not loaded; says what to do.
    """
    known = {**_HARMLESS, **_USED}
    for value in (registered or {}).values():
        if isinstance(value, _NAMED):
            known[_name_of(value)] = value
    found = {}
    for name, value in arguments.items():
        if trust:
            _import_all(value)
        found[name] = _resolved(renewed(value), f"{of}: argument {name!s:.60}", name, known, trust)
    return found


def _resolved(value: Any, where: str, name: str, known: Mapping[str, Any], trust: bool) -> Any:
    if value.__class__ is dict:
        items = value.items()
        return {key: _resolved(item, where, name, known, trust) for key, item in items}
    if value.__class__ in (list, tuple):
        return value.__class__([_resolved(item, where, name, known, trust) for item in value])
    if not isinstance(value, StandIn):
        return value
    if value.kind == _SPACE:
        return space_from_json(value.content)
    if value.kind == REFERENCE:
        found = known.get(value.content)
        found = loaded(value.content) if found is None and trust else found
        if found is not None:
            return found
        raise ReplayError(
            f"{where} is {value.content!a:.100}, and nothing that a store names is run\n"
            f"hand it over: env_kwargs={{{name!a:.60}: ...}} or make=...; or trust_entry_point=True"
        )
    module = value.class_name.partition(":")[0]
    raise ReplayError(
        f"{where} is of the class {value.class_name!a:.100}, which is not loaded here\n"
        f"import {module!a:.60} first, or hand it over: env_kwargs={{{name!a:.60}: ...}}"
    )


def _import_all(value: Any) -> None:
    """Import the modules of all that a value stands for; the caller trusts the store."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, StandIn):
            with suppress(Exception):
                importlib.import_module(one.class_name.partition(":")[0])
            waiting.append(one.content)
        elif isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set, frozenset)):
            waiting += one
