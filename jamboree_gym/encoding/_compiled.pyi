"""Compiled from native/plain_step.c, where there was a compiler."""

from collections.abc import Callable
from typing import Any

class InfoTemplate:
    def __new__(
        cls, info: dict[str, Any], content: bytes, offsets: tuple[int, ...], /
    ) -> InfoTemplate: ...
    def encode(self, info: object, /) -> bytes | None: ...

def writer_of(
    row_writer: type[Any], row_lane: type[Any], /
) -> Callable[[Any, object, InfoTemplate | None], bool]: ...
