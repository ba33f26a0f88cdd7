"""The backup as it goes on by itself: copies to MongoDB what comes to Redis."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Mapping

from jamboree_gym.backup.copy import LogCopier, finish_deletions
from jamboree_gym.backup.retention import Trimmer
from jamboree_gym.connection import Connection
from jamboree_gym.errors import DecodeError, JamboreeError
from jamboree_gym.store.coverage import cover
from jamboree_gym.store.log import BackupMark

__all__ = ["Follower"]

INTERVAL_S = 0.25
BACKOFF_S = (0.25, 0.5, 1.0, 2.0, 5.0)
TRY_AGAIN_S = 60.0  # what could not be copied for a reason of its own

log = logging.getLogger("jamboree_gym")


class Follower:
    """Copies one namespace, round by round, and makes room in Redis. Several at once do no harm.

    Without MongoDB, or without Redis, it waits, longer each time up to five seconds, and says so
    once. A log that cannot be copied does not keep the others from it.

    Args:
        connection: From whose Redis to whose MongoDB. It is borrowed.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._name = f"{platform.node()} {os.getpid()}"
        self._copier: LogCopier | None = None
        self._trimmer: Trimmer | None = None
        self._failed: dict[str, tuple[int, str]] = {}  # log -> its revision then, and why
        self._try_again_at = 0.0
        self._said: set[str] = set()
        self._outages = 0

    def run(self, stop: threading.Event) -> None:
        """Go on until told to stop, and then once more, so that nothing is left."""
        while not stop.wait(self.copy_once()):
            pass
        self.copy_once()

    def copy_once(self) -> float:
        """Copy what there is; how long to wait before the next time, seconds."""
        try:
            self._copy()
        except Exception as error:
            if not isinstance(error, JamboreeError):
                log.error("the backup failed", exc_info=error)
            self._note(str(error) if isinstance(error, JamboreeError) else repr(error))
            self._copier = self._trimmer = None
            pause_s = BACKOFF_S[min(self._outages, len(BACKOFF_S) - 1)]
            self._outages += 1
            return pause_s
        if self._outages:
            log.info("the backup of %s goes on", self._connection.keyspace.namespace)
            self._said.clear()
        self._outages = 0
        return INTERVAL_S

    def _copy(self) -> None:
        store, mongo = self._connection.redis_store, self._connection.mongo_store
        began = store.time()
        finish_deletions(store, mongo)
        cover(store, mongo)
        unbacked = dict(store.unbacked())
        failed = self._failed_so_far(unbacked)
        pending = [one for one in unbacked.items() if one[0] not in failed]
        trimmer = self._trimmer = self._trimmer or Trimmer(store, mongo)
        copier = self._copier = self._copier or LogCopier(store, mongo, told=trimmer.add)
        copier.failures = {}
        for _ in copier.copy(pending):
            self._make_room(trimmer)
        self._failed = failed | {
            key: (unbacked[key], str(failure)) for key, failure in copier.failures.items()
        }
        reasons = [reason for _, reason in self._failed.values()]
        for reason in reasons:
            self._say(reason)
        until = None if reasons else began
        damaged = self._make_room(trimmer)
        error = next(iter(reasons), damaged)
        store.put_backup_mark(BackupMark(self._name, began, until, error))

    def _make_room(self, trimmer: Trimmer) -> str:
        """Let go of what the policy says; what is wrong with it, if anything is."""
        try:
            trimmer.go_on()
        except DecodeError as error:  # not to know what is to be kept keeps all, and copies all
            self._say(f"{error}; nothing is let go of in Redis: call backup.retain() anew")
            return str(error)
        return ""

    def _failed_so_far(self, unbacked: Mapping[str, int]) -> dict[str, tuple[int, str]]:
        """Logs that could not be copied as they are now; forgotten from time to time."""
        if time.monotonic() > self._try_again_at:
            self._try_again_at = time.monotonic() + TRY_AGAIN_S
            return {}
        return {key: one for key, one in self._failed.items() if unbacked.get(key) == one[0]}

    def _note(self, error: str) -> None:
        """Say what is wrong, and where Redis answers, leave it there for `status`."""
        self._say(f"{error}; the backup goes on when that is over, and nothing is lost")
        try:
            store = self._connection.redis_store
            store.put_backup_mark(BackupMark(self._name, store.time(), None, error))
        except JamboreeError as second:  # it is Redis that is away
            log.debug("%s", second)

    def _say(self, what: str) -> None:
        """Once per outage."""
        if what not in self._said:
            self._said.add(what)
            log.warning("%s", what)
