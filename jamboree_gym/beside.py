"""Logs that lie beside an episode: for some of its steps something that is no part of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any, Final

import pyarrow as pa

from jamboree_gym.connection import Connection
from jamboree_gym.errors import DecodeError
from jamboree_gym.handlers import DBHandler

__all__ = ["CODEC", "BesideHandler", "BesideRecorder", "compress", "decompress"]

CODEC: Final = "zstd"
_LEVEL: Final = 1  # a tenth of the time that rendering takes, and the smallest
_MOST: Final = 2**15  # bytes that one compressed byte can stand for: a block of 128 KB takes four

compress = pa.Codec(CODEC, compression_level=_LEVEL).compress


def decompress(content: bytes, size: int) -> pa.Buffer:
    """Content that `compress` made smaller, in memory that may be written to.

    Raises:
        ValueError: It cannot have been that long.
        TypeError: It is not bytes.
        OSError: It is damaged.
    """
    if not isinstance(content, bytes) or type(size) is not int:
        raise TypeError(f"{size!r} bytes in a {type(content).__name__}")
    if not 0 <= size <= _MOST * len(content):
        raise ValueError(f"{size} bytes are not in {len(content)}")
    return pa.decompress(content, size, codec=CODEC)


class BesideHandler(DBHandler, ABC):
    """Records with a `step` each, in ascending order: 0 for the reset, k for the k-th step."""

    def __init__(self, jam: Connection | None = None) -> None:
        super().__init__(jam)
        self.required = {"episode": str}

    @abstractmethod
    def put(self, step: int, content: Any) -> None:
        """Keep something of a step; the environment has moved, so none is refused for its size."""

    def _put(self, record: Mapping[str, Any]) -> None:
        outbox = self._outbox or self._open_outbox()
        self.event.after_put(outbox, outbox.put(self._encode(record)))

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
        """The record with this index, and those that are stored together with it behind it."""
        found = self.event.store.read(self._settled_key(), index, index + 1)
        page = [record for record in self._records(found) if record["index"] >= index]
        for record in page:
            if type(record.get("step")) is not int:
                raise DecodeError(f"{self._key} at index {record['index']}: no record of a step")
        return page


class BesideRecorder:
    """Keeps something beside the steps of each episode, at those that are asked for.

    Args:
        handler: Where to.
        take: Gives what is kept, as it is now.
        is_wanted: Of a step's number, 0 for the reset, whether to keep it.
    """

    def __init__(
        self, handler: BesideHandler, take: Callable[[], Any], is_wanted: Callable[[int], bool]
    ) -> None:
        self._handler = handler
        self._take = take
        self._is_wanted = is_wanted
        self._step = 0

    def begin(self, episode_id: str) -> None:
        """An episode has begun: step 0."""
        self._handler["episode"] = episode_id
        self._step = 0
        self._record()

    def step(self) -> None:
        """A step has been taken."""
        self._step += 1
        self._record()

    def _record(self) -> None:
        if self._is_wanted(self._step):
            self._handler.put(self._step, self._take())
