"""The supervisor: one small process per home that runs its servers, and their backup process.

The first client that needs servers starts it, as `run_supervisor.py`; the command by hand is
`python -m jamboree_gym.servers.supervisor --home HOME`. It exits when no client has been connected
to its control socket for a while.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from jamboree_gym.errors import EmbeddedServerError, JamboreeError
from jamboree_gym.servers.backup_process import BackupWatchdog
from jamboree_gym.servers.control import (
    PROTOCOL_VERSION,
    decode,
    encode,
    error_reply,
    peer_pid,
)
from jamboree_gym.servers.home import CONTROL_SOCKET, VALKEY_SOCKET, Home, SupervisorRecord
from jamboree_gym.servers.journal_delivery import JournalDelivery
from jamboree_gym.servers.own_files import is_lock_held
from jamboree_gym.servers.programs.mongo import MongoProgram
from jamboree_gym.servers.programs.valkey import ValkeyProgram
from jamboree_gym.servers.server_watchdog import ServerWatchdog

__all__ = ["IDLE_EXIT_VARIABLE", "Supervisor", "main"]

IDLE_EXIT_VARIABLE = "JAMBOREE_IDLE_EXIT_S"
PYTHON_PATH = "PYTHONPATH"
IDLE_EXIT_S = 60.0
FIRST_CLIENT_GRACE_S = 5.0  # the client that started us needs a moment to connect
LOCK_TIMEOUT_S = 15.0
HOME_CHECK_INTERVAL_S = 5.0
CONTROL_BACKLOG = 1024
_log = logging.getLogger(__name__)


class Supervisor:
    """Answers and counts the clients of one home, and runs the servers while there are any clients.

    The caller holds the home's supervisor lock. The supervisor stays `idle_exit_s` seconds after
    the last client has left.
    """

    def __init__(self, home: Home, *, idle_exit_s: float) -> None:
        self._home = home
        self._idle_exit_s = idle_exit_s
        self._stay = False
        sockets = home.prepare_socket_dir()
        self._control_path = sockets / CONTROL_SOCKET
        self._valkey = ValkeyProgram(home, socket_path=sockets / VALKEY_SOCKET)
        self._mongo = MongoProgram(home)
        self._redis_watchdog = ServerWatchdog(self._valkey)
        self._mongo_watchdog = ServerWatchdog(self._mongo)
        self._backup = BackupWatchdog(home, self._valkey.url, self._mongo_watchdog)
        self._journals = JournalDelivery(home, self._valkey.url)
        self._clients: dict[asyncio.StreamWriter, int] = {}  # connection -> process id
        self._stop = asyncio.Event()
        self._idle_timer: asyncio.TimerHandle | None = None

    async def run(self, ready: ReadyPipe) -> None:
        """Serve until idle, stopped, or without a home; then make a last copy and exit."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        listener = await asyncio.start_unix_server(
            self._serve_client, self._control_path, backlog=CONTROL_BACKLOG
        )
        control = str(self._control_path)
        self._home.write_record(SupervisorRecord(os.getpid(), socket.gethostname(), control))
        home_check = asyncio.create_task(self._leave_with_home())
        self._watch_idle(at_least_s=FIRST_CLIENT_GRACE_S)
        self._adopt_orphans()
        ready.send({"ok": True})
        await self._stop.wait()
        # From here on a new client finds no supervisor. It starts one, which waits for our end.
        _log.info("stopping")
        home_check.cancel()
        listener.close()
        self._control_path.unlink(missing_ok=True)
        await self._journals.stop()
        await self._backup.stop()
        await self._stop_servers()
        if self._control_path.parent != self._home.path:
            shutil.rmtree(self._control_path.parent, ignore_errors=True)

    def _adopt_orphans(self) -> None:
        for watchdog in (self._redis_watchdog, self._mongo_watchdog):
            if is_lock_held(self._home.server_lock(watchdog.program.name)):
                watchdog.start()

    async def _stop_servers(self) -> None:
        watchdogs = (self._redis_watchdog, self._mongo_watchdog)
        ends = await asyncio.gather(*(each.stop() for each in watchdogs), return_exceptions=True)
        for error in filter(None, ends):
            _log.error("%s", error)

    async def _serve_client(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while line := await reader.readline():
                reply = await self._reply(decode(line), writer)
                if self._stop.is_set() and not reply.get("while_stopping"):
                    return  # the closed connection tells the client to start a new supervisor
                writer.write(encode(reply))
                await writer.drain()
        except (KeyError, OSError, TypeError, ValueError) as error:  # gone, or no message of ours
            _log.info("a client's connection ended: %s", error)
        finally:
            pid = self._clients.pop(writer, None)
            writer.close()
            if pid is not None:
                self._after_client(pid)

    def _after_client(self, pid: int) -> None:
        """A client's connection has ended: it has closed, or died. All that this brings is here.

        `pid` is the process that had connected, 0 where the system does not say. It may live on: a
        process may have several connections, and leaves one when it closes its Jamboree.
        """
        _log.info("client %d has left", pid)
        self._journals.look_soon()
        self._watch_idle()

    async def _reply(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> dict[str, Any]:
        op = request.get("op")
        if op == "down":  # every version understands this, and "status"
            self._stop.set()
            return {"ok": True, "while_stopping": True}
        if op == "status":
            return {"ok": True, "while_stopping": True, **await self._status()}
        if op == "redis":
            self._clients[writer] = peer_pid(
                writer.get_extra_info("socket")
            )  # it counts from now on
            self._watch_idle()
        try:
            return {"ok": True, **await self._serve(request)}
        except JamboreeError as error:
            return error_reply(error)

    async def _serve(self, request: dict[str, Any]) -> dict[str, Any]:
        if request.get("version") != PROTOCOL_VERSION:
            raise EmbeddedServerError(
                f"the servers of {self._home.path} were started by another version of"
                " jamboree-gym\nstop them with `jamboree-gym down`, then try again"
            )
        timeout_s = float(request["timeout_s"])
        match request.get("op"):
            case "redis":
                await self._redis_watchdog.up(timeout_s=timeout_s)
                return {"url": self._valkey.url}
            case "mongo" if request.get("wait", True):
                await self._mongo_watchdog.up(timeout_s=timeout_s)
                return {"url": self._mongo.open_to_clients()}
            case "mongo":
                self._mongo_watchdog.start()
            case "backup":
                namespace, interval_s = str(request["namespace"]), float(request["interval_s"])
                self._backup.back_up(namespace, interval_s=interval_s)
            case "stay":
                self._stay = True
                self._watch_idle()
            case other:
                raise EmbeddedServerError(f"the supervisor knows no request {other!r}")
        return {}

    async def _status(self) -> dict[str, Any]:
        complaint = await asyncio.to_thread(self._valkey.complaint)
        return {
            "supervisor_pid": os.getpid(),
            "clients": len(self._clients),
            "stays": self._stay,
            "idle_exit_s": self._idle_exit_s,
            "redis_pid": self._redis_watchdog.pid,
            "mongo_pid": self._mongo_watchdog.pid,
            "backup_pid": self._backup.pid,
            "redis_restarts": self._redis_watchdog.restarts,
            "mongo_restarts": self._mongo_watchdog.restarts,
            "backup_restarts": self._backup.restarts,
            "last_error": complaint
            or self._redis_watchdog.last_error
            or self._mongo_watchdog.last_error
            or self._backup.last_error,
        }

    def _watch_idle(self, *, at_least_s: float = 0.0) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if not self._clients and not self._stay:
            loop = asyncio.get_running_loop()
            idle_exit_s = max(self._idle_exit_s, at_least_s)
            self._idle_timer = loop.call_later(idle_exit_s, self._stop.set)

    async def _leave_with_home(self) -> None:
        """Stop if the home is deleted: no client could reach us any more."""
        ours = self._control_path.stat().st_ino
        while _inode(self._control_path) == ours and self._home.record_file.exists():
            await asyncio.sleep(HOME_CHECK_INTERVAL_S)
        _log.warning("%s was removed", self._home.path)
        self._stop.set()


class ReadyPipe:
    """Tells the client that started this process, once, whether the start succeeded.

    `descriptor` is our end of the pipe; None if nobody listens.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def send(self, message: dict[str, Any]) -> None:
        """Send the first message and close the pipe; ignore later messages."""
        if self._descriptor is None:
            return
        with contextlib.suppress(BrokenPipeError), os.fdopen(self._descriptor, "wb") as pipe:
            pipe.write(encode(message))
        self._descriptor = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the supervisor of one home in the background; this process ends."""
    options = _parse(arguments)
    if os.fork():
        os._exit(0)  # now only init has to wait for us
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s [%(process)d] %(message)s")
    ready = ReadyPipe(options.ready_fd)
    try:
        _run(options, ready)
    except (JamboreeError, OSError) as error:
        _log.error("%s", error)
        ready.send(error_reply(error))
        os._exit(1)
    # The kernel closes the connections of the clients: that tells them of our end.
    os._exit(0)


def _run(options: argparse.Namespace, ready: ReadyPipe) -> None:
    home = Home.at(options.home)
    idle_exit_s = _idle_exit_s() if options.idle_exit_s is None else options.idle_exit_s
    home.prepare()
    _make_python_path_absolute()
    os.chdir(home.path)
    lock = FileLock(home.supervisor_lock, mode=0o600)
    try:
        lock.acquire(timeout=options.lock_timeout_s)
    except Timeout as error:
        raise EmbeddedServerError(_held_by(home)) from error
    supervisor = Supervisor(home, idle_exit_s=idle_exit_s)
    asyncio.new_event_loop().run_until_complete(supervisor.run(ready))


def _make_python_path_absolute() -> None:
    """Make the directories absolute for our servers, which run in the home, not here."""
    named = os.environ.get(PYTHON_PATH)
    if named:
        places = map(os.path.abspath, named.split(os.pathsep))
        os.environ[PYTHON_PATH] = os.pathsep.join(places)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jamboree_gym.servers.supervisor")
    parser.add_argument("--home", required=True, help="directory of the servers")
    parser.add_argument("--idle-exit-s", type=float, help="stay this long after the last client")
    parser.add_argument("--lock-timeout-s", type=float, default=LOCK_TIMEOUT_S, help="to get in")
    parser.add_argument("--ready-fd", type=int, help="pipe to tell when the servers can be asked")
    return parser.parse_args(arguments)


def _idle_exit_s() -> float:
    text = os.environ.get(IDLE_EXIT_VARIABLE)
    try:
        return IDLE_EXIT_S if not text else float(text)
    except ValueError as error:
        what = f"{IDLE_EXIT_VARIABLE}={text!r}"
        raise EmbeddedServerError(f"{what} is not a number of seconds") from error


def _held_by(home: Home) -> str:
    record = home.read_record()
    who = f"process {record.pid} on {record.host}" if record else "another process"
    return (
        f"{home.path} is held by {who}, which does not answer here\n"
        "end that process, or give every machine its own JAMBOREE_HOME"
    )


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


if __name__ == "__main__":
    main()
