"""What every backup offers to those who copy, compare, restore, read and delete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from jamboree_gym.encoding.batch_format import Head
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.backups.records import (
    Copied,
    GrownLog,
    Inserted,
    NewLog,
    StoredBatch,
    StoredLog,
)
from jamboree_gym.store.log import BackupIdentity

__all__ = ["BackupStore", "LogInserter"]


class LogInserter(Protocol):
    """Stores logs that are copied for the first time, in some portions of one copy."""

    def insert(self, logs: Mapping[str, NewLog]) -> Inserted:
        """Store logs, each with all its batches; they are acknowledged when this returns.

        A log that is there already is not changed, except that a newer head replaces an older one.
        """

    def close(self) -> None:
        """Finish: no more portions come."""


class BackupStore(Protocol):
    """The backup of one namespace. `tests/store/backup_contract.py` checks each method.

    A write has been acknowledged when its method returns: it outlives a power cut. A repeated write
    changes nothing. A log is its key and its birth: what is copied late of a deleted log stays
    hidden, and another log of the same key is refused. Several processes may write.

    Each method may raise `BackupUnavailable`, those that write also `StoreFull`. What is damaged is
    a `DecodeError`, raised or in place of the content.

    Attributes:
        where: Where it is: hosts of a server, or the URL of a folder; never a password.
    """

    where: str

    # -- writing ----------------------------------------------------------------------------

    def inserter(self, keys: Iterable[str]) -> LogInserter:
        """What stores logs that are copied for the first time, of these keys."""

    def insert_batches(self, batches: Iterable[tuple[str, float, bytes]]) -> dict[str, str]:
        """Store further batches of logs, given with their log and its birth.

        Returns:
            Logs with other bytes in the backup, each with the first such index. Others of these
            batches may be there now: another backup may need them (`clear_batches`).
        """

    def put_heads(self, logs: Mapping[str, GrownLog]) -> dict[str, str | None]:
        """Store the heads of logs that have grown; an older revision never replaces a newer one.

        Returns:
            Logs whose heads were not stored. The value is the difference if the backup holds
            another log of the same name. It is None if the backup holds more records than `since`,
            or another head that is not older, or if batches may have been removed since they were
            inserted, so that they must be compared.
        """

    def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """Store immutable content under its digest."""

    def put_setting(self, name: str, content: bytes) -> None:
        """Store a setting of the namespace."""

    def delete(self, logs: Iterable[tuple[str, float]]) -> None:
        """Delete logs, given with their births, for good."""

    def clear_batches(
        self, key: str, born: float, batches: Sequence[StoredBatch], *, count: int
    ) -> None:
        """Remove batches that no head counts, unless others have taken their places.

        Nothing is removed if the head does not count `count` records any more; 0 = there is none.
        """

    def clear_deleted(self, logs: Iterable[tuple[str, float]]) -> None:
        """Remove data that arrived for these logs after their deletion."""

    # -- reading ----------------------------------------------------------------------------

    def deleted(self, logs: Iterable[tuple[str, float]]) -> set[tuple[str, float]]:
        """Which of these logs, given with their births, were deleted."""

    def deletions(self) -> Iterator[tuple[str, float]]:
        """All logs that were deleted, with their births, in no order."""

    def keys(self) -> Iterator[str]:
        """Keys of all logs, sorted."""

    def birth(self, key: str) -> float | None:
        """Birth of a log; None if the backup does not hold it."""

    def counts(self, keys: Sequence[str]) -> dict[str, Copied]:
        """How far each of these logs is copied; missing logs are left out."""

    def logs(self, keys: Sequence[str]) -> dict[str, StoredLog | DecodeError]:
        """Read several logs; the error in place of a damaged one. Missing logs are left out."""

    def heads(self, run: str | None = None) -> Iterator[dict[str, Head | DecodeError]]:
        """Heads of all logs, or of the episodes of a run, some hundreds at a time."""

    def runs(self) -> list[str]:
        """Names of all runs with episodes, in no order."""

    def batch_at(self, key: str, born: float, index: int) -> tuple[int, int, float, float] | None:
        """Indices and times of the newest batch that begins at or before an index.

        Those that come with their log (`StoredLog`) may be left out.
        """

    def batches_from(self, key: str, born: float, start: int, stop: int) -> Iterator[StoredBatch]:
        """Batches that begin at `start` or later and before `stop`, in order.

        Those that come with their log may be left out.
        """

    def batches_between(self, first_key: str, last_key: str) -> Iterator[tuple[str, StoredBatch]]:
        """Batches of all logs between two keys, sorted by key and start.

        Each has its log in the form of `identity`. Those that come with their log may be left out.
        """

    def blob(self, name: str) -> bytes | None:
        """Content stored by `put_blobs`; None if it is missing."""

    def blobs(self) -> dict[str, bytes | DecodeError]:
        """All immutable content, by digest."""

    def setting(self, name: str) -> bytes | None:
        """A setting stored by `put_setting`; None if it is missing."""

    def identity(self) -> BackupIdentity:
        """Identity of this backup, for readers; the id is empty if nothing was ever copied here."""

    def identity_now(self) -> BackupIdentity:
        """Identity of this backup, for writers; makes a new id if there is none."""

    def namespaces(self) -> list[str]:
        """Names of all databases, or directories, that are at the same place, sorted.

        Empty if they cannot be listed.
        """

    def records(self) -> int:
        """Number of records and episode rows in all logs."""

    def damaged(self) -> dict[str, DecodeError]:
        """What is damaged so that reading the logs does not show it, by the name of its place."""

    def close(self) -> None:
        """Close connections and files. A second call does nothing."""
