"""A call that can be stopped in the middle, while others go on.

Each such call has a thread of its own. Only one of all threads runs at a time, and who is next is
decided by the calls alone. So the same calls happen the same way again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Pausable"]


def _taken() -> threading.Lock:
    """A lock that somebody else releases: in Python 3.11 half as dear as a semaphore."""
    lock = threading.Lock()
    lock.acquire()
    return lock


class Pausable:
    """A call, and how far it is.

    Attributes:
        is_over: Whether it has returned.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self.is_over = False
        self._call = call
        self._error: BaseException | None = None
        self._may_run, self._has_stopped = _taken(), _taken()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def go_on(self) -> None:
        """Run it until it ends, or `stop` is called in it; raises what it raises."""
        if self._thread.ident is None:
            self._thread.start()
        self._may_run.release()
        self._has_stopped.acquire()
        if self.is_over:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Called in it: return when somebody lets it go on."""
        self._has_stopped.release()
        self._may_run.acquire()

    def _run(self) -> None:
        self._may_run.acquire()
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001 - whoever lets it go on gets it
            self._error = error
        self.is_over = True
        self._has_stopped.release()
