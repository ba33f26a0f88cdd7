"""URLs of stores: what they name, and which of them would be misread."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from jamboree_gym.errors import InvalidUrl

__all__ = [
    "EMBEDDED",
    "FOLDER_SCHEME",
    "MONGO_SCHEMES",
    "backed_up_to",
    "backup_name",
    "folder_of",
    "folder_url",
    "hosts_of",
    "is_cut_short",
    "is_folder",
    "scheme_of",
]

EMBEDDED = "the embedded server"
MONGO_SCHEMES = ("mongodb", "mongodb+srv")
FOLDER_SCHEME = "file"
_AUTHORITY_ENDS = re.compile("[/?#]")


def is_cut_short(url: str) -> bool:
    """Whether there is an `@` in the path or the options.

    An unquoted password that contains `/`, `?` or `#` ends there for a URL parser. The parser would
    then take the user for the host, and the beginning of the password for the port.
    """
    _, _, behind_scheme = url.partition("://")
    return "@" in "".join(_AUTHORITY_ENDS.split(behind_scheme, maxsplit=1)[1:])


def hosts_of(url: str) -> str:
    """The hosts of a URL, without user or password, even if these are badly quoted."""
    return url.partition("://")[2].rpartition("@")[2].partition("/")[0].partition("?")[0]


def scheme_of(url: str) -> str:
    """The scheme of a URL; empty if it has none."""
    scheme, found, _ = url.partition("://")
    return scheme.lower() if found else ""


def is_folder(url: str) -> bool:
    """Whether a URL is that of a folder."""
    return scheme_of(url) == FOLDER_SCHEME


def folder_of(url: str) -> Path:
    """The folder that a URL names, absolute.

    Raises:
        InvalidUrl: It names another machine, or no absolute path.
    """
    host, slash, path = url.partition("://")[2].partition("/")
    if host not in ("", "localhost") or not slash or not path.strip("/"):
        raise InvalidUrl(f"{url}: a folder has three slashes: file:///srv/backup")
    decoded = unquote(path, errors="surrogateescape")
    return Path(decoded if re.match("[A-Za-z]:", decoded) else f"/{decoded}")


def folder_url(path: str | os.PathLike[str]) -> str:
    """The URL of a folder."""
    return Path(os.path.abspath(path)).as_uri()


def backup_name(where: str) -> str:
    """A backup in a sentence, by where it is: "MongoDB at localhost", "the folder /srv/backup"."""
    return f"the folder {folder_of(where)}" if is_folder(where) else f"MongoDB at {where}"


def backed_up_to(backup_url: str | None) -> str:
    """The destination of a namespace's backup: hosts, the URL of a folder, or `EMBEDDED`."""
    if backup_url is None:
        return EMBEDDED
    return folder_url(folder_of(backup_url)) if is_folder(backup_url) else hosts_of(backup_url)
