"""The address of a Jamboree: what of a connection can go to another process. No password does.

A URL goes as it is, without its password. Where it arrives, the password is taken from the variable
that has the whole URL there. An embedded server goes as its home directory, which has to be the
very same directory there: another machine may have one of the same name, with other data.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any

from jamboree_gym.errors import NotCopyable
from jamboree_gym.servers.home import Home
from jamboree_gym.wording import mask_password

__all__ = [
    "BACKUP_URL_VARIABLE",
    "EMBEDDED_URL",
    "MONGO_URL_VARIABLE",
    "REDIS_URL_VARIABLE",
    "Address",
    "HomeAddress",
    "UrlAddress",
]

EMBEDDED_URL = "embedded:"
"""Stands for the embedded server, whatever the variables of the environment say."""

REDIS_URL_VARIABLE = "JAMBOREE_REDIS_URL"
BACKUP_URL_VARIABLE = "JAMBOREE_BACKUP_URL"
MONGO_URL_VARIABLE = "JAMBOREE_MONGO_URL"


@dataclass(frozen=True, slots=True)
class UrlAddress:
    """A URL without its password.

    Attributes:
        shown: The URL; `***` stands for a password.
        needs_password: Whether there was one.
        variables: The variables of the environment that may have the whole URL.
    """

    shown: str
    needs_password: bool
    variables: tuple[str, ...]

    @classmethod
    def of(cls, url: str | None, *variables: str) -> UrlAddress | None:
        """The address of a server; None if it is an embedded one."""
        if url is None:
            return None
        shown = mask_password(url)
        return cls(shown, shown != url, variables)

    def url(self) -> str:
        """The whole URL, as this process knows it.

        Raises:
            NotCopyable: It has a password, which this process does not know.
        """
        if not self.needs_password:
            return self.shown
        for name in self.variables:
            url = os.environ.get(name, "")
            if mask_password(url) == self.shown:
                return url
        raise NotCopyable(
            f"{self.shown} came without its password, because no password is copied or pickled:\n"
            f"set {' or '.join(self.variables)} to the whole URL before that process starts, or "
            "open a Jamboree there"
        )


@dataclass(frozen=True, slots=True)
class HomeAddress:
    """The home directory of embedded servers.

    Attributes:
        path: Its path, without symlinks.
        host: Name of the machine.
        directory: Device and number of the directory, which no other has on that machine.
    """

    path: Path
    host: str
    directory: tuple[int, int]

    @classmethod
    def of(cls, home: Path | None) -> HomeAddress:
        """The address of the home at a path; None = the default one."""
        path = Home.at(home).path
        return cls(path, socket.gethostname(), _directory(path))

    def home(self) -> Path:
        """The path, if that home is here.

        Raises:
            NotCopyable: There is another directory, or none.
        """
        if _directory(self.path) != self.directory:
            raise NotCopyable(
                f"a Jamboree on the embedded servers in {self.path} on {self.host} cannot be "
                f"opened here ({socket.gethostname()}):\n"
                "that directory is not here. Use servers that both can reach: "
                "Jamboree(redis_url=...)"
            )
        return self.path


@dataclass(frozen=True, slots=True)
class Address:
    """Where a Jamboree records, and how.

    Attributes:
        origin: Names the connection that it is the address of.
        redis: Its Redis; None = the embedded one.
        backup: Its backup; None = the embedded one.
        servers: Its embedded servers; None = it needs none.
        home: The directory that it was given, where it needs no embedded servers.
        options: The other arguments of `Connection`.
    """

    origin: str
    redis: UrlAddress | None
    backup: UrlAddress | None
    servers: HomeAddress | None
    home: Path | None
    options: Mapping[str, Any] = field(repr=False)

    def check_worker(self) -> None:
        """If `multiprocessing` starts a process now, check that it will know the passwords.

        It has the variables that this process has. Here the error is seen, there it is lost.

        Raises:
            NotCopyable: It will not.
        """
        if get_spawning_popen() is not None:
            self.urls()

    def urls(self) -> dict[str, Any]:
        """The arguments of `Connection` that say where it records, as this process knows them.

        Raises:
            NotCopyable: A password is not known here, or the embedded servers are not here.
        """
        return {
            "redis_url": EMBEDDED_URL if self.redis is None else self.redis.url(),
            "mongo_url": EMBEDDED_URL if self.backup is None else self.backup.url(),
            "home": self.home if self.servers is None else self.servers.home(),
        }


def _directory(path: Path) -> tuple[int, int]:
    """Device and number of a directory; (0, 0) if there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino
