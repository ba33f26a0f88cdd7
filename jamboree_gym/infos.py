"""Infos and reset options as they can be stored; what cannot be leaves a mark in its place."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from jamboree_gym.errors import InvalidRecord
from jamboree_gym.values import decode_value, encode_mapping, encode_value

__all__ = ["InfoEncoder", "holds_unrecorded"]

_MARK = "<not recorded: "

log = logging.getLogger("jamboree_gym")


class InfoEncoder:
    """Encodes infos as they are at the moment of the call; warns once per type it cannot keep."""

    def __init__(self) -> None:
        self._unrecorded: set[str] = set()

    def encode(self, info: Mapping[str, Any]) -> bytes | None:
        """The info in bytes; None for an empty one."""
        if not info:
            return None
        try:
            return encode_mapping(info)
        except InvalidRecord:
            return encode_mapping(
                {str(name): self._storable(value, repr(name)) for name, value in info.items()}
            )

    def copy(self, mapping: Mapping[str, Any]) -> dict[str, Any]:
        """What would be read back: a copy that shares nothing with the original."""
        encoded = self.encode(mapping)
        copied: dict[str, Any] = decode_value(encoded, where="memory") if encoded else {}
        return copied

    def _storable(self, value: Any, place: str) -> Any:
        try:
            encode_value(value)
        except InvalidRecord as error:
            if _is_deep(error):
                return self._mark(value, place)
            if isinstance(value, dict):
                return {name: self._storable(item, place) for name, item in value.items()}
            if value.__class__ in (list, tuple):
                return value.__class__(self._storable(item, place) for item in value)
            return self._mark(value, place)
        return value

    def _mark(self, value: Any, place: str) -> str:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if kind not in self._unrecorded:
            self._unrecorded.add(kind)
            log.warning(
                "an info is recorded without what cannot be stored: %s holds a %s", place, kind
            )
        return f"{_MARK}{kind}>"


def holds_unrecorded(value: Any) -> bool:
    """Whether something in it could not be stored."""
    if isinstance(value, str):
        return value.startswith(_MARK)
    if isinstance(value, Mapping):
        return any(holds_unrecorded(item) for item in value.values())
    return isinstance(value, (list, tuple)) and any(holds_unrecorded(item) for item in value)


def _is_deep(error: InvalidRecord) -> bool:
    """Whether it is nested so deeply, or in itself, that going down would not end either."""
    return isinstance(error.__cause__, RecursionError)
