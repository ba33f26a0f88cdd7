"""URLs of stores: what of them can be shown, and which would be misread."""

from __future__ import annotations

import re

__all__ = ["is_cut_short", "mask_password"]

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
