"""One server process: how it starts, is adopted after its supervisor died, and stops."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Protocol

import psutil

from jamboree_gym.errors import EmbeddedServerError
from jamboree_gym.servers.home import Home, last_line, trim_log
from jamboree_gym.servers.own_files import append_to, take_lock

__all__ = ["ServerProcess", "ServerProgram", "how_it_ended", "launch", "start_server"]

START_TIMEOUT_S = 600.0  # loading many gigabytes of data takes long
STOP_GRACE_S = 15.0
STOP_CHECK_INTERVAL_S = 0.02
CHECKS_BEFORE_REPEAT = 25
KILL_TIMEOUT_S = 5.0
ORPHAN_TIMEOUT_S = 2.0
LAUNCH_LOCK_TIMEOUT_S = 1.0
POLL_S = 0.01
_log = logging.getLogger(__name__)


class ServerProgram(Protocol):
    """How one kind of server runs. All other code here is the same for every kind."""

    name: str
    home: Home

    def prepare(self, stopping: threading.Event) -> None:
        """Prepare the start; called while no process serves the data."""

    def command(self) -> list[str]:
        """The command line."""

    def serves(self, command_line: Sequence[str]) -> bool:
        """Whether a process with this command line serves this home's data, in any mode."""

    def answers(self, pid: int) -> bool:
        """Whether the server answers a request now, and it is this process that does."""

    def accepts_clients(self) -> bool:
        """Whether a stopping server still accepts connections. Asking may help it notice."""

    def started(self) -> None:
        """Called when the server has answered for the first time."""


class ServerProcess:
    """A live server process: our own child, or one that a killed supervisor left behind."""

    def __init__(self, program: ServerProgram, process: psutil.Process | psutil.Popen) -> None:
        self.program = program
        self.pid: int = process.pid
        self._process = process

    def is_alive(self) -> bool:
        """Whether the process runs."""
        if isinstance(self._process, psutil.Popen):
            return bool(self._process.poll() is None)  # poll() also reaps it
        try:
            return self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def answers(self) -> bool:
        """Whether the process answers a request now."""
        return self.program.answers(self.pid)

    def how_it_ended(self) -> str:
        """Describe how the process ended; call it only after the end."""
        code = self._process.poll() if isinstance(self._process, psutil.Popen) else None
        return "ended" if code is None else how_it_ended(code)

    def stop(self) -> None:
        """Ask the process to end; kill it after `STOP_GRACE_S`. Return once it is gone."""
        try:
            if self._end_by_request():
                return
            _log.warning("%s (pid %d) ignored SIGTERM: killed", self.program.name, self.pid)
            self._process.kill()
        except psutil.NoSuchProcess:
            return
        if not self._ends_within(KILL_TIMEOUT_S):
            raise EmbeddedServerError(
                f"{self.program.name} (pid {self.pid}) does not end even when killed:"
                f" does the disk of {self.program.home.path} answer?"
            )

    def _end_by_request(self) -> bool:
        """Send SIGTERM, and again if it had no effect.

        A Python server loses a signal if a thread that is just being started receives it: only the
        main thread runs the handler, and nothing wakes the main thread.
        """
        deadline = time.monotonic() + STOP_GRACE_S
        self._process.terminate()
        without_effect = 0
        while not self._ends_within(STOP_CHECK_INTERVAL_S):
            if time.monotonic() > deadline:
                return False
            without_effect = without_effect + 1 if self.program.accepts_clients() else 0
            if without_effect >= CHECKS_BEFORE_REPEAT:
                self._process.terminate()
                without_effect = 0
        return True

    def _ends_within(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.is_alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True


def how_it_ended(code: int) -> str:
    """Describe the end of a process by its exit code."""
    return f"was killed by signal {-code}" if code < 0 else f"exited with status {code}"


def start_server(program: ServerProgram, stopping: threading.Event) -> ServerProcess:
    """Start a server, or adopt the one that a killed supervisor left; wait until it answers.

    Another thread sets `stopping` to stop the wait at once.

    Raises:
        EmbeddedServerError: The server could not be started; the message has its last output line.
    """
    try:
        server = _adopt(program)
        if server is None and stopping.is_set():
            raise EmbeddedServerError(f"{program.name} is being stopped")
        if server is None:
            program.prepare(stopping)
            server = launch(program, program.command(), stopping)
    except OSError as error:
        raise program.home.unusable(error) from error
    try:
        program.started()
    except BaseException:
        server.stop()
        raise
    return server


def launch(
    program: ServerProgram, command: Sequence[str], stopping: threading.Event
) -> ServerProcess:
    """Run `command` as the one process on the program's data, and wait until it answers."""
    log = program.home.server_log(program.name)
    log_start = trim_log(log)
    lock_file = program.home.server_lock(program.name)
    # A client that calls is_lock_held() takes the lock for a moment: wait briefly for it.
    lock = take_lock(lock_file, timeout_s=LAUNCH_LOCK_TIMEOUT_S)
    if lock is None:
        raise EmbeddedServerError(
            f"{lock_file} is held by a process that is not {program.name}: end it, or use another"
            " home"
        )
    try:
        with append_to(log) as output:
            process = psutil.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=program.home.path,
                pass_fds=(lock,),  # the process keeps the lock, even after our end
                restore_signals=False,  # so a file beyond a size limit causes an error, not SIGXFSZ
            )
    finally:
        os.close(lock)
    server = ServerProcess(program, process)
    _log.info("%s started (pid %d)", program.name, server.pid)
    try:
        _wait_until_it_answers(server, stopping, log_start)
    except BaseException:
        server.stop()
        raise
    return server


