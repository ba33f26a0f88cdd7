"""Finds the logs that may be evicted, the oldest first, from the heads of all logs."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from jamboree_gym.backup.eviction.policy import RetentionPolicy
from jamboree_gym.encoding.batch_format import CODEC_STEPS, Head
from jamboree_gym.encoding.summary_codec import StoredSummary, decode_stored_summary
from jamboree_gym.errors import DecodeError
from jamboree_gym.reading.finding.filters import Found
from jamboree_gym.store.redis.eviction import Candidate
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["MAX_CANDIDATES", "candidates_among", "find_candidates"]

MAX_CANDIDATES = 200_000  # only the oldest; the next search finds more


def find_candidates(store: RedisStore, policy: RetentionPolicy) -> Iterator[list[Candidate]]:
    """Search all logs in Redis.

    Yields:
        The candidates found so far, after every few hundred logs.
    """
    found: list[Candidate] = []
    for heads in store.eviction.heads():
        found += candidates_among(store, policy, heads)
        if len(found) > 2 * MAX_CANDIDATES:
            found = heapq.nsmallest(MAX_CANDIDATES, found)
        yield found


def candidates_among(
    store: RedisStore, policy: RetentionPolicy, heads: Mapping[str, Head]
) -> Iterator[Candidate]:
    """Logs from which something may be evicted, judging by their heads."""
    episodes = _episodes(store, heads)
    protected = _protected_ids(store, policy, list(episodes.values()))
    for key, head in heads.items():
        summary = episodes.get(key)
        if head.codec == CODEC_STEPS and (summary is None or summary.id in protected):
            continue
        candidate = _candidate(key, head, summary)
        if candidate is not None:
            yield candidate


def _episodes(store: RedisStore, heads: Mapping[str, Head]) -> dict[str, StoredSummary]:
    """Summaries by log. Logs with a damaged summary are left out, and so are their episodes."""
    found: dict[str, StoredSummary] = {}
    for key, head in heads.items():
        if head.codec != CODEC_STEPS:
            continue
        episode_id = store.keyspace.episode_id(key)
        try:
            found[key] = decode_stored_summary(head.note, episode_id=episode_id, where=key)
        except DecodeError:
            continue
    return found


def _protected_ids(store: RedisStore, policy: RetentionPolicy, episodes: Found) -> set[str]:
    """Ids of the episodes that a rule keeps."""
    filters = policy.filters()
    if not filters:
        return set()
    living = store.leases.living({one.writer.hex() for one in episodes if one.status == "running"})
    as_of_now = [
        one
        if one.status != "running" or one.writer.hex() in living
        else replace(one, status="interrupted")
        for one in episodes
    ]
    return {one.id for rule in filters for one in rule.among(as_of_now)}


def _candidate(key: str, head: Head, summary: StoredSummary | None) -> Candidate | None:
    """A log from which something may be evicted: a finished episode whole, other logs in part.

    Of a log that goes in part, the age of the oldest batch is unknown here; the Lua script checks
    it.
    """
    is_over = summary is not None and summary.status != "running"
    if is_over and head.acked == head.count:
        return Candidate(head.t_last, key, head.born, head.revision)
    if head.acked <= head.held:
        return None
    return Candidate(head.born, key, head.born, 0)
