"""Repairs listings with damaged summaries: the head of the episode's log holds a copy."""

from __future__ import annotations

from collections.abc import Collection

from jamboree_gym.encoding.batch_format import Head
from jamboree_gym.encoding.summary_codec import decode_summaries
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.mongo.documents import StoredLog
from jamboree_gym.store.mongo.store import MongoStore
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.store.restore import entry_of

__all__ = ["damaged_summaries", "mend_listings"]


def damaged_summaries(store: RedisStore) -> dict[str, DecodeError]:
    """Describe the damaged summaries in Redis' listings, by the key of the episode's log."""
    keyspace = store.keyspace
    return {
        keyspace.episode(episode_id): DecodeError(f"{keyspace.summaries(run)}: {error}")
        for run in store.listings.runs()
        for episode_id, error in decode_summaries(store.listings.summaries(run))[1].items()
    }


def mend_listings(
    store: RedisStore, mongo: MongoStore, keys: Collection[str] | None = None
) -> tuple[int, list[DecodeError]]:
    """Rewrite the damaged summaries in the listings.

    Args:
        store: The store with the listings.
        mongo: Searched for a log that Redis does not have.
        keys: Only these logs; None = all.

    Returns:
        Number of summaries repaired, and the errors of the others.
    """
    mended, failures = 0, []
    for run in store.listings.runs():
        entries = store.listings.summaries(run)
        for episode_id, error in decode_summaries(entries)[1].items():
            key = store.keyspace.episode(episode_id)
            if keys is not None and key not in keys:
                continue
            damage = f"{store.keyspace.summaries(run)}: {error}"
            try:
                entry = entry_of(store, key, _head(store, mongo, key))
            except DecodeError as again:
                failures.append(DecodeError(f"{damage}; {again}"))
            else:
                if entry is not None and store.listings.mend(
                    run, entry, instead_of=entries[episode_id]
                ):
                    mended += 1
    return mended, failures


def _head(store: RedisStore, mongo: MongoStore, key: str) -> Head:
    head = store.head(key)
    if head is not None:
        return head
    kept = mongo.logs([key]).get(key)
    if isinstance(kept, StoredLog):
        return kept.head
    raise kept or DecodeError(f"{key} is neither in Redis nor in MongoDB: it can only be deleted")
