"""Redis -> MongoDB and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from jamboree_gym.codec import CODEC_STEPS, Head, decode_frame
from jamboree_gym.connection import Connection
from jamboree_gym.notes import decode_episode_note, encode_summary
from jamboree_gym.store.redis import IndexEntry

__all__ = ["Backup", "BackupReport", "BackupStatus"]

LOGS_PER_ROUND_TRIP = 200

Progress = Callable[[int, int], None]
"""Called with the number of logs done and the number of all."""


@dataclass(frozen=True, slots=True)
class BackupStatus:
    """How far MongoDB is behind.

    Attributes:
        pending_logs: Logs (episodes, records of a handler) with changes not yet in MongoDB.
        pending_records: Records and episode rows of these that MongoDB does not hold.
    """

    pending_logs: int
    pending_records: int


@dataclass(frozen=True, slots=True)
class BackupReport:
    """Result of comparing both sides; true when MongoDB holds everything, byte for byte.

    Attributes:
        logs: Number of logs compared.
        batches: Number of batches compared.
        different: Keys of logs that are missing in MongoDB, or differ there.
    """

    logs: int
    batches: int
    different: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether all are equal."""
        return not self.different


class Backup:
    """Copies, compares and restores the logs of a `Jamboree`; reach it as `jam.backup`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._store = connection.store

    def flush(self, *, progress: Progress | None = None) -> int:
        """Copy to MongoDB what it does not hold yet, and return once it has acknowledged it.

        Interrupted at any point, the next call goes on; nothing is kept twice.

        Args:
            progress: Called with logs done and logs in all.

        Returns:
            Number of records and episode rows that were copied.

        Raises:
            UnsavedRecords: Redis does not have everything itself.
            StoreUnavailable: MongoDB or Redis does not answer.
            BackupMismatch: MongoDB holds other bytes under one of the keys.
        """
        self._connection.flush()
        pending = [key for key, _ in self._store.unbacked()]
        copied, done = 0, 0
        for keys in _slices(pending):
            copied += self._copy(keys)
            done += len(keys)
            if progress is not None:
                progress(done, len(pending))
        return copied

    def _copy(self, keys: Sequence[str]) -> int:
        mongo = self._connection.mongo_store
        logs = self._store.raw(keys, unacked=True)
        copies = {key: replace(head, acked=head.count) for key, (head, _) in logs.items()}
        mongo.put_blobs(self._store.blobs())
        mongo.insert_frames(
            (key, decode_frame(frame, where=key).start, frame)
            for key, (_, frames) in logs.items()
            for frame in frames
        )
        mongo.put_heads(copies)
        self._store.acknowledge(copies)
        return sum(head.count - head.acked for head, _ in logs.values())

    def status(self) -> BackupStatus:
        """How far MongoDB is behind. Asks Redis only."""
        pending = [key for key, _ in self._store.unbacked()]
        records = 0
        for key in pending:
            head = self._store.head(key)
            records += head.count - head.acked if head is not None else 0
        return BackupStatus(len(pending), records)

    def verify(self, *, progress: Progress | None = None) -> BackupReport:
        """Compare every batch that Redis holds with the copy in MongoDB, byte for byte.

        Raises:
            DecodeError: A checksum in MongoDB does not match; names key and index.
        """
        self._connection.flush()
        mongo = self._connection.mongo_store
        keys = list(self._store.log_keys())
        different: list[str] = []
        batches, done = 0, 0
        for part in _slices(keys):
            for key, (head, frames) in self._store.raw(part, unacked=False).items():
                kept_head, kept = mongo.head(key), mongo.frames(key)
                batches += len(frames)
                if (
                    kept_head is None
                    or kept_head.note != head.note
                    or kept[-len(frames) :] != frames
                ):
                    different.append(key)
            done += len(part)
            if progress is not None:
                progress(done, len(keys))
        return BackupReport(len(keys), batches, tuple(different))

    def restore(self, *, progress: Progress | None = None) -> int:
        """Put back into Redis every log that MongoDB holds and Redis does not, byte for byte.

        Args:
            progress: Called with logs done and logs in all.

        Returns:
            Number of logs that were put back.
        """
        mongo = self._connection.mongo_store
        for name, content in mongo.blobs().items():
            self._store.put_blob(name, content)
        keys = list(mongo.keys())
        restored = 0
        for done, key in enumerate(keys, start=1):
            head = mongo.head(key)
            if head is not None:
                entry = self._entry(key, head)
                restored += self._store.restore(key, head, mongo.frames(key), entry)
            if progress is not None:
                progress(done, len(keys))
        return restored

    def _entry(self, key: str, head: Head) -> IndexEntry | None:
        """Where an episode is listed."""
        if head.codec != CODEC_STEPS:
            return None
        episode_id = self._connection.keyspace.episode_id(key)
        summary, _ = decode_episode_note(head.note, episode_id=episode_id, where=key)
        written_at = summary.started_at + summary.elapsed_s
        return IndexEntry(episode_id, encode_summary(summary), summary.run, written_at)


def _slices(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(keys), LOGS_PER_ROUND_TRIP):
        yield keys[first : first + LOGS_PER_ROUND_TRIP]
