"""Deletions that the backup has carried out, and that a failover of Redis may lose.

A replica that takes the place of a failed Redis lacks the newest writes. If a deletion is among
these, the replica has the log again, although the backup has deleted it. So each round of deletions
leaves the same mark in both: first in the backup, and in each bucket of Redis after all else. A
bucket that has lost a deletion has lost the mark, too. Where the two differ, the tombstones of the
backup are compared with the bucket. A mark names the epoch of Redis in which the first deletion was
carried out: a Redis of that epoch has not been emptied since.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

from jamboree_gym.encoding.batch_format import Head
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.redis.buckets import part_of
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.store.restore import entry_of

__all__ = ["carry_out", "delete_again"]

log = logging.getLogger(__name__)

LOGS_AT_ONCE = 500
FIRST_REVISION_UNASKED = 10**9  # of what is begun while the backup does not answer: append.lua
_MARK = "deletions"  # a setting of the backup


def carry_out(
    store: RedisStore,
    backup: BackupStore,
    logs: Sequence[tuple[str, float]],
    *,
    are_just_deleted: bool = False,
) -> bool:
    """Delete from the backup what was deleted in Redis, given with the births.

    What the backup holds of a log of records from before Redis was emptied is deleted, too. If they
    `are_just_deleted`, so is what a failover has lost of it; else a failover may have brought back
    the note of a deletion, and what the backup holds was begun since.

    Returns:
        False if Redis had lost one of these deletions before the backup knew of it, and has the log
        again. If it is not deleted again now, the next copy sees it.
    """
    if not logs:
        return True
    before = _mark(backup)
    epoch = _first_epoch(before) if before else store.epoch()
    now = f"{secrets.token_hex(8)} {epoch}"
    backup.put_setting(_MARK, now.encode())
    records = {log for log in logs if not store.keyspace.is_episode(log[0])}
    covering = records if are_just_deleted else records - backup.deleted(records)
    backup.delete([*_others(store, backup, covering), *logs])
    identity = backup.identity()
    are_back = [store.deletions.forget(key, born, backup=identity) for key, born in logs]
    if not any(are_back):
        known = {bucket.at: before for bucket in store.buckets.all}
        store.backup_state.note_deletions(known, now, epoch="" if before else epoch)
    return not any(are_back)


def _others(
    store: RedisStore, backup: BackupStore, logs: Collection[tuple[str, float]]
) -> list[tuple[str, float]]:
    """Other logs of the same keys that the backup holds and Redis does not.

    They are from before Redis was emptied, also if they seem newer: clocks differ, and records may
    have waited for long. What was begun after the deletion is in Redis, or the deletion has been
    carried out before, as each copy does first.
    """
    keys = {key for key, _ in logs}
    births = {(key, backup.birth(key)) for key in keys}
    others = {
        key: born
        for key, born in births
        if born is not None and born > -math.inf and (key, born) not in logs
    }
    if not others:
        return []
    waiting, heads = store.deletions.waiting(others), store.reader.heads(sorted(others))
    return [
        (key, born)
        for key, born in sorted(others.items())
        if key in waiting and getattr(heads.get(key), "born", None) != born
    ]


def delete_again(store: RedisStore, backup: BackupStore) -> int:
    """Delete the episodes that a failover of Redis has brought back; return how many.

    Also those that a writer has begun again in an emptied Redis while the backup did not answer.
    Logs of records stay: others may have saved to them since. So do other episodes in a Redis that
    may have been emptied, if no backup has copied them: they were imported again. These logs get
    another birth, so that the backup takes them.
    """
    mark = _mark(backup)
    marks = store.backup_state.deletions_marks() if mark else {}
    if all(one.mark == mark for one in marks.values()):
        return 0
    count, is_done, epoch, absent = 0, True, store.epoch(), set[str]()
    tombstones = iter(list(backup.deletions()))
    while some := set(islice(tombstones, LOGS_AT_ONCE)):
        keys = sorted({key for key, _ in some})
        heads = store.reader.heads(keys)
        absent |= set(keys) - heads.keys()
        for key, head in heads.items():
            if not (isinstance(head, Head) and (key, head.born) in some):
                continue
            bucket = store.buckets.of(key)  # of a cluster, one primary may have been emptied
            known, since, _ = marks[bucket.at]
            if known == mark:
                continue
            if not since:  # an older release has noted no epoch
                since = epoch if known else _first_epoch(mark)
            was_not_emptied = part_of(since, bucket) == part_of(epoch, bucket)
            is_back = was_not_emptied or head.acked > 0 or head.revision >= FIRST_REVISION_UNASKED
            if store.keyspace.is_episode(key) and is_back:
                entry = entry_of(store, key, head)
                store.deletions.delete(key, entry=entry, born=head.born, only_this=True)
                log.warning("%s was deleted, and Redis had it again: it is deleted again", key)
                count += 1
            else:
                assign = store.deletions.assign_new_birth
                is_done &= assign(key, head, epoch=epoch, without_evicted=True)
    _unlist(store, backup, filter(store.keyspace.is_episode, absent))
    if is_done:  # else a log has changed meanwhile: the next copy looks again
        before = {at: one.mark if one.is_own else "" for at, one in marks.items()}
        store.backup_state.note_deletions(before, mark, epoch=epoch)
    return count


def _unlist(store: RedisStore, backup: BackupStore, deleted: Iterable[str]) -> None:
    """Take deleted episodes that Redis does not have out of the listings, unless the backup does.

    A failover has lost the deletion of what was evicted before; or it was imported again since. Who
    deleted it may have been killed before all of it was gone from the backup.
    """
    gone, keys = set[str](), iter(deleted)
    while some := list(islice(keys, LOGS_AT_ONCE)):
        kept = {(key, found.born) for key, found in backup.counts(some).items()}
        left = backup.deleted(kept)
        backup.clear_deleted(left)
        kept_keys = {key for key, _ in kept - left}
        gone |= {store.keyspace.episode_id(key) for key in some if key not in kept_keys}
    for run in store.listings.runs() if gone else ():
        if listed := sorted(gone & store.listings.summaries(run).keys()):
            store.eviction.unlist(run, listed, are_deleted=True)
            store.listings.unlist_run(run)


def _first_epoch(mark: str) -> str:
    """In which epoch the first deletion was carried out; empty = an older release wrote it."""
    return mark.partition(" ")[2]


def _mark(backup: BackupStore) -> str:
    return (backup.setting(_MARK) or b"").decode()
