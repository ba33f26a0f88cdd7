"""The automatic backup: the first delivery starts it, on its own thread."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

from jamboree_gym.backup.copy import read_pending
from jamboree_gym.backup.follow import Follower, OpenedBackup
from jamboree_gym.backup.waiting import StopSignal
from jamboree_gym.connection import Connection
from jamboree_gym.errors import JamboreeError
from jamboree_gym.keys import Keyspace
from jamboree_gym.servers.embedded import EmbeddedServers
from jamboree_gym.store.backups.errors import InterpreterEnds
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.store.urls import EMBEDDED, backed_up_to, is_folder

__all__ = ["AutomaticBackup", "FollowingThread", "SupervisorsBackup", "automatic_backup"]

CHECK_S = 1.0  # how often to check that the supervisor is still there
BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)

log = logging.getLogger(__name__)


class AutomaticBackup:
    """Copies a Jamboree's namespace from its first delivery on. Its failures raise no error.

    It runs the work on a thread. `work.trouble` is why that failed in the end, None if it did not;
    `work.needs_threads` whether it is impossible while the interpreter ends. At the end it asks the
    store, which the caller owns, how many records are not copied yet.
    """

    def __init__(self, work: FollowingThread | SupervisorsBackup, store: RedisStore) -> None:
        self._work = work
        self._store = store
        self._delivered = threading.Event()
        self._stop = StopSignal()
        self._thread: threading.Thread | None = None
        self._is_late = False
        self._starting = threading.Lock()  # two threads may make the first delivery at once

    def begin(self) -> None:
        """Tell the backup about a delivery. Returns at once."""
        if self._delivered.is_set():
            return
        self._delivered.set()
        with self._starting:
            if self._thread is None and not self._is_late:
                self._start()

    def close(self, timeout_s: float) -> None:
        """Let the backup finish; warn if something is not copied."""
        self._stop.set()
        self._delivered.set()
        if self._is_late and self._work.needs_threads:
            self._work.trouble = str(InterpreterEnds())
        elif self._is_late:
            self._run()
        if self._thread is not None:
            self._thread.join(timeout_s)
        trouble = self._work.trouble
        if self._thread is not None and self._thread.is_alive():
            trouble = f"the backup did not end within {timeout_s:.3g} s"
        if trouble is not None:
            log.warning("%s; %s", trouble, self._pending())

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="jamboree-backup", daemon=True)
        try:
            thread.start()
            self._thread = thread
        except RuntimeError as error:  # the interpreter is ending, or has no threads left
            self._is_late = True
            log.debug("no thread for the backup, it runs at close: %s", error)

    def _run(self) -> None:
        try:
            self._work.run(self._delivered, self._stop)
        except Exception as error:
            log.error("the backup failed", exc_info=error)
        finally:
            self._stop.close()

    def _pending(self) -> str:
        try:
            pending = read_pending(self._store).records
        except JamboreeError:
            return "what the backup lacks is copied by the next one"
        return f"{pending} records are not in the backup yet, the next one copies them"


class FollowingThread:
    """Copies to the user's own backup, unless another process does, over its own connections."""

    def __init__(
        self, redis_url: Callable[[], str], backup_url: str, keyspace: Keyspace, interval_s: float
    ) -> None:
        self.trouble: str | None = None
        self.needs_threads = not is_folder(backup_url)  # pymongo does
        self._redis_url = redis_url
        self._backup_url = backup_url
        self._keyspace = keyspace
        self._interval_s = interval_s

    def run(self, delivered: threading.Event, stop: StopSignal) -> None:
        """Copy until `stop` is set; it does not matter what was `delivered`."""
        store = RedisStore.from_url(self._redis_url(), self._keyspace)
        backup = OpenedBackup(lambda: self._backup_url, self._keyspace.namespace)
        with contextlib.closing(store), contextlib.closing(backup):
            to = backed_up_to(self._backup_url)
            follower = Follower(
                store,
                backup.open,
                kind="thread",
                to=to,
                is_new=True,
                interval_s=self._interval_s,
            )
            follower.run(stop)
            self.trouble = follower.trouble


class SupervisorsBackup:
    """Asks the supervisor of the embedded servers to keep a backup process running."""

    def __init__(self, servers: EmbeddedServers, store: RedisStore, interval_s: float) -> None:
        self.trouble: str | None = None
        self.needs_threads = False
        self._interval_s = interval_s
        self._servers = servers
        self._store = store
        self._is_asked = self._has_set_destination = False
        self._failures = 0

    def run(self, delivered: threading.Event, stop: threading.Event) -> None:
        """Ask at the first delivery, and again when a delivery finds a new supervisor.

        `delivered` is set after each delivery, and with `stop`.
        """
        pause_s = 0.0
        while not stop.wait(pause_s):
            delivered.wait()
            delivered.clear()
            pause_s = self._ask_if_needed()
        self._ask_if_needed()

    def _ask_if_needed(self) -> float:
        """Ask if necessary; return the seconds to wait before the next check."""
        try:
            if not self._servers.is_joined():
                self._is_asked = False
                self._servers.ensure()
            if not self._is_asked:
                if not self._has_set_destination:
                    self._store.backup_state.copy_to(EMBEDDED)
                    self._has_set_destination = True
                namespace = self._store.keyspace.namespace
                self._servers.back_up(namespace, interval_s=self._interval_s)
        except JamboreeError as error:
            if self.trouble is None:
                log.warning("%s; nothing is backed up until that is over", error)
            self.trouble = str(error)
            self._failures += 1
            return BACKOFF_S[min(self._failures, len(BACKOFF_S)) - 1]
        self._is_asked, self.trouble, self._failures = True, None, 0
        return CHECK_S


def automatic_backup(connection: Connection) -> AutomaticBackup | None:
    """What copies what is saved through a connection; None where there is no backup to copy to."""
    store, interval_s = connection.redis_store, connection.backup_interval_s
    if connection.backup_url is not None:
        url = connection.opened.own_redis_url
        thread = FollowingThread(url, connection.backup_url, connection.keyspace, interval_s)
        return AutomaticBackup(thread, store)
    if connection.redis_url is not None:
        return None
    servers = connection.opened.join_servers()
    return AutomaticBackup(SupervisorsBackup(servers, store, interval_s), store)
