"""How a client reaches the supervisor of a home: it connects, or starts the supervisor first."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from filelock import FileLock, Timeout

from jamboree_gym.errors import EmbeddedServerError
from jamboree_gym.servers.control import ControlConnection
from jamboree_gym.servers.home import Home
from jamboree_gym.servers.launcher import launch_supervisor
from jamboree_gym.servers.valkey_program import require_valkey

__all__ = ["ask_once", "connect", "reach", "retry_or_raise", "time_left_s"]

RETRY_INTERVAL_S = 0.02


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
    home.prepare()
    while (control := reach(home)) is None:
        require_valkey()
        try:
            with FileLock(home.start_lock, timeout=time_left_s(deadline), mode=0o600):
                control = reach(home)
                if control is not None:  # another process has started it first
                    return control
                launch_supervisor(home, timeout_s=time_left_s(deadline))
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