def _wait_until_it_answers(
    server: ServerProcess, stopping: threading.Event, log_start: int
) -> None:
    name = server.program.name
    log = server.program.home.server_log(name)
    deadline = time.monotonic() + START_TIMEOUT_S
    while not server.answers():
        words = last_line(log, since_byte=log_start) or "it printed nothing"
        if not server.is_alive():
            how = server.how_it_ended()
            raise EmbeddedServerError(f"{name} {how} at its start: {words}\nsee {log}")
        if stopping.is_set() or time.monotonic() > deadline:
            raise EmbeddedServerError(f"{name} did not come up: {words}\nsee {log}")
        time.sleep(POLL_S)


def _adopt(program: ServerProgram) -> ServerProcess | None:
    """Adopt the server that already serves this home's data, if it is as we would start it."""
    deadline = time.monotonic() + ORPHAN_TIMEOUT_S
    while (lock := take_lock(program.home.server_lock(program.name))) is None:
        orphan = _find(program)
        if orphan is not None and _is_as_started(program, orphan):
            _log.info("%s (pid %d) adopted", program.name, orphan.pid)
            return ServerProcess(program, orphan)
        if orphan is not None:
            _log.info("%s (pid %d) was left in a bad state: stopped", program.name, orphan.pid)
            ServerProcess(program, orphan).stop()
        if time.monotonic() > deadline:
            return None  # launch() reports which process holds the lock
        time.sleep(POLL_S)
    os.close(lock)
    return None


def _is_as_started(program: ServerProgram, process: psutil.Process) -> bool:
    """Whether a process answers, and has the options and the port that we would give it."""
    try:
        return bool(process.cmdline() == program.command()) and program.answers(process.pid)
    except psutil.NoSuchProcess:
        return False


def _find(program: ServerProgram) -> psutil.Process | None:
    """Our process that serves this home's data. If Valkey forked to rewrite its log: the parent."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.uids().real == os.getuid() and program.serves(process.cmdline()):
                found[process.pid] = process
        except psutil.Error:  # the process ended meanwhile, or is not visible to us
            continue
    for process in found.values():
        try:
            if process.ppid() not in found:
                return process
        except psutil.NoSuchProcess:
            continue
    return None
