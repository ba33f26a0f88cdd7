"""Eviction: removes from Redis what the backup holds, the oldest first."""

from __future__ import annotations

import heapq
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from jamboree_gym.backup.eviction.candidates import (
    MAX_CANDIDATES,
    candidates_among,
    find_candidates,
)
from jamboree_gym.backup.eviction.policy import RetentionPolicy, load_policy, memory_limit
from jamboree_gym.encoding.batch_format import Head
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.redis.eviction import Candidate, Memory
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["Trimmed", "Trimmer"]

TRIM_TO = 7 / 8  # evict down to this share of the limit, so that eviction rests between turns
UNLISTED_SHARE = 1 / 4  # share of the limit that removing summaries frees at once
LOGS_AT_ONCE = 100
CHECK_EVERY_S = 0.1
TURN_S = 0.2  # length of one turn of searching and evicting; then the backup copies again
SEARCH_PAUSE_SHARE = 2  # a search takes at most a third of the time: copying frees memory, too
SEARCH_AGAIN_S = 10.0  # shortest pause between searches ...
SEARCH_AGAIN_SHARE = 5  # ... and at least this many times as long as the last search took
AGE_SEARCH_S = (1.0, 60.0)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What was evicted from Redis.

    Attributes:
        freed_bytes: Bytes of logs, approximately.
        summaries: Number of episodes that are no longer listed in Redis.
    """

    freed_bytes: int
    summaries: int

    def __str__(self) -> str:
        """One line."""
        return f"{self.freed_bytes:,} bytes of logs and {self.summaries:,} summaries evicted"


class Trimmer:
    """Applies the retention policy of a namespace.

    It evicts only what the backup has acknowledged, and asks it once more before each eviction.

    Args:
        store: The store that evicts.
        backup: The backup that must hold the data.

    Attributes:
        policy: The policy as it was read last.
        is_behind: Whether the last turn left something to do.
        is_limited: Whether the server's memory, or the age of the data, had a limit then.
    """

    def __init__(self, store: RedisStore, backup: BackupStore) -> None:
        self._store = store
        self._backup = backup
        self._eviction = store.eviction
        self.policy = RetentionPolicy()
        self.is_behind = self.is_limited = False
        self._candidates: list[Candidate] = []  # a heap
        self._found: list[Candidate] = []
        self._added: list[Candidate] = []  # candidates added since the search began
        self._search: Iterator[list[Candidate]] | None = None
        self._unlisting: Iterator[int] | None = None
        self._search_began = 0.0
        self._search_at = self._check_at = self._age_search_at = self._next_turn_at = -math.inf
        self._has_searched = False  # since summaries were last removed from the listings
        self._freed = self._unlisted = 0
        self._has_warned = False

    def trim(self) -> Trimmed:
        """Evict everything that is due now.

        Raises:
            StoreUnavailable: The backup or Redis does not answer.
            DecodeError: The policy is damaged.
        """
        self._load()
        self._begin_search()
        while self._search is not None:
            self._continue_search()
        self._trim_by_age()
        excess, limit = self._excess()
        excess -= self._trim_by_size(excess)
        if excess > 0:
            self._begin_unlisting(excess + limit * UNLISTED_SHARE)
        while self._unlisting is not None:
            self._continue_unlisting()
        return Trimmed(self._freed, self._unlisted)

    def work_for_a_turn(self) -> None:
        """Work for some tenths of a second at most on what is due. Call it again and again.

        Raises:
            StoreUnavailable: The backup or Redis does not answer.
            DecodeError: The policy is damaged.
        """
        now = time.monotonic()
        if now < self._check_at:
            return
        self._check_at = now + CHECK_EVERY_S
        self._load()
        excess, limit = self._excess()
        self._search_if_due(excess)
        until = time.monotonic() + TURN_S
        excess -= self._trim_by_age(until)
        excess -= self._trim_by_size(excess, until)
        is_lacking = excess > 0 and not self._candidates and self._has_searched
        if is_lacking and self._unlisting is None:
            self._begin_unlisting(excess + limit * UNLISTED_SHARE)
        self._search_for_a_turn(lambda: self._unlisting is not None, self._continue_unlisting)
        is_searching = self._search is not None or self._unlisting is not None
        self.is_behind = excess > 0 or is_searching

    def add(self, heads: Mapping[str, Head]) -> None:
        """Add logs that the backup has just acknowledged to the candidates; no search is needed."""
        if self.is_limited and len(self._candidates) < MAX_CANDIDATES:
            for one in candidates_among(self._store, self.policy, heads):
                heapq.heappush(self._candidates, one)
                if self._search is not None:  # the running search may already have passed this log
                    self._added.append(one)

    def _load(self) -> None:
        policy = load_policy(self._store, self._backup)
        if policy != self.policy:
            self.policy, self._candidates, self._search = policy, [], None
            self._search_at = self._age_search_at = -math.inf

    def _excess(self) -> tuple[float, int]:
        """Number of bytes above the target, and the limit."""
        memory = self._eviction.memory()
        self._warn(memory)
        limit = memory_limit(self.policy, memory)
        self.is_limited = limit is not None or self.policy.max_age_s is not None
        if limit is None or memory.used_bytes <= limit:
            return 0, limit or 0
        return memory.used_bytes - int(limit * TRIM_TO), limit

    def _warn(self, memory: Memory) -> None:
        """Warn once if the server evicts data that has no backup."""
        if memory.max_bytes and memory.policy.startswith("allkeys") and not self._has_warned:
            self._has_warned = True
            log.warning(
                "Redis at %s has maxmemory-policy %s: when it is full it throws away what is not "
                "backed up, too; set it to noeviction, and the backup makes room",
                self._store.where,
                memory.policy,
            )

    # -- searching for candidates -----------------------------------------------------------

    def _search_if_due(self, excess: float) -> None:
        now = time.monotonic()
        is_due = excess > 0 and not self._candidates and now >= self._search_at
        if self.policy.max_age_s is not None and now >= self._age_search_at:
            is_due = True
        if is_due and self._search is None:
            self._begin_search()
        self._search_for_a_turn(lambda: self._search is not None, self._continue_search)

    def _begin_search(self) -> None:
        self._search_began = time.monotonic()
        self._added = []
        self._search = find_candidates(self._store, self.policy)
        if self.policy.max_age_s is not None:
            shortest, longest = AGE_SEARCH_S
            pause_s = min(max(self.policy.max_age_s / 10, shortest), longest)
            self._age_search_at = self._search_began + pause_s

    def _continue_search(self) -> None:
        found = next(self._search or iter(()), None)
        if found is not None:
            self._found = found
            return
        self._candidates = self._found + self._added
        heapq.heapify(self._candidates)
        self._found, self._added, self._search = [], [], None
        self._has_searched = True
        now = time.monotonic()
        took_s = now - self._search_began
        self._search_at = now + max(SEARCH_AGAIN_S, took_s * SEARCH_AGAIN_SHARE)
        self._age_search_at = max(self._age_search_at, self._search_at)

    def _search_for_a_turn(
        self, is_running: Callable[[], bool], advance: Callable[[], None]
    ) -> None:
        """Run a search of Redis for one turn, if it is due."""
        began = time.monotonic()
        if not is_running() or began < self._next_turn_at:
            return
        while is_running() and time.monotonic() < began + TURN_S:
            advance()
        now = time.monotonic()
        self._next_turn_at = now + (now - began) * SEARCH_PAUSE_SHARE

    # -- evicting ---------------------------------------------------------------------------

    def _trim_by_age(self, until: float = math.inf) -> float:
        """Evict what is too old, until a time; return the number of bytes."""
        freed = 0.0
        if self.policy.max_age_s is not None:
            before = self._store.time() - self.policy.max_age_s
            while time.monotonic() < until and (portion := self._oldest(before)):
                freed += self._trim_portion(portion, before)
        return freed

    def _trim_by_size(self, excess: float, until: float = math.inf) -> float:
        """Evict this many bytes, until a time; return the number of bytes evicted."""
        freed = 0.0
        while freed < excess and time.monotonic() < until:
            portion = self._oldest(math.inf)
            if not portion:
                break
            before = math.nextafter(portion[-1].time, math.inf) if self._candidates else math.inf
            freed += self._trim_portion(portion, before, enough_bytes=excess - freed)
        return freed

    def _oldest(self, before: float) -> list[Candidate]:
        """Take the oldest candidates that are older than this time."""
        portion: list[Candidate] = []
        while (
            self._candidates and self._candidates[0].time < before and len(portion) < LOGS_AT_ONCE
        ):
            portion.append(heapq.heappop(self._candidates))
        return portion

    def _trim_portion(
        self, portion: list[Candidate], before: float, *, enough_bytes: float = math.inf
    ) -> int:
        counts = self._backup.counts([one.key for one in portion])
        backed_up = {
            one.key: counts[one.key].records
            for one in portion
            if one.key in counts and counts[one.key].born == one.born
        }
        evicted = self._eviction.trim(portion, backed_up, before=before, enough_bytes=enough_bytes)
        for one in evicted.retry_later:
            heapq.heappush(self._candidates, one)
        self._freed += evicted.freed_bytes
        return evicted.freed_bytes

    # -- listings ---------------------------------------------------------------------------

    def _begin_unlisting(self, excess: float) -> None:
        self._has_searched = False
        self._unlisting = self._unlist(excess)

    def _continue_unlisting(self) -> None:
        if next(self._unlisting or iter(()), None) is None:
            self._unlisting = None

    def _unlist(self, excess: float) -> Iterator[int]:
        """Remove from the listings the episodes that only the backup holds, the oldest run first.

        Yields:
            Number of bytes freed so far.
        """
        freed = 0
        for run in self._store.listings.runs():
            for sizes in self._eviction.listed_only(run):
                keys = {self._store.keyspace.episode(id): id for id in sizes}
                ids = [keys[key] for key in self._backup.counts(list(keys))]
                self._eviction.unlist(run, ids)
                freed += sum(sizes[id] for id in ids)
                self._unlisted += len(ids)
                yield freed
                if freed >= excess:
                    return
