"""Restores the listings in Redis from the backup after Redis was emptied."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from operator import attrgetter

from msgspec.structs import replace

from jamboree_gym.encoding.batch_format import CODEC_RECORDS, Head
from jamboree_gym.encoding.summary_codec import decode_summary
from jamboree_gym.errors import DecodeError, StoreFull
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.backups.reader import stored_logs
from jamboree_gym.store.log import IndexEntry, or_error
from jamboree_gym.store.redis.link import AccessRefused
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.store.restore import entry_of, put_back, run_entry
from jamboree_gym.store.urls import backup_name

__all__ = [
    "COVERED",
    "NO_ROOM",
    "PARTLY_COVERED",
    "cover",
    "is_covered",
    "list_again",
    "stored_summaries",
    "uncover",
]

COVERED = "all"
UNKNOWN = "unknown"
PARTLY_COVERED = "part"
NO_ROOM = "no room"  # never stored: the server is full, or this user may not write
ATTEMPTS = 3

log = logging.getLogger(__name__)

Heads = Mapping[str, Head]


def uncover(store: RedisStore) -> None:
    """The backup may hold more than is listed: the next one who looks compares the listings."""
    for known in (COVERED, PARTLY_COVERED):
        store.listings.settle_coverage(known, UNKNOWN)


def is_covered(coverage: str) -> bool:
    """Whether the coverage marker shows what the listings contain."""
    return coverage in (COVERED, PARTLY_COVERED)


def cover(store: RedisStore, backup: BackupStore) -> str:
    """If Redis was emptied, list what the backup holds, and restore the heads of logs of records.

    The heads prevent that such a log is begun again. If the recovery is interrupted, or Redis is
    emptied meanwhile, the recovery does not count as done. Several processes may recover at once.

    Returns:
        The coverage marker: how much of the backup's data Redis lists.
    """
    coverage = store.listings.coverage()
    try:
        return coverage if is_covered(coverage) else _recover(store, backup)
    except (AccessRefused, StoreFull) as error:
        log.debug("the listings are in the backup only: %s", error)
        return NO_ROOM


def list_again(store: RedisStore, backup: BackupStore) -> None:
    """List what the backup has got since its listings were recovered; nobody waits for that.

    A copier that was stopped while Redis was emptied may have been killed after it had gone on.
    """
    with suppress(AccessRefused, StoreFull):
        for _ in range(ATTEMPTS):
            _, is_current, _ = _list_all(store, backup)
            if is_current:
                break


def _recover(store: RedisStore, backup: BackupStore) -> str:
    for _ in range(ATTEMPTS):
        ours = secrets.token_hex(8)
        store.listings.put_coverage(ours)
        listed, is_current, has_room = _list_all(store, backup)
        reached = COVERED if has_room else PARTLY_COVERED
        if is_current and store.listings.settle_coverage(ours, reached):
            if listed:
                log.info("%d episodes of %s are listed again", listed, backup_name(backup.where))
            return reached
        coverage = store.listings.coverage()
        if is_covered(coverage):  # another process has recovered them
            return coverage
    return NO_ROOM


def _list_all(store: RedisStore, backup: BackupStore) -> tuple[int, bool, bool]:
    """List episodes as far as there is room, and restore the heads of all logs of records.

    Returns:
        How many episodes were not listed before; whether nothing was deleted meanwhile; whether
        there was room for all of them.
    """
    standing, deleted = store.restorer.standing(), store.deletions.waiting()
    identity = backup.identity()
    listed, has_room = 0, True
    for some in backup.heads():
        heads = _readable(some, deleted)
        try:
            listed += _list_some(store, backup, heads, standing) if has_room else 0
        except StoreFull:
            has_room = False
        for key, head in heads.items():
            if head.codec == CODEC_RECORDS:
                back = replace(head, held=head.count, acked=head.count)
                run = run_entry(store, key, head)
                with suppress(DecodeError):  # of a damaged head in Redis: `verify` reports it
                    store.restorer.restore(key, back, (), run, standing=standing, backup=identity)
    return listed, store.restorer.standing() == standing, has_room


def _list_some(store: RedisStore, backup: BackupStore, heads: Heads, standing: str) -> int:
    """List the episodes among some logs; return how many were not listed before."""
    entries, by_run, listed = list(_entries(store, heads)), attrgetter("run"), 0
    behind = list[str]()
    for _, of_run in groupby(sorted(entries, key=by_run), by_run):
        group = list(of_run)
        new = store.listings.list_episodes(group, standing=standing) or 0
        behind += _listed_behind(store, group) if new < len(group) else ()
        listed += new
    _put_back(store, backup, behind, standing)
    return listed


def _listed_behind(store: RedisStore, entries: Sequence[IndexEntry]) -> Iterator[str]:
    """Keys of episodes of one run that are listed with fewer steps, or no end.

    A backup that was killed has copied what it had read before Redis was emptied.
    """
    listed = store.listings.of_episodes(entries[0].run, [entry.name for entry in entries])
    for entry in entries:
        if listed.get(entry.name, entry.summary) == entry.summary:
            continue
        with suppress(DecodeError):  # of a damaged summary: `verify` reports it
            ours, theirs = (
                decode_summary(one, episode_id=entry.name, where=entry.run)
                for one in (listed[entry.name], entry.summary)
            )
            has_ended = ours.status == "running" != theirs.status
            if ours.steps < theirs.steps or (ours.steps == theirs.steps and has_ended):
                yield store.keyspace.episode(entry.name)


def _put_back(store: RedisStore, backup: BackupStore, keys: Sequence[str], standing: str) -> None:
    """Restore logs, with their entries in the listings, unless Redis holds as much."""
    identity = backup.identity()
    for key, found in stored_logs(backup, sorted(keys)):
        if isinstance(found, tuple):
            with suppress(DecodeError):  # a read of this log raises it
                put_back(store, key, *found, backup=identity, standing=standing)


def stored_summaries(store: RedisStore, backup: BackupStore, run: str) -> dict[str, bytes]:
    """Summaries of a run from the backup, by episode id."""
    deleted = store.deletions.waiting()
    return {
        entry.name: entry.summary
        for some in backup.heads(run)
        for entry in _entries(store, _readable(some, deleted))
    }


def _readable(heads: Mapping[str, Head | DecodeError], deleted: set[str]) -> Heads:
    """The heads that are neither damaged (`verify` reports those) nor deleted."""
    return {
        key: head for key, head in heads.items() if isinstance(head, Head) and key not in deleted
    }


def _entries(store: RedisStore, heads: Heads) -> Iterable[IndexEntry]:
    for key, head in heads.items():
        entry = or_error(partial(entry_of, store, key, head))
        if isinstance(entry, DecodeError):
            log.warning("%s", entry)
        elif entry is not None:
            yield entry
