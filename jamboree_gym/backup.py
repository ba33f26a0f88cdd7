"""Redis -> MongoDB and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jamboree_gym.backup_copy import LogCopier, frame_bytes, pages, raise_first
from jamboree_gym.codec import CODEC_STEPS, Head, decode_frame, decode_head
from jamboree_gym.connection import Connection
from jamboree_gym.errors import DecodeError, JamboreeError
from jamboree_gym.notes import decode_episode_note, encode_summary
from jamboree_gym.store.redis import IndexEntry

__all__ = ["Backup", "BackupReport", "BackupStatus"]

HEADS_PER_ROUND_TRIP = 200

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
        different: Keys of what is missing in MongoDB, differs there, or is damaged on either side.
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

        Interrupted at any point, the next call goes on; nothing is kept twice. A log that cannot
        be copied does not keep the others from it.

        Args:
            progress: Called with logs done and logs in all.

        Returns:
            Number of records and episode rows that were copied.

        Raises:
            UnsavedRecords: Redis does not have everything itself.
            StoreUnavailable: MongoDB or Redis does not answer.
            BackupMismatch: MongoDB holds other bytes under one of the keys.
            DecodeError: A batch in Redis is damaged; its log was not copied.
        """
        self._connection.flush()
        pending = list(self._store.unbacked())
        copier = LogCopier(self._connection)
        for done in copier.copy(pending):
            if progress is not None:
                progress(done, len(pending))
        raise_first(copier.failures)
        return copier.copied

    def status(self) -> BackupStatus:
        """How far MongoDB is behind. Asks Redis only."""
        pending = [key for key, _ in self._store.unbacked()]
        records = 0
        for key in pending:
            head = self._store.head(key)
            records += head.count - head.acked if head is not None else 0
        return BackupStatus(len(pending), records)

    # -- comparing --------------------------------------------------------------------------

    def verify(self, *, progress: Progress | None = None) -> BackupReport:
        """Compare everything that Redis holds with the copy in MongoDB, byte for byte.

        Raises:
            StoreUnavailable: MongoDB or Redis does not answer.
        """
        self._connection.flush()
        keys = list(self._store.log_keys())
        different: list[str] = []
        batches = 0
        for first in range(0, len(keys), HEADS_PER_ROUND_TRIP):
            part = keys[first : first + HEADS_PER_ROUND_TRIP]
            kept_heads = self._connection.mongo_store.heads(part)
            for done, key in enumerate(part, start=first + 1):
                compared, is_same = self._compare(key, kept_heads.get(key))
                batches += compared
                different += [] if is_same else [key]
                if progress is not None:
                    progress(done, len(keys))
        return BackupReport(len(keys), batches, (*different, *self._different_blobs()))

    def _compare(self, key: str, kept: bytes | None) -> tuple[int, bool]:
        """Number of batches compared, and whether the log is the same on both sides."""
        compared = 0
        try:
            head = self._store.head(key)
            if head is None:  # deleted meanwhile
                return 0, True
            if kept is None or not _is_same_log(head, decode_head(kept, where=key)):
                return 0, False
            for page in pages(self._store, key, head.first, head.count):
                frames = [frame_bytes(frame) for frame in page]
                copies = self._connection.mongo_store.frames(
                    key, start=page[0].start, stop=page[-1].stop
                )
                compared += len(frames)
                if frames != copies:
                    return compared, False
        except DecodeError:
            return compared, False
        return compared, True

    def _different_blobs(self) -> list[str]:
        """Keys of schemas and provenances that logs refer to and MongoDB does not hold."""
        try:
            kept = self._connection.mongo_store.blobs()
            blobs = self._store.blobs()
        except DecodeError as error:
            return [str(error)]
        return [
            self._connection.keyspace.blob(name)
            for name, content in blobs.items()
            if kept.get(name) != content
        ]

    # -- MongoDB -> Redis -------------------------------------------------------------------

    def restore(self, *, progress: Progress | None = None) -> int:
        """Put back into Redis every log that MongoDB holds and Redis does not, byte for byte.

        A log of which Redis holds as much or more stays as it is. One that is damaged in MongoDB
        does not keep the others from coming back.

        Args:
            progress: Called with logs done and logs in all.

        Returns:
            Number of logs that were put back.

        Raises:
            DecodeError: A log is damaged or incomplete in MongoDB, and was not put back.
            StoreUnavailable: MongoDB or Redis does not answer.
        """
        mongo = self._connection.mongo_store
        for name, content in mongo.blobs().items():
            self._store.put_blob(name, content)
        keys = list(mongo.keys())
        failures: list[JamboreeError] = []
        restored = 0
        for done, key in enumerate(keys, start=1):
            try:
                restored += self._restore(key)
            except DecodeError as error:
                failures.append(error)
            if progress is not None:
                progress(done, len(keys))
        raise_first(failures)
        return restored

    def _restore(self, key: str) -> bool:
        mongo = self._connection.mongo_store
        head, current = mongo.head(key), self._store.head(key)
        if head is None or (current is not None and not _is_behind(current, head)):
            return False
        frames = mongo.frames(key, stop=head.count)
        _check_chain(frames, head, where=f"MongoDB at {mongo.where}: {key}")
        return self._store.restore(key, head, frames, self._entry(key, head))

    def _entry(self, key: str, head: Head) -> IndexEntry | None:
        """Where an episode is listed."""
        if head.codec != CODEC_STEPS:
            return None
        episode_id = self._connection.keyspace.episode_id(key)
        summary, _ = decode_episode_note(head.note, episode_id=episode_id, where=key)
        written_at = summary.started_at + summary.elapsed_s
        return IndexEntry(episode_id, encode_summary(summary), summary.run, written_at)


def _is_same_log(head: Head, kept: Head) -> bool:
    return (kept.first, kept.count, kept.note) == (head.first, head.count, head.note)


def _is_behind(current: Head, kept: Head) -> bool:
    return current.count <= kept.count and current.revision < kept.revision


def _check_chain(raw: Sequence[bytes], head: Head, *, where: str) -> None:
    """Make sure that frames hold every record of a log, each batch whole."""
    expected: int | None = None
    for blob in raw:
        frame = decode_frame(blob, where=where)
        if frame.start > (head.first if expected is None else expected):
            raise DecodeError(f"{where} at index {expected or head.first}: a batch is missing")
        expected = frame.stop
    if (head.first if expected is None else expected) < head.count:
        raise DecodeError(f"{where} at index {expected or head.first}: a batch is missing")
