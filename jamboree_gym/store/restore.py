"""A log as it comes back from MongoDB into Redis: whole, or its head first and then its frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from jamboree_gym.encoding.batch_format import CODEC_STEPS, Head
from jamboree_gym.encoding.summary_codec import decode_episode_note, encode_summary
from jamboree_gym.store.log import IndexEntry, MongoIdentity
from jamboree_gym.store.mongo.frame_reader import KeptFrames
from jamboree_gym.store.mongo.reader import checked_chain
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["entry_of", "put_back", "refill"]

PAGE_BYTES = 8 << 20


def entry_of(store: RedisStore, key: str, head: Head) -> IndexEntry | None:
    """Where an episode is listed; None of other logs.

    Raises:
        DecodeError: Its note is damaged.
    """
    if head.codec != CODEC_STEPS:
        return None
    episode_id = store.keyspace.episode_id(key)
    summary, _ = decode_episode_note(head.note, episode_id=episode_id, where=key)
    written_at = summary.started_at + summary.elapsed_s
    return IndexEntry(episode_id, encode_summary(summary), summary.run, written_at)


def put_back(
    store: RedisStore,
    key: str,
    head: Head,
    blobs: Iterator[bytes],
    *,
    mongo: MongoIdentity,
    standing: str,
    instead_of: bytes = b"",
) -> bool:
    """Put a log back: whole if it is not large, else its head alone, for `refill`.

    Args:
        store: Where to.
        key: The log.
        head: Its head in MongoDB.
        blobs: All its frames there; checked to the last before anything is put back.
        mongo: Which one that is.
        standing: How things stood before MongoDB was asked.
        instead_of: A damaged head in Redis, whose log is replaced if MongoDB has all of it.

    Returns:
        False when Redis already holds as much or more, or something else, or anything was deleted
        meanwhile, or Redis emptied.

    Raises:
        DecodeError: A frame is damaged or missing.
        StoreFull: Redis takes no more.
    """
    frames, size, where = list[bytes](), 0, f"MongoDB at {mongo.where}: {key}"
    for frame in checked_chain(blobs, head, where=where):
        size += len(frame.blob)
        if size <= PAGE_BYTES:
            frames.append(frame.blob)
    is_whole = size <= PAGE_BYTES
    back = replace(head, acked=head.count, held=0 if is_whole else head.count)
    entry, there = entry_of(store, key, head), frames if is_whole else ()
    return store.restorer.restore(
        key, back, there, entry, standing=standing, mongo=mongo, instead_of=instead_of
    )


def refill(store: RedisStore, key: str, head: Head, kept: KeptFrames, *, max_bytes: float) -> bool:
    """Put frames that Redis has let go of back in front of those that it has, the newest first.

    Interrupted, or where the server has no room for more, what is back by then stays.

    Args:
        store: Where to.
        key: The log.
        head: As it is in Redis.
        kept: Its frames in MongoDB.
        max_bytes: If there are more, none is put back.

    Returns:
        Whether all of them are back.

    Raises:
        DecodeError: A frame is damaged or missing.
        StoreFull: Redis takes no more.
    """
    while head.held > head.first:
        newest = kept.covering(head.held - 1, head.held)[0]
        row_bytes = len(newest.blob) / newest.count
        if row_bytes * (head.held - head.first) > max_bytes:
            return False
        rows = max(1, int(PAGE_BYTES / row_bytes))
        page = kept.covering(max(head.first, head.held - rows), head.held)
        frames = [frame.blob for frame in page]
        if not store.restorer.refill(key, head, page[0].start, frames):
            return False
        head = replace(head, held=page[0].start)
    return True
