"""Infos and reset options as they can be stored; what cannot be leaves a mark in its place."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from jamboree_gym.arrays.marks import Marks, holds_unrecorded
from jamboree_gym.arrays.values import decode_value, encode_value, shown
from jamboree_gym.encoding.info_template import InfoTemplate
from jamboree_gym.errors import InvalidRecord

__all__ = ["InfoEncoder", "holds_unrecorded", "info_keys"]

MAX_TEMPLATES = 100  # where infos change all the time, a template costs more than it saves


class InfoEncoder:
    """Encodes infos as they are at the moment of the call; warns once per type it cannot keep.

    Args:
        marks: What warns; None = warn as if no other encoder had.

    Attributes:
        compiled: Encodes infos that are like the newest whose values have a fixed size; None if
            there is none, or no compiled core.
    """

    def __init__(self, marks: Marks | None = None) -> None:
        self._marks = marks or Marks()
        self._template: InfoTemplate | None = None
        self._tries = 0
        self.compiled: Any = None

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
                key = self._marks.free_key(name, kept, f"a key {name!r:.60}")
                kept[key] = self._marks.storable(value, f"{name!r:.60}")
            return encode_value(kept)
        if self._tries < MAX_TEMPLATES and info.__class__ is dict:
            self._tries += 1
            template = InfoTemplate.of(info, encoded)
            if template is not None:
                self._template, self.compiled = template, template.compiled
        return encoded

    def sibling(self) -> InfoEncoder:
        """An encoder for infos with other keys; of each type only one of the two warns."""
        return InfoEncoder(self._marks)

    def copy(self, value: Any) -> Any:
        """What would be read back of any value: a copy that shares nothing with the original."""
        return decode_value(encode_value(self._marks.storable(value, "the value")), where="memory")


def info_keys(record_infos: bool | Collection[str]) -> tuple[str, ...] | None:
    """Keys of the infos that are kept; None for all of them."""
    if isinstance(record_infos, bool):
        return None if record_infos else ()
    return tuple(record_infos)
