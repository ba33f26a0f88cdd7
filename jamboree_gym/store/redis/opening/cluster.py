"""The servers of a cluster by URL."""

from __future__ import annotations

import re

from redis.exceptions import RedisError

from jamboree_gym.errors import InvalidUrl
from jamboree_gym.store.redis.cluster.nodes import Nodes
from jamboree_gym.store.redis.opening.options import (
    addresses_in,
    options_in,
    unreadable_url,
    usual_options,
)
from jamboree_gym.store.urls import is_cut_short, scheme_of

__all__ = ["is_of_cluster", "nodes_from_url"]

CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")
USUAL_PORT = 6379
_URL = re.compile(
    r"(?P<scheme>rediss?)\+cluster://(?P<login>[^/?#]*@)?(?P<hosts>[^/?#@]+)"
    r"(?:/(?P<database>[^/?#]*))?(?P<query>\?[^#]*)?"
)


def is_of_cluster(url: str) -> bool:
    """Whether a URL is that of a cluster."""
    return scheme_of(str(url)) in CLUSTER_SCHEMES


def nodes_from_url(url: str) -> Nodes:
    """The servers by a URL `redis+cluster://user:password@host:port,host:port`. Connects to none.

    Raises:
        InvalidUrl: It cannot be read, or names a database.
    """
    scheme = url.partition("://")[0]
    found = None if is_cut_short(url) else _URL.fullmatch(url)
    if found is not None:
        try:
            addresses = addresses_in(found["hosts"], USUAL_PORT)
            options, has_tls = options_in(found)
            database = options.pop("db", 0)
            if not database:
                nodes = Nodes(addresses, usual_options() | options, has_tls=has_tls)
                # Refuses options, and connects to nothing; kept as in `client.py`.
                pool = nodes.at(*addresses[0]).client.connection_pool
                vars(nodes)["never_used"] = pool.connection_class(**pool.connection_kwargs)
                return nodes
        except (TypeError, ValueError, RedisError):
            pass  # its message may quote the URL, and would stay with an error raised here
        else:
            raise InvalidUrl(
                f"redis_url names the database {database}, and a cluster has 0 alone; use "
                f"{scheme}://host:{USUAL_PORT},host:{USUAL_PORT}, and namespaces to keep projects "
                "apart"
            )
    raise unreadable_url(scheme)
