"""One run of the backup: logs from Redis to MongoDB, with a bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from jamboree_gym.codec import CODEC_STEPS, Frame, Head, decode_frame
from jamboree_gym.connection import Connection
from jamboree_gym.errors import BackupMismatch, DecodeError, JamboreeError
from jamboree_gym.notes import decode_episode_note
from jamboree_gym.steps import schema_digest
from jamboree_gym.store.redis import RedisStore

__all__ = ["LogCopier", "pages", "raise_first"]

FIRST_LOGS = 20
MAX_LOGS = 200
ROUND_TRIP_BYTES = 8 << 20
FIRST_ROWS = 16
FEW_REVISIONS = 8  # a log that was written no more often than this is small


class LogCopier:
    """Copies logs; keeps what went wrong with single ones until all have been tried.

    Args:
        connection: From whose Redis to whose MongoDB.

    Attributes:
        copied: Number of records and episode rows copied so far.
        failures: Why single logs could not be copied.
    """

    def __init__(self, connection: Connection) -> None:
        self.copied = 0
        self.failures: list[JamboreeError] = []
        self._keyspace = connection.keyspace
        self._store = connection.store
        self._mongo = connection.mongo_store
        self._blobs: set[str] = set()

    def copy(self, pending: Sequence[tuple[str, int]]) -> Iterator[int]:
        """Copy logs, given with their revisions; yields how many have been dealt with."""
        small = [key for key, revision in pending if revision <= FEW_REVISIONS]
        done, at_once = 0, FIRST_LOGS
        while done < len(small):
            keys = small[done : done + at_once]
            size = max(1, self._copy_together(keys))
            done += len(keys)
            at_once = max(1, min(at_once * 4, MAX_LOGS, len(keys) * ROUND_TRIP_BYTES // size))
            yield done
        for key in (key for key, revision in pending if revision > FEW_REVISIONS):
            self._copy_in_pages(key)
            done += 1
            yield done

    def _copy_together(self, keys: Sequence[str]) -> int:
        """Copy small logs in one round trip each way; the number of bytes."""
        heads: dict[str, Head] = {}
        frames: list[tuple[str, Frame]] = []
        for key, (head, raw) in self._store.raw(keys, unacked=True).items():
            try:
                decoded = [decode_frame(frame, where=key) for frame in raw]
                self._put_blobs(key, head, decoded)
            except DecodeError as error:
                self.failures.append(error)
                continue
            heads[key] = head
            frames += [(key, frame) for frame in decoded]
        refused = self._put_frames(frames)
        self._acknowledge({key: head for key, head in heads.items() if key not in refused})
        return sum(len(frame.blob) for _, frame in frames)

    def _copy_in_pages(self, key: str) -> None:
        """Copy a log that may be too long for memory."""
        head = self._store.head(key)
        if head is None:
            return
        try:
            for page in pages(self._store, key, head.acked, head.count):
                self._put_blobs(key, head, page)
                if self._put_frames([(key, frame) for frame in page]):
                    return
            self._put_blobs(key, head, ())
        except DecodeError as error:
            self.failures.append(error)
        else:
            self._acknowledge({key: head})

    def _put_frames(self, frames: Sequence[tuple[str, Frame]]) -> set[str]:
        """Insert frames; the logs that MongoDB holds otherwise."""
        refused = self._mongo.insert_frames((key, frame.start, frame.blob) for key, frame in frames)
        for key, start in refused.items():
            self.failures.append(
                BackupMismatch(
                    f"MongoDB at {self._mongo.where} keeps other bytes for {key} at index {start} "
                    "than Redis does; nothing was overwritten. Was Redis emptied and the log begun "
                    "anew? Delete the log, or keep it under another name."
                )
            )
        return set(refused)

    def _put_blobs(self, key: str, head: Head, frames: Sequence[Frame]) -> None:
        """Insert what frames and head refer to, once per run."""
        if head.codec != CODEC_STEPS:
            return
        episode_id = self._keyspace.episode_id(key)
        _, origin = decode_episode_note(head.note, episode_id=episode_id, where=key)
        names = {schema_digest(frame, where=key) for frame in frames} | {origin.provenance}
        new = names - self._blobs
        if new:
            self._mongo.put_blobs({name: self._store.blob(name) for name in sorted(new)})
            self._blobs |= new

    def _acknowledge(self, heads: dict[str, Head]) -> None:
        copies = {key: replace(head, acked=head.count) for key, head in heads.items()}
        self._mongo.put_heads(copies)
        self._store.acknowledge(copies)
        self.copied += sum(head.count - head.acked for head in heads.values())


def pages(store: RedisStore, key: str, start: int, stop: int) -> Iterator[list[Frame]]:
    """Frames with indices from `start` to `stop`, a few megabytes at a time.

    Raises:
        DecodeError: One is damaged or missing.
    """
    rows = FIRST_ROWS
    while start < stop:
        found = store.read(key, start, min(start + rows, stop))
        frames = found.frames if found is not None else []
        if not frames or frames[0].start > start:
            raise DecodeError(f"{key} at index {start}: a batch is missing")
        yield frames
        size = sum(len(frame.blob) for frame in frames)
        read, start = frames[-1].stop - start, frames[-1].stop
        rows = max(1, read * ROUND_TRIP_BYTES // size)


def raise_first(failures: Sequence[JamboreeError]) -> None:
    """Raise the first failure, if there is one, and say how many there are."""
    if len(failures) == 1:
        raise failures[0]
    if failures:
        first = failures[0]
        raise type(first)(f"{first} (and {len(failures) - 1} more like it)") from first
