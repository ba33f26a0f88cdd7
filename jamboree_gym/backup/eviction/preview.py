"""What a retention policy would evict now, without evicting it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from jamboree_gym.backup.eviction.candidates import find_candidates
from jamboree_gym.backup.eviction.policy import RetentionPolicy, memory_limit
from jamboree_gym.backup.eviction.trimmer import TRIM_TO
from jamboree_gym.store.redis.eviction import Candidate
from jamboree_gym.store.redis.store import RedisStore

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
        logs = f" and parts of {self.other_logs:,} other logs" if self.other_logs else ""
        return (
            f"{self.episodes:,} episodes{logs} would leave Redis, at most {self.bytes / MIB:,.1f} "
            "MiB; MongoDB keeps them"
        )


def preview(store: RedisStore, policy: RetentionPolicy) -> WouldEvict:
    """What a `Trimmer` with this policy would evict now.

    It does not ask MongoDB, so what MongoDB has lost meanwhile is counted, and would stay.
    """
    last = deque(find_candidates(store, policy), maxlen=1)
    found = sorted(last.pop() if last else ())
    before = -1.0 if policy.max_age_s is None else store.time() - policy.max_age_s
    aged = [one for one in found if one.time < before]
    sizes = store.eviction.sizes([one.key for one in aged])
    going, freed = list(aged), sum(sizes)
    memory = store.eviction.memory()
    limit = memory_limit(policy, memory)
    if limit is not None and memory.used_bytes > limit:
        rest = found[len(aged) :]
        excess = memory.used_bytes - int(limit * TRIM_TO) - freed
        more, more_bytes = _first(rest, store.eviction.sizes([one.key for one in rest]), excess)
        going += more
        freed += more_bytes
    episodes = sum(store.keyspace.is_episode(one.key) for one in going)
    return WouldEvict(episodes, len(going) - episodes, freed)


def _first(
    candidates: Sequence[Candidate], sizes: Sequence[int], excess: float
) -> tuple[list[Candidate], int]:
    """The first of these that have so many bytes together."""
    taken, total = list[Candidate](), 0
    for candidate, size in zip(candidates, sizes, strict=True):
        if total >= excess:
            break
        taken.append(candidate)
        total += size
    return taken, total
