"""A redis-py client by URL, and whether the server can do what is asked of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from jamboree_gym.errors import InvalidUrl, UnsupportedServer
from jamboree_gym.store.redis.link import RedisLink
from jamboree_gym.store.urls import is_cut_short

__all__ = ["check_server", "client_from_url"]

CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 5.0
OLDEST_REDIS = (7, 0)
OLDEST_WAITAOF = (7, 2)
_SCHEMES = ("redis", "rediss", "unix")


def client_from_url(url: str) -> redis.Redis:
    """A client that waits for no answer longer than a few seconds, and repeats nothing by itself.

    Raises:
        InvalidUrl: Another scheme than `redis`, `rediss` or `unix`, or a malformed address. The
            message repeats nothing of the URL but its scheme, as a password may be anywhere in it.
    """
    scheme, found, _ = str(url).partition("://")
    if not found or scheme not in _SCHEMES:
        shown = f"scheme {scheme!r}" if found else "no scheme"
        more = ": clusters are not supported yet" if scheme.endswith("cluster") else ""
        raise InvalidUrl(
            f"redis_url has {shown}{more}; use redis://host:port/0, rediss:// (TLS) or "
            "unix:///path/to.sock"
        )
    if _is_readable(url):
        try:
            client = redis.Redis.from_url(
                url,
                socket_connect_timeout=CONNECT_TIMEOUT_S,
                socket_timeout=ANSWER_TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
                decode_responses=False,
            )
            pool, options = client.connection_pool, client.connection_pool.connection_kwargs
            if scheme == "unix":  # redis-py takes the quoted bytes of a path for UTF-8
                path = unquote_to_bytes(os.fsencode(urlsplit(url).path))
                options["path"] = os.fsdecode(path)
            if scheme == "rediss":  # redis-py checks the host's name by itself since version 6
                checked = options.get("ssl_cert_reqs") != "none"
                options.setdefault("ssl_check_hostname", checked)
            # Refuses options, and connects to nothing. It is kept: its parser is garbage that only
            # the collector finds, and in the middle of a training could swallow a Ctrl-C.
            vars(client)["never_used"] = pool.connection_class(**options)
            return client
        except (TypeError, ValueError, RedisError):
            pass  # its message may quote the URL, and would stay with an error raised here
    raise InvalidUrl(
        f"the host, port or database in redis_url ({scheme}://...) cannot be read, or an option; "
        "quote special characters of user and password: '/' is %2F, '@' is %40, '#' is %23; "
        "options are those of redis-py, and ssl_... needs rediss://"
    )


def _is_readable(url: str) -> bool:
    """Whether redis-py reads the URL as it is meant: it passes over what it does not understand."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if is_cut_short(url):
        return False
    if parts.scheme == "unix":
        return parts.netloc == "" or parts.netloc.endswith("@")
    return re.fullmatch(r"/?\d*", unquote(parts.path)) is not None


def check_server(link: RedisLink, *, fsync: bool) -> None:
    """Make sure that a server answers that can do what is asked: with `fsync` also `WAITAOF`.

    Raises:
        StoreUnavailable: Nothing answers there, or it refuses the login.
        UnsupportedServer: It is not Redis, is too old, or keeps no append-only file.
    """
    info = link.run(lambda: cast(Any, link.client.info()))
    if not isinstance(info, Mapping) or "redis_version" not in info:
        raise UnsupportedServer(f"{link.where} answers, but not as Redis or Valkey does")
    name = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    server = f"{name} {info.get('valkey_version', info['redis_version'])} at {link.where}"
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
    if fsync and _never_syncs(link):
        raise UnsupportedServer(
            f'write="fsync" needs appendfsync everysec or always, but {server} leaves it to the '
            "operating system: start it with --appendfsync everysec"
        )


def _never_syncs(link: RedisLink) -> bool:
    try:
        setting = cast("Mapping[str, str]", link.client.config_get("appendfsync"))
    except RedisError:  # hosted servers often forbid CONFIG; WAITAOF will tell
        return False
    return setting.get("appendfsync") == "no"
