"""What a Jamboree has opened, and the thread that closes what nobody refers to any more.

A Jamboree that is dropped without `close()` cannot close itself: the garbage collector may run at
any point of any thread, even of one that holds a lock which closing needs. So what it has opened
does not refer to it, and is handed to a separate thread.
"""

from __future__ import annotations

import _thread
import logging
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol
from weakref import ref

from jamboree_gym.delivery.lease import Lease
from jamboree_gym.delivery.outbox import Outbox
from jamboree_gym.delivery.step_outbox import StepOutbox
from jamboree_gym.delivery.writer import CLOSE_TIMEOUT_S, Writer
from jamboree_gym.errors import JamboreeError, UnsavedRecords
from jamboree_gym.journal.journal import Journal
from jamboree_gym.process_life import AtExit, follow_forks
from jamboree_gym.servers.embedded import EmbeddedServers
from jamboree_gym.store.backups.errors import check_threads
from jamboree_gym.store.backups.opening import open_backup
from jamboree_gym.store.backups.presence import check_is_not_gone
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.read_through import ReadThroughStore
from jamboree_gym.store.urls import is_folder

__all__ = ["KnownOutboxes", "Opened", "RunningBackup", "closer", "writers_here"]

WORKER_EXIT_PRIORITY = 50  # after the Jamborees that are still referred to
SWEEP_FROM = 1024  # of fewer outboxes, it does not matter how many are gone

log = logging.getLogger(__name__)


writers_here: set[str] = set()
"""Names of the writers of this process."""


class _ParentsWriters:
    def after_fork_in_child(self) -> None:
        """They are the parent's."""
        writers_here.clear()


_parents_writers = _ParentsWriters()
follow_forks(_parents_writers)


class RunningBackup(Protocol):
    """What copies to the backup by itself."""

    def begin(self) -> None:
        """Something has been delivered. Returns at once."""

    def close(self, timeout_s: float) -> None:
        """Let it finish."""


class KnownOutboxes:
    """The outboxes that somebody refers to, by the key of their log.

    A `WeakValueDictionary` calls back for each outbox that goes: that takes longer than to make it.
    Here, those that are gone are swept out when they may be half of all.
    """

    def __init__(self) -> None:
        self._refs: dict[str, ref[Outbox]] = {}
        self._sweep_at = SWEEP_FROM
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """The thread that held the lock is not in this process."""
        self._lock = threading.Lock()

    def add(self, outbox: Outbox) -> None:
        """Know this one, instead of another one of the same log."""
        with self._lock:
            refs = self._refs
            refs[outbox.key] = ref(outbox)
            if len(refs) >= self._sweep_at:
                self._refs = {key: known for key, known in refs.items() if known() is not None}
                self._sweep_at = max(SWEEP_FROM, 2 * len(self._refs))

    def get(self, key: str) -> Outbox | None:
        """The outbox of a log, if somebody refers to it."""
        known = self._refs.get(key)
        return None if known is None else known()

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def forget(self, key: str) -> None:
        """Do not know the outbox of this log any more."""
        with self._lock:
            self._refs.pop(key, None)

    def all(self) -> list[Outbox]:
        """All of them."""
        found = [known() for known in list(self._refs.values())]  # others may add one meanwhile
        return [outbox for outbox in found if outbox is not None]


