"""Redis: whether it answers, how quickly, whether it would lose data, and what its clock says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import redis
from redis.exceptions import RedisError

from jamboree_gym.diagnosis.cluster import check_cluster
from jamboree_gym.diagnosis.finding import Finding, note, ok, problem
from jamboree_gym.diagnosis.sentinels import check_sentinels
from jamboree_gym.errors import JamboreeError
from jamboree_gym.store.redis.opening.sentinels import address_of
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["check_redis"]

TRIES = 20
SLOW_S = 0.01
CLOCK_S = 1.0  # a lease lives for some seconds
FULL_SHARE = 0.9
MACHINE_SHARE = 0.5  # of the memory of its machine
MIB = 1 << 20
_APPEND_ONLY = "CONFIG SET appendonly yes, and the same in redis.conf"


def check_redis(store: RedisStore, clock: Callable[[], float]) -> Iterator[Finding]:
    """Look at a server that answers; of a cluster at all primaries."""
    servers = store.run(lambda: [(one, cast(Any, one.info())) for one in store.link.servers()])
    first = servers[0][1]
    yield _version(store, first)
    yield from check_sentinels(store, first)
    if store.link.is_cluster:
        yield from check_cluster([(address_of(client), info) for client, info in servers])
    yield _latency(store)
    yield _clock(store, clock)
    yield from _memory(store, first)
    disks = [_append_only(*one) for one in servers]
    yield next((one for one in disks if one.level != "ok"), disks[0])
    yield _layout(store)


def _version(store: RedisStore, info: Mapping[str, Any]) -> Finding:
    name = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    found = f"{name} {info.get('valkey_version', info['redis_version'])} at {store.where}"
    try:
        store.check()
    except JamboreeError as error:
        return problem("redis", str(error), "use Redis 7.0 or newer, or any Valkey")
    return ok("redis", found)


def _latency(store: RedisStore) -> Finding:
    took = []
    for _ in range(TRIES):
        began = time.perf_counter()
        store.time()
        took.append(time.perf_counter() - began)
    median_s = sorted(took)[TRIES // 2]
    found = f"a round trip takes {median_s * 1000:.2f} ms"
    if median_s > SLOW_S:
        mend = "use a Redis that is nearer; write='sync' and reads wait for it"
        return note("redis latency", found, mend)
    return ok("redis latency", found)


def _clock(store: RedisStore, clock: Callable[[], float]) -> Finding:
    before = clock()
    there = store.time()
    here = (before + clock()) / 2
    apart = there - here
    if abs(apart) < CLOCK_S:
        return ok("redis clock", f"{abs(apart) * 1000:.0f} ms from the clock of this machine")
    return problem(
        "redis clock",
        f"{abs(apart):,.1f} s {'ahead of' if apart > 0 else 'behind'} this machine",
        "set both clocks by NTP: times of episodes and --since would be wrong",
    )


def _memory(store: RedisStore, info: Mapping[str, Any]) -> Iterator[Finding]:
    memory, machine_bytes = store.eviction.memory(), info.get("total_system_memory", 0)
    check, policy = "redis memory", memory.policy
    used = f"uses {memory.used_bytes / MIB:,.0f} MiB"
    if memory.max_bytes is None:
        is_much = 0 < machine_bytes < memory.used_bytes / MACHINE_SHARE
        if is_much and store.eviction.policy() is None:
            found = f"{used} of the {machine_bytes / MIB:,.0f} MiB of its machine, without a limit"
            yield note(check, found, "jamboree-gym backup retain --max-redis-bytes SIZE")
        else:
            yield ok(check, f"{used}, no maxmemory")
    elif memory.used_bytes > FULL_SHARE * memory.max_bytes:
        yield problem(
            check,
            f"{used} of maxmemory {memory.max_bytes / MIB:,.0f} MiB",
            "jamboree-gym backup retain --max-redis-bytes SIZE, or raise maxmemory",
        )
    else:
        yield ok(check, f"{used} of maxmemory {memory.max_bytes / MIB:,.0f} MiB")
    check, mend = "redis eviction", "CONFIG SET maxmemory-policy noeviction, and in redis.conf"
    if policy == "noeviction":
        yield ok(check, "maxmemory-policy is noeviction")
    elif memory.max_bytes is not None and policy.startswith("allkeys"):
        yield problem(check, f"{policy} deletes what the backup may not hold yet", mend)
    else:
        yield note(check, f"{policy} deletes keys when maxmemory is used up", mend)


def _append_only(client: redis.Redis, info: Mapping[str, Any]) -> Finding:
    check = "redis disk"
    if not info.get("aof_enabled"):
        return problem(check, "no append-only file: a restart of Redis loses data", _APPEND_ONLY)
    if info.get("aof_last_write_status", "ok") != "ok":
        return problem(check, "the append-only file cannot be written", "free disk space there")
    try:
        found = cast(Mapping[str, str], client.config_get("appendfsync"))
    except RedisError:  # hosted servers often forbid CONFIG
        return ok(check, "append-only file on; appendfsync cannot be asked here")
    fsync = found.get("appendfsync", "")
    if fsync == "no":
        mend = "CONFIG SET appendfsync everysec, and in redis.conf"
        return note(check, "appendfsync no: a power cut loses up to half a minute", mend)
    return ok(check, f"append-only file on, appendfsync {fsync}")


def _layout(store: RedisStore) -> Finding:
    check, namespace = "namespace", store.keyspace.namespace
    is_older, number = store.buckets.look()
    if is_older:
        found = f"{namespace!r} was written by an older release"
        return problem(check, found, "end all that writes there, then: jamboree-gym migrate")
    if number is None:
        return note(check, f"{namespace!r} is empty", "the first recording makes it")
    return ok(check, f"{namespace!r} is of this release, in {int(number)} buckets")
