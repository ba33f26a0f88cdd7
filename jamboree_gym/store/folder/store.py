"""The backup in a folder: stores the unchanged bytes of logs in files that are only appended to."""

from __future__ import annotations

import secrets
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from jamboree_gym.encoding.batch_format import Head, batch_span, decode_head
from jamboree_gym.errors import DecodeError
from jamboree_gym.keys import database_name, digest
from jamboree_gym.store.backups.protocol import BackupStore, LogInserter
from jamboree_gym.store.backups.records import (
    ANOTHER_LOG,
    MAX_INLINE_BYTES,
    Copied,
    GrownLog,
    Inserted,
    NewLog,
    StoredBatch,
    StoredLog,
    is_other_head,
)
from jamboree_gym.store.folder.index import FolderIndex, IndexedLog, Place, Span
from jamboree_gym.store.folder.nearby import namespaces_in
from jamboree_gym.store.folder.sections import Kind
from jamboree_gym.store.folder.state import FolderState
from jamboree_gym.store.log import BackupIdentity, identity, or_error
from jamboree_gym.store.urls import backup_name, folder_of, folder_url

__all__ = ["FolderStore"]

HEADS_AT_ONCE = 1000
_EVERYTHING = 2**63
_IDENTITY = "identity"


class _Added(NamedTuple):
    """A batch that is to be stored, and its span."""

    span: Span
    blob: bytes


