"""What handlers and wrappers share: the servers, the writer, and the outboxes of this process."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, get_args

from msgspec import structs

from jamboree_gym.arrays.values import check_text, encode_mapping
from jamboree_gym.delivery.backpressure import WhenFull
from jamboree_gym.delivery.deletion import delete_log
from jamboree_gym.delivery.lease import Lease
from jamboree_gym.delivery.opened import Opened, RunningBackup, closer, writers_here
from jamboree_gym.delivery.outbox import Outbox, RecordOutbox
from jamboree_gym.delivery.peers import Peers, Place
from jamboree_gym.delivery.step_outbox import StepOutbox
from jamboree_gym.delivery.writer import CLOSE_TIMEOUT_S, WriteMode, Writer
from jamboree_gym.encoding.episode_stamps import EpisodeStamps
from jamboree_gym.errors import (
    InvalidArgument,
    InvalidRecord,
    JamboreeClosed,
    JamboreeError,
    closing_after,
)
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
from jamboree_gym.store.backups.opening import check_backup_url
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.log import Append, AppendResult, IndexEntry
from jamboree_gym.store.read_through import ReadThroughStore
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.store.urls import backed_up_to
from jamboree_gym.wording import mask_password

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Connection", "HasConnection"]

LONGEST_FLUSH_INTERVAL_S = 3600
LONGEST_BACKUP_INTERVAL_S = 3600
SETTLE_TIMEOUT_S = 10.0
UNSET = "then the embedded server is used"
BACKUP_VARIABLE = "JAMBOREE_BACKUP"
WORKER_EXIT_PRIORITY = 100  # before whatever else a worker process tidies up


class HasConnection(ABC):
    """A `Jamboree`, as the rooms below it see it: what recorders and handlers take."""

    _in_messages = "a Jamboree"

    @property
    @abstractmethod
    def _connection(self) -> Connection:
        """The servers, the writer and the outboxes."""

    @classmethod
    @abstractmethod
    def _on(cls, connection: Connection) -> Self:
        """One that uses a connection which is open already."""

    def __enter__(self) -> Self:
        """Use as a context manager: `close` at the end."""
        self._connection.check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close. After an error in the block, what `close` raises is a note of that error."""
        with closing_after(error):
            self._connection.close()


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
        for name, mode, modes in (("write", write, WriteMode), ("when_full", when_full, WhenFull)):
            if mode not in get_args(modes):
                choices = ", ".join(get_args(modes))
                raise InvalidArgument(f"{name}={mode!r}: choose one of {choices}")
        if not 0 <= flush_interval_s <= LONGEST_FLUSH_INTERVAL_S:
            raise InvalidArgument(
                f"flush_interval_s={flush_interval_s!r}: choose 0 to {LONGEST_FLUSH_INTERVAL_S} s"
            )
        if not 0 <= backup_interval_s <= LONGEST_BACKUP_INTERVAL_S:
            raise InvalidArgument(
                f"backup_interval_s={backup_interval_s!r}: choose 0 to "
                f"{LONGEST_BACKUP_INTERVAL_S} s"
            )
        if max_pending_bytes <= 0 or not namespace or not isinstance(namespace, str):
            raise InvalidArgument(
                "max_pending_bytes must be 1 or more, and namespace a text, not empty"
            )
        self.keyspace = Keyspace(check_text("namespace", namespace, InvalidArgument))
        self._origin = os.urandom(8).hex()
        self.write_mode = write
        self.backup_interval_s = backup_interval_s
        self.clock = clock
        self._new_backup = new_backup if _backs_up(backup) else None
        self.writer_id = os.urandom(8)
        self.writer_name = self.writer_id.hex()
        self._stamps = EpisodeStamps(clock)
        self.own_run = (
            time.strftime("%Y%m%d-%H%M%S-", time.localtime(clock())) + self.writer_id.hex()[:4]
        )
        self._home = None if home is None else Path(home).absolute()
        self.redis_url = _url(redis_url, REDIS_URL_VARIABLE)
        self.backup_url = _backup_url(backup, mongo_url)
        self.opened = Opened(self.redis_url, self.backup_url, self._home, namespace)
        self._lock = threading.RLock()
        self._outboxes = self.opened.outboxes
        self._closed = False
        self._close_callbacks: list[Callable[[], None]] = []
        self._flush_interval_s = flush_interval_s
        self._max_pending_bytes = max_pending_bytes
        self._when_full: WhenFull = when_full
        self.redis_store = self._open_redis(self.redis_url)
        self.store = self.opened.store = ReadThroughStore(
            self.redis_store, self.opened.backup_to_read, is_own=self._outboxes.__contains__
        )
        settings = self.redis_store.client.connection_pool.connection_kwargs
        database = int(settings.get("db") or 0)
        self._place = Place(self.redis_store.where, database, namespace)
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
        return self._stamps.new_id(self.writer_name)

    def start_time(self, after: float) -> float:
        """When an episode begins that begins now, epoch seconds, however the clock is set.

        Args:
            after: It is later than this, and than every other start.
        """
        return self._stamps.start_time(after)

    def new_episodes(self, number: int, after: float) -> list[tuple[str, float]]:
        """Ids and start times of episodes that begin now: as `new_episode_id`, `start_time`."""
        return self._stamps.new_many(number, self.writer_name, after)

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
        results: dict[int, AppendResult] = {}
        stored = dict.fromkeys(range(len(appends)), 0)  # batches that were found when it was asked
        waiting = dict(enumerate(appends))
        while waiting:
            answers = self.store.append(list(waiting.values()), fsync=self.write_mode == "fsync")
            if self.opened.backup is not None:
                self.opened.backup.begin()
            answered = dict(zip(waiting, answers, strict=True))
            for answer in answered.values():
                if isinstance(answer, JamboreeError):
                    raise answer
            results |= {at: one for at, one in answered.items() if isinstance(one, AppendResult)}
            waiting = self._to_send_again(waiting, results, stored)
        return [
            structs.replace(results[at], stored=results[at].stored + count)
            for at, count in stored.items()
        ]

    def _to_send_again(
        self,
        sent: Mapping[int, Append],
        results: dict[int, AppendResult],
        stored: dict[int, int],
    ) -> dict[int, Append]:
        """What could not be stored before the backup is asked, or until it is sent on purpose.

        Batches that are found to be stored are counted, and not sent again.
        """
        again = {
            at: one for at, one in sent.items() if results[at].is_deleted and not one.is_repeated
        }
        unknown = {at: one for at, one in sent.items() if results[at].must_ask}
        if unknown:
            asked = self.store.ask_for(list(unknown.values()))
            for error in asked.failed.values():
                raise error
            for at, one in unknown.items():
                if one.is_repeated and one.key in asked.deleted:
                    results[at] = AppendResult(0, 0, -math.inf, is_deleted=True)
                    continue
                found = asked.stored.get(one.key, 0)
                stored[at] += found
                again[at] = structs.replace(
                    one,
                    batches=one.batches[found:],
                    asked_in=asked.epoch,
                    is_uncertain=asked.is_uncertain,
                    is_repeated=False,
                )
        return again

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
        if not isinstance(outbox, StepOutbox) or outbox.is_deleted or outbox.error is not None:
            return None
        return outbox

    def is_writer_here(self, writer: str) -> bool:
        """Whether a writer is of this process, and so alive, whatever Redis knows of it."""
        return writer in writers_here

    def as_of_now(self, summaries: Sequence[EpisodeSummary]) -> list[EpisodeSummary]:
        """The same summaries, `interrupted` where an episode has not ended and its writer is dead.

        Asks for all writers in one round trip, and for none that is of this process.
        """
        writers = {summary.writer for summary in summaries if summary.status == "running"}
        dead = self.dead(writers)
        if not dead:
            return list(summaries)
        return [
            replace(summary, status="interrupted")
            if summary.status == "running" and summary.writer in dead
            else summary
            for summary in summaries
        ]

    def dead(self, writers: Collection[str]) -> set[str]:
        """Which of these writers hold no lease; one of this process is never among them."""
        elsewhere = set(writers) - writers_here
        return elsewhere - self.store.leases.living(elsewhere) if elsewhere else set()

    def delete_log(self, key: str, *, entry: IndexEntry | None = None) -> None:
        """Delete a log from Redis, and from the backup where there may be a copy.

        An episode that this process records ends with that: what comes of it is not kept.
        """
        self.check_open()
        delete_log(self.opened, key, entry)

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
        self._close_callbacks.append(callback)

    def remove_close_callback(self, callback: Callable[[], None]) -> None:
        """Take that back."""
        with suppress(ValueError):  # it has been called already
            self._close_callbacks.remove(callback)

    def _call_close_callbacks(self) -> None:
        """Call each of them, whatever another one raises."""
        if not self._closed and self._close_callbacks:
            try:
                with suppress(JamboreeError):  # what is not saved, the writer will say
                    self._close_callbacks.pop()()
            finally:
                self._call_close_callbacks()

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """As `Jamboree.close`."""
        try:
            self._call_close_callbacks()
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
        self._close_callbacks = []  # the parent's
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


