"""Whether a server can do what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import redis
from redis.exceptions import RedisError

from jamboree_gym.errors import UnsupportedServer
from jamboree_gym.store.redis.link import RedisLink
from jamboree_gym.store.redis.opening.sentinels import address_of

__all__ = ["check_server"]

OLDEST_REDIS = (7, 0)
OLDEST_WAITAOF = (7, 2)


def check_server(link: RedisLink, *, fsync: bool) -> None:
    """Make sure that all servers answer, and can do what is asked: with `fsync` also `WAITAOF`.

    Raises:
        StoreUnavailable: Nothing answers there, or it refuses the login.
        UnsupportedServer: It is not Redis, is too old, keeps no append-only file, or is a node of a
            cluster that was opened as one server.
    """
    found = link.run(lambda: [(server, cast(Any, server.info())) for server in link.servers()])
    for client, info in found:
        where = link.where if len(found) == 1 else address_of(client)
        _check_one(client, info, where, fsync=fsync)
        if info.get("cluster_enabled") and not link.is_cluster:
            raise UnsupportedServer(
                f"Redis at {where} is a node of a cluster, and holds a part alone: use "
                f"redis+cluster://{where}"
            )


def _check_one(client: redis.Redis, info: Any, where: str, *, fsync: bool) -> None:
    if not isinstance(info, Mapping) or "redis_version" not in info:
        raise UnsupportedServer(f"{where} answers, but not as Redis or Valkey does")
    name = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    server = f"{name} {info.get('valkey_version', info['redis_version'])} at {where}"
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    if version < OLDEST_REDIS:
        raise UnsupportedServer(f"{server} is too old: Redis 7.0 or any Valkey is needed")
    if fsync and version < OLDEST_WAITAOF:
        raise UnsupportedServer(
            f'write="fsync" needs WAITAOF, which {server} does not have: '
            'use Redis 7.2 or Valkey, or write="sync"'
        )
    if fsync and not info.get("aof_enabled"):
        raise UnsupportedServer(
            f'write="fsync" needs an append-only file, which {server} does not keep: '
            "start it with --appendonly yes"
        )
    if fsync and _never_syncs(client):
        raise UnsupportedServer(
            f'write="fsync" needs appendfsync everysec or always, but {server} leaves it to the '
            "operating system: start it with --appendfsync everysec"
        )


def _never_syncs(client: redis.Redis) -> bool:
    try:
        setting = cast("Mapping[str, str]", client.config_get("appendfsync"))
    except RedisError:  # hosted servers often forbid CONFIG; WAITAOF will tell
        return False
    return setting.get("appendfsync") == "no"
