"""Redis -> MongoDB and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from jamboree_gym.backup_copy import LogCopier, pages, raise_first
from jamboree_gym.backup_kept import SortedFrames, check_chain
from jamboree_gym.codec import CODEC_STEPS, Head
from jamboree_gym.connection import Connection
from jamboree_gym.errors import DecodeError, JamboreeError
from jamboree_gym.notes import decode_episode_note, encode_summary
from jamboree_gym.store.redis import IndexEntry

__all__ = ["Backup", "BackupReport", "BackupStatus"]

LOGS_PER_QUERY = 200

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
        keys = sorted(self._store.log_keys())
        different: list[str] = []
        batches = done = 0
        for part in _slices(keys):
            for key, compared, is_same in self._compare(part):
                batches += compared
                different += [] if is_same else [key]
                done += 1
                if progress is not None:
                    progress(done, len(keys))
        return BackupReport(len(keys), batches, (*different, *self._different_blobs()))

    def _compare(self, keys: Sequence[str]) -> Iterator[tuple[str, int, bool]]:
        """For each log: number of batches compared, and whether both sides are the same."""
        mongo = self._connection.mongo_store
        kept_heads = mongo.heads(keys)
        kept_frames = SortedFrames(mongo.frames_between(keys[0], keys[-1]))
        for key in keys:
            compared, is_same = 0, True
            try:
                head = self._store.head(key)
                if head is not None:  # else it was deleted meanwhile
                    is_same = _is_same_log(head, kept_heads.get(key))
                    for page in pages(self._store, key, head.first, head.count) if is_same else ():
                        compared += len(page)
                        is_same = is_same and all(
                            kept_frames.find(key, frame.start) == frame.blob for frame in page
                        )
            except DecodeError:
                is_same = False
            yield key, compared, is_same

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
        restored = done = 0
        for part in _slices(keys):
            for outcome in self._restore(part):
                if isinstance(outcome, DecodeError):
                    failures.append(outcome)
                else:
                    restored += outcome
                done += 1
                if progress is not None:
                    progress(done, len(keys))
        raise_first(failures)
        return restored

    def _restore(self, keys: Sequence[str]) -> Iterator[bool | DecodeError]:
        """For each log: whether it was put back, or why it cannot be."""
        mongo = self._connection.mongo_store
        heads = mongo.heads(keys)
        kept_frames = SortedFrames(mongo.frames_between(keys[0], keys[-1]))
        for key in keys:
            where = f"MongoDB at {mongo.where}: {key}"
            try:
                if key not in heads:
                    raise DecodeError(f"{where}: the head of the log is damaged")
                head, current = heads[key], self._store.head(key)
                if current is not None and not _is_behind(current, head):
                    yield False
                    continue
                frames = kept_frames.all_of(key, head.count)
                check_chain(frames, head, where=where)
                yield self._store.restore(key, head, frames, self._entry(key, head))
            except DecodeError as error:
                yield error

    def _entry(self, key: str, head: Head) -> IndexEntry | None:
        """Where an episode is listed."""
        if head.codec != CODEC_STEPS:
            return None
        episode_id = self._connection.keyspace.episode_id(key)
        summary, _ = decode_episode_note(head.note, episode_id=episode_id, where=key)
        written_at = summary.started_at + summary.elapsed_s
        return IndexEntry(episode_id, encode_summary(summary), summary.run, written_at)


def _is_same_log(head: Head, kept: Head | None) -> bool:
    if kept is None:
        return False
    return (kept.first, kept.count, kept.note) == (head.first, head.count, head.note)


def _is_behind(current: Head, kept: Head) -> bool:
    return current.count <= kept.count and current.revision < kept.revision


def _slices(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(keys), LOGS_PER_QUERY):
        yield keys[first : first + LOGS_PER_QUERY]
