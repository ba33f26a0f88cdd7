"""Embedded servers for users without their own: the client's side.

The first process of a home directory starts a supervisor. The supervisor runs Valkey and, on first
request, a MongoDB server. Every other process of that home joins. See docs/embedded-servers.md.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jamboree_gym.checked import Seconds, checked
from jamboree_gym.errors import EmbeddedServerError, JamboreeClosed
from jamboree_gym.process_life import follow_forks
from jamboree_gym.servers.control import ControlConnection, unexpected, url_in
from jamboree_gym.servers.home import Home, default_home
from jamboree_gym.servers.own_files import is_lock_held
from jamboree_gym.servers.programs.mongo import folder_instead_of_mongo
from jamboree_gym.servers.supervisor_access import (
    ask_once,
    connect,
    reach,
    retry_or_raise,
    time_left_s,
)
from jamboree_gym.store.urls import folder_url

__all__ = [
    "EmbeddedServers",
    "ServerStatus",
    "default_home",
    "server_status",
    "stop_servers",
]

JOIN_TIMEOUT_S = 20.0
STATUS_TIMEOUT_S = 5.0
SHORT_REQUEST_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """State of the servers of a home.

    Attributes:
        running: Whether the supervisor answers.
        home: The home directory.
        supervisor_pid: Process id of the supervisor.
        clients: Number of clients (a process that joined twice counts twice).
        redis_pid: Process id of Valkey; None if it is not started.
        mongo_pid: Process id of the Mongo server; None if it is not started.
        redis_restarts: How often Valkey died and was restarted.
        mongo_restarts: The same for the Mongo server.
        last_error: The last error, even if it is over.
        idle_exit_s: Seconds that the servers stay after their last client has left.
        stays: Whether they stay until they are stopped, instead.
        backup_pid: Process id of the backup; None if it was not needed yet.
        backup_restarts: How often the backup died and was restarted.
    """

    running: bool
    home: Path
    supervisor_pid: int | None = None
    clients: int = 0
    redis_pid: int | None = None
    mongo_pid: int | None = None
    redis_restarts: int = 0
    mongo_restarts: int = 0
    last_error: str | None = None
    idle_exit_s: float | None = field(default=None, kw_only=True)
    stays: bool = field(default=False, kw_only=True)
    backup_pid: int | None = field(default=None, kw_only=True)
    backup_restarts: int = field(default=0, kw_only=True)


class EmbeddedServers:
    """A client's access to the servers of a home directory, for as long as it is open.

    Made by `join`. It holds one connection to the supervisor, which counts its clients by these
    connections. Safe to use from several threads, and in a forked child.
    """

    def __init__(self, home: Home, *, timeout_s: float) -> None:
        self._home = home
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._control: ControlConnection | None = None
        self._redis_url = ""
        self._uses_mongo = False
        self._inherited = False
        self._closed = False
        follow_forks(self)

    @classmethod
    @checked
    def join(
        cls, home: Path | str | None = None, *, timeout_s: Seconds = JOIN_TIMEOUT_S
    ) -> EmbeddedServers:
        """Join the servers of a home; start them if they do not run.

        Args:
            home: The home directory; `default_home()` if None.
            timeout_s: Time limit for this call, `ensure` and `mongo_url`, seconds.

        Raises:
            EmbeddedServerError: The servers could not be started or joined.
            MissingExtra: The servers are not installed.
        """
        _require_unix(sys.platform)
        servers = cls(Home.at(home), timeout_s=timeout_s)
        try:
            servers.ensure()
        except BaseException:
            servers.close()
            raise
        return servers

    @property
    def redis_url(self) -> str:
        """URL for redis-py: `unix:///.../valkey.sock`."""
        return self._redis_url

    @property
    def have_backup(self) -> bool:
        """Whether the backup of this home may hold anything."""
        folder = folder_instead_of_mongo(self._home)
        return self._home.mongo_holds_data if folder is None else folder.is_dir()

    def mongo_url(self) -> str:
        """URL for pymongo, password included; starts the Mongo server if it does not run.

        Raises:
            EmbeddedServerError: The Mongo server could not be started.
            MissingExtra: The Mongo server is not installed.
        """
        self._check_open()
        self._uses_mongo = True
        return url_in(ask_once(self._home, "mongo", timeout_s=self._timeout_s), "mongodb")

    def backup_url(self) -> str:
        """URL of the backup: of the Mongo server, or of a folder where that is not installed.

        Raises:
            EmbeddedServerError: The Mongo server could not be started.
            MissingExtra: It is not installed, but holds data.
        """
        folder = folder_instead_of_mongo(self._home)
        return self.mongo_url() if folder is None else folder_url(folder)

    def ensure(self) -> None:
        """Make sure that the servers run; call it after a connection error.

        Returns once Valkey answers. If this object has used the Mongo server, that server is
        restarted, too, but may not answer yet: pymongo waits for it, and `mongo_url` reports its
        errors.

        Raises:
            EmbeddedServerError: The servers could not be started or joined.
        """
        deadline = time.monotonic() + self._timeout_s
        with self._lock:
            self._check_open()
            self._redis_url = self._ask_for_redis(deadline)
        if self._uses_mongo:
            ask_once(self._home, "mongo", timeout_s=SHORT_REQUEST_TIMEOUT_S, wait=False)

    def is_joined(self) -> bool:
        """Whether the joined supervisor is still there. Sends it no request."""
        with self._lock:
            return self._control is not None and self._control.is_open()

    def back_up(self, namespace: str, *, interval_s: float) -> None:
        """Have a namespace copied to the backup from now on. Does not wait for its server.

        Args:
            namespace: Its name.
            interval_s: The longest time that a change waits for the copy, seconds. Of several
                requests the shortest time counts, for as long as the supervisor lives.

        Raises:
            EmbeddedServerError: The supervisor does not answer.
        """
        request = {"namespace": namespace, "interval_s": interval_s}
        ask_once(self._home, "backup", timeout_s=SHORT_REQUEST_TIMEOUT_S, **request)

    def stay(self) -> None:
        """Keep the servers running after the last client has left, until they are stopped."""
        ask_once(self._home, "stay", timeout_s=SHORT_REQUEST_TIMEOUT_S)

    def status(self) -> ServerStatus:
        """State of the servers of this home."""
        return server_status(self._home.path)

    def close(self) -> None:
        """Leave. The servers stay for other clients, and for a while without any client."""
        with self._lock:
            self._closed = True
            self._drop_control()

    def __enter__(self) -> EmbeddedServers:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else self._redis_url or "not joined"
        return f"EmbeddedServers(home={str(self._home.path)!r}, {state})"

    def _ask_for_redis(self, deadline: float) -> str:
        while True:
            if self._inherited:  # the parent may be in the middle of a request on this connection
                self._drop_control()
                self._inherited = False
            if self._control is None:
                self._control = connect(self._home, deadline)
            try:
                reply = self._control.ask("redis", timeout_s=time_left_s(deadline))
                return url_in(reply, "unix")
            except OSError as error:
                self._drop_control()
                retry_or_raise(self._home, error, deadline)

    def _drop_control(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def _check_open(self) -> None:
        if self._closed:
            raise JamboreeClosed(f"the servers of {self._home.path} were left: join them again")

    def after_fork_in_child(self) -> None:
        """Leave the supervisor's connection to the parent process."""
        self._lock = threading.Lock()  # in the parent, another thread may have held the lock
        self._inherited = True


