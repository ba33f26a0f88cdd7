"""What all connections to Redis have in common, and which URLs can be read."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.backoff import NoBackoff
from redis.retry import Retry

from jamboree_gym.errors import InvalidUrl
from jamboree_gym.store.urls import is_cut_short

__all__ = ["is_readable", "unreadable_url", "usual_options"]

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


def unreadable_url(scheme: str) -> InvalidUrl:
    """The error for a URL that cannot be read. It repeats nothing of it but the scheme."""
    with_tls = "rediss+sentinel://" if scheme.endswith("+sentinel") else "rediss://"
    return InvalidUrl(
        f"the host, port or database in redis_url ({scheme}://...) cannot be read, or an option; "
        "quote special characters of user and password: '/' is %2F, '@' is %40, '#' is %23; "
        f"options are those of redis-py, and ssl_... needs {with_tls}"
    )
