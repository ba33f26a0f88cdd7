"""Compiled from native/plain_step.c, where there was a compiler."""

from collections.abc import Callable
from typing import Any

Field = tuple[str, type[Any], str, int, object, object]

class Template:
    def __new__(cls, content: bytes, room: int, fields: tuple[Field, ...], /) -> Template: ...
    def encode(self, values: object, /) -> bytes | None: ...

def writer_of(
    row_writer: type[Any], row_lane: type[Any], /
) -> Callable[[Any, object, Template | None, object], bool]: ...
