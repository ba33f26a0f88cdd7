"""Puts a mark in the place of each part of a value that cannot be kept."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
from gymnasium.spaces import GraphInstance

from jamboree_gym.arrays.kinds.kinds import kind_of
from jamboree_gym.arrays.kinds.registered import Unplain
from jamboree_gym.arrays.kinds.stand_ins import StandIn
from jamboree_gym.arrays.values import encode_value
from jamboree_gym.errors import InvalidRecord

__all__ = ["Marks", "encode_marked", "holds_unrecorded"]

_MARK: Final = "<not recorded: "

log = logging.getLogger(__name__)


class Marks:
    """Puts marks into values; warns once per type."""

    def __init__(self) -> None:
        self._unrecorded: set[str] = set()

    def storable(self, value: Any, place: str) -> Any:
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

    def free_key(self, name: Any, taken: Collection[Any], place: str) -> Any:
        """The key, or a mark for it that no other key of the dict has."""
        key = mark = self._storable_key(name, place)
        number = 1
        while key in taken:
            number += 1
            key = f"{mark[:-1]} {number}>" if isinstance(mark, str) else (mark, number)
        return key

    def _marked(self, value: Any, place: str) -> Any:
        if isinstance(value, Mapping):
            kept: dict[Any, Any] = {}
            for name, item in value.items():
                kept[self.free_key(name, kept, place)] = self.storable(item, place)
            return kept
        if isinstance(value, np.ndarray) and value.dtype.kind == "O":
            items = np.empty(value.shape, object)
            for index in np.ndindex(value.shape):
                items[index] = self.storable(value[index], place)
            return items
        if isinstance(value, (set, frozenset)):
            return type(value)(self._storable_key(item, place) for item in value)
        if isinstance(value, GraphInstance):
            return GraphInstance(*(self.storable(item, place) for item in value))
        if isinstance(value, deque):
            return deque([self.storable(item, place) for item in value], value.maxlen)
        return self._marked_by_kind(value, place)

    def _marked_by_kind(self, value: Any, place: str) -> Any:
        kind = kind_of(value)
        if kind is not None and kind[0] == "dataclass":
            name, fields = kind[1]
            marked = {field: self.storable(item, place) for field, item in fields.items()}
            return StandIn("dataclass", [name, marked])
        if kind is not None and kind[0] == "named tuple":
            *named, items = kind[1]
            return StandIn("named tuple", [*named, [self.storable(one, place) for one in items]])
        if isinstance(value, list):
            return [self.storable(item, place) for item in value]
        if isinstance(value, tuple):
            return tuple(self.storable(item, place) for item in value)
        return self._mark(value, place)

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
        reason = _reason(value)
        if kind not in self._unrecorded:
            self._unrecorded.add(kind)
            log.warning(
                "an info is recorded without what cannot be stored: %s holds a %s", place, kind
            )
        return f"{_MARK}{kind}{reason}>"


def _reason(value: Any) -> str:
    """What its `to_plain` raises, if it has one."""
    try:
        kind_of(value)
    except Unplain as error:
        return f": {error.reason}".encode("utf-8", "backslashreplace").decode()
    except Exception:  # noqa: BLE001 - code of others may raise anything
        return ""
    return ""


_marks = Marks()


def encode_marked(value: Any) -> bytes:
    """Encode a value of a step: if a `to_plain` of a user raises, a mark stands in its place.

    Raises:
        InvalidRecord: Something else in it cannot be kept; the message names its place.
    """
    try:
        return encode_value(value)
    except InvalidRecord as error:
        if not isinstance(error.__cause__, Unplain):
            raise
    return encode_value(_marks.storable(value, "a value of a step"))


def holds_unrecorded(value: Any) -> bool:
    """Whether something in it could not be stored."""
    if isinstance(value, str):
        return value.startswith(_MARK)
    if isinstance(value, Mapping):
        return any(map(holds_unrecorded, value)) or any(map(holds_unrecorded, value.values()))
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        return any(map(holds_unrecorded, value.ravel().tolist()))
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return any(map(holds_unrecorded, value))
    kind = _kind_or_none(value)
    return kind is not None and kind[0] in ("dataclass", "namespace") and holds_unrecorded(kind[1])


def _kind_or_none(value: Any) -> Any:
    try:
        return kind_of(value)
    except InvalidRecord:
        return None


def _is_deep(error: InvalidRecord) -> bool:
    """Whether it is nested so deeply, or in itself, that going down would not end either."""
    return isinstance(error.__cause__, RecursionError)
