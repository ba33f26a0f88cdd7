"""Restores logs from the backup to Redis, some hundreds at a time, and repairs damaged listings."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

from jamboree_gym.encoding.batch_format import CODEC_STEPS, Head, decode_head, decode_note
from jamboree_gym.encoding.summary_codec import decode_summaries
from jamboree_gym.errors import DecodeError, EpisodeNotFound, JamboreeError
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.backups.reader import StoredBatches, stored_logs
from jamboree_gym.store.backups.records import StoredLog
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.store.restore import entry_of, put_back, refill
from jamboree_gym.store.urls import backup_name

__all__ = ["BackupRestorer", "damaged_summaries", "repair_listings"]

LOGS_AT_ONCE = 200
ATTEMPTS = 3  # retries if something is deleted meanwhile

Kept = tuple[Head, Iterator[bytes]]


class BackupRestorer:
    """Restores logs of which Redis holds less than the backup, or of which the head is damaged.

    If it `is_asked_for`, a log that the backup does not hold is a failure.

    Attributes:
        restored: Number of logs restored so far.
        failures: Errors of the logs that could not be restored.
    """

    def __init__(self, store: RedisStore, backup: BackupStore, *, is_asked_for: bool) -> None:
        self.restored = 0
        self.failures: list[JamboreeError] = []
        self._store = store
        self._backup = backup
        self._is_asked_for = is_asked_for

    def restore(self, keys: Sequence[str]) -> Iterator[int]:
        """Restore logs, given sorted; yield how many have been processed so far."""
        done = 0
        for first in range(0, len(keys), LOGS_AT_ONCE):
            some = keys[first : first + LOGS_AT_ONCE]
            standing = self._store.restorer.standing(some)
            for key, kept in self._kept(some):
                try:
                    self.restored += self._restore(key, kept, standing)
                except (DecodeError, EpisodeNotFound) as error:
                    self.failures.append(error)
                done += 1
                yield done

    def _kept(self, keys: Sequence[str]) -> Iterator[tuple[str, Kept | DecodeError | None]]:
        """What the backup holds of some logs, without those whose deletion Redis has noted."""
        deleted = self._store.deletions.waiting(keys)
        for key, kept in stored_logs(self._backup, keys):
            is_gone = isinstance(kept, tuple) and key in deleted
            yield key, None if is_gone else kept

    def _restore(self, key: str, kept: Kept | DecodeError | None, standing: str) -> bool:
        """Restore one log; return whether that was necessary."""
        for attempt in range(ATTEMPTS):
            if isinstance(kept, DecodeError):
                raise kept
            if kept is None:
                if self._is_asked_for:
                    raise EpisodeNotFound(
                        f"no {self._store.keyspace.in_words(key)} in the backup of "
                        f"{self._store.keyspace.namespace!r}: {backup_name(self._backup.where)}"
                    )
                return False
            raw = self._store.reader.undecoded_head(key)
            try:
                current, damaged = _decoded(raw, key), b""
            except DecodeError:
                if attempt:  # the backup does not hold all of it
                    raise
                current, damaged = None, raw
            if current is not None and not _is_behind(current, kept[0]):
                return self._fill_up(key)
            backup = self._backup.identity()
            if put_back(
                self._store, key, *kept, backup=backup, standing=standing, instead_of=damaged
            ):
                self._fill_up(key)
                return True
            standing = self._store.restorer.standing([key])
            kept = dict(self._kept([key]))[key]
        return False

    def _fill_up(self, key: str) -> bool:
        """Restore the batches that Redis has evicted or lacks; return whether there were any."""
        head, kept = self._store.head(key), None
        if head is not None and head.held > head.first:
            kept = self._backup.logs([key]).get(key)
        if head is None or not isinstance(kept, StoredLog) or kept.head.born != head.born:
            return False
        batches = StoredBatches(self._backup, key, kept, head.held)
        return refill(self._store, key, head, batches, max_bytes=math.inf)


def damaged_summaries(store: RedisStore) -> dict[str, DecodeError]:
    """Describe the damaged summaries in Redis' listings, by the key of the episode's log."""
    keyspace = store.keyspace
    return {
        keyspace.episode(episode_id): DecodeError(f"{keyspace.summaries(run)}: {error}")
        for run in store.listings.runs()
        for episode_id, error in decode_summaries(store.listings.summaries(run))[1].items()
    }


def repair_listings(
    store: RedisStore, backup: BackupStore, keys: Collection[str] | None = None
) -> tuple[int, list[DecodeError]]:
    """Rewrite the damaged summaries in the listings, of some logs (None = all).

    The backup is searched for a log that Redis does not have. Returns the number of summaries
    repaired, and the errors of the others.
    """
    repaired, failures = 0, []
    for run in store.listings.runs():
        entries = store.listings.summaries(run)
        for episode_id, error in decode_summaries(entries)[1].items():
            key = store.keyspace.episode(episode_id)
            if keys is not None and key not in keys:
                continue
            damage = f"{store.keyspace.summaries(run)}: {error}"
            try:
                entry = entry_of(store, key, _find_head(store, backup, key))
            except DecodeError as again:
                failures.append(DecodeError(f"{damage}; {again}"))
            else:
                if entry is not None and store.listings.mend(
                    run, entry, instead_of=entries[episode_id]
                ):
                    repaired += 1
    return repaired, failures


def _find_head(store: RedisStore, backup: BackupStore, key: str) -> Head:
    head = store.head(key)
    if head is not None:
        return head
    stored = backup.logs([key]).get(key)
    if isinstance(stored, StoredLog):
        return stored.head
    what = "is neither in Redis nor in the backup: it can only be deleted"
    raise stored or DecodeError(f"{store.keyspace.in_words(key)} {what}")


def _decoded(raw: bytes, key: str) -> Head | None:
    """A head of Redis; None if there is no log. A `DecodeError` if it, or its note, is damaged."""
    if not raw:
        return None
    head = decode_head(raw, where=key)
    if head.codec == CODEC_STEPS:
        decode_note(head.note, where=key)
    return head


def _is_behind(current: Head, kept: Head) -> bool:
    return current.count <= kept.count and current.revision < kept.revision
