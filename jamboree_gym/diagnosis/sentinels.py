"""Sentinels, if they name the Redis: whether they can do a failover, and to what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jamboree_gym.diagnosis.finding import Finding, note, ok, problem
from jamboree_gym.store.redis.opening.sentinels import PrimaryPool, SentinelReport
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.wording import counted

__all__ = ["check_sentinels"]

ENOUGH_SENTINELS = 3


def check_sentinels(store: RedisStore, info: Mapping[str, Any]) -> Iterator[Finding]:
    """Look at the Sentinels of a store, if it has any; `info` is what its primary says."""
    pool = None if store.link.is_cluster else store.client.connection_pool
    if isinstance(pool, PrimaryPool):
        yield _primary(store.address(), info)
        yield _sentinels(store.run(pool.reports))


def _primary(address: str, info: Mapping[str, Any]) -> Finding:
    check = "redis primary"
    replicas = [one for name, one in info.items() if name.startswith("slave") and _is_online(one)]
    if not replicas:
        found = f"{address}, without a replica"
        return problem(check, found, "start a replica: none could take its place")
    return ok(check, f"{address}, with {counted(len(replicas), 'replica')}")


def _is_online(replica: object) -> bool:
    return isinstance(replica, Mapping) and replica.get("state") == "online"


def _sentinels(reports: Sequence[SentinelReport]) -> Finding:
    check = "redis sentinels"
    well = [one for one in reports if one.error is None]
    silent = [one.where for one in reports if one.error is not None]
    quorum = max((one.quorum for one in well), default=0)
    found = f"{len(well)} of {len(reports)} answer, {quorum} have to agree"
    if silent:
        return problem(check, f"{found}; not {', '.join(silent)}", "start them")
    if len({one.primary for one in well}) > 1:
        return problem(check, f"{found}; they name different primaries", "look at their logs")
    if max(one.others for one in well) + 1 < ENOUGH_SENTINELS:
        mend = (
            "start three on different machines: one alone cannot tell a failure from a bad network"
        )
        return note(check, found, mend)
    return ok(check, found)
