"""Arguments of environments and wrappers: to JSON, and back."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Collection, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np

from jamboree_gym.arrays.values import comes_back_alike, decode_value, encode_value
from jamboree_gym.environment.references import referenced
from jamboree_gym.errors import InvalidRecord
from jamboree_gym.wording import shortened

__all__ = [
    "SPEC_FIELDS",
    "NotSent",
    "arguments_as_json",
    "arguments_from_json",
    "json_error",
    "shown",
    "unkept",
    "warn_of_unkept",
]

MAX_SHOWN = 200
MAX_BYTES = 2**24  # of an argument: a provenance is read for each episode
_LEFT_OUT = (
    *("HumanRendering", "Monitor", "RecordEpisodeStatistics", "RecordVideo", "RenderCollection"),
)
_WARNED: set[str] = set()

log = logging.getLogger(__name__)

SPEC_FIELDS = (
    *("id", "entry_point", "reward_threshold", "nondeterministic", "max_episode_steps"),
    "order_enforce",
)
"""What an `EnvSpec` has beside its arguments and its wrappers."""


class NotSent:
    """Replaces an argument that a worker process could not send."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __repr__(self) -> str:
        return self._words


def arguments_as_json(
    arguments: Mapping[str, Any], registered: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Convert arguments for `arguments_from_json`; those that are `registered` go with the id.

    Returns:
        `kwargs`: the values as JSON, which may be inexact. `tuples`: names of tuples, which JSON
        turns into lists. `exact`: the encoded bytes, in hexadecimal, of values that JSON does not
        give back exactly. `not_kept`: descriptions of values that cannot be stored. `registered`:
        names of the latter that the registration supplies.
    """
    plain, exact, lost = {}, {}, {}
    for name, value in arguments.items():
        is_json = json_error(value) is None
        if is_json:
            plain[name] = value
        if is_json and _is_json(value):
            continue
        try:
            exact[name] = _encoded(referenced(value)).hex()
        except (InvalidRecord, RecursionError):
            plain.pop(name, None)
            lost[name] = shown(value)
    known = registered or {}
    return {
        "kwargs": plain,
        "tuples": [name for name, value in plain.items() if isinstance(value, tuple)],
        "exact": exact,
        "not_kept": lost,
        "registered": [
            name for name in lost if name in known and _is_same(arguments[name], known[name])
        ],
    }


def _encoded(value: Any) -> bytes:
    if _array_bytes(value) > MAX_BYTES:
        raise InvalidRecord("it is too large")
    if not comes_back_alike(value):
        raise InvalidRecord("it would be another one")
    encoded = encode_value(value)
    if len(encoded) > MAX_BYTES:
        raise InvalidRecord("it is too large")
    return encoded


def _array_bytes(value: Any) -> int:
    """How large the arrays and data frames in it are, at least."""
    if isinstance(value, Mapping):
        return sum(map(_array_bytes, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_array_bytes, value))
    try:
        if hasattr(type(value), "memory_usage"):
            return int(np.sum(value.memory_usage()))
        return int(getattr(value, "nbytes", 0))
    except Exception:  # noqa: BLE001 - code of others may raise anything
        return 0


def arguments_from_json(content: Mapping[str, Any]) -> dict[str, Any]:
    """Restore the arguments that were stored. Older provenance has only `kwargs` and `tuples`.

    Classes, functions and spaces, and values whose class is not loaded, are stand-ins: see
    `references.resolved`.

    Raises:
        DecodeError, AttributeError, KeyError, TypeError, ValueError: The content is damaged.
    """
    kwargs = dict(content["kwargs"])
    tuples = {name: tuple(kwargs[name]) for name in content.get("tuples", ())}
    exact = {
        str(name): decode_value(bytes.fromhex(value), where=f"argument {name}")
        for name, value in content.get("exact", {}).items()
    }
    return {**kwargs, **tuples, **exact}


def unkept(
    content: Mapping[str, Any],
    registered: Mapping[str, Any] | None = None,
    handed: Collection[str] = (),
) -> str | None:
    """Describe the first argument of `arguments_as_json` that is missing; None if none is.

    Arguments that are `registered` here replace those of the old registration; those that are
    `handed` over by the caller replace all.
    """
    for name, words in _lost(content, registered):
        if name not in handed:
            return f"argument {name}={words:.{MAX_SHOWN}} cannot be kept"
    return None


def _lost(
    content: Mapping[str, Any], registered: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, str]]:
    of_registration = set(content.get("registered", ())) & set(registered or ())
    for name, value in content.get("not_kept", {}).items():
        if name not in of_registration:
            yield f"{name!s:.60}", " ".join(str(value).split())


def warn_of_unkept(env_spec: Mapping[str, Any] | None) -> None:
    """Say which arguments of a spec in a provenance no replay can have; each once.

    Wrappers that a replay leaves out are not asked.
    """
    if env_spec is None:
        return
    env_id = str(env_spec["id"])
    registered = dict.fromkeys(env_spec["registered"])
    for name, words in _lost(env_spec, registered):
        _warn(
            f"{env_id}: argument {name}={words}", f"verify(episode, env_kwargs={{{name!r}: ...}})"
        )
    for wrapper in env_spec["additional_wrappers"]:
        if wrapper["name"] not in _LEFT_OUT:
            for name, words in _lost(wrapper):
                of = f"{env_id}: argument {name}={words} of the wrapper {wrapper['name']}"
                partial = f"functools.partial({wrapper['name']}, {name}=...)"
                _warn(of, f"verify(episode, wrappers=[{partial}])")


def _warn(what: str, how: str) -> None:
    if what not in _WARNED:
        _WARNED.add(what)
        log.warning("%s cannot be rebuilt\nhand it over: %s, or make=...", what, how)


def json_error(value: Any) -> Exception | None:
    """The error of encoding a value as JSON; None if it can be encoded."""
    try:
        json.dumps(value, sort_keys=True)
    except (RecursionError, TypeError, ValueError) as error:
        return error
    return None


def shown(value: Any) -> str:
    """A short description of a value that is no JSON; functions without their changing address."""
    try:
        has_name = isinstance(value, (type, FunctionType, BuiltinFunctionType))
        text = f"{value.__module__}:{value.__qualname__}" if has_name else repr(value)
    except Exception:  # noqa: BLE001 - code of an unknown class may raise anything
        text = object.__repr__(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    return shortened(text, MAX_SHOWN)


def _is_json(value: Any) -> bool:
    """Whether JSON gives the value back as it is, with keys in the same order."""
    if value.__class__ is dict:
        names = list(value)
        is_ordered = all(name.__class__ is str for name in names) and names == sorted(names)
        return is_ordered and all(map(_is_json, value.values()))
    if value.__class__ is list:
        return all(map(_is_json, value))
    return value is None or value.__class__ in (bool, int, float, str)


def _is_same(one: Any, other: Any) -> bool:
    """Whether an argument is the registered one, or a copy of it."""
    if one is other:
        return True
    if isinstance(one, NotSent):
        return repr(one) == shown(other)
    try:
        return pickle.dumps(one) == pickle.dumps(other)
    except Exception:  # noqa: BLE001 - code of an unknown class may raise anything
        return False
