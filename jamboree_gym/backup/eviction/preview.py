"""What a retention policy would evict now, without evicting it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from jamboree_gym.backup.eviction.candidates import find_candidates
from jamboree_gym.backup.eviction.policy import RetentionPolicy, memory_limit
from jamboree_gym.backup.eviction.trimmer import TRIM_TO
from jamboree_gym.store.redis.eviction import Candidate
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.wording import counted

__all__ = ["WouldEvict", "preview"]

MIB = 2**20


@dataclass(frozen=True, slots=True)
class WouldEvict:
    """What would be evicted from Redis; true if that is anything. MongoDB keeps all of it.

    Attributes:
        episodes: Number of episodes.
        other_logs: Number of logs of records of which a part or all would go.
        bytes: Size of these logs in Redis; of a log that goes in part, of the whole log.
    """

    episodes: int
    other_logs: int
    bytes: int

    def __bool__(self) -> bool:
        """Whether anything would go."""
        return bool(self.episodes or self.other_logs)

    def __str__(self) -> str:
        """One line."""
        if not self:
            return "nothing would leave Redis now"
        logs = f" and parts of {counted(self.other_logs, 'other log')}" if self.other_logs else ""
        return (
            f"{counted(self.episodes, 'episode')}{logs} would leave Redis, at most "
            f"{self.bytes / MIB:,.1f} MiB; MongoDB keeps them"
        )


def preview(store: RedisStore, policy: RetentionPolicy) -> WouldEvict:
    """What a `Trimmer` with this policy would evict now.

    It does not ask MongoDB, so what MongoDB has lost meanwhile is counted, and would stay.
    """
    memory = store.eviction.memory()
    limit = memory_limit(policy, memory)
    is_full = limit is not None and memory.used_bytes > limit
    excess = memory.used_bytes - int(limit * TRIM_TO) if limit is not None and is_full else 0
    if policy.max_age_s is None and not is_full:
        return WouldEvict(0, 0, 0)
    before = -1.0 if policy.max_age_s is None else store.time() - policy.max_age_s
    last = deque(find_candidates(store, policy), maxlen=1)
    found = sorted(last.pop() if last else ())
    going, freed = list[Candidate](), 0
    for one, size in zip(found, store.eviction.sizes([one.key for one in found]), strict=False):
        if one.time >= before and freed >= excess:
            break
        going.append(one)
        freed += size
    episodes = sum(store.keyspace.is_episode(one.key) for one in going)
    return WouldEvict(episodes, len(going) - episodes, freed)
