"""How the Mongo server runs: its command line, its one user, and the check that it answers."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from jamboree_gym.arrays.unicode_text import is_unicode
from jamboree_gym.errors import EmbeddedServerError
from jamboree_gym.servers.home import Home, remove_durably, write_private
from jamboree_gym.servers.own_files import check_tree, open_own, read_own
from jamboree_gym.servers.programs.installed import is_installed, package_dir
from jamboree_gym.servers.programs.server_processes import launch

__all__ = ["MongoProgram", "describe_backup", "folder_instead_of_mongo"]

PING_TIMEOUT_S = 1.0
CACHE_SIZE = "128M"  # the server's default would grow to half a gigabyte
HOST = "127.0.0.1"
USER = "jamboree"
# Below the ports that the system gives to clients (from 32768 on Linux, 49152 on macOS). So no
# client connection can take the port while the server restarts.
PORTS = range(20000, 32000)


def folder_instead_of_mongo(home: Home) -> Path | None:
    """The folder that is the backup of a home whose Mongo server is not installed; else None.

    Once it has been begun, it stays the backup. A home whose Mongo server holds data has no other.
    """
    folder = home.backup_folder
    if folder.is_dir():
        return folder
    return None if home.mongo_holds_data or is_installed("secantus") else folder


def describe_backup(home: Home) -> str:
    """What the embedded backup of a home is, in words."""
    folder = folder_instead_of_mongo(home)
    if folder is None:
        return (
            "SecantusDB, the embedded MongoDB server: a pre-release under the GPL-2.0; "
            "backup=URL names a MongoDB or a folder of your own"
        )
    if is_installed("secantus"):
        return f"the folder {folder}, begun while no embedded MongoDB server was installed"
    return f"the folder {folder}, because no embedded MongoDB server (SecantusDB) is installed"


@dataclass(frozen=True, slots=True)
class MongoAccess:
    """Port and login of the Mongo server; kept in the home, readable only by its owner.

    The port is on the loopback address; the password is made once, the user when the server first
    runs.
    """

    port: int
    password: str
    user_created: bool = False

    def __repr__(self) -> str:
        return f"MongoAccess(port={self.port}, password=***)"


class MongoProgram:
    """The Mongo server: listens on loopback only, with one user and a password made here."""

    name = "mongo"

    def __init__(self, home: Home) -> None:
        self.home = home
        self._data_dir = home.data_dir(self.name)
        self._port: int | None = None  # of the newest command line
        self._is_open = False  # True while it runs without --auth

    @property
    def url(self) -> str:
        """URL for pymongo. An acknowledged write has been synced to the journal.

        Clients ask every 10 s whether it is there: the server would look 50 times a second whether
        it has something to stream to them.
        """
        access = self._access()
        return (
            f"mongodb://{USER}:{access.password}@{HOST}:{access.port}/"
            "?authSource=admin&directConnection=true&w=majority&journal=true"
            "&serverMonitoringMode=poll"
        )

    def open_to_clients(self) -> str:
        """`url`, for those who may write: from now on the server counts as a backup."""
        url = self.url
        remove_durably(self.home.mongo_unused)
        return url

    def prepare(self, stopping: threading.Event) -> None:
        """Choose a free port, and create the user if necessary.

        To create the user, the server runs for a moment without a password, on another port.
        """
        package_dir("secantus", instead="backup=...")
        access = self._access(or_new=True)
        if not _is_free(access.port):
            access = replace(access, port=_free_port())
        if not self._data_dir.is_dir():
            access = replace(access, user_created=False)
            write_private(self.home.mongo_unused, {})
        self._data_dir.mkdir(mode=0o700, exist_ok=True)
        check_tree(self._data_dir)
        write_private(self.home.mongo_file, asdict(access))
        if access.user_created:
            return
        self._is_open = True
        try:
            server = launch(self, self._command(_free_port()), stopping)
            try:
                self._create_user(access.password)
            finally:
                server.stop()
        finally:
            self._is_open = False

    def command(self) -> list[str]:
        """The command line of the server with password."""
        return [*self._command(self._access().port), "--auth"]

    def serves(self, command_line: Sequence[str]) -> bool:
        """Whether a command line is that of a secantus on our data directory."""
        options = set(itertools.pairwise(command_line))
        ours = {
            ("--config", str(self.home.mongo_settings)),
            ("--storage-path", self._storage_path()),
        }
        return {("-m", "secantus"), *ours} <= options

    def answers(self, pid: int) -> bool:
        """Whether the server accepts our login (or any, while it runs without password).

        The server of a copied home accepts it, too, and may have taken the port meanwhile: only the
        answer of our process counts.
        """
        from pymongo.errors import OperationFailure, PyMongoError

        if not self._is_open_in(pid):  # pymongo would check only every half second
            return False
        try:
            with self._client() as client:
                client.admin.command("ping")
        except OperationFailure as error:
            raise EmbeddedServerError(
                "the embedded Mongo server refuses the password in"
                f" {self.home.mongo_file}\ndelete that file: the next start makes a new one"
            ) from error
        except (PyMongoError, EmbeddedServerError):
            return False
        return True

    def accepts_clients(self) -> bool:
        """Whether its port is open. A stopping server waits 2 s for a connection: this is one."""
        try:
            socket.create_connection((HOST, self._port or 0), PING_TIMEOUT_S).close()
        except OSError:
            return False
        return True

    def _is_open_in(self, pid: int) -> bool:
        try:
            sockets = psutil.Process(pid).net_connections("tcp4")
        except psutil.Error:  # the process has ended
            return False
        listening = {one.laddr.port for one in sockets if one.status == psutil.CONN_LISTEN}
        return self._port in listening

    def started(self) -> None:
        """Delete all users but ours: others could add some while there was no password."""
        access = self._access()
        if access.user_created:
            return
        with self._administrator() as client:
            for user in client.admin.command("usersInfo")["users"]:
                if user["user"] != USER:
                    client[user["db"]].command("dropUser", user["user"])
        write_private(self.home.mongo_file, asdict(replace(access, user_created=True)))

    def _command(self, port: int) -> list[str]:
        self._port = port
        settings = self.home.mongo_settings
        # An empty file. Without it the server would read the settings in the user's home.
        os.close(open_own(settings, os.O_WRONLY | os.O_CREAT))
        return [
            # -P: it runs in the home, from which no module must be imported
            *(sys.executable, "-P", "-m", "secantus", "--config", str(settings)),
            *("--host", HOST, "--port", str(port)),
            *("--storage-path", self._storage_path()),
            *("--cache-size", CACHE_SIZE, "--log-level", "WARNING"),
            "--standalone",  # nobody replicates it: no log of operations beside the data
        ]

    def _storage_path(self) -> str:
        """The data directory as text, for WiredTiger; relative if the home's path is no text."""
        path = str(self._data_dir)
        return path if is_unicode(path) else os.path.relpath(path, self.home.path)

    def _client(self) -> Any:
        from pymongo import MongoClient  # here: a supervisor without Mongo never loads it

        url = f"mongodb://{HOST}:{self._port}/?directConnection=true" if self._is_open else self.url
        return MongoClient(url, serverSelectionTimeoutMS=int(PING_TIMEOUT_S * 1000))

    @contextmanager
    def _administrator(self) -> Iterator[Any]:
        from pymongo.errors import PyMongoError

        try:
            with self._client() as client:
                yield client
                client.admin.command("fsync")  # else a kill soon after loses the users
        except PyMongoError as error:
            raise EmbeddedServerError(f"cannot set up the Mongo server's user: {error}") from error

    def _create_user(self, password: str) -> None:
        login = {"pwd": password, "roles": ["root"]}
        with self._administrator() as client:
            known = client.admin.command("usersInfo", USER)["users"]
            client.admin.command("updateUser" if known else "createUser", USER, **login)

    def _access(self, *, or_new: bool = False) -> MongoAccess:
        try:
            access = MongoAccess(**json.loads(read_own(self.home.mongo_file)))
            if type(access.port) is not int or not isinstance(access.password, str):
                raise ValueError("a port is a number, a password a text")
            return access
        except FileNotFoundError as error:
            if or_new:
                return MongoAccess(port=_free_port(), password=secrets.token_urlsafe(24))
            raise EmbeddedServerError(f"{self.home.mongo_file} is gone") from error
        except (OSError, RecursionError, TypeError, ValueError) as error:
            raise EmbeddedServerError(
                f"{self.home.mongo_file} is damaged ({error})\n"
                "delete it: the next start makes a new password and keeps the data"
            ) from error


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    for _ in range(100):
        port = secrets.choice(PORTS)
        if _is_free(port):
            return port
    raise EmbeddedServerError(f"no free port on {HOST} for the embedded Mongo server")
