"""What tests share that start processes and wait for them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import jamboree_gym
from jamboree_gym import DBHandler
from jamboree_gym.connection import Connection

WAIT_TIMEOUT_S = 60.0  # of a machine that is very busy
# A run in the background of a shell ignores Ctrl-C, and its children inherit that.
HEAR_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
PATHS = [str(Path(jamboree_gym.__file__).parents[1]), str(Path(__file__).parent)]


class NoteHandler(DBHandler):
    """A handler as a user would write it; used by tests and by the processes they start."""

    def __init__(self, jam: Connection | None = None, name: str = "") -> None:
        super().__init__(jam)
        self.entity = "note"
        self.required = {"name": str}
        if name:
            self["name"] = name


def start_python(source: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Python process that can import the package and this module."""
    return subprocess.Popen(
        [sys.executable, "-c", HEAR_CTRL_C + source, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_python(source: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a Python process to its end."""
    process = start_python(source, *arguments)
    out, err = process.communicate(timeout=WAIT_TIMEOUT_S)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def raises(error: type[BaseException]) -> Callable[..., NoReturn]:
    """A function that raises this."""

    def fail(*_: object) -> NoReturn:
        raise error

    return fail


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line that a process writes; fails with its last words if it ends instead."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return line


def threads_here() -> set[threading.Thread]:
    """Threads of this process, but for those of MongoDB clients that earlier tests have left."""
    return {one for one in threading.enumerate() if not one.name.startswith("pymongo")}


def wait_until(condition: Callable[[], object], *, timeout_s: float = WAIT_TIMEOUT_S) -> None:
    """Return once the condition holds.

    Who has waited for long looks less often: most of the time, he waits for a processor.
    """
    began = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - began
        if waited_s > timeout_s:
            raise TimeoutError(f"{condition} did not come true in {timeout_s} s")
        time.sleep(min(max(waited_s / 20, 0.001), 0.01))
