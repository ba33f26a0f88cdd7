"""Processes that begin with the package imported: forked from one that has done nothing else.

An interpreter that imports the package takes as long as ten tests. Here one does, once for a run of
pytest, without a thread and without a Jamboree; each process is a copy of it, whose end is that of
any interpreter. Who looks at what is imported, or replaces something before it is, wants
`processes.start_python`.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from processes import HEAR_CTRL_C, PATHS, WAIT_TIMEOUT_S

FORKER = str(Path(__file__).parent / "warm_forker.py")


class WarmProcess:
    """What tests use of `subprocess.Popen` with three pipes of text."""

    def __init__(
        self,
        source: str,
        arguments: tuple[str, ...],
        *,
        environment: Mapping[str, str] | None = None,
        stdin: int | None = None,
        stdout: int | None = None,
    ) -> None:
        self.args = ["-c", source, *arguments]
        self.returncode: int | None = None
        self._lock = threading.Lock()
        ours, theirs = [], []
        for is_input in (True, False, False):
            read, write = os.pipe()
            ours.append(write if is_input else read)
            theirs.append(read if is_input else write)
        for number, given in ((0, stdin), (1, stdout)):
            if given is not None:  # a terminal, for example; our own pipe has no other end then
                os.dup2(given, theirs[number], inheritable=False)
        self._status, status = os.pipe()
        variables = dict(os.environ if environment is None else environment)
        request = {"argv": self.args, "env": variables, "cwd": os.getcwd()}
        try:
            forker().send(json.dumps(request).encode(), [*theirs, status])
        finally:
            for fd in (*theirs, status):
                os.close(fd)
        self.stdin: IO[str] = os.fdopen(ours[0], "w")
        self.stdout: IO[str] = os.fdopen(ours[1])
        self.stderr: IO[str] = os.fdopen(ours[2])
        (self.pid,) = struct.unpack("i", os.read(self._status, 4))

    def poll(self) -> int | None:
        """How it ended, or None."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        ended = self._ended(timeout)
        if ended is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return ended

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and _is_readable(self._status, timeout):
            with self._lock:  # closed twice, it could be somebody else's by then
                if self.returncode is None:
                    (self.returncode,) = struct.unpack("i", os.read(self._status, 4))
                    os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # its end is not told yet
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it as `kill -9` does."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Tell it to end."""
        self.send_signal(signal.SIGTERM)

    def communicate(
        self, input: str | None = None, timeout: float | None = None
    ) -> tuple[str, str]:
        """Write to it, wait for its end; what it wrote meanwhile to its output and its errors."""
        if self.stdout.closed:
            self.wait(timeout)
            return "", ""
        texts = ["", ""]

        def read(number: int, pipe: IO[str]) -> None:
            texts[number] = pipe.read()

        threads = [
            threading.Thread(target=read, args=pair, daemon=True)
            for pair in enumerate((self.stdout, self.stderr))
        ]
        for thread in threads:
            thread.start()
        with suppress(BrokenPipeError):  # it ended first
            self.stdin.write(input or "")
            self.stdin.close()
        self.wait(timeout)
        for thread in threads:
            thread.join(timeout)
            if thread.is_alive():  # a child of it holds the pipe
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.stdout.close()
        self.stderr.close()
        return texts[0], texts[1]


def _is_readable(fd: int, timeout_s: float | None) -> bool:
    """Whether something can be read before the time is over.

    `select.select` refuses descriptors above 1,023, which a long run of tests may have.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))


class Forker:
    """The process that forks."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, FORKER, str(theirs.fileno())],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        atexit.register(self.close)

    def send(self, request: bytes, fds: list[int]) -> None:
        """Ask for a process with these for its three streams, and one that tells its end."""
        socket.send_fds(self._socket, [struct.pack("i", len(request))], fds)
        self._socket.sendall(request)

    def close(self) -> None:
        """End it; those that it forked live on."""
        self._socket.close()
        self._process.wait()


_forkers: list[Forker] = []


def forker() -> Forker:
    """The one of this run, started when it is first asked for."""
    if not _forkers:
        _forkers.append(Forker())
    return _forkers[0]


def start_warm(source: str, *arguments: object, **options: Any) -> Any:
    """As `processes.start_python`, only sooner: the package has been imported."""
    return WarmProcess(HEAR_CTRL_C + source, tuple(map(str, arguments)), **options)


def run_warm(source: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """As `processes.run_python`, only sooner: the package has been imported."""
    process = start_warm(source, *arguments)
    try:
        out, err = process.communicate(timeout=WAIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
