"""The lock that a server process holds on its data for as long as it lives.

The supervisor takes the lock, and the server inherits it. The lock stays held if the supervisor is
killed, and is free as soon as the server has ended. So two servers never run on the same data.
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
    """Take the lock; return the descriptor to inherit, or None if a live process holds the lock.

    Raises:
        EmbeddedServerError: The lock file belongs to another user.
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
        EmbeddedServerError: The lock file belongs to another user.
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
