"""What happens to the objects of this process when it forks or ends, and when they are copied.

The one place that asks Python for it. An object that holds locks, threads or connections says so
with `follow_forks`, one that cannot be copied is a `StaysHere`; one that has something to finish
keeps an `AtExit`.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 # loaded first at exit, as by pyarrow 16, it fails
import logging
import os
import weakref
from collections.abc import Callable
from multiprocessing import parent_process, util
from typing import ClassVar, NoReturn, Protocol, SupportsIndex

from jamboree_gym.errors import NotCopyable

__all__ = ["AtExit", "StaysHere", "follow_forks"]

log = logging.getLogger(__name__)


class FollowsForks(Protocol):
    """An object that has to change in a forked process."""

    def after_fork_in_child(self) -> None:
        """Leave to the parent what is the parent's: threads, connections, locks that are held."""


_followers: weakref.WeakKeyDictionary[FollowsForks, None] = weakref.WeakKeyDictionary()


def follow_forks(one: FollowsForks) -> None:
    """Call its `after_fork_in_child` in each forked process, as long as it is there.

    In the order in which they came: what came later may be built on what came before.
    """
    _followers[one] = None


def _after_fork_in_child() -> None:
    for one in list(_followers):
        try:
            one.after_fork_in_child()
        except Exception as error:  # the others need it all the same
            log.error("%s after a fork", type(one).__name__, exc_info=error)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)


class AtExit:
    """Calls a method at the end of the process, if its object is still there and it is not done.

    A worker process of `multiprocessing` ends without `atexit`, but calls `util.Finalize`.

    Args:
        method: A bound method without arguments.
        worker_priority: In a worker, those with a higher one are called before.
    """

    def __init__(self, method: Callable[[], None], *, worker_priority: int) -> None:
        self._method = weakref.WeakMethod(method)
        self._worker_priority = worker_priority
        self._in_worker: util.Finalize | None = None
        self._is_cancelled = False
        atexit.register(self)
        util.register_after_fork(self, AtExit._register_in_worker)
        if parent_process() is not None:
            self._register_in_worker()

    def _register_in_worker(self) -> None:
        if not self._is_cancelled:
            self._in_worker = util.Finalize(None, self, exitpriority=self._worker_priority)

    def __call__(self) -> None:
        """The process ends."""
        method = self._method()
        if method is not None:
            method()

    def cancel(self) -> None:
        """It is done already."""
        self._is_cancelled = True
        atexit.unregister(self)
        if self._in_worker is not None:
            self._in_worker.cancel()


class StaysHere:
    """Cannot be copied or pickled.

    Attributes:
        _instead: What to do instead.
    """

    _instead: ClassVar[str] = "open a Jamboree where you need it"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """What `copy` and `pickle` call.

        Raises:
            NotCopyable: Always; says what to do.
        """
        raise NotCopyable(
            f"{type(self).__name__} is bound to its process and its connection, so it cannot be "
            f"copied or pickled: {self._instead}"
        )