@checked
def server_status(home: Path | str | None = None) -> ServerStatus:
    """State of the servers of a home. Starts nothing, and makes no directory.

    Raises:
        EmbeddedServerError: The home, or something in it, belongs to another user; or the program
            that answers is no supervisor.
    """
    where = Home.at(home)
    control = reach(where)
    if control is None:
        return ServerStatus(running=False, home=where.path, last_error=_orphaned(where))
    with contextlib.closing(control):
        try:
            reply = control.ask("status", timeout_s=STATUS_TIMEOUT_S)
        except ConnectionError:  # the supervisor has just ended
            return ServerStatus(running=False, home=where.path, last_error=_orphaned(where))
        except OSError as error:
            trouble = f"the supervisor does not answer: {error}"
            return ServerStatus(running=False, home=where.path, last_error=trouble)
    known: dict[str, Any] = {name: reply[name] for name in _REPLIED_FIELDS if name in reply}
    for name, value in known.items():
        if not isinstance(value, _REPLIED_FIELDS[name]):
            raise unexpected(f"its {name} is {value!r:.50}")
    return ServerStatus(running=True, home=where.path, **known)


@checked
def stop_servers(home: Path | str | None = None, *, timeout_s: Seconds = JOIN_TIMEOUT_S) -> bool:
    """Stop the servers of a home, even if other processes use them; return whether any ran.

    Raises:
        EmbeddedServerError: The servers do not end in time.
    """
    _require_unix(sys.platform)
    where = Home.at(home)
    deadline = time.monotonic() + timeout_s
    control = reach(where)
    if control is None:
        if _orphaned(where) is None:
            return False
        control = connect(where, deadline)  # a new one adopts a killed one's servers
    _send_down(where, control, deadline)
    while _orphaned(where) is not None:  # the supervisor was killed meanwhile
        _send_down(where, connect(where, deadline), deadline)
    return True


def _send_down(home: Home, control: ControlConnection, deadline: float) -> None:
    """Tell a supervisor to stop its servers; return once it is gone."""
    with contextlib.closing(control):
        try:
            control.ask("down", timeout_s=time_left_s(deadline))
            control.wait_for_end(timeout_s=time_left_s(deadline))
        except ConnectionError:
            return  # the supervisor ended before it could answer
        except OSError as error:
            raise EmbeddedServerError(
                f"the servers of {home.path} did not stop in time\nsee {home.supervisor_log}"
            ) from error


_REPLIED_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("supervisor_pid", "clients", "redis_restarts", "mongo_restarts"), int),
    **dict.fromkeys(("redis_pid", "mongo_pid", "backup_pid"), int | None),
    "last_error": str | None,
    "idle_exit_s": float | int | None,
    "stays": bool,
    "backup_restarts": int,
}


def _orphaned(home: Home) -> str | None:
    """A message if a killed supervisor has left servers behind; else None."""
    for server in ("valkey", "mongo"):
        if is_lock_held(home.server_lock(server)):
            return f"the supervisor is gone, but {server} runs: `up` or `down` takes it on"
    return None


def _require_unix(system: str) -> None:
    if system == "win32":
        raise EmbeddedServerError(
            "there are no embedded servers for Windows\n"
            "run your own and pass redis_url=... and backup=..."
        )
