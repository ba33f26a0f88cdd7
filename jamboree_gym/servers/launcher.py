"""Starts the supervisor of a home from a client; the supervisor outlives that client."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

from jamboree_gym.errors import EmbeddedServerError
from jamboree_gym.servers.control import ANSWER_GRACE_S, decode_reply, raise_for
from jamboree_gym.servers.home import Home, last_line, trim_log
from jamboree_gym.servers.own_files import open_own

__all__ = ["launch_supervisor"]

_PROGRAM = Path(__file__).with_name("run_supervisor.py").resolve()


def launch_supervisor(home: Home, *, timeout_s: float) -> None:
    """Start a supervisor and return once it answers. The caller holds the start lock.

    Raises:
        EmbeddedServerError: The supervisor did not start.
    """
    deadline = time.monotonic() + timeout_s + ANSWER_GRACE_S
    log_start = trim_log(home.supervisor_log)
    ready, told = os.pipe()
    try:
        try:
            launcher = _spawn(home, told, lock_timeout_s=timeout_s)
        finally:
            os.close(told)
        answer = _read_all(ready, deadline)
    finally:
        os.close(ready)
    if not answer:
        launcher.kill()
    launcher.wait()  # it has forked the supervisor and ended
    if not answer:
        words = last_line(home.supervisor_log, since_byte=log_start) or "it printed nothing"
        raise EmbeddedServerError(
            f"the supervisor of the embedded servers did not come up: {words}\n"
            f"see {home.supervisor_log}"
        )
    raise_for(decode_reply(answer))


def _spawn(home: Home, told: int, *, lock_timeout_s: float) -> subprocess.Popen[bytes]:
    """Start it detached from our terminal, session and output, so that a kill of ours misses it."""
    descriptor = open_own(home.supervisor_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with os.fdopen(descriptor, "ab") as log:
        return subprocess.Popen(
            # -P: a module in the user's working directory must not replace one of Python's
            [
                *(sys.executable, "-P", str(_PROGRAM)),
                *("--home", str(home.path), "--ready-fd", str(told)),
                *("--lock-timeout-s", str(lock_timeout_s)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(told,),
            start_new_session=True,
        )


def _read_all(descriptor: int, deadline: float) -> bytes:
    """Read what the supervisor writes until it closes the pipe; empty after the deadline."""
    received = b""
    while select.select([descriptor], [], [], max(deadline - time.monotonic(), 0.0))[0]:
        part = os.read(descriptor, 65536)
        if not part:
            return received
        received += part
    return b""
