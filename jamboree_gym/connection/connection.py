"""The servers, the writer and the outboxes of this process."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, SupportsIndex

from jamboree_gym.arrays.values import check_text, encode_mapping
from jamboree_gym.connection.arrivals import Arrivals
from jamboree_gym.connection.chosen_urls import backs_up, chosen_backup_url, chosen_redis_url
from jamboree_gym.connection.close_callbacks import CloseCallbacks
from jamboree_gym.connection.has_connection import HasConnection
from jamboree_gym.connection.liveness import as_of_now, dead_writers
from jamboree_gym.connection.options import check_options
from jamboree_gym.connection.whole_appends import append_whole
from jamboree_gym.delivery.backpressure import WhenFull
from jamboree_gym.delivery.deletion import delete_log
from jamboree_gym.delivery.lease import Lease
from jamboree_gym.delivery.opened import Opened, RunningBackup, closer, writers_here
from jamboree_gym.delivery.outbox import Outbox, RecordOutbox
from jamboree_gym.delivery.peers import Peers, Place
from jamboree_gym.delivery.step_outbox import StepOutbox
from jamboree_gym.delivery.writer import CLOSE_TIMEOUT_S, WriteMode, Writer
from jamboree_gym.encoding.episode_stamps import EpisodeStamps
from jamboree_gym.errors import InvalidArgument, InvalidRecord, JamboreeClosed, JamboreeError
from jamboree_gym.journal.journal import Journal, JournalOwner
from jamboree_gym.keys import Keyspace
from jamboree_gym.process_life import AtExit, follow_forks
from jamboree_gym.records import EpisodeSummary
from jamboree_gym.servers.address import (
    BACKUP_URL_VARIABLE,
    EMBEDDED_URL,
    MONGO_URL_VARIABLE,
    REDIS_URL_VARIABLE,
    Address,
    HomeAddress,
    UrlAddress,
)
from jamboree_gym.servers.home import default_home
from jamboree_gym.servers.journal_delivery import JOURNAL_DIRECTORY
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.log import Append, AppendResult, IndexEntry
from jamboree_gym.store.read_through import ReadThroughStore
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.store.urls import backed_up_to

__all__ = ["Connection"]

SETTLE_TIMEOUT_S = 10.0
WORKER_EXIT_PRIORITY = 100  # before whatever else a worker process tidies up


class Connection(HasConnection):
    """Opens the servers and owns them; `Jamboree` has one, and describes the arguments.

    Args:
        new_backup: Makes what copies to the backup by itself; without it, nothing does.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        mongo_url: str | None = None,
        *,
        new_backup: Callable[[Connection], RunningBackup | None] | None = None,
        home: str | Path | None = None,
        namespace: str = "jamboree",
        write: WriteMode = "buffered",
        flush_interval_s: float = 0.05,
        max_pending_bytes: int = 256 * 2**20,
        when_full: WhenFull = "block",
        backup: bool | str | None = None,
        backup_interval_s: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_options(
            write=write,
            when_full=when_full,
            flush_interval_s=flush_interval_s,
            backup_interval_s=backup_interval_s,
            max_pending_bytes=max_pending_bytes,
            namespace=namespace,
        )
        self.keyspace = Keyspace(check_text("namespace", namespace, InvalidArgument))
        self._origin = os.urandom(8).hex()
        self.write_mode = write
        self.backup_interval_s = backup_interval_s
        self.clock = clock
        self._new_backup = new_backup if backs_up(backup) else None
        self.writer_id = os.urandom(8)
        self.writer_name = self.writer_id.hex()
        self._stamps = EpisodeStamps(clock)
        self.own_run = (
            time.strftime("%Y%m%d-%H%M%S-", time.localtime(clock())) + self.writer_id.hex()[:4]
        )
        self._home = None if home is None else Path(home).absolute()
        self.redis_url = chosen_redis_url(redis_url)
        self.backup_url = chosen_backup_url(backup, mongo_url)
        self.opened = Opened(self.redis_url, self.backup_url, self._home, namespace)
        self._lock = threading.RLock()
        self._outboxes = self.opened.outboxes
        self._closed = False
        self._close_callbacks = CloseCallbacks()
        self._flush_interval_s = flush_interval_s
        self._max_pending_bytes = max_pending_bytes
        self._when_full: WhenFull = when_full
        self.redis_store = self._open_redis(self.redis_url)
        self.store = self.opened.store = ReadThroughStore(
            self.redis_store, self.opened.backup_to_read, is_own=self._outboxes.__contains__
        )
        self._place = Place(self.redis_store.where, self.redis_store.link.database, namespace)
        self._begin_to_write()
        follow_forks(self)
        _arrivals.add(self._origin, self)
        _peers.add(self, self._place)
        closer.prepare()
        # A script that ends without `close` saves all the same.
        self._at_exit = AtExit(self.close, worker_priority=WORKER_EXIT_PRIORITY)
        self._close_when_dropped(repr(self))

    def _close_when_dropped(self, what: str | None) -> None:
        """Let it be closed if nobody refers to it any more; `what` is named in a warning then."""
        self._if_dropped = weakref.finalize(
            self, closer.drop, self.opened, self._at_exit.cancel, what
        )
        self._if_dropped.atexit = False

    def _begin_to_write(self) -> None:
        opened = self.opened
        directory = self.journal_directory if self.write_mode == "buffered" else None
        journal = Journal(directory, self._journal_owner())
        self.journal = opened.journal = journal
        opened.backup = None if self._new_backup is None else self._new_backup(self)
        opened.lease = Lease(self.store, self.writer_name, self.clock, opened.is_recording)
        opened.writer_name = self.writer_name
        self.writer = opened.writer = Writer(
            self.store,
            opened.lease,
            background=self.write_mode == "buffered",
            fsync=self.write_mode == "fsync",
            flush_interval_s=self._flush_interval_s,
            max_pending_bytes=self._max_pending_bytes,
            when_full=self._when_full,
            is_safe=journal.is_durable,
            clock=self.clock,
            on_delivery=None if opened.backup is None else opened.backup.begin,
        )
        writers_here.add(self.writer_name)

    def _journal_owner(self) -> JournalOwner:
        place = self._place
        return JournalOwner(self.writer_name, place.where, place.database, place.namespace)

    @property
    def journal_directory(self) -> Path | None:
        """Where processes keep what they have not delivered; None = there is no such place."""
        with suppress(InvalidArgument):  # a user with a Redis server needs no home
            return (self._home or default_home()).absolute() / JOURNAL_DIRECTORY
        return None

    @property
    def _connection(self) -> Connection:
        return self

    @classmethod
    def _on(cls, connection: Connection) -> Self:
        assert isinstance(connection, cls)
        return connection

    @property
    def _lease(self) -> Lease:
        return self.opened.lease

    def _open_redis(self, url: str | None) -> RedisStore:
        if url is None:
            servers = self.opened.join_servers()
            store = RedisStore.from_url(servers.redis_url, self.keyspace, revive=servers.ensure)
        else:
            store = RedisStore.from_url(url, self.keyspace)
        try:
            store.check(fsync=self.write_mode == "fsync")
        except BaseException:
            store.close()
            self.opened.leave_servers()
            raise
        return store

    def read_options(self) -> dict[str, Any]:
        """Arguments with which another process opens the same Redis, to read from it."""
        return {
            "redis_url": self.redis_url,
            "home": self._home,
            "namespace": self.keyspace.namespace,
        }

    # -- in another process, or a copy ------------------------------------------------------

    def address(self) -> Address:
        """What of it can go to another process: no password.

        What was saved before is delivered first, so that it can be read there.

        Raises:
            JamboreeClosed: It is closed.
            NotCopyable: `multiprocessing` starts a process now, which would not know a password.
        """
        self.check_open()
        with suppress(JamboreeError):  # flush and close will say so
            self.settle_all()
        address = Address(
            origin=self._origin,
            redis=UrlAddress.of(self.redis_url, REDIS_URL_VARIABLE),
            backup=UrlAddress.of(self.backup_url, BACKUP_URL_VARIABLE, MONGO_URL_VARIABLE),
            servers=HomeAddress.of(self._home) if self.redis_url is None else None,
            home=self._home,
            options={
                "new_backup": self._new_backup,
                "namespace": self.keyspace.namespace,
                "write": self.write_mode,
                "flush_interval_s": self._flush_interval_s,
                "max_pending_bytes": self._max_pending_bytes,
                "when_full": self._when_full,
                "backup": self._new_backup is not None,
                "backup_interval_s": self.backup_interval_s,
                "clock": self.clock,
            },
        )
        address.check_worker()
        return address

    @classmethod
    def at(cls, address: Address) -> Connection:
        """One more connection to where an address says.

        Raises:
            NotCopyable: This process does not know a password, or does not have the servers.
            StoreUnavailable: As `Jamboree`, like its other errors.
        """
        known = _arrivals.open_here(address.origin)
        where = known._where() if known is not None else address.urls()
        connection = cls(**where, **address.options)
        connection._if_dropped.detach()
        connection._close_when_dropped(None)  # who copies an object may not know of it
        return connection

    def _where(self) -> dict[str, Any]:
        """The arguments that say where it records."""
        return {
            "redis_url": self.redis_url or EMBEDDED_URL,
            "mongo_url": self.backup_url or EMBEDDED_URL,
            "home": self._home,
        }

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """It is pickled as its address; all that comes from it uses one connection there."""
        return _arrived, (self.address(),)

    def __copy__(self) -> Self:
        """A copy of what uses it, in this process, uses it too."""
        self.check_open()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """As `__copy__`."""
        return self.__copy__()

    @property
    def backup_store(self) -> BackupStore:
        """The backup; opened, and where embedded also started, on first use."""
        self.check_open()
        return self.opened.opened_backup()

    @property
    def backed_up_to(self) -> str:
        """Where what is saved here is copied to, in words."""
        return backed_up_to(self.backup_url)

    def check_tags(self, tags: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of the tags.

        Raises:
            InvalidRecord: One of them cannot be stored; names it.
            InvalidArgument: They are no dict.
        """
        if not isinstance(tags, Mapping):
            raise InvalidArgument(f"tags={tags!r}: give a dict, {{'lr': 0.001}}")
        try:
            encode_mapping(tags)
        except InvalidRecord as error:
            raise InvalidRecord(f"tags: {error}") from error
        return dict(tags)

    # -- writing ----------------------------------------------------------------------------

    def record_outbox(self, key: str) -> RecordOutbox:
        """The one outbox of a log of free-form records."""
        with self._lock:
            outbox = self._outboxes.get(key)
            if not isinstance(outbox, RecordOutbox):
                run = self.keyspace.run_of(key)
                outbox = RecordOutbox(
                    key,
                    self.writer_id,
                    self.writer.mark,
                    clock=self.clock,
                    keep_record=self.journal.keep_record,
                    run=run,
                )
                self._outboxes.add(outbox)
            return outbox

    @property
    def is_buffered(self) -> bool:
        """Whether a save returns before Redis has it."""
        return self.write_mode == "buffered"

    def new_episode_id(self) -> str:
        """A fresh id: 32 hexadecimal digits that sort by time of creation."""
        return self._stamps.new_id(self.writer_id)

    def start_time(self, after: float) -> float:
        """When an episode begins that begins now, epoch seconds, however the clock is set.

        Args:
            after: It is later than this, and than every other start.
        """
        return self._stamps.start_time(after)

    def new_episodes(self, number: int, after: float) -> list[tuple[str, float]]:
        """Ids and start times of episodes that begin now: as `new_episode_id`, `start_time`."""
        return self._stamps.new_many(number, self.writer_id, after)

    def adopt(self, outbox: Outbox) -> None:
        """Make the outbox of an episode known, so that reads of its log see what it holds."""
        self._outboxes.add(outbox)
        self._lease.hold()

    def append_whole(self, appends: Sequence[Append]) -> list[AppendResult]:
        """Append what is complete already, on the caller's thread and without a lease.

        Sending the same again is harmless, as with `RedisStore.append`. What was deleted before is
        stored again, but not where the append says that an earlier attempt may have been stored.

        Raises:
            StoreUnavailable: No answer; send it again.
            StoreFull: The server has no memory or disk left.
            JamboreeError: One log cannot be written; the others are.
        """
        self.check_open()
        on_delivery = None if self.opened.backup is None else self.opened.backup.begin
        fsync = self.write_mode == "fsync"
        return append_whole(self.store, appends, fsync=fsync, on_delivery=on_delivery)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def check_open(self) -> None:
        """Raise `JamboreeClosed` where it is closed."""
        if self._closed:
            raise JamboreeClosed("this Jamboree is closed: open a new one")

    def settle(self, key: str) -> bool:
        """Bring what this process has put into a log to the server, before it is read.

        First what another Jamboree of the process has; that it cannot is its own to say.

        Returns:
            Whether the server has answered to an append of ours, after that. So what the outbox of
            the log knows of it is as of now.
        """
        self.check_open()
        for peer in _peers.of(self, self._place):
            with suppress(JamboreeError):
                peer._settle(key)
        return self._settle(key)

    def _settle(self, key: str) -> bool:
        outbox = self._outboxes.get(key)
        return outbox is not None and not outbox.is_settled and self.writer.deliver(outbox)

    def held(self, key: str) -> StepOutbox | None:
        """The newest rows of an episode that this process writes, or has just written."""
        self.check_open()
        outbox = self._outboxes.get(key)
        if outbox is None or not isinstance(outbox, StepOutbox):
            return None
        is_whole = outbox.error is None and not outbox.is_deleted
        return outbox if is_whole else None

    def is_writer_here(self, writer: str) -> bool:
        """Whether a writer is of this process, and so alive, whatever Redis knows of it."""
        return writer in writers_here

    def as_of_now(self, summaries: Sequence[EpisodeSummary]) -> list[EpisodeSummary]:
        """The same summaries, `interrupted` where an episode has not ended and its writer is dead.

        Asks for all writers in one round trip, and for none that is of this process.
        """
        return as_of_now(self.store.leases, summaries)

    def dead(self, writers: Collection[str]) -> set[str]:
        """Which of these writers hold no lease; one of this process is never among them."""
        return dead_writers(self.store.leases, writers)

    def delete_log(
        self, key: str, *, entry: IndexEntry | None = None, born: float | None = None
    ) -> None:
        """Delete a log from Redis, and from the backup where there may be a copy.

        An episode that this process records ends with that: what comes of it is not kept.
        """
        self.check_open()
        delete_log(self.opened, key, entry, born)

    def flush(self, timeout_s: float = 10.0) -> None:
        """As `Jamboree.flush`."""
        if self._closed:
            raise JamboreeClosed("this Jamboree is closed: `close` has flushed it")
        self.writer.flush(timeout_s)

    def settle_all(self) -> None:
        """Bring all that this process has saved to the server, before many logs are read.

        Raises:
            UnsavedRecords: The server does not take it now.
        """
        self.check_open()
        self.writer.settle(SETTLE_TIMEOUT_S)
        for peer in _peers.of(self, self._place):
            with suppress(JamboreeError):  # it will say so itself
                peer.writer.settle(SETTLE_TIMEOUT_S)

    # -- the end ----------------------------------------------------------------------------

    def add_close_callback(self, callback: Callable[[], None]) -> None:
        """Have this called when it is closed, as long as something can still be saved."""
        self._close_callbacks.add(callback)

    def remove_close_callback(self, callback: Callable[[], None]) -> None:
        """Take that back."""
        self._close_callbacks.remove(callback)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """As `Jamboree.close`."""
        try:
            if not self._closed:
                self._close_callbacks.call_all()
        finally:
            self._close(timeout_s)

    def _close(self, timeout_s: float) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        _peers.remove(self)
        self._if_dropped.detach()
        try:
            self.opened.abandon()
            self.opened.close(timeout_s)
        finally:
            self._at_exit.cancel()

    def after_fork_in_child(self) -> None:
        """Continue in a forked process. The parent delivers what it has queued."""
        self._lock = threading.RLock()  # the thread that held it is not in this process
        self._close_callbacks = CloseCallbacks()  # the others are the parent's
        self.writer_id = os.urandom(8)
        self.writer_name = self.writer_id.hex()
        self.opened.after_fork_in_child()
        if not self._closed:
            self._begin_to_write()
        for outbox in self._outboxes.all():
            outbox.after_fork_in_child(self.writer_id, self.writer.mark)
            if isinstance(outbox, RecordOutbox):
                outbox.keep_in(self.journal.keep_record)

    def __repr__(self) -> str:
        """Where it writes; no password."""
        space = self.keyspace.namespace
        state = "closed" if self._closed else f"write={self.write_mode!r}"
        return f"<Jamboree {space!r} on {self.store.where}, {state}>"


_peers = Peers["Connection"]()
follow_forks(_peers)
_arrivals = Arrivals["Connection"]()
follow_forks(_arrivals)


def _arrived(address: Address) -> Connection:
    def opened() -> Connection:
        connection = Connection.at(address)
        connection._origin = address.origin
        return connection

    return _arrivals.connection_from(address.origin, opened)