class _Arrivals:
    """The connections of this process by their origin, and those that were opened on arrival.

    What was opened for something that arrived stays open until the process ends: nobody else
    could close it.
    """

    def __init__(self) -> None:
        self._open: weakref.WeakValueDictionary[str, Connection] = weakref.WeakValueDictionary()
        self._arrived: dict[str, Connection] = {}
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """The thread that held the lock is not in this process."""
        self._lock = threading.RLock()

    def add(self, origin: str, connection: Connection) -> None:
        """It is open."""
        self._open[origin] = connection

    def open_here(self, origin: str) -> Connection | None:
        """The open connection of that origin, if this process has one."""
        known = self._open.get(origin)
        return None if known is None or known._closed else known

    def connection_at(self, address: Address) -> Connection:
        """The one connection of this process for all that comes from an origin."""
        with self._lock:
            known = self.open_here(address.origin)
            if known is None:
                known = Connection.at(address)
                known._origin = address.origin
                self._open[address.origin] = self._arrived[address.origin] = known
            return known


def _arrived(address: Address) -> Connection:
    return _arrivals.connection_at(address)


def _url(given: str | None, variable: str) -> str | None:
    """The URL that was given, or else that of the environment; None = the embedded server."""
    if given == EMBEDDED_URL:
        return None
    url = os.environ.get(variable) if given is None else given
    if url == "" and given is None:  # a secret that was not set: no reason to open another store
        raise InvalidArgument(f"{variable} is empty: set it to a URL, or unset it ({UNSET})")
    return url


