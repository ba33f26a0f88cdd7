"""Servers whose disk is full from one moment to the next, and has room again.

A limit to the size of files, set on the running process: no mount, no root. The writes fail as they
do on a full disk, also in the middle, with `File too large` instead of `No space left on device`.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from conftest import REDIS_PROGRAMS, Server, free_port, mongo_answers, redis_answers

# Python ignores SIGXFSZ, and whatever it executes in its place goes on to do so.
IGNORING = [sys.executable, "-c", "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"]


@contextmanager
def redis_of_its_own(kind: str, directory: Path, *options: str) -> Iterator[Server]:
    """A server with an append-only file, which survives a full disk as far as it is able to."""
    directory.mkdir(parents=True)
    path = directory / "redis.sock"
    command = [*IGNORING, REDIS_PROGRAMS[kind](), "--port", "0", "--unixsocket", str(path)]
    command += ["--dir", str(directory), "--save", "", "--appendonly", "yes", *options]
    server = Server(f"unix://{path}", command, redis_answers).start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def mongo_of_its_own(directory: Path) -> Iterator[Server]:
    """A server that may be killed, or run out of disk."""
    directory.mkdir(parents=True)
    port = free_port()
    command = [sys.executable, "-m", "secantus", "--port", str(port)]
    command += ["--storage-path", str(directory), "--cache-size", "128M"]
    server = Server(f"mongodb://127.0.0.1:{port}", command, mongo_answers).start()
    try:
        yield server
    finally:
        server.kill()  # told to end, it takes two seconds


def fill(server: Server, directory: Path, *, room: int) -> None:
    """Let none of its files grow to more than so many bytes above the largest."""
    largest = max(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    _limit(server, largest + room)


def free(server: Server) -> None:
    """There is room again."""
    _limit(server, resource.RLIM_INFINITY)


def _limit(server: Server, size: int) -> None:
    main = psutil.Process(server.process.pid)
    for process in (main, *main.children(recursive=True)):
        hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, hard))
