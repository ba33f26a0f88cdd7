"""How Valkey runs: its command line, and the check that it answers."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from jamboree_gym.servers.home import Home
from jamboree_gym.servers.own_files import check_tree
from jamboree_gym.servers.programs.installed import require_valkey

__all__ = ["ValkeyProgram"]

PING_TIMEOUT_S = 1.0
# How often Valkey looks after itself: nearly all that it costs while nobody uses it. The default
# is 10; with less than 5, an answer to WAITAOF that waits for this timer would come too late.
TIMER_HZ = 5


class ValkeyProgram:
    """Valkey on a unix socket, every write appended to its file."""

    name = "valkey"

    def __init__(self, home: Home, *, socket_path: Path) -> None:
        self.home = home
        self._socket_path = socket_path
        self._data_dir = home.data_dir(self.name)

    @property
    def url(self) -> str:
        """URL for redis-py."""
        return f"unix://{quote(os.fsencode(self._socket_path))}"

    def prepare(self, stopping: threading.Event) -> None:
        """Check the data directory: everything in it must be ours."""
        self._data_dir.mkdir(mode=0o700, exist_ok=True)
        check_tree(self._data_dir)

    def command(self) -> list[str]:
        """No TCP port, no snapshots besides the append-only file; `ps` shows all options."""
        options = {
            "port": "0",
            "unixsocket": str(self._socket_path),
            "unixsocketperm": "600",
            "dir": str(self._data_dir),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "hz": str(TIMER_HZ),
            "set-proc-title": "no",
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        return [str(require_valkey()), *flags]

    def serves(self, command_line: Sequence[str]) -> bool:
        """Whether a command line is that of a valkey-server on our data directory."""
        options = itertools.pairwise(command_line)
        return ("--dir", str(self._data_dir)) in options and (
            Path(command_line[0]).name == "valkey-server"
        )

    def answers(self, pid: int) -> bool:
        """Whether it has loaded its data and answers; only our own process has the socket."""
        return self._ask(b"PING\r\n").startswith(b"+PONG")

    def complaint(self) -> str | None:
        """Why it refuses writes now (its file could not be written); None if it accepts them."""
        reply = self._ask(b"INFO persistence\r\n")
        if b"aof_last_write_status:err" in reply:
            return f"valkey cannot write to {self._data_dir}: free some disk space"
        return None

    def accepts_clients(self) -> bool:
        """Always False: Valkey never misses a signal."""
        return False

    def started(self) -> None:
        """Do nothing."""

    def _ask(self, request: bytes) -> bytes:
        """The reply to an inline command; empty if there is none."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(PING_TIMEOUT_S)
            try:
                connection.connect(str(self._socket_path))
                connection.sendall(request)
                return connection.recv(16384)
            except OSError:
                return b""
