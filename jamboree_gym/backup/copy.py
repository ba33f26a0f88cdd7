"""One run of the backup: copies logs from Redis to the backup in bounded memory."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from jamboree_gym.backup.portions import FEW_REVISIONS, FIRST_LOGS, next_portion, pages
from jamboree_gym.backup.rejoin import rejoin
from jamboree_gym.backup.restore import BackupRestorer
from jamboree_gym.encoding.batch_format import CODEC_STEPS, Batch, Head, batch_span, decode_batch
from jamboree_gym.encoding.rows import schema_digest
from jamboree_gym.encoding.summary_codec import decode_outline
from jamboree_gym.errors import BackupMismatch, DecodeError, JamboreeError
from jamboree_gym.store.backups.presence import check_is_not_gone
from jamboree_gym.store.backups.protocol import BackupStore, LogInserter
from jamboree_gym.store.backups.reader import stored_logs
from jamboree_gym.store.backups.records import (
    ANOTHER_LOG,
    MAX_INLINE_BYTES,
    GrownLog,
    NewLog,
    StoredLog,
    is_other_head,
)
from jamboree_gym.store.listing_recovery import cover, list_again, uncover
from jamboree_gym.store.lost_deletions import carry_out, delete_again
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.store.urls import backup_name

__all__ = ["LogCopier", "finish_deletions"]

UNACKNOWLEDGED_AT_ONCE = 500
BUNDLING_AT_ONCE = 5000
COMPARED_AGAIN_S = 30.0  # after Redis was emptied
RARER = 4  # so many times as long until it is compared once more
ATTEMPTS = 5  # to copy a log that has changed in the backup or in Redis meanwhile
_EVERYTHING = 2**63 - 1
_EPOCH = "epoch"  # a setting of the backup

_Compare = Callable[[RedisStore, BackupStore], object]

_log = logging.getLogger(__name__)


class _Note(NamedTuple):
    """What the head of a log says to the backup; only episodes have a run, and an end."""

    run: str | None
    has_ended: bool


class _Compared(NamedTuple):
    """In which epoch of Redis both sides were compared; a setting of the backup.

    The epoch is empty if a copier was late. `due` is when they are to be compared again, as Unix
    time; `wait_s` is how long that was from the last time.
    """

    epoch: str
    due: float = math.inf
    wait_s: float = 0.0

    @classmethod
    def decoded(cls, content: bytes) -> _Compared:
        epoch, *rest = content.decode().split(" ")
        return cls(epoch, *map(float, rest))

    def encoded(self) -> bytes:
        return " ".join(map(str, self)).encode()


class LogCopier:
    """Copies logs. A log that fails does not stop the others; its error is collected.

    `on_acknowledged` is called with the heads of logs as far as the backup has acknowledged them.

    Attributes:
        copied: Number of records and episode rows copied so far.
        failures: Errors of the logs that could not be copied.
    """

    def __init__(
        self,
        store: RedisStore,
        backup: BackupStore,
        *,
        on_acknowledged: Callable[[Mapping[str, Head]], None] | None = None,
    ) -> None:
        self.copied = 0
        self.failures: dict[str, JamboreeError] = {}
        self._store = store
        self._backup = backup
        self._on_acknowledged = on_acknowledged
        self._blobs: set[str] = set()
        self._epoch = ""
        self._changed: set[str] = set()
        self._rejoined: dict[str, str] = {}  # what was different before

    def begin(self, to: str = "") -> bool:
        """Make this backup acknowledge, and finish pending deletions; call it before listing logs.

        `to` are the hosts of the automatic backup; empty = there is none. Returns whether another
        backup has acknowledged until now: then all is to be copied again.
        """
        epoch, has_replaced = _adopt(self._store, self._backup, to=to)
        if epoch != self._epoch:
            self._epoch, self._blobs = epoch, set()
        compare = self._comparison()
        finish_deletions(self._store, self._backup)
        if delete_again(self._store, self._backup):
            finish_deletions(self._store, self._backup)
        if compare is not None:
            compare(self._store, self._backup)
        return has_replaced

    def _comparison(self) -> _Compare | None:
        """How to give Redis what it lacks, if another copier may have been late, and has not.

        What is known is written before both sides are compared: who is late after that sees it. Who
        is killed then says nothing, so both sides are compared again and again, ever more rarely.
        """
        content, now = self._backup.setting(_EPOCH), time.time()
        known = None if content is None else _Compared.decoded(content)
        how: _Compare | None = None
        if known is None:
            new = _Compared(self._epoch)
        elif known.epoch != self._epoch:
            uncover(self._store)
            new, how = _Compared(self._epoch, now + COMPARED_AGAIN_S, COMPARED_AGAIN_S), cover
        elif now >= known.due:
            wait_s = known.wait_s * RARER
            new, how = _Compared(self._epoch, now + wait_s, wait_s), list_again
        else:
            return None
        self._backup.put_setting(_EPOCH, new.encoded())
        return how

    def _note_if_late(self) -> None:
        """If Redis was emptied since the logs were read, note it before they are copied."""
        if self._was_emptied():
            self._backup.put_setting(_EPOCH, b"")

    def _note_if_overtaken(self) -> None:
        """If others have compared both sides since Redis was emptied, note what came after that."""
        content = self._backup.setting(_EPOCH)
        if content is None or _Compared.decoded(content).epoch != self._epoch:
            self._backup.put_setting(_EPOCH, b"")

    def copy(self, pending: Sequence[tuple[str, int]]) -> Iterator[int]:
        """Copy logs, given as (key, revision); yield how many have been processed so far."""
        self._changed = set()
        small = sorted(key for key, revision in pending if revision <= FEW_REVISIONS)
        done = 0
        for first in range(0, max(1, len(small)), BUNDLING_AT_ONCE):
            for copied in self._copy_small(small[first : first + BUNDLING_AT_ONCE]):
                done += copied
                yield done
        for key in (key for key, revision in pending if revision > FEW_REVISIONS):
            self._copy_in_pages(key)
            done += 1
            yield done
        for _ in range(ATTEMPTS):
            rejoined, self._rejoined = self._rejoined, {}
            for key in rejoined:
                self._copy_in_pages(key)
        rejoined, self._rejoined = self._rejoined, {}
        for key, what in rejoined.items():
            self.failures[key] = self._mismatch(key, what)

    def _copy_small(self, keys: Sequence[str]) -> Iterator[int]:
        """Copy small logs, portion by portion; yield the number of logs in each."""
        inserter = self._backup.inserter(keys)
        done, at_once = 0, FIRST_LOGS
        while done < len(keys):
            portion = keys[done : done + at_once]
            size = self._copy_together(portion, inserter)
            done += len(portion)
            at_once = next_portion(at_once, len(portion), size)
            if done == len(keys):
                inserter.close()
            yield len(portion)

    def _copy_together(self, keys: Sequence[str], inserter: LogInserter) -> int:
        """Copy small logs with one round trip to each server; return the number of bytes."""
        new: dict[str, NewLog] = {}
        grown: dict[str, GrownLog] = {}
        batches: list[tuple[str, float, bytes]] = []
        by_themselves: list[str] = []
        copied_bytes = 0
        unacked = self._store.reader.unacked(keys)
        heads = {key: one[0] for key, one in unacked.items() if not isinstance(one, DecodeError)}
        read_again = self._assign_new_births(heads) | _incomplete_logs(heads)
        for key, found in unacked.items():
            if key in read_again:
                by_themselves.append(key)
                continue
            try:
                if isinstance(found, DecodeError):
                    raise found
                head, blobs = found
                note = self._put_blobs(key, head, [decode_batch(one, where=key) for one in blobs])
            except DecodeError as error:
                is_gone = not isinstance(found, DecodeError) and self._has_less(key, found[0])
                if not is_gone and not self._was_emptied():
                    self.failures[key] = error
                continue
            size = sum(map(len, blobs))
            copied_bytes += size
            if head.acked == 0 and size <= MAX_INLINE_BYTES:
                new[key] = NewLog(head.acknowledged(), blobs, note.run, note.has_ended)
            elif head.acked == 0:
                by_themselves.append(key)
            else:
                grown[key] = GrownLog(head.acknowledged(), head.acked, note.run)
                batches += [(key, head.born, blob) for blob in blobs]
        self._note_if_late()
        grown, refused = self._compared(grown)
        batches = [one for one in batches if one[0] not in refused]
        inserted = inserter.insert(new)
        by_themselves += sorted(inserted.of_other_length)
        refused |= inserted.refused | (self._backup.insert_batches(batches) if batches else {})
        self._refuse(refused)
        others = refused.keys() | inserted.of_other_length
        heads = {key: log.head for key, log in new.items() if key not in others}
        self.copied += sum(head.count for head in heads.values())
        self._acknowledge(heads)
        self._put_heads({key: one for key, one in grown.items() if key not in refused})
        for key in by_themselves:
            self._copy_in_pages(key)
        return copied_bytes

    def _assign_new_births(self, logs: Mapping[str, Head]) -> set[str]:
        """Assign a new birth time to logs that were begun again under that of a deleted log.

        They have changed in Redis and must be read again: returns them.
        """
        new = {(key, head.born): head for key, head in logs.items() if head.acked == 0}
        deleted = self._backup.deleted(new)
        for key, born in deleted:
            if not self._store.deletions.assign_new_birth(key, new[key, born], epoch=self._epoch):
                self._changed.add(key)
        return {key for key, _ in deleted}

    def _copy_in_pages(self, key: str) -> None:
        """Copy a log that may not fit into memory."""
        head: Head | None = None
        try:
            head = self._store.head(key)
            while head is not None and self._assign_new_births({key: head}):
                if key in self._changed:  # the next round sees its new state
                    return
                head = self._store.head(key)
            if head is None:
                return
            note = self._put_blobs(key, head, ())
            since = head.acked or self._count_in_backup(key, head)
            if since < head.held > head.first:
                name = self._store.keyspace.in_words(key)
                self.failures[key] = BackupMismatch(
                    f"{name}: {backup_name(self._backup.where)} lacks its first {head.held} "
                    "records, and Redis has evicted them: they are in the backup that was there "
                    "before; open that by backup=URL, and call backup.restore()"
                )
                return
            known = GrownLog(head.acknowledged(), since, note.run)
            compared, refused = self._compared({key: known})
            if refused:
                self._refuse(refused)
                return
            known, newest = compared[key], None
            for page in pages(self._store, key, since, head.count):
                newest = page[-1]
                self._put_blobs(key, head, page)
                refused = self._backup.insert_batches((key, head.born, one.blob) for one in page)
                self._refuse(refused)
                if refused:
                    return
            if newest is not None and not _is_newest_of(head, newest):
                return  # a failover has put something else there: it is copied next time
        except DecodeError as error:
            if not self._was_emptied() and (head is None or not self._has_less(key, head)):
                self.failures[key] = error
        else:
            self._note_if_late()
            self._put_heads({key: known}, acked=head.acked)

    def _compared(self, logs: Mapping[str, GrownLog]) -> tuple[dict[str, GrownLog], dict[str, str]]:
        """Read how far the backup has these logs; call it before batches are inserted.

        Later, the new batches would mix with those in the backup.

        Returns:
            The logs with their fences. And those whose unacknowledged data in the backup differ
            from Redis, each with its difference.
        """
        fenced = dict(logs)
        counts = self._backup.counts(list(logs))
        births = {(key, there.born) for key, there in counts.items()}
        others = births - {(key, log.head.born) for key, log in logs.items()}
        others -= self._backup.deleted(others)
        found = {key: ANOTHER_LOG for key, _ in others}
        for key, there in counts.items():
            if there.born == logs[key].head.born:
                fenced[key] = replace(logs[key], fence=there.fence)
                if there.records > logs[key].since:
                    what = self._difference(key, logs[key].since)
                    if what is not None:
                        found[key] = what
        return fenced, found

    def _has_less(self, key: str, head: Head) -> bool:
        """Whether Redis no longer has what was to be read.

        It was deleted, a failover has lost it, or a faster backup was first and it was evicted.
        """
        now = self._store.head(key)
        if now is None or now.born != head.born:
            return True
        return now.held > head.held or now.count < head.count

    def _was_emptied(self) -> bool:
        """Whether Redis was emptied since `begin`: what is missing is gone, not damaged."""
        return self._store.epoch() != self._epoch

    def _count_in_backup(self, key: str, head: Head) -> int:
        """Number of records that the backup holds of a log without any acknowledgement.

        A backup that was killed could not acknowledge: its batches are not copied again. Of records
        that had been popped before the copy, it holds none: a failover may have brought them back.
        """
        log = self._backup.logs([key]).get(key)
        if not isinstance(log, StoredLog) or log.head.born != head.born:
            return 0
        if log.head.first > head.first:
            return 0
        return 0 if self._difference(key, 0) else min(log.head.count, head.count)

    def _refuse(self, refused: Mapping[str, str]) -> None:
        """Move records behind those that the backup holds; record which logs cannot be copied."""
        for key, what in refused.items():
            failure: JamboreeError = self._mismatch(key, what)
            before = self._backup.counts([key])
            try:
                is_mended = self._join(key) or not self._is_different(key)
                if is_mended or self._backup.counts([key]) != before:
                    self._rejoined[key] = what
                    continue
            except DecodeError as error:
                failure = error
            if not self._was_emptied():
                self.failures[key] = failure

    def _join(self, key: str) -> bool:
        """Mend what a loss of Redis has left in the backup; return whether there was something."""
        was_moved = rejoin(self._store, self._backup, key, epoch=self._epoch)
        was_cleared = self._clear_leftovers(key)
        return was_moved or was_cleared or self._was_restored(key)

    def _is_different(self, key: str) -> bool:
        """Whether another backup has not mended it meanwhile."""
        head = self._store.head(key)
        if head is None:
            return False
        _, differing = self._compared({key: GrownLog(head.acknowledged(), head.acked)})
        return bool(differing)

    def _mismatch(self, key: str, what: str) -> BackupMismatch:
        name = self._store.keyspace.in_words(key)
        return BackupMismatch(
            f"{backup_name(self._backup.where)} keeps something else as {name}: {what}; "
            "nothing was overwritten. Was Redis emptied and the log begun anew? Delete the "
            "log, or keep it under another name."
        )

    def _clear_leftovers(self, key: str) -> bool:
        """Remove batches that a killed copy has left in the backup, and that Redis has lost.

        No head counts these batches, and others have taken their place. What Redis has stays:
        another backup may just have copied it.
        """
        head, kept = self._store.head(key), self._backup.logs([key]).get(key)
        if head is None or isinstance(kept, DecodeError):
            return False
        if kept is not None and (kept.head.born != head.born or self._difference(key, 0)):
            return False
        count = 0 if kept is None else kept.head.count
        left = [
            batch
            for batch in self._backup.batches_from(key, head.born, count, _EVERYTHING)
            if batch.blob is None or self._is_other_batch(key, batch.blob)
        ]
        if left:
            self._backup.clear_batches(key, head.born, left, count=count)
        return bool(left)

    def _was_restored(self, key: str) -> bool:
        """Give Redis back the newest records of a log, which it has lost and the backup holds.

        A Redis that fails, or a replica that takes its place, lacks its newest writes.
        """
        head, kept = self._store.head(key), self._backup.logs([key]).get(key)
        if head is None or not isinstance(kept, StoredLog) or kept.head.born != head.born:
            return False
        if kept.head.count <= head.count:
            return False
        return self._restore([key]) > 0

    def _restore(self, keys: Sequence[str]) -> int:
        """Give Redis logs from the backup, as far as it holds less; return how many."""
        restorer = BackupRestorer(self._store, self._backup, is_asked_for=False)
        deque(restorer.restore(keys), maxlen=0)
        return restorer.restored

    def _put_blobs(self, key: str, head: Head, batches: Sequence[Batch]) -> _Note:
        """Insert each blob that batches and head refer to, once; return what the head says."""
        if head.codec != CODEC_STEPS:
            return _Note(None, has_ended=False)
        summary, provenance = decode_outline(head.note, where=key)
        names = {schema_digest(batch, where=key) for batch in batches} | {provenance}
        new = names - self._blobs
        if new:
            self._backup.put_blobs({name: self._blob(name) for name in sorted(new)})
            self._blobs |= new
        return _Note(summary.run, has_ended=summary.status != "running")

    def _blob(self, name: str) -> bytes:
        """The blob from Redis; if Redis lost it, from the backup, and it is restored to Redis."""
        try:
            return self._store.blobs.get(name)
        except DecodeError:
            kept = self._backup.blob(name)
            if kept is None:
                raise
        self._store.blobs.put(name, kept)
        return kept

    def _put_heads(self, logs: Mapping[str, GrownLog], *, acked: int | None = None) -> None:
        unsettled = self._backup.put_heads(logs)
        found = {key: what or self._settle(key, logs[key]) for key, what in unsettled.items()}
        refused = {key: what for key, what in found.items() if what}
        self._refuse(refused)
        heads = {key: log.head for key, log in logs.items() if found.get(key) is None}
        for key, head in heads.items():
            self.copied += head.count - (logs[key].since if acked is None else acked)
        self._acknowledge(heads)

    def _settle(self, key: str, log: GrownLog) -> str | None:
        """Compare the unexpected batches in the backup; keep the head if all are equal.

        If the backup has a head that is not older, Redis has lost that one, or somebody else was
        faster: then Redis has another one by now, too. The head is stored only in place of the one
        that was there at the comparison, and with all its batches. Returns the difference; "" if
        this head is not stored, and must not be acknowledged.
        """
        counts = self._backup.counts([key])
        kept = self._backup.logs([key]).get(key)
        difference = self._difference(key, log.since)
        if difference is not None:
            return difference
        if not isinstance(kept, StoredLog):
            return ""
        try:
            if not self._is_still_there(key, log.head):
                return ""
            newest = None
            for page in pages(self._store, key, log.since, log.head.count):
                blobs = ((key, log.head.born, one.blob) for one in page)
                if refused := self._backup.insert_batches(blobs):
                    return refused[key]
                newest = page[-1]
            if newest is not None and not _is_newest_of(log.head, newest):
                return ""
        except DecodeError:  # it has just changed
            return ""
        if is_other_head(kept.head, log.head):
            now = self._store.head(key)
            if now is None or kept.head.count > log.head.count:
                return ""
            if now.revision != log.head.revision or is_other_head(now, log.head):
                return ""
        elif kept.head.revision >= log.head.revision:
            return None  # it is there already
        fence = counts[key].fence if key in counts else 0
        log = replace(log, since=log.head.count, instead_of=kept.head.revision, fence=fence)
        unsettled = self._backup.put_heads({key: log})
        return (unsettled[key] or "") if key in unsettled else None

    def _is_still_there(self, key: str, head: Head) -> bool:
        """Whether Redis has not lost what was read of a log; it may have got more."""
        now = self._store.head(key)
        if now is None or now.born != head.born or now.revision < head.revision:
            return False
        if now.count <= head.count:
            return (now.count, now.t_last) == (head.count, head.t_last)
        if head.count <= max(now.acked, now.first):
            return True
        found = self._store.read(key, head.count - 1, head.count)
        newest = found.batches[-1:] if found is not None else ()
        return [(one.stop, one.t_last) for one in newest] == [(head.count, head.t_last)]

    def _difference(self, key: str, since: int) -> str | None:
        """Describe how batches in the backup differ from those in Redis; None if they are equal."""
        try:
            for _, kept in stored_logs(self._backup, [key]):
                if isinstance(kept, DecodeError):
                    return str(kept)
                for blob in kept[1] if kept is not None else ():
                    start, stop, _, _ = batch_span(blob)
                    if stop > since and self._is_other_batch(key, blob):
                        return f"other bytes at index {start}"
        except DecodeError as error:
            return str(error)
        return None

    def _is_other_batch(self, key: str, blob: bytes) -> bool:
        """Whether Redis has something else, or nothing, in the place of a batch of the backup.

        Not if only the backup holds it, or it was popped since.
        """
        start, stop, _, _ = batch_span(blob)
        found = self._store.read(key, start, stop)
        if found is None or found.head.held > start or found.head.first >= stop:
            return False
        return [batch.blob for batch in found.batches] != [blob]

    def _acknowledge(self, heads: Mapping[str, Head]) -> None:
        """Tell Redis what is acknowledged; delete in the backup what Redis has deleted meanwhile.

        What Redis lost during the copy is restored from the backup.
        """
        try:
            gone, overtaken = self._store.acknowledgements.acknowledge(heads, epoch=self._epoch)
            self._backup.clear_deleted((key, heads[key].born) for key in gone)
            if overtaken:
                self._restore(sorted(overtaken))
        except JamboreeError:
            self._note_if_overtaken()
            raise
        if self._on_acknowledged is not None:
            acknowledged = heads.keys() - gone - overtaken
            self._on_acknowledged({key: heads[key] for key in acknowledged})


def _adopt(store: RedisStore, backup: BackupStore, *, to: str) -> tuple[str, bool]:
    """Make this backup acknowledge copies of the namespace.

    Returns the epoch in which it does, and whether another backup did before.

    If another backup did so before, or this one was emptied, nothing counts as acknowledged yet.
    If the process is killed midway, the next call finishes the change.
    """
    check_is_not_gone(backup.where, store.keyspace.namespace, store.backup_state.backup_place)
    adoption = store.acknowledgements.adopt(backup.identity_now(), to=to)
    if adoption.instead_of:
        has_evicted = store.backup_state.trimmed_bytes() > 0
        _log.log(
            logging.WARNING if has_evicted else logging.INFO,
            "%s takes the place of %s as the backup of %s: all that Redis holds is copied there%s",
            *map(backup_name, (backup.where, adoption.instead_of)),
            store.keyspace.namespace,
            "; what Redis has evicted is only in the other one" if has_evicted else "",
        )
    if adoption.is_unsettled:
        keys = store.log_keys()
        while part := list(islice(keys, UNACKNOWLEDGED_AT_ONCE)):
            store.acknowledgements.unacknowledge(part, epoch=adoption.epoch)
        store.acknowledgements.adopted(epoch=adoption.epoch)
    return adoption.epoch, bool(adoption.instead_of)


def _incomplete_logs(logs: Mapping[str, Head]) -> set[str]:
    """Logs with nothing acknowledged of which Redis has evicted something all the same."""
    return {key for key, head in logs.items() if head.acked == 0 and head.held > head.first}


def _is_newest_of(head: Head, batch: Batch) -> bool:
    """Whether the head counts this batch as its newest."""
    return (batch.stop, batch.t_last) == (head.count, head.t_last)


def finish_deletions(store: RedisStore, backup: BackupStore) -> int:
    """Delete from the backup what was deleted in Redis; return the number of logs."""
    deleted = sorted(store.deletions.noted())
    carry_out(store, backup, deleted)
    return len(deleted)
