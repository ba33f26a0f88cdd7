"""Compiled from native/plain_step.c, where there was a compiler."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Field = tuple[str, type[Any], str, int, object, object]

class Template:
    def __new__(cls, content: bytes, room: int, fields: tuple[Field, ...], /) -> Template: ...
    def encode(self, values: object, /) -> bytes | None: ...

def join_columns(
    bodies: tuple[tuple[bytes | memoryview, int], ...],
    begin: int,
    columns: tuple[tuple[np.dtype[Any], tuple[int, ...]], ...],
    /,
) -> list[npt.NDArray[Any]]: ...
def newest_of(
    row_buffer: type[Any],
    extent: type[Any],
    row_format: type[Any],
    transitions: type[Any],
    made_of_window: Callable[..., dict[str, Any]],
    /,
) -> Callable[[Any, int], Any]: ...
def record_writer_of(
    outbox: type[Any],
    journal: type[Any],
    entry_log: type[Any],
    block: type[Any],
    lock: type[Any],
    pack: Callable[[Any], bytes],
    after: int,
    every: int,
    /,
) -> Callable[[Any, Any, frozenset[str]], bool]: ...
def writer_of(
    row_writer: type[Any], row_lane: type[Any], /
) -> Callable[[Any, object, Template | None, object], bool]: ...
