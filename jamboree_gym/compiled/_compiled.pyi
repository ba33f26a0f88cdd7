"""Compiled from native/plain_step.c, where there was a compiler."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Field = tuple[str, type[Any], str, int, object, object]

class Packer:
    def __new__(
        cls,
        kind: type[Any],
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        misfit: type[Exception],
        /,
    ) -> Packer: ...
    def __call__(self, value: Any, /) -> Any: ...

class Template:
    def __new__(cls, content: bytes, room: int, fields: tuple[Field, ...], /) -> Template: ...
    def encode(self, values: object, /) -> bytes | None: ...

def add_up(
    rows: npt.NDArray[Any], row_bytes: int, at: int, counts: list[int], before: list[float], /
) -> list[float]: ...
def copy_of(steps: Any, /) -> Any: ...
def encode_batches(
    rows: npt.NDArray[Any],
    row_bytes: int,
    columns: tuple[tuple[int, int, int], ...],
    time_at: int,
    info_at: int,
    header: bytes,
    prefix: bytes,
    parts: tuple[tuple[int, int, bytes | memoryview | None], ...],
    /,
) -> list[bytes]: ...
def encode_note(
    first: bytes, values: tuple[Any, ...], last: bytes, origin: bytes, /
) -> tuple[bytes, bytes] | None: ...
def join_columns(
    bodies: tuple[tuple[bytes | memoryview, int], ...],
    begin: int,
    columns: tuple[tuple[np.dtype[Any], tuple[int, ...]], ...],
    /,
) -> list[npt.NDArray[Any]]: ...
def may_refer_to(one: object, kind: type[Any], most: int, /) -> bool: ...
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
) -> Callable[[Any, object, Template | None, object], str | None]: ...
