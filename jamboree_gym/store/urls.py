"""URLs of stores: hides their passwords, and finds URLs that would be misread."""

from __future__ import annotations

import re

__all__ = ["EMBEDDED", "backed_up_to", "hosts_of", "is_cut_short", "mask_password"]

EMBEDDED = "the embedded server"
_AUTHORITY_ENDS = re.compile("[/?#]")


def is_cut_short(url: str) -> bool:
    """Whether there is an `@` in the path or the options.

    An unquoted password that contains `/`, `?` or `#` ends there for a URL parser. The parser would
    then take the user for the host, and the beginning of the password for the port.
    """
    _, _, behind_scheme = url.partition("://")
    return "@" in "".join(_AUTHORITY_ENDS.split(behind_scheme, maxsplit=1)[1:])


def mask_password(url: str) -> str:
    """A store URL without its password, even if the password is badly quoted."""
    scheme, colon, rest = url.partition("://")
    login, at, hosts = rest.rpartition("@")
    user, has_password, _ = login.partition(":")
    shown = f"{user}:***" if has_password else login
    hosts = re.sub(r"(?i)([?&][^=&]*password=)[^&]*", r"\1***", hosts)
    return f"{scheme}{colon}{shown}{at}{hosts}"


def hosts_of(url: str) -> str:
    """The hosts of a URL, without user or password, even if these are badly quoted."""
    return url.partition("://")[2].rpartition("@")[2].partition("/")[0].partition("?")[0]


def backed_up_to(mongo_url: str | None) -> str:
    """The destination of a namespace's backup, for people: hosts, or `EMBEDDED`."""
    return EMBEDDED if mongo_url is None else hosts_of(mongo_url)
