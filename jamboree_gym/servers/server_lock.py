"""The lock that a server process holds on its data for as long as it lives.

The supervisor takes it and hands it down by inheritance: it stays held when the supervisor is
killed, and is free the moment the server is gone. So nobody ever starts two on the same data.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from jamboree_gym.servers.own_files import open_own

if sys.platform != "win32":
    import fcntl

__all__ = ["is_held", "take"]

POLL_S = 0.01


def take(path: Path, *, timeout_s: float = 0.0) -> int | None:
    """Take the lock; the descriptor to inherit, or None while a live process holds it.

    Raises:
        EmbeddedServerError: It is somebody else's.
    """
    deadline = time.monotonic() + timeout_s
    descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
        time.sleep(POLL_S)


def is_held(path: Path) -> bool:
    """Whether a live process holds the lock. Makes no file.

    Raises:
        EmbeddedServerError: It is somebody else's.
    """
    try:
        descriptor = open_own(path, os.O_RDWR)
    except OSError:  # no server has run here yet, or the home is not ours
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
