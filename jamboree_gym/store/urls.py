"""URLs of stores: what of them can be shown, and which would be misread."""

from __future__ import annotations

import re

__all__ = ["EMBEDDED", "backed_up_to", "hosts_of", "is_cut_short", "mask_password"]

EMBEDDED = "the embedded server"
_AUTHORITY_ENDS = re.compile("[/?#]")


def is_cut_short(url: str) -> bool:
    """Whether an `@` stands where a path or options are.

    A password that holds a `/`, `?` or `#` and is not quoted ends there for whoever parses the URL:
    its user would be taken for the host, and the beginning of the password for the port.
    """
    _, _, behind_scheme = url.partition("://")
    return "@" in "".join(_AUTHORITY_ENDS.split(behind_scheme, maxsplit=1)[1:])


def mask_password(url: str) -> str:
    """A store URL as it can be shown, however badly its password is quoted."""
    scheme, colon, rest = url.partition("://")
    login, at, hosts = rest.rpartition("@")
    user, has_password, _ = login.partition(":")
    shown = f"{user}:***" if has_password else login
    hosts = re.sub(r"(?i)([?&][^=&]*password=)[^&]*", r"\1***", hosts)
    return f"{scheme}{colon}{shown}{at}{hosts}"


def hosts_of(url: str) -> str:
    """The hosts of a URL; never a user or a password, however badly they are quoted."""
    return url.partition("://")[2].rpartition("@")[2].partition("/")[0].partition("?")[0]


def backed_up_to(mongo_url: str | None) -> str:
    """Where a namespace is copied to, in words: hosts, or `EMBEDDED`."""
    return EMBEDDED if mongo_url is None else hosts_of(mongo_url)
