"""Infos and reset options as they can be stored; what cannot be leaves a mark in its place."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any

import numpy as np
from gymnasium.spaces import GraphInstance

from jamboree_gym.arrays.values import decode_value, encode_value, shown
from jamboree_gym.encoding.info_template import InfoTemplate
from jamboree_gym.errors import InvalidRecord

__all__ = ["InfoEncoder", "holds_unrecorded", "info_keys"]

MAX_TEMPLATES = 100  # where infos change all the time, a template costs more than it saves
_MARK = "<not recorded: "

log = logging.getLogger(__name__)


class InfoEncoder:
    """Encodes infos as they are at the moment of the call; warns once per type it cannot keep."""

    def __init__(self) -> None:
        self._unrecorded: set[str] = set()
        self._template: InfoTemplate | None = None
        self._tries = 0

    def encode(self, info: Mapping[str, Any], *, strict: bool = False) -> bytes | None:
        """The info in bytes; None for an empty one.

        Args:
            info: What `reset` or `step` returned.
            strict: Refuse what cannot be stored, instead of a mark in its place.

        Raises:
            InvalidRecord: It is no dict, or, only where `strict`, something in it cannot be
                stored; names the place.
        """
        if not info:
            return None
        if self._template is not None and info.__class__ is dict:
            usual = self._template.encode(info)
            if usual is not None:
                return usual
        if not isinstance(info, (dict, Mapping)) and not hasattr(info, "keys"):
            raise InvalidRecord(f"{shown(info)} of type {type(info).__qualname__} is no dict")
        try:
            encoded = encode_value(info if isinstance(info, dict) else dict(info))
        except InvalidRecord as error:
            if strict:
                raise InvalidRecord(
                    f"info {error}; or choose what is recorded: record_infos=[...]"
                ) from error
            kept: dict[Any, Any] = {}
            for name, value in info.items():
                key = self._free_key(name, kept, f"a key {name!r:.60}")
                kept[key] = self._storable(value, f"{name!r:.60}")
            return encode_value(kept)
        if self._tries < MAX_TEMPLATES and info.__class__ is dict:
            self._tries += 1
            self._template = InfoTemplate.of(info, encoded) or self._template
        return encoded

    def copy(self, value: Any) -> Any:
        """What would be read back of any value: a copy that shares nothing with the original."""
        return decode_value(encode_value(self._storable(value, "the value")), where="memory")

    def _storable(self, value: Any, place: str) -> Any:
        """The value, with a mark in place of each part that cannot be kept."""
        try:
            encode_value(value)
        except InvalidRecord as error:
            if _is_deep(error):
                return self._mark(value, place)
            try:
                return self._marked(value, place)
            except Exception:  # noqa: BLE001 - a container of others that cannot be walked
                return self._mark(value, place)
        return value

    def _marked(self, value: Any, place: str) -> Any:
        if isinstance(value, Mapping):
            kept: dict[Any, Any] = {}
            for name, item in value.items():
                kept[self._free_key(name, kept, place)] = self._storable(item, place)
            return kept
        if isinstance(value, np.ndarray) and value.dtype.kind == "O":
            items = np.empty(value.shape, object)
            for index in np.ndindex(value.shape):
                items[index] = self._storable(value[index], place)
            return items
        if isinstance(value, (set, frozenset)):
            return type(value)(self._storable_key(item, place) for item in value)
        if isinstance(value, GraphInstance):
            return GraphInstance(*(self._storable(item, place) for item in value))
        if isinstance(value, (list, deque)):
            return [self._storable(item, place) for item in value]
        if isinstance(value, tuple):
            return tuple(self._storable(item, place) for item in value)
        return self._mark(value, place)

    def _free_key(self, name: Any, taken: Collection[Any], place: str) -> Any:
        """The key, or a mark for it that no other key of the dict has."""
        key = mark = self._storable_key(name, place)
        number = 1
        while key in taken:
            number += 1
            key = f"{mark[:-1]} {number}>" if isinstance(mark, str) else (mark, number)
        return key

    def _storable_key(self, key: Any, place: str) -> Any:
        try:
            encode_value({key: None})
        except InvalidRecord as error:
            if isinstance(key, (tuple, frozenset)) and not _is_deep(error):
                kind = tuple if isinstance(key, tuple) else frozenset
                return kind(self._storable_key(item, place) for item in key)
            return self._mark(key, place)
        return key

    def _mark(self, value: Any, place: str) -> str:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if kind not in self._unrecorded:
            self._unrecorded.add(kind)
            log.warning(
                "an info is recorded without what cannot be stored: %s holds a %s", place, kind
            )
        return f"{_MARK}{kind}.{value.name}>" if isinstance(value, Enum) else f"{_MARK}{kind}>"


def info_keys(record_infos: bool | Collection[str]) -> tuple[str, ...] | None:
    """Keys of the infos that are kept; None for all of them."""
    if isinstance(record_infos, bool):
        return None if record_infos else ()
    return tuple(record_infos)


def holds_unrecorded(value: Any) -> bool:
    """Whether something in it could not be stored."""
    if isinstance(value, str):
        return value.startswith(_MARK)
    if isinstance(value, Mapping):
        return any(map(holds_unrecorded, value)) or any(map(holds_unrecorded, value.values()))
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        return any(map(holds_unrecorded, value.ravel().tolist()))
    return isinstance(value, (list, tuple, set, frozenset)) and any(map(holds_unrecorded, value))


def _is_deep(error: InvalidRecord) -> bool:
    """Whether it is nested so deeply, or in itself, that going down would not end either."""
    return isinstance(error.__cause__, RecursionError)
