"""Imports the package, and forks a process for each request; `warm.py` starts it.

A request is a number of bytes, four descriptors beside it (three streams, and one to which a pid
and later a return code are written), and JSON: argv, environment, working directory.

JAMBOREE_WARM names further modules to import.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import types
from contextlib import suppress
from typing import Any

import processes  # noqa: F401 - so that nobody else need import it
import recorded_envs  # noqa: F401

# What the package imports late, and many of the processes need.
LATE = ("jamboree_gym.backup.__main__", "jamboree_gym.cli.command_list", "pymongo", "rich.table")


def main(requests: socket.socket) -> None:
    """Fork, and tell who has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who runs the tests
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    running: dict[int, int] = {}
    for name in (*LATE, *os.environ.get("JAMBOREE_WARM", "").split()):
        importlib.import_module(name)
    gc.freeze()
    while True:
        ready = select.select([requests, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            for pid in tell_ends(running):
                del running[pid]
        if requests in ready:
            header, fds, _, _ = socket.recv_fds(requests, 4, 4)
            if not header:
                return
            (size,) = struct.unpack("i", header)
            request = json.loads(requests.recv(size, socket.MSG_WAITALL))
            *streams, status = fds
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                requests.close()
                for fd in (woken, wake, status, *running.values()):
                    os.close(fd)
                become(request, streams)
                return
            for fd in streams:
                os.close(fd)
            running[pid] = status
            write(status, pid)


def tell_ends(running: dict[int, int]) -> list[int]:
    """Write the return code of who has ended where it is waited for; who that is."""
    ended = []
    for pid, status in running.items():
        found, how = os.waitpid(pid, os.WNOHANG)
        if found:
            write(status, os.waitstatus_to_exitcode(how))
            os.close(status)
            ended.append(pid)
    return ended


def write(fd: int, number: int) -> None:
    """Write a number, unless nobody is there to read it."""
    with suppress(BrokenPipeError):
        os.write(fd, struct.pack("i", number))


def become(request: dict[str, Any], streams: list[int]) -> None:
    """Take the place of `python -c` with these arguments; the rest of it is run at the very top."""
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    option, source, *arguments = request["argv"]
    sys.argv[:] = [option, *arguments]
    sys.path[0] = ""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    todo.append((source, module.__dict__))


todo: list[tuple[str, dict[str, Any]]] = []
with socket.socket(fileno=int(sys.argv[1])) as asked:
    main(asked)
for source, names in todo:
    exec(compile(source, "<string>", "exec"), names)
