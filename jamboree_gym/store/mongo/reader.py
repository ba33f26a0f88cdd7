"""Reads logs from MongoDB: all frames of a log, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from jamboree_gym.encoding.batch_format import Frame, Head, decode_frame, frame_span
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.log import identity, key_of
from jamboree_gym.store.mongo.documents import KeptFrame, KeptLog
from jamboree_gym.store.mongo.store import MongoStore

__all__ = ["checked_chain", "frames_of", "kept_logs"]

LOGS_PER_QUERY = 200


def kept_logs(
    mongo: MongoStore, keys: Sequence[str]
) -> Iterator[tuple[str, tuple[Head, Iterator[bytes]] | DecodeError | None]]:
    """Read several logs.

    Args:
        mongo: The backup.
        keys: The logs, sorted.

    Yields:
        For each key: the head and the frames, in order; or the error of a damaged document; or None
        if the log is missing. Take the frames before the next log: they come from the same stream.
        A damaged frame raises `DecodeError`.
    """
    for first in range(0, len(keys), LOGS_PER_QUERY):
        part = keys[first : first + LOGS_PER_QUERY]
        logs = mongo.logs(part)
        split = [key for key in part if _is_split(logs.get(key))]
        frames = _SortedFrames(mongo.frames_between(split[0], split[-1]) if split else ())
        for key in part:
            log = logs.get(key)
            if not isinstance(log, KeptLog):
                yield key, log
            else:
                where = f"MongoDB at {mongo.where}: {key}"
                yield key, (log.head, _in_order(log, frames, key, where))


def frames_of(mongo: MongoStore, key: str, log: KeptLog) -> Iterator[bytes]:
    """All frames of one log, in order.

    Raises:
        DecodeError: A frame is damaged.
    """
    frames = _SortedFrames(mongo.frames_between(key, key) if _is_split(log) else ())
    return _in_order(log, frames, key, f"MongoDB at {mongo.where}: {key}")


def _is_split(log: KeptLog | DecodeError | None) -> bool:
    """Whether some of the log's frames have their own documents."""
    if not isinstance(log, KeptLog):
        return False
    return not log.frames or frame_span(log.frames[-1])[1] < log.head.count


def _in_order(log: KeptLog, frames: _SortedFrames, key: str, where: str) -> Iterator[bytes]:
    """Frames that continue each other; a frame that is stored twice is returned once."""
    expected = 0
    for blob in log.frames:
        expected = decode_frame(blob, where=where).stop
        yield blob
    for frame in frames.of(identity(key, log.head.born)):
        if frame.blob is None:
            raise DecodeError(f"{where} at index {frame.start}: checksum does not match")
        if expected <= frame.start < log.head.count:
            expected = decode_frame(frame.blob, where=where).stop
            yield frame.blob


class _SortedFrames:
    """Finds the frames of logs in a stream sorted by log; ask for the logs in the same order."""

    def __init__(self, frames: Iterable[tuple[str, KeptFrame]]) -> None:
        self._frames = iter(frames)
        self._next = next(self._frames, None)

    def of(self, log: str) -> Iterator[KeptFrame]:
        """The frames of a log; skips those of the logs before it."""
        key = key_of(log)
        while self._next is not None and key_of(self._next[0]) <= key:
            found, frame = self._next
            self._next = next(self._frames, None)
            if found == log:
                yield frame


def checked_chain(blobs: Iterable[bytes], head: Head, *, where: str) -> Iterator[Frame]:
    """Check that the frames contain every readable record of the log, without a gap.

    Raises:
        DecodeError: A frame is damaged or missing.
    """
    expected: int | None = None
    for blob in blobs:
        frame = decode_frame(blob, where=where)
        if frame.start > (head.first if expected is None else expected):
            raise DecodeError(f"{where} at index {expected or head.first}: a batch is missing")
        expected = frame.stop
        yield frame
    if (head.first if expected is None else expected) < head.count:
        raise DecodeError(f"{where} at index {expected or head.first}: a batch is missing")
