"""What all connections to Redis have in common, and which URLs can be read."""

from __future__ import annotations

import re
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from jamboree_gym.errors import InvalidUrl
from jamboree_gym.store.urls import is_cut_short

__all__ = ["addresses_in", "is_readable", "options_in", "unreadable_url", "usual_options"]

CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 5.0


def usual_options() -> dict[str, Any]:
    """Options with which redis-py waits for no answer long, and repeats nothing by itself."""
    return {
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": ANSWER_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": False,
    }


def is_readable(url: str) -> bool:
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


def addresses_in(hosts: str, usual_port: int) -> list[tuple[str, int]]:
    """Host and port of each of several servers that a URL names.

    Raises:
        ValueError: They cannot be read.
    """
    found = [urlsplit(f"//{one}") for one in hosts.split(",")]
    if not all(one.hostname for one in found):
        raise ValueError
    return [(unquote(one.hostname or ""), one.port or usual_port) for one in found]


def options_in(url: re.Match[str]) -> tuple[dict[str, Any], bool]:
    """Options of the connections, and whether they use TLS.

    redis-py reads `scheme`, `login`, `database` and `query` as it reads the URL of one server.

    Raises:
        ValueError: They cannot be read.
    """
    login, database, query = url["login"] or "", url["database"] or "", url["query"] or ""
    plain = f"{url['scheme']}://{login}redis/{database}{query}"
    if not is_readable(plain):
        raise ValueError
    options = cast("dict[str, Any]", parse_url(plain))  # type: ignore[no-untyped-call]
    for name in ("host", "port"):
        options.pop(name, None)
    has_tls = options.pop("connection_class", None) is not None
    if has_tls:  # redis-py checks the host's name by itself since version 6
        options.setdefault("ssl_check_hostname", options.get("ssl_cert_reqs") != "none")
    return options, has_tls


def unreadable_url(scheme: str) -> InvalidUrl:
    """The error for a URL that cannot be read. It repeats nothing of it but the scheme."""
    with_tls = f"rediss{scheme[scheme.find('+') :]}://" if "+" in scheme else "rediss://"
    return InvalidUrl(
        f"the host, port or database in redis_url ({scheme}://...) cannot be read, or an option; "
        "quote special characters of user and password: '/' is %2F, '@' is %40, '#' is %23; "
        f"options are those of redis-py, and ssl_... needs {with_tls}"
    )
