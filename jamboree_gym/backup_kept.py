"""Frames as MongoDB hands them out: in order, one after the other, whole or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jamboree_gym.codec import Head, decode_frame
from jamboree_gym.errors import DecodeError

__all__ = ["SortedFrames", "check_chain"]


class SortedFrames:
    """Looks frames up in a stream that is sorted by key and index; asked in the same order.

    Args:
        frames: Key, start index and bytes of each; None instead of the bytes where it is damaged.
    """

    def __init__(self, frames: Iterable[tuple[str, int, bytes | None]]) -> None:
        self._frames = iter(frames)
        self._next = next(self._frames, None)

    def find(self, key: str, start: int) -> bytes | None:
        """The frame with this key and start, None where it is missing or damaged."""
        while self._next is not None and self._next[:2] < (key, start):
            self._next = next(self._frames, None)
        if self._next is None or self._next[:2] != (key, start):
            return None
        return self._next[2]

    def all_of(self, key: str, stop: int) -> list[bytes]:
        """All frames of a log that begin before `stop`.

        Raises:
            DecodeError: One is damaged.
        """
        found = []
        self.find(key, 0)
        while self._next is not None and self._next[0] == key and self._next[1] < stop:
            _, start, frame = self._next
            if frame is None:
                raise DecodeError(f"MongoDB: {key} at index {start} is damaged")
            found.append(frame)
            self._next = next(self._frames, None)
        return found


def check_chain(raw: Sequence[bytes], head: Head, *, where: str) -> None:
    """Make sure that frames hold every readable record of a log, each batch whole.

    Raises:
        DecodeError: One is damaged or missing.
    """
    expected: int | None = None
    for blob in raw:
        frame = decode_frame(blob, where=where)
        if frame.start > (head.first if expected is None else expected):
            raise DecodeError(f"{where} at index {expected or head.first}: a batch is missing")
        expected = frame.stop
    if (head.first if expected is None else expected) < head.count:
        raise DecodeError(f"{where} at index {expected or head.first}: a batch is missing")
