"""Restores a log from the backup to Redis: whole, or first its head and then its batches."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from jamboree_gym.encoding.batch_format import CODEC_STEPS, Head
from jamboree_gym.encoding.summary_codec import decode_episode_note, encode_summary
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.backups.reader import StoredBatches, checked_chain
from jamboree_gym.store.log import BackupIdentity, IndexEntry
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.store.urls import backup_name

__all__ = ["entry_of", "put_back", "refill", "run_entry"]

PAGE_BYTES = 8 << 20


def entry_of(store: RedisStore, key: str, head: Head) -> IndexEntry | None:
    """The listing entry of an episode; None for other logs. A damaged note raises `DecodeError`."""
    if head.codec != CODEC_STEPS:
        return None
    episode_id = store.keyspace.episode_id(key)
    summary, _ = decode_episode_note(head.note, episode_id=episode_id, where=key)
    written_at = summary.started_at + summary.elapsed_s
    return IndexEntry(episode_id, encode_summary(summary), summary.run, written_at)


def run_entry(store: RedisStore, key: str, head: Head) -> IndexEntry | None:
    """What names the run of a log of sessions, metrics or checkpoints; None for other logs."""
    run = store.keyspace.run_of(key)
    return None if run is None else IndexEntry("", b"", run, head.t_last)


def put_back(
    store: RedisStore,
    key: str,
    head: Head,
    blobs: Iterator[bytes],
    *,
    backup: BackupIdentity,
    standing: str,
    instead_of: bytes = b"",
) -> bool:
    """Restore a log: whole if it is small, else only its head, for `refill`.

    Args:
        store: The destination.
        key: The log.
        head: The log's head in the backup.
        blobs: All batches in the backup; all are checked before anything is restored.
        backup: Identity of that backup.
        standing: State of Redis before the backup was asked.
        instead_of: A damaged head in Redis, whose log is replaced if the backup has all of it.

    Returns:
        False if Redis already holds as much or more, or a different log, or if a log was deleted or
        Redis emptied meanwhile.

    Raises:
        DecodeError: A batch is damaged or missing.
        StoreFull: Redis has no memory left.
    """
    batches, size, where = list[bytes](), 0, f"{backup_name(backup.where)}: {key}"
    newest, common = None, b""
    for batch in checked_chain(blobs, head, where=where):
        size += len(batch.blob)
        if size <= PAGE_BYTES:
            batches.append(batch.blob)
            continue
        if newest is None:
            newest = _newest_batch(store, key)
            common = newest if newest in batches else b""
        common = newest if newest == batch.blob else common
    is_whole = size <= PAGE_BYTES
    back = replace(head, acked=head.count, held=0 if is_whole else head.count)
    entry = entry_of(store, key, head) or run_entry(store, key, head)
    there = batches if is_whole else ()
    return store.restorer.restore(
        key,
        back,
        there,
        entry,
        standing=standing,
        backup=backup,
        instead_of=instead_of,
        newest=common,
    )


def _newest_batch(store: RedisStore, key: str) -> bytes:
    """The newest batch that Redis holds of a log; empty if there is none, or it is damaged."""
    try:
        found = store.last(key, 1)
    except DecodeError:
        return b""
    return found.batches[-1].blob if found is not None and found.batches else b""


def refill(
    store: RedisStore, key: str, head: Head, stored: StoredBatches, *, max_bytes: float
) -> bool:
    """Restore evicted batches in front of those that Redis holds, the newest first.

    `head` is the log's head in Redis. If the batches are larger than `max_bytes`, none is restored.
    If the call is interrupted, or Redis has no more room, the batches restored so far stay.

    Returns:
        Whether all batches were restored.

    Raises:
        DecodeError: A batch is damaged or missing.
        StoreFull: Redis has no memory left.
    """
    while head.held > head.first:
        newest = stored.covering(head.held - 1, head.held)[0]
        row_bytes = len(newest.blob) / newest.count
        if row_bytes * (head.held - head.first) > max_bytes:
            return False
        rows = max(1, int(PAGE_BYTES / row_bytes))
        page = stored.covering(max(head.first, head.held - rows), head.held)
        batches = [batch.blob for batch in page]
        if not store.restorer.refill(key, head, page[0].start, batches):
            return False
        head = replace(head, held=page[0].start)
    return True
