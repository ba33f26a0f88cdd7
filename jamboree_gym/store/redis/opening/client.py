"""A redis-py client by URL."""

from __future__ import annotations

import os
from urllib.parse import unquote_to_bytes, urlsplit

import redis
from redis.exceptions import RedisError

from jamboree_gym.errors import InvalidUrl
from jamboree_gym.store.redis.opening.options import is_readable, unreadable_url, usual_options
from jamboree_gym.store.redis.opening.sentinels import SENTINEL_SCHEMES, client_by_sentinels

__all__ = ["client_from_url"]

_SCHEMES = ("redis", "rediss", "unix")


def client_from_url(url: str) -> redis.Redis:
    """A client that waits for no answer longer than a few seconds, and repeats nothing by itself.

    Raises:
        InvalidUrl: Another scheme than `redis`, `rediss`, `unix`, `redis+sentinel` or
            `rediss+sentinel`, or a malformed address. The message repeats nothing of the URL but
            its scheme, as a password may be anywhere in it. For clusters see `cluster`.
    """
    scheme, found, _ = str(url).partition("://")
    if scheme in SENTINEL_SCHEMES:
        return client_by_sentinels(url)
    if not found or scheme not in _SCHEMES:
        shown = f"scheme {scheme!r}" if found else "no scheme"
        raise InvalidUrl(
            f"redis_url has {shown}; use redis://host:port/0, rediss:// (TLS), "
            "redis+sentinel://host:port/service, redis+cluster://host:port or unix:///path/to.sock"
        )
    if is_readable(url):
        try:
            return _client_of_one_server(url, scheme)
        except (TypeError, ValueError, RedisError):
            pass  # its message may quote the URL, and would stay with an error raised here
    raise unreadable_url(scheme)


def _client_of_one_server(url: str, scheme: str) -> redis.Redis:
    client = redis.Redis.from_url(url, **usual_options())
    pool, options = client.connection_pool, client.connection_pool.connection_kwargs
    if scheme == "unix":  # redis-py takes the quoted bytes of a path for UTF-8
        path = unquote_to_bytes(os.fsencode(urlsplit(url).path))
        options["path"] = os.fsdecode(path)
    if scheme == "rediss":  # redis-py checks the host's name by itself since version 6
        options.setdefault("ssl_check_hostname", options.get("ssl_cert_reqs") != "none")
    # Refuses options, and connects to nothing. It is kept: its parser is garbage that only the
    # collector finds, and in the middle of a training could swallow a Ctrl-C.
    vars(client)["never_used"] = pool.connection_class(**options)
    return client