class Opened:
    """Servers, stores and threads of one Jamboree; refers to it nowhere.

    Args:
        redis_url: As given, None = embedded.
        backup_url: Likewise.
        home: Of the embedded servers.
        namespace: Of the Jamboree.
    """

    store: ReadThroughStore
    writer: Writer
    journal: Journal
    lease: Lease
    writer_name: str

    def __init__(
        self, redis_url: str | None, backup_url: str | None, home: Path | None, namespace: str
    ) -> None:
        self.redis_url = redis_url
        self.backup_url = backup_url
        self.home = home
        self.namespace = namespace
        self.servers: EmbeddedServers | None = None
        self.backup_store: BackupStore | None = None
        self.backup: RunningBackup | None = None
        self.outboxes = KnownOutboxes()
        self._parents_store: BackupStore | None = None
        self._lock = threading.RLock()
        self._backup_lock = threading.RLock()  # its own: opening the backup takes its time

    def join_servers(self) -> EmbeddedServers:
        """The embedded servers, joined once."""
        with self._lock:
            if self.servers is None:
                self.servers = EmbeddedServers.join(self.home)
            return self.servers

    def leave_servers(self) -> None:
        """Leave them, if they were joined."""
        if self.servers is not None:
            self.servers.close()

    def own_redis_url(self) -> str:
        """Where Redis is."""
        return self.redis_url or self.join_servers().redis_url

    def opened_backup(self) -> BackupStore:
        """The backup; opened, and where embedded also started, on first use."""
        with self._backup_lock:
            if self.backup_store is None:
                url = self.backup_url
                if url is None or not is_folder(url):
                    check_threads()
                url = url or self.join_servers().backup_url()
                known_at = self.store.redis.backup_state.backup_place
                check_is_not_gone(url, self.namespace, known_at)
                self.backup_store = open_backup(url, self.namespace)
            return self.backup_store

    def backup_to_read(self) -> BackupStore | None:
        """Where to look for what Redis does not have; None where nothing was ever backed up.

        Also while it closes: what is delivered then may continue a log that Redis has lost.
        """
        return self.opened_backup() if self.has_backup else None

    @property
    def has_backup(self) -> bool:
        """Whether the backup may hold anything; a new embedded one holds nothing."""
        is_embedded = self.servers is not None and self.servers.have_backup
        return self.backup_store is not None or self.backup_url is not None or is_embedded

    def is_recording(self) -> bool:
        """Whether an episode of this process is running, in Redis or on the way there."""
        return any(map(_is_running, self.outboxes.all()))

    def abandon(self) -> None:
        """End the episodes that are still being recorded, as far as they are there."""
        for outbox in self.outboxes.all():
            if isinstance(outbox, StepOutbox) and outbox.error is None:
                outbox.end("abandoned")

    def close(self, timeout_s: float) -> None:
        """Bring everything to Redis, and close.

        Raises:
            UnsavedRecords: Something could not be saved. It stays in the journal, if there is one.
        """
        deadline = time.monotonic() + timeout_s
        with ExitStack() as closed_then:  # each of them, from the last one up, whatever one raises
            closed_then.callback(self.leave_servers)
            closed_then.callback(self._close_backup_store)
            closed_then.callback(self.store.close)
            closed_then.callback(writers_here.discard, self.writer_name)
            closed_then.callback(self.lease.close, timeout_s)
            closed_then.callback(self._close_backup, deadline)
            closed_then.callback(lambda: self.journal.close(keep=self.writer.unsaved > 0))
            try:
                self.writer.close(timeout_s)
            except UnsavedRecords as error:
                error.add_note(self.journal.after_close)
                raise

    def _close_backup(self, deadline: float) -> None:
        if self.backup is not None:
            self.backup.close(max(0.0, deadline - time.monotonic()))

    def _close_backup_store(self) -> None:
        if self.backup_store is not None:
            self.backup_store.close()

    def after_fork_in_child(self) -> None:
        """Leave to the parent what it has opened; a closed one stays closed."""
        self._lock = threading.RLock()  # the thread that held it is not in this process
        self._backup_lock = threading.RLock()
        self.outboxes.after_fork_in_child()
        self.journal.after_fork_in_child()
        self.store.after_fork_in_child()
        self._parents_store, self.backup_store = self.backup_store or self._parents_store, None


def _is_running(outbox: Outbox) -> bool:
    if not isinstance(outbox, StepOutbox) or outbox.error is not None:
        return False
    return outbox.status == "running" or not outbox.is_settled


class _Closer:
    """Closes what was dropped, on a thread that lives as long as there is something to close."""

    def __init__(self) -> None:
        self._at_exit: AtExit | None = None
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """What the parent has dropped, the parent closes."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_finishing = False
        self._dropped: SimpleQueue[tuple[Opened, Callable[[], None]]] = SimpleQueue()

    def prepare(self) -> None:
        """A Jamboree is opened: at the end of the process, wait for those that are dropped."""
        with self._lock:
            if self._at_exit is None:
                self._at_exit = AtExit(self.finish, worker_priority=WORKER_EXIT_PRIORITY)

    def drop(self, opened: Opened, forget: Callable[[], None], what: str | None) -> None:
        """Nobody refers to it any more; `what` it is, if its user should have closed it.

        The garbage collector calls this, so it waits for no lock; `Thread.start` does.
        """
        self._dropped.put((opened, forget))
        with suppress(RuntimeError):  # the interpreter is ending, or has no threads left
            _thread.start_new_thread(self._start, ())
        if what is not None:
            warnings.warn(
                f"unclosed {what}: close it, or use `with`", ResourceWarning, stacklevel=2
            )

    def _start(self) -> None:
        with self._lock, suppress(RuntimeError):
            if self._thread is None and not self._is_finishing and not self._dropped.empty():
                thread = threading.Thread(target=self._run, name="jamboree-closer", daemon=True)
                thread.start()
                self._thread = thread

    def finish(self) -> None:
        """Close what is still to be closed."""
        with self._lock:
            thread, self._is_finishing = self._thread, True
        if thread is not None:
            thread.join()
        self._close_all()
        self._is_finishing = False

    def _run(self) -> None:
        while True:
            self._close_all()
            with self._lock:
                if self._dropped.empty():
                    self._thread = None
                    return

    def _close_all(self) -> None:
        with suppress(Empty):
            while True:
                self._close(*self._dropped.get_nowait())

    def _close(self, opened: Opened, forget: Callable[[], None]) -> None:
        try:
            forget()
            opened.abandon()
            opened.close(CLOSE_TIMEOUT_S)
        except JamboreeError as error:
            log.error("a Jamboree that was not closed: %s", error)
        except Exception as error:
            log.error("a Jamboree that was not closed", exc_info=error)


closer = _Closer()
follow_forks(closer)