class FolderStore(BackupStore):
    """Logs and blobs of one namespace, in a directory of the folder; docs/storage.md has the bytes.

    Several processes may use it: each write takes a lock for as long as it lasts. What a method has
    written is on disk when it returns. What is damaged is a `DecodeError`.

    Args:
        state: The files of the namespace. The store owns and closes them.

    Attributes:
        where: URL of the folder.
    """

    def __init__(self, state: FolderState) -> None:
        self.where = folder_url(state.root)
        self._state = state
        self._name = backup_name(self.where)

    @classmethod
    def from_url(cls, url: str, namespace: str) -> FolderStore:
        """Open the store of a namespace by the URL of its folder, `file:///...`.

        Raises:
            InvalidUrl: It names no folder of this machine.
            BackupUnavailable: The folder cannot be read, or there is no place for it.
        """
        store = cls(FolderState(folder_of(url), database_name(namespace)))
        store._state.look(lambda _: None)
        return store

    def close(self) -> None:
        """Close the files. A second call does nothing."""
        self._state.close()

    # -- writing ----------------------------------------------------------------------------

    def inserter(self, keys: Iterable[str]) -> LogInserter:
        """What stores logs for the first time."""
        return _Inserter(self)

    def insert_logs(self, logs: Mapping[str, NewLog]) -> Inserted:
        """Store logs that are copied for the first time, each with all its batches."""
        inserted = Inserted({}, set())
        with self._state.writing() as index:
            for key, log in logs.items():
                self._insert_log(index, key, log, inserted)
        return inserted

    def _insert_log(self, index: FolderIndex, key: str, log: NewLog, inserted: Inserted) -> None:
        born, found = log.head.born, index.log(key)
        if (key, born) in index.deleted:
            return
        if found is not None and found[0] != born:
            inserted.refused[key] = ANOTHER_LOG
        elif found is not None and found[1].count != log.head.count:
            inserted.of_other_length.add(key)
        elif (difference := self._add_batches(index, key, born, log.batches)) is not None:
            inserted.refused[key] = difference
        elif found is not None and self._is_other_head(key, *found, log.head):
            inserted.of_other_length.add(key)
        elif found is None or found[1].revision < log.head.revision:
            self._add_head(key, log.head, log.run)

    def _add_batches(
        self, index: FolderIndex, key: str, born: float, blobs: Iterable[bytes]
    ) -> str | None:
        """Add the batches that are not there; none, if one is there with other bytes: says so."""
        log = index.logs.get((key, born))
        new = list[_Added]()
        for blob in blobs:
            span = batch_span(blob)
            there = None if log is None else log.batches.get(span[0])
            if there is None:
                new.append(_Added(span, blob))
            elif (there[0].length, there[0].crc) != (len(blob), zlib.crc32(blob)):
                return f"other bytes at index {span[0]}"
        for span, blob in new:
            self._state.add(Kind.BATCH, [key, born, *span], blob)
        return None

    def _add_head(self, key: str, head: Head, run: str | None) -> None:
        about = [key, head.born, run, head.revision, head.count]
        self._state.add(Kind.HEAD, about, head.encode())

    def insert_batches(self, batches: Iterable[tuple[str, float, bytes]]) -> dict[str, str]:
        """As `BackupStore.insert_batches`."""
        refused: dict[str, str] = {}
        by_log = dict[tuple[str, float], list[bytes]]()
        for key, born, blob in batches:
            by_log.setdefault((key, born), []).append(blob)
        with self._state.writing() as index:
            for (key, born), blobs in by_log.items():
                if (key, born) not in index.deleted:
                    difference = self._add_batches(index, key, born, blobs)
                    if difference is not None:
                        refused[key] = difference
        return refused

    def put_heads(self, logs: Mapping[str, GrownLog]) -> dict[str, str | None]:
        """As `BackupStore.put_heads`."""
        unsettled: dict[str, str | None] = {}
        with self._state.writing() as index:
            for key, log in logs.items():
                found = index.log(key)
                if (key, log.head.born) in index.deleted:
                    continue
                if found is not None and found[0] != log.head.born:
                    unsettled[key] = ANOTHER_LOG
                elif found is not None and (
                    found[1].count > log.since or found[1].fence != log.fence
                ):
                    unsettled[key] = None
                elif found is None or log.may_replace(found[1].revision):
                    self._add_head(key, log.head, log.run)
                elif self._is_other_head(key, *found, log.head):
                    unsettled[key] = None
        return unsettled

    def _is_other_head(self, key: str, born: float, log: IndexedLog, head: Head) -> bool:
        """Whether another head is there that is not older; a damaged one counts as the same."""
        if log.revision < head.revision:
            return False
        stored = or_error(partial(self._head, key, born, log))
        return isinstance(stored, Head) and is_other_head(stored, head)

    def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """As `BackupStore.put_blobs`."""
        with self._state.writing() as index:
            for name, content in blobs.items():
                if name not in index.blobs:
                    self._state.add(Kind.BLOB, [name], content)

    def put_setting(self, name: str, content: bytes) -> None:
        """As `BackupStore.put_setting`."""
        with self._state.writing():
            self._state.add(Kind.SETTING, [name], content)

    def delete(self, logs: Iterable[tuple[str, float]]) -> None:
        """As `BackupStore.delete`."""
        wanted = dict.fromkeys(logs)
        if not wanted:
            return
        with self._state.writing() as index:
            now = time.time()
            for key, born in wanted:
                if (key, born) not in index.deleted:
                    self._state.add(Kind.DELETION, [key, born, now])

    def clear_batches(
        self, key: str, born: float, batches: Sequence[StoredBatch], *, count: int
    ) -> None:
        """As `BackupStore.clear_batches`."""
        with self._state.writing() as index:
            log = index.logs.get((key, born))
            if log is not None and log.count == count:
                for batch in batches:
                    self._clear_batch(key, born, log, batch)

    def _clear_batch(self, key: str, born: float, log: IndexedLog, batch: StoredBatch) -> None:
        """Remove a batch; those behind it are added again."""
        there = log.batches.get(batch.start)
        if there is None or self._state.content(there[0]) != batch.blob:
            return
        behind = [log.batches[one] for one in log.starts(batch.start + 1, _EVERYTHING)]
        kept = [(span, self._state.content(place)) for place, span in behind]
        self._state.add(Kind.CLEARING, [key, born, batch.start])
        for span, blob in kept:
            if blob is not None:
                self._state.add(Kind.BATCH, [key, born, *span], blob)

    def clear_deleted(self, logs: Iterable[tuple[str, float]]) -> None:
        """Nothing to do: what comes late of a deleted log is not stored."""

    # -- reading ----------------------------------------------------------------------------

    def deleted(self, logs: Iterable[tuple[str, float]]) -> set[tuple[str, float]]:
        """As `BackupStore.deleted`."""
        wanted = set(logs)
        return self._state.look(lambda index: wanted & index.deleted) if wanted else set()

    def deletions(self) -> Iterator[tuple[str, float]]:
        """As `BackupStore.deletions`."""
        return iter(self._state.look(lambda index: list(index.deleted)))

    def keys(self) -> Iterator[str]:
        """As `BackupStore.keys`."""
        return iter(self._state.look(lambda index: list(index.sorted_keys())))

    def birth(self, key: str) -> float | None:
        """As `BackupStore.birth`."""
        return self._state.look(lambda index: index.births.get(key))

    def counts(self, keys: Sequence[str]) -> dict[str, Copied]:
        """As `BackupStore.counts`."""

        def count(index: FolderIndex) -> dict[str, Copied]:
            found = ((key, index.log(key)) for key in keys)
            return {
                key: Copied(born=one[0], records=one[1].count, fence=one[1].fence)
                for key, one in found
                if one is not None
            }

        return self._state.look(count)

    def logs(self, keys: Sequence[str]) -> dict[str, StoredLog | DecodeError]:
        """As `BackupStore.logs`; short logs come with all their batches."""

        def read(index: FolderIndex) -> dict[str, StoredLog | DecodeError]:
            found = ((key, index.log(key)) for key in keys)
            return {
                key: or_error(partial(self._stored_log, key, *one))
                for key, one in found
                if one is not None
            }

        return self._state.look(read)

    def _stored_log(self, key: str, born: float, log: IndexedLog) -> StoredLog:
        head = self._head(key, born, log)
        batches = list[bytes]()
        for start in log.counted() if _is_short(log) else ():
            content = self._state.content(log.batches[start][0])
            if content is None:
                raise DecodeError(
                    f"{self._name}: {key} at index {start}: checksum does not match, the batch is "
                    "damaged"
                )
            batches.append(content)
        return StoredLog(head, batches)

    def _head(self, key: str, born: float, log: IndexedLog) -> Head:
        at = f"{self._name}: {key}"
        content = None if log.head is None else self._state.content(log.head)
        if content is None:
            raise DecodeError(f"{at}: checksum does not match, the head of the log is damaged")
        head = decode_head(content, where=at)
        if (head.born, head.revision, head.count) != (born, log.revision, log.count):
            raise DecodeError(f"{at}: its record contradicts the head of the log, it is damaged")
        return head

    def heads(self, run: str | None = None) -> Iterator[dict[str, Head | DecodeError]]:
        """As `BackupStore.heads`."""
        keys = list(self.keys())
        for first in range(0, len(keys), HEADS_AT_ONCE):
            some = keys[first : first + HEADS_AT_ONCE]
            yield self._state.look(partial(self._heads_of, some, run))

    def _heads_of(
        self, keys: Sequence[str], run: str | None, index: FolderIndex
    ) -> dict[str, Head | DecodeError]:
        found = ((key, index.log(key)) for key in keys)
        return {
            key: or_error(partial(self._head, key, *one))
            for key, one in found
            if one is not None and (run is None or one[1].run == run)
        }

    def runs(self) -> list[str]:
        """As `BackupStore.runs`."""

        def names(index: FolderIndex) -> list[str]:
            runs = {index.logs[one].run for one in index.births.items()}
            return [run for run in runs if run is not None]

        return self._state.look(names)

    def batch_at(self, key: str, born: float, index: int) -> Span | None:
        """As `BackupStore.batch_at`."""

        def find(of: FolderIndex) -> Span | None:
            log = of.logs.get((key, born))
            starts = [] if log is None else log.starts(0, index + 1)
            return log.batches[starts[-1]][1] if log is not None and starts else None

        return self._state.look(find)

    def batches_from(self, key: str, born: float, start: int, stop: int) -> Iterator[StoredBatch]:
        """As `BackupStore.batches_from`."""

        def find(index: FolderIndex) -> list[int]:
            log = index.logs.get((key, born))
            return [] if log is None else log.starts(start, stop)

        for at in self._state.look(find):
            found = self._state.look(partial(self._batch, key, born, at))
            if found is not None:
                yield found

    def _batch(self, key: str, born: float, start: int, index: FolderIndex) -> StoredBatch | None:
        """A batch; None if it was deleted meanwhile."""
        log = index.logs.get((key, born))
        found = None if log is None else log.batches.get(start)
        return None if found is None else StoredBatch(start, self._state.content(found[0]))

    def batches_between(self, first_key: str, last_key: str) -> Iterator[tuple[str, StoredBatch]]:
        """As `BackupStore.batches_between`, without those of short logs."""

        def find(index: FolderIndex) -> list[tuple[str, float]]:
            found = ((key, index.births[key]) for key in index.keys_between(first_key, last_key))
            return [one for one in found if not _is_short(index.logs[one])]

        for log in self._state.look(find):
            name = identity(*log)
            yield from ((name, batch) for batch in self.batches_from(*log, 0, _EVERYTHING))

    def blob(self, name: str) -> bytes | None:
        """As `BackupStore.blob`."""

        def read(index: FolderIndex) -> bytes | None:
            place = index.blobs.get(name)
            return None if place is None else self._blob(name, place)

        return self._state.look(read)

    def _blob(self, name: str, place: Place) -> bytes:
        content = self._state.content(place)
        if content is None or digest(content) != name:
            raise DecodeError(
                f"{self._name}: the blob {name}: checksum does not match, it is damaged"
            )
        return content

    def blobs(self) -> dict[str, bytes | DecodeError]:
        """As `BackupStore.blobs`."""

        def read(index: FolderIndex) -> dict[str, bytes | DecodeError]:
            return {
                name: or_error(partial(self._blob, name, place))
                for name, place in index.blobs.items()
            }

        return self._state.look(read)

    def setting(self, name: str) -> bytes | None:
        """As `BackupStore.setting`."""

        def read(index: FolderIndex) -> bytes | None:
            place = index.settings.get(name)
            if place is None:
                return None
            content = self._state.content(place)
            if content is None:
                raise DecodeError(f"{self._name}: {name}: checksum does not match, it is damaged")
            return content

        return self._state.look(read)

    def identity(self) -> BackupIdentity:
        """As `BackupStore.identity`."""
        content = or_error(partial(self.setting, _IDENTITY))
        return BackupIdentity(content.decode() if isinstance(content, bytes) else "", self.where)

    def identity_now(self) -> BackupIdentity:
        """As `BackupStore.identity_now`."""
        if not self.identity().id:
            with self._state.writing() as index:
                is_damaged = isinstance(or_error(partial(self.setting, _IDENTITY)), DecodeError)
                if is_damaged or _IDENTITY not in index.settings:  # else another one was faster
                    self._state.add(Kind.SETTING, [_IDENTITY], secrets.token_hex(8).encode())
        return self.identity()

    def namespaces(self) -> list[str]:
        """As `BackupStore.namespaces`."""
        return namespaces_in(self._state.root)

    def records(self) -> int:
        """As `BackupStore.records`."""
        return self._state.look(
            lambda index: sum(index.logs[one].count for one in index.births.items())
        )

    def damaged(self) -> dict[str, DecodeError]:
        """As `BackupStore.damaged`: by file and place."""
        return self._state.damaged()


class _Inserter(LogInserter):
    """Stores logs for the first time."""

    def __init__(self, store: FolderStore) -> None:
        self._store = store

    def insert(self, logs: Mapping[str, NewLog]) -> Inserted:
        """Store logs, each with all its batches."""
        return self._store.insert_logs(logs) if logs else Inserted({}, set())

    def close(self) -> None:
        """Nothing to finish."""


def _is_short(log: IndexedLog) -> bool:
    """Whether a log comes with all its batches."""
    if log.length > MAX_INLINE_BYTES:
        return False
    expected = 0
    for start in log.counted():
        if start != expected:
            return False
        expected = log.batches[start][1][1]
    return expected == log.count
