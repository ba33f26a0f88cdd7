"""Servers for who has none: the client's side.

The first process of a home directory starts a supervisor, which runs Valkey and, when first asked
for it, a MongoDB server; every other process of that home joins. See docs/embedded-servers.md.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jamboree_gym.errors import EmbeddedServerError, JamboreeClosed
from jamboree_gym.process_life import follow_forks
from jamboree_gym.servers.control import ControlConnection, unexpected, url_in
from jamboree_gym.servers.home import Home, default_home
from jamboree_gym.servers.server_lock import is_held
from jamboree_gym.servers.supervisor_access import (
    ask_once,
    connect,
    reach,
    retry_or_raise,
    time_left_s,
)
from jamboree_gym.store.urls import mask_password

if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "EmbeddedServers",
    "ServerStatus",
    "default_home",
    "mask_password",
    "server_status",
    "stop_servers",
]

JOIN_TIMEOUT_S = 20.0
STATUS_TIMEOUT_S = 5.0
SHORT_REQUEST_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What runs in a home.

    Attributes:
        running: Whether its supervisor answers.
        home: The directory.
        supervisor_pid: Process id of the supervisor.
        clients: How many processes have joined (more if one joined twice).
        redis_pid: Process id of Valkey, None if not started.
        mongo_pid: Process id of the Mongo server, None if not started.
        redis_restarts: How often Valkey died and was started again.
        mongo_restarts: The same of the Mongo server.
        last_error: What last went wrong, even if all is well again.
        idle_exit_s: Seconds that the servers stay after their last client.
        stays: Whether they stay until told to go, instead.
        backup_pid: Process id of the backup, None if it has not been needed.
        backup_restarts: How often it died and was started again.
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
    """The servers of a home directory, for as long as this is open.

    Made by `join`. Holds one connection to the supervisor, by which that one knows that somebody
    is there. Safe to use from several threads, and in a forked child.
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
    def join(
        cls, home: Path | str | None = None, *, timeout_s: float = JOIN_TIMEOUT_S
    ) -> EmbeddedServers:
        """Join the servers of a home; start them if they do not run.

        Args:
            home: Their directory; `default_home()` if None.
            timeout_s: How long this, `ensure` and `mongo_url` may take.

        Raises:
            EmbeddedServerError: They could not be started or joined.
            MissingExtra: They are not installed.
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
        """For redis-py: `unix:///.../valkey.sock`."""
        return self._redis_url

    @property
    def have_backup(self) -> bool:
        """Whether the Mongo server of this home has ever been started."""
        return self._home.data_dir("mongo").is_dir()

    def mongo_url(self) -> str:
        """For pymongo, password included; starts the Mongo server if it does not run.

        Raises:
            EmbeddedServerError: It could not be started.
            MissingExtra: It is not installed.
        """
        self._check_open()
        self._uses_mongo = True
        return url_in(ask_once(self._home, "mongo", timeout_s=self._timeout_s), "mongodb")

    def ensure(self) -> None:
        """Make sure that the servers run: to be called after a connection error.

        Returns once Valkey answers. The Mongo server, if this object has used it, is on its way
        up by then: pymongo waits for it by itself, and `mongo_url` says what keeps it.

        Raises:
            EmbeddedServerError: They could not be started or joined.
        """
        deadline = time.monotonic() + self._timeout_s
        with self._lock:
            self._check_open()
            self._redis_url = self._ask_for_redis(deadline)
        if self._uses_mongo:
            ask_once(self._home, "mongo", timeout_s=SHORT_REQUEST_TIMEOUT_S, wait=False)

    def is_joined(self) -> bool:
        """Whether the supervisor that was joined is still there. Asks it nothing."""
        with self._lock:
            return self._control is not None and self._control.is_open()

    def back_up(self, namespace: str) -> None:
        """Have a namespace copied to the Mongo server from now on. Does not wait for that one.

        Raises:
            EmbeddedServerError: The supervisor cannot be asked.
        """
        ask_once(self._home, "backup", timeout_s=SHORT_REQUEST_TIMEOUT_S, namespace=namespace)

    def stay(self) -> None:
        """Have the servers stay when their last client leaves, until they are stopped."""
        ask_once(self._home, "stay", timeout_s=SHORT_REQUEST_TIMEOUT_S)

    def status(self) -> ServerStatus:
        """What runs in this home."""
        return server_status(self._home.path)

    def close(self) -> None:
        """Leave. The servers stay for other clients, and for a while without any."""
        with self._lock:
            self._closed = True
            self._drop_control()

    def __enter__(self) -> EmbeddedServers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else self._redis_url or "not joined"
        return f"EmbeddedServers(home={str(self._home.path)!r}, {state})"

    def _ask_for_redis(self, deadline: float) -> str:
        while True:
            if self._inherited:  # the parent may be in the middle of a request on it
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
        """Leave to the parent its place among the clients of the supervisor."""
        self._lock = threading.Lock()  # whoever held it is not in this process
        self._inherited = True


def server_status(home: Path | str | None = None) -> ServerStatus:
    """What runs in a home. Starts nothing, and makes no directory.

    Raises:
        EmbeddedServerError: The home, or something in it, belongs to somebody else; or what
            answers is no supervisor.
    """
    where = Home.at(home)
    control = reach(where)
    if control is None:
        return ServerStatus(running=False, home=where.path, last_error=_orphaned(where))
    with contextlib.closing(control):
        try:
            reply = control.ask("status", timeout_s=STATUS_TIMEOUT_S)
        except ConnectionError:  # it has just ended
            return ServerStatus(running=False, home=where.path, last_error=_orphaned(where))
        except OSError as error:
            trouble = f"the supervisor does not answer: {error}"
            return ServerStatus(running=False, home=where.path, last_error=trouble)
    known: dict[str, Any] = {name: reply[name] for name in _REPLIED_FIELDS if name in reply}
    for name, value in known.items():
        if not isinstance(value, _REPLIED_FIELDS[name]):
            raise unexpected(f"its {name} is {value!r:.50}")
    return ServerStatus(running=True, home=where.path, **known)


def stop_servers(home: Path | str | None = None, *, timeout_s: float = JOIN_TIMEOUT_S) -> bool:
    """Stop the servers of a home, whoever uses them.

    Returns:
        Whether any ran.

    Raises:
        EmbeddedServerError: They do not end in time.
    """
    _require_unix(sys.platform)
    where = Home.at(home)
    deadline = time.monotonic() + timeout_s
    control = reach(where)
    if control is None:
        if _orphaned(where) is None:
            return False
        control = connect(where, deadline)  # a new supervisor takes on what a killed one left
    _send_down(where, control, deadline)
    while _orphaned(where) is not None:  # that one was being killed itself, and has left them
        _send_down(where, connect(where, deadline), deadline)
    return True


def _send_down(home: Home, control: ControlConnection, deadline: float) -> None:
    """Tell a supervisor to stop its servers; returns once it is gone, by this or otherwise."""
    with contextlib.closing(control):
        try:
            control.ask("down", timeout_s=time_left_s(deadline))
            control.wait_for_end(timeout_s=time_left_s(deadline))
        except ConnectionError:
            return  # it ended before it could answer
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
    """What to say if a killed supervisor has left servers behind."""
    for server in ("valkey", "mongo"):
        if is_held(home.server_lock(server)):
            return f"the supervisor is gone, but {server} runs: `up` or `down` takes it on"
    return None


def _require_unix(system: str) -> None:
    if system == "win32":
        raise EmbeddedServerError(
            "there are no embedded servers for Windows\n"
            "run your own and pass redis_url=... and mongo_url=..."
        )