def _backup_url(backup: bool | str | None, mongo_url: str | None) -> str | None:
    """The URL of the backup that was given, or else that of the environment; None = embedded."""
    if isinstance(backup, str):
        if "://" not in backup:
            raise InvalidArgument(f"backup={backup!r}: choose True, False, or a URL")
        check_backup_url(backup)
        if mongo_url not in (None, backup):
            raise InvalidArgument("backup= and mongo_url= name two backups: give one of them")
        return backup
    if mongo_url is not None:
        return None if mongo_url == EMBEDDED_URL else mongo_url
    urls = {name: _url(None, name) for name in (BACKUP_URL_VARIABLE, MONGO_URL_VARIABLE)}
    found = {url for url in urls.values() if url is not None}
    if len(found) > 1:
        raise InvalidArgument(f"{' and '.join(urls)} name two backups: unset one of them")
    url = next(iter(found), None)
    if url is not None:
        check_backup_url(url)
    return url


def _backs_up(backup: bool | str | None) -> bool:
    """Whether to copy to the backup by itself, as asked for, or else as the environment says."""
    if isinstance(backup, str):
        return True
    if backup is not None:
        if not isinstance(backup, bool):
            raise InvalidArgument(f"backup={backup!r}: choose True, False, or a URL")
        return backup
    text = os.environ.get(BACKUP_VARIABLE) or "1"
    if text not in ("0", "1"):
        where = f"; a URL goes into {BACKUP_URL_VARIABLE}" if "://" in text else ""
        raise InvalidArgument(f"{BACKUP_VARIABLE}={mask_password(text)!r}: choose 0 or 1{where}")
    return text == "1"


_peers = Peers["Connection"]()
follow_forks(_peers)
_arrivals = _Arrivals()
follow_forks(_arrivals)
