"""Copies one backup to another, of any kind: to a folder to take along, or to a new server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from jamboree_gym.encoding.batch_format import CODEC_STEPS, Head, decode_batch
from jamboree_gym.encoding.summary_codec import decode_outline
from jamboree_gym.errors import BackupMismatch, DecodeError, InvalidArgument, JamboreeError
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.backups.reader import checked_chain, stored_logs
from jamboree_gym.store.backups.records import (
    ANOTHER_LOG,
    MAX_INLINE_BYTES,
    Copied,
    GrownLog,
    NewLog,
    StoredLog,
    is_other_head,
)
from jamboree_gym.store.urls import backup_name

__all__ = ["BackupTransfer"]

LOGS_AT_ONCE = 200
PAGE_BYTES = 8 << 20


class _Read(NamedTuple):
    """A log of the source."""

    key: str
    head: Head
    batches: Iterator[bytes]


class BackupTransfer:
    """Copies what one backup holds and another lacks, and deletes there what was deleted here.

    Overwrites nothing. If it is interrupted, the next one continues. A log that fails does not
    stop the others.

    Attributes:
        copied: Number of logs of which something was copied.
        failures: Errors of the logs that could not be copied.

    Raises:
        InvalidArgument: Both are the same backup.
    """

    def __init__(self, source: BackupStore, target: BackupStore, keyspace: Keyspace) -> None:
        self.copied = 0
        self.failures: list[JamboreeError] = []
        self._source = source
        self._target = target
        self._keyspace = keyspace
        ids = source.identity().id, target.identity().id
        if source.where == target.where or (ids[0] and ids[0] == ids[1]):
            raise InvalidArgument(f"{backup_name(target.where)} is this backup: name another one")

    def copy(self) -> Iterator[tuple[int, int]]:
        """Copy everything; yield how many logs have been looked at, and of how many."""
        self._target.identity_now()
        self._copy_deletions()  # first: a log may have begun again under the same key
        self._copy_blobs()
        keys = list(self._source.keys())
        for first in range(0, len(keys), LOGS_AT_ONCE):
            some = keys[first : first + LOGS_AT_ONCE]
            self._copy_logs(some)
            yield first + len(some), len(keys)
        self._copy_deletions()

    def copy_setting(self, name: str) -> None:
        """Copy a setting of the namespace, unless the target has one."""
        content = self._source.setting(name)
        if content is not None and self._target.setting(name) is None:
            self._target.put_setting(name, content)

    def _copy_deletions(self) -> None:
        deletions = self._source.deletions()
        while some := list(islice(deletions, LOGS_AT_ONCE)):
            self._target.delete(sorted(set(some) - self._target.deleted(some)))

    def _copy_blobs(self) -> None:
        whole = {}
        for name, content in self._source.blobs().items():
            if isinstance(content, DecodeError):
                self.failures.append(content)
            else:
                whole[name] = content
        self._target.put_blobs(whole)

    def _copy_logs(self, keys: Sequence[str]) -> None:
        there = self._target.counts(keys)
        short: dict[str, NewLog] = {}
        for key, log in stored_logs(self._source, keys):
            try:
                if isinstance(log, DecodeError):
                    raise log
                if log is not None:
                    new = self._copy_log(_Read(key, *log), there.get(key))
                    short |= {} if new is None else {key: new}
            except (BackupMismatch, DecodeError) as error:
                self.failures.append(error)
        self._insert_short(short)

    def _insert_short(self, logs: Mapping[str, NewLog]) -> None:
        """Copy short logs that the target does not hold, all together."""
        inserter = self._target.inserter(logs)
        inserted = inserter.insert(logs)
        inserter.close()
        refused = inserted.refused | dict.fromkeys(inserted.of_other_length, "another length")
        self.failures += [self._mismatch(key, what) for key, what in refused.items()]
        self.copied += len(logs) - len(refused)

    def _copy_log(self, log: _Read, there: Copied | None) -> NewLog | None:
        """Copy one log, page by page, its head last; or return it, if it is short and new."""
        key, head = log.key, log.head
        if there is not None and there.born != head.born:
            raise self._mismatch(key, ANOTHER_LOG)
        if there is not None and there.records > head.count:
            return None  # the target is ahead
        run, has_ended = _run_of(log)
        where = f"{backup_name(self._source.where)}: {key}"
        page, size = list[bytes](), 0
        for batch in checked_chain(log.batches, head, where=where):
            page.append(batch.blob)
            size += len(batch.blob)
            if size > PAGE_BYTES:
                self._insert(log, page)
                page, size = [], 0
        is_whole = bool(page) and decode_batch(page[0], where=where).start == 0
        if there is None and is_whole and size <= MAX_INLINE_BYTES:
            return NewLog(head, page, run, has_ended)
        self._insert(log, page)
        self._put_head(log, run, fence=0 if there is None else there.fence)
        self.copied += there is None or there.records < head.count
        return None

    def _insert(self, log: _Read, batches: Sequence[bytes]) -> None:
        if batches:
            parts = ((log.key, log.head.born, batch) for batch in batches)
            refused = self._target.insert_batches(parts)
            if refused:
                raise self._mismatch(log.key, refused[log.key])

    def _put_head(self, log: _Read, run: str | None, *, fence: int) -> None:
        grown = GrownLog(log.head, log.head.count, run, fence=fence)
        refused = self._target.put_heads({log.key: grown})
        there = self._target.logs([log.key]).get(log.key) if refused else None
        if isinstance(there, StoredLog) and is_other_head(there.head, log.head):
            if there.head.count == log.head.count:
                return  # the target is ahead
            # The target has a state that Redis has lost, and the source never had.
            grown = replace(grown, instead_of=there.head.revision)
            refused = self._target.put_heads({log.key: grown})
        if refused:
            raise self._mismatch(log.key, refused[log.key] or "more records")

    def _mismatch(self, key: str, what: str) -> BackupMismatch:
        name = self._keyspace.in_words(key)
        return BackupMismatch(
            f"{backup_name(self._target.where)} keeps something else as {name}: {what}; nothing "
            "was overwritten"
        )


def _run_of(log: _Read) -> tuple[str | None, bool]:
    """The run of an episode, and whether it has ended; other logs have no run."""
    if log.head.codec != CODEC_STEPS:
        return None, False
    summary, _ = decode_outline(log.head.note, where=log.key)
    return summary.run, summary.status != "running"
