"""How a client reaches the supervisor of a home: it connects, or starts the supervisor first."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from jamboree_gym.errors import EmbeddedServerError
from jamboree_gym.servers.control import (
    ANSWER_GRACE_S,
    ControlConnection,
    decode_reply,
    raise_for,
)
from jamboree_gym.servers.home import Home, last_line, trim_log
from jamboree_gym.servers.own_files import append_to
from jamboree_gym.servers.programs.installed import require_valkey

__all__ = ["ask_once", "connect", "reach", "retry_or_raise", "time_left_s"]

RETRY_INTERVAL_S = 0.02
_PROGRAM = Path(__file__).with_name("run_supervisor.py").resolve()


def ask_once(home: Home, op: str, *, timeout_s: float, **options: Any) -> dict[str, Any]:
    """Send one request on a separate connection, which waits for no other and is not counted."""
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.closing(connect(home, deadline)) as control:
            try:
                return control.ask(op, timeout_s=time_left_s(deadline), **options)
            except OSError as error:
                retry_or_raise(home, error, deadline)


def connect(home: Home, deadline: float) -> ControlConnection:
    """Connect to the home's supervisor; start it if it does not run."""
    from filelock import FileLock, Timeout  # here: it takes a while to load

    home.prepare()
    while (control := reach(home)) is None:
        require_valkey()
        try:
            with FileLock(home.start_lock, timeout=time_left_s(deadline), mode=0o600):
                control = reach(home)
                if control is not None:  # another process has started it first
                    return control
                _launch_supervisor(home, timeout_s=time_left_s(deadline))
        except Timeout as error:
            raise EmbeddedServerError(
                f"another process has been starting the servers of {home.path} for too long\n"
                f"see {home.supervisor_log}"
            ) from error
        except OSError as error:
            raise home.unusable(error) from error
    return control


def reach(home: Home) -> ControlConnection | None:
    """Connect to the home's supervisor; None if it does not run.

    Raises:
        EmbeddedServerError: The home, or something in it, belongs to another user.
    """
    record = home.read_record() if home.check() else None
    if record is None:
        return None
    try:
        return ControlConnection(record.control)
    except OSError:  # a killed supervisor left the socket, or there is none
        return None


def retry_or_raise(home: Home, error: OSError, deadline: float) -> None:
    """After a failed request: pause briefly, or at the deadline raise the error for the caller."""
    if time.monotonic() >= deadline or isinstance(error, TimeoutError):
        raise EmbeddedServerError(
            f"the supervisor of {home.path} does not answer: {error}\nsee {home.supervisor_log}"
        ) from error
    time.sleep(RETRY_INTERVAL_S)


def time_left_s(deadline: float) -> float:
    """Seconds until a `time.monotonic()`; at least enough to try one request."""
    return max(deadline - time.monotonic(), 0.01)


def _launch_supervisor(home: Home, *, timeout_s: float) -> None:
    """Start a supervisor and return once it answers. The caller holds the start lock."""
    deadline = time.monotonic() + timeout_s + ANSWER_GRACE_S
    log_start = trim_log(home.supervisor_log)
    read_end, write_end = os.pipe()
    try:
        try:
            launcher = _spawn(home, write_end, lock_timeout_s=timeout_s)
        finally:
            os.close(write_end)
        answer = _read_all(read_end, deadline)
    finally:
        os.close(read_end)
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


def _spawn(home: Home, write_end: int, *, lock_timeout_s: float) -> subprocess.Popen[bytes]:
    """Start it detached from our terminal, session and output, so that a kill of ours misses it."""
    with append_to(home.supervisor_log) as log:
        return subprocess.Popen(
            # -P: a module in the user's working directory must not replace one of Python's
            [
                *(sys.executable, "-P", str(_PROGRAM)),
                *("--home", str(home.path), "--ready-fd", str(write_end)),
                *("--lock-timeout-s", str(lock_timeout_s)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(write_end,),
            start_new_session=True,
        )


def _read_all(descriptor: int, deadline: float) -> bytes:
    """Read what the supervisor writes until it closes the pipe; empty after the deadline."""
    received = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while selector.select(max(deadline - time.monotonic(), 0.0)):
            part = os.read(descriptor, 65536)
            if not part:
                return received
            received += part
    return b""
