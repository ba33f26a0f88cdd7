"""Side logs of an episode: optional data for some steps (rendered frames, snapshots)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

import pyarrow as pa

from jamboree_gym.checked import Count, checked
from jamboree_gym.connection import HasConnection
from jamboree_gym.errors import DecodeError, InvalidRecord
from jamboree_gym.handlers.db_handler import DBHandler

__all__ = [
    "CODEC",
    "MAX_CONTENT_BYTES",
    "SidecarHandler",
    "SidecarRecorder",
    "check_size",
    "compress",
    "decompress",
    "is_kth",
]

CODEC: Final = "zstd"
MAX_CONTENT_BYTES: Final = 2**27  # an 8K frame in RGB has 100 MB
_LEVEL: Final = 1  # takes a tenth of the time of rendering, and gives the smallest result
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ONE_SEGMENT: Final = 0b0010_0000
_WINDOW_BYTES: Final = (1, 0)  # a frame with a single segment has no window
_DICTIONARY_BYTES: Final = (0, 1, 2, 4)
_SIZE_BYTES: Final = (0, 2, 4, 8)
_SIZE_FROM: Final = (0, 256, 0, 0)

compress = pa.Codec(CODEC, compression_level=_LEVEL).compress


def check_size(size: int, what: str) -> None:
    """Refuse content that would be too large to read back: more than `MAX_CONTENT_BYTES`."""
    if size > MAX_CONTENT_BYTES:
        raise InvalidRecord(
            f"{what} has {size} bytes, and no more than {MAX_CONTENT_BYTES} are kept: "
            "make it smaller, or do not record it"
        )


def decompress(content: bytes, size: int) -> pa.Buffer:
    """Decompress what `compress` made; the result is in writable memory.

    A few bytes can stand for gigabytes. So memory is allocated only if the header states exactly
    `size` bytes, and that is at most `MAX_CONTENT_BYTES`; else ValueError or TypeError. Damaged
    content raises OSError.
    """
    if not isinstance(content, bytes) or type(size) is not int:
        raise TypeError(f"{size!r} bytes in a {type(content).__name__}")
    if not 0 <= size <= MAX_CONTENT_BYTES:
        raise ValueError(f"{size} bytes are more than {MAX_CONTENT_BYTES}")
    if _told_size(content) != size:
        raise ValueError(f"what is compressed has not {size} bytes")
    return pa.decompress(content, size, codec=CODEC)


def _told_size(content: bytes) -> int | None:
    """The size in the header of a zstd frame (RFC 8878, 3.1.1.1); None if it states none."""
    if not content.startswith(_MAGIC) or len(content) <= len(_MAGIC):
        return None
    descriptor = content[len(_MAGIC)]
    is_one_segment, kind = bool(descriptor & _ONE_SEGMENT), descriptor >> 6
    start = len(_MAGIC) + 1 + _WINDOW_BYTES[is_one_segment] + _DICTIONARY_BYTES[descriptor & 3]
    length = _SIZE_BYTES[kind] or int(is_one_segment)
    field = content[start : start + length]
    if not length or len(field) < length:
        return None
    return int.from_bytes(field, "little") + _SIZE_FROM[kind]


class SidecarHandler(DBHandler, ABC):
    """Records with a `step` each, in ascending order: 0 for the reset, k for the k-th step.

    Attributes:
        _content_is: What each record holds, for messages.
    """

    _content_is: ClassVar[str]

    def __init__(self, jam: HasConnection | None = None) -> None:
        super().__init__(jam)
        self.required = {"episode": str}

    @abstractmethod
    def put(self, step: int, content: Any) -> None:
        """Store the data of a step. The step is over, so a full queue does not refuse the data."""

    @checked
    def newest(self, *, before: Count) -> tuple[int, Any] | None:
        """The newest data before a step, as (step, data); None if there are none.

        Raises:
            DecodeError: They are damaged; names them.
        """
        index = self._first_of(before) - 1
        page = self._page(index) if index >= 0 else []
        return self._decoded(page[0], where=self._key) if page else None

    def _decoded(self, record: Mapping[str, Any], *, where: str) -> tuple[int, Any]:
        try:
            return record["step"], self._content(record)
        except (ArithmeticError, KeyError, MemoryError, OSError, TypeError, ValueError) as error:
            what = f"{where} at index {record['index']}"
            raise DecodeError(f"{what}: not a {self._content_is}: {error}") from error

    @abstractmethod
    def _content(self, record: Mapping[str, Any]) -> Any:
        """The data in a record. What it raises is reported as damage."""

    def _put(self, record: Mapping[str, Any]) -> None:
        outbox = self._outbox or self._open_outbox()
        self._connection.writer.after_append(outbox, outbox.append(self._encode(record)))

    def _first_of(self, step: int) -> int:
        """Index of the first record of this step or a later one."""
        count = min(self.count(), max(0, step))  # a record's index is never above its step
        return bisect_left(range(count), step, key=self._step_of)

    def _step_of(self, index: int) -> int:
        page = self._page(index)
        if not page:
            raise DecodeError(f"{self._key} at index {index}: a batch is missing")
        step: int = page[0]["step"]
        return step

    def _page(self, index: int) -> list[dict[str, Any]]:
        """The record with this index, and the records after it that share its batch."""
        found = self._connection.store.read(self._settled_key(), index, index + 1)
        page = [record for record in self._records(found) if record["index"] >= index]
        for record in page:
            if type(record.get("step")) is not int:
                raise DecodeError(f"{self._key} at index {record['index']}: no record of a step")
        return page


def is_kth(every: int, step: int) -> bool:
    """Whether a step is one of every k-th."""
    return step % every == 0


class SidecarRecorder:
    """Records what `take` returns at each episode's steps that are wanted; 0 is the reset."""

    def __init__(
        self, handler: SidecarHandler, take: Callable[[], Any], is_wanted: Callable[[int], bool]
    ) -> None:
        self._handler = handler
        self._take = take
        self._is_wanted = is_wanted
        self._step = 0

    def begin(self, episode_id: str) -> None:
        """Begin an episode, at step 0."""
        self._handler["episode"] = episode_id
        self._step = 0
        self._record()

    def step(self) -> None:
        """Count a step, and record its data if wanted."""
        self._step += 1
        self._record()

    def _record(self) -> None:
        if self._is_wanted(self._step):
            self._handler.put(self._step, self._take())
