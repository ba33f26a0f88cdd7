"""The backup as it goes on by itself: copies to MongoDB what comes to Redis."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from jamboree_gym.backup.copy import LogCopier
from jamboree_gym.backup.leader_lock import Holder, Kind
from jamboree_gym.backup.retention import Trimmer
from jamboree_gym.errors import DecodeError, JamboreeError
from jamboree_gym.store.listing_recovery import cover
from jamboree_gym.store.log import BackupMark
from jamboree_gym.store.mongo.store import MongoStore
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["Follower"]

INTERVAL_S = 0.25  # from the beginning of a round to that of the next
LOOK_AGAIN_S = 1.0  # where another copies
BACKOFF_S = (0.25, 0.5, 1.0, 2.0, 5.0)
TRY_AGAIN_S = 60.0  # what could not be copied for a reason of its own

log = logging.getLogger(__name__)


class Follower:
    """Copies one namespace, round by round, and makes room in Redis.

    Several of them take turns, and do no harm if not.

    Without MongoDB, or without Redis, it waits, longer each time up to five seconds, and says so
    once. A log that cannot be copied does not keep the others from it.

    Args:
        store: From where. It is borrowed.
        mongo: Gives where to, each round anew; it is borrowed, too.
        kind: Whether it has a process of its own, or is a thread of a trainer.
        to: Where that is: hosts, or `EMBEDDED`.
        is_new: Whether the namespace is to be copied there from now on; else only as long as it is
            to be copied nowhere else.

    Attributes:
        trouble: What kept it from copying in the last round; None where nothing did.
    """

    def __init__(
        self,
        store: RedisStore,
        mongo: Callable[[], MongoStore],
        *,
        to: str,
        is_new: bool,
        kind: Kind = "process",
    ) -> None:
        self.trouble: str | None = None
        self._store = store
        self._open_mongo = mongo
        self._mongo: MongoStore | None = None
        self._holder = Holder(store, kind, to=to, is_new=is_new)
        self._to = to
        self._copier: LogCopier | None = None
        self._trimmer: Trimmer | None = None
        self._failed: dict[str, tuple[int, str]] = {}  # log -> its revision then, and why
        self._try_again_at = 0.0
        self._said: set[str] = set()
        self._outages = 0

    def run(self, stop: threading.Event) -> None:
        """Copy unless another does, until told to stop, and then once more.

        Let go of before the last round, so that whoever delivers after it finds nobody, and copies.
        """
        while not stop.is_set():
            pause_s = self._attempt(self._copy_in_turn)
            if stop.is_set() and self.trouble is not None:
                self._holder.let_go()
                return  # that was the last try
            stop.wait(pause_s)
        self._attempt(self._copy_at_last)

    def copy_once(self) -> float:
        """Copy what there is; how long to wait before the next time, seconds."""
        return self._attempt(self._copy)

    def _attempt(self, copy: Callable[[], float]) -> float:
        """Copy; what keeps us from it is noted, and makes the pause longer."""
        try:
            pause_s = copy()
        except Exception as error:
            if not isinstance(error, JamboreeError):
                log.error("the backup failed", exc_info=error)
            self.trouble = str(error) if isinstance(error, JamboreeError) else repr(error)
            self._note(self.trouble, kind=type(error).__name__)
            self._copier = self._trimmer = None
            pause_s = BACKOFF_S[min(self._outages, len(BACKOFF_S) - 1)]
            self._outages += 1
            return pause_s
        if self._outages:
            log.info("the backup of %s goes on", self._store.keyspace.namespace)
            self._said.clear()
        self._outages, self.trouble = 0, None
        return pause_s

    def _copy_in_turn(self) -> float:
        if self._holder.claim():
            return self._copy()
        if self._holder.to != self._to:
            if self._open_mongo().identity().id == self._store.backup_state.copied_to_id():
                self._to = self._holder.to
                self._holder.copy_to(self._to)  # it is the same one by another name
                return 0.0
            self._say(
                f"{self._store.keyspace.namespace} is copied to MongoDB at {self._holder.to}, and "
                f"no more to {self._to}: who opened it last said so"
            )
        return LOOK_AGAIN_S

    def _copy_at_last(self) -> float:
        if not self._holder.claim():
            return 0.0  # who copies has seen what was delivered before this
        self._holder.let_go()
        return self._copy()

    def _copy(self) -> float:
        due = time.monotonic() + INTERVAL_S
        store, mongo = self._store, self._open_mongo()
        began = store.time()
        copier, trimmer = self._copier_to(mongo)
        copier.begin(self._to)
        cover(store, mongo)
        unbacked = dict(store.acknowledgements.unbacked())
        failed = self._failed_so_far(unbacked)
        pending = [one for one in unbacked.items() if one[0] not in failed]
        copier.failures = {}
        for _ in copier.copy(pending):
            self._holder.renew_if_due()
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
        store.backup_state.put_mark(BackupMark(self._holder.name, began, until, error))
        return max(0.0, due - time.monotonic())

    def _copier_to(self, mongo: MongoStore) -> tuple[LogCopier, Trimmer]:
        if self._copier is None or self._trimmer is None or self._mongo is not mongo:
            self._mongo, self._trimmer = mongo, Trimmer(self._store, mongo)
            self._copier = LogCopier(self._store, mongo, told=self._trimmer.add)
        return self._copier, self._trimmer

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

    def _note(self, error: str, *, kind: str) -> None:
        """Say what is wrong, and where Redis answers, leave it there for `status`."""
        self._say(f"{error}; the backup goes on when that is over, and nothing is lost", kind)
        try:
            mark = BackupMark(self._holder.name, self._store.time(), None, error)
            self._store.backup_state.put_mark(mark)
        except JamboreeError as second:  # it is Redis that is away
            log.debug("%s", second)

    def _say(self, what: str, kind: str = "") -> None:
        """Once per outage; where a kind is given, whatever the server's words for it are."""
        if (kind or what) not in self._said:
            self._said.add(kind or what)
            log.warning("%s", what)
