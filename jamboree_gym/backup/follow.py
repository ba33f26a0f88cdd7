"""The automatic backup: copies to the backup what arrives in Redis."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping

from jamboree_gym.backup.copy import LogCopier
from jamboree_gym.backup.eviction.trimmer import Trimmer
from jamboree_gym.backup.leader_lock import Kind, LeaderLock
from jamboree_gym.backup.waiting import Pressure, StopSignal, wait_for_change
from jamboree_gym.errors import DecodeError, JamboreeError
from jamboree_gym.store.backups.opening import open_backup
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.listing_recovery import cover
from jamboree_gym.store.log import BackupMark
from jamboree_gym.store.redis.doorbell import Doorbell
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.store.urls import backup_name, is_folder

__all__ = ["DEFAULT_INTERVAL_S", "Follower", "OpenedBackup"]

DEFAULT_INTERVAL_S = 10.0
IDLE_ROUND_S = 60.0  # while nothing changes: to notice a backup that was emptied, for example
EVICTING_S = 0.25  # until the next round while Redis has to evict more
SHORTEST_LOOK_S = 0.25  # where Redis does not say that something changed
AWAKE_S = 10.0  # without a change, until the backup is let go: a client of MongoDB costs while idle
QUIET_S = 1.0  # a bell that has been quiet for so long was not rung by the copy itself
CLAIM_AGAIN_S = 2.0  # while another backup copies
BUSY_SHARE = 0.1  # of the time, while a trainer may need the processor
BACKOFF_S = (0.25, 0.5, 1.0, 2.0, 5.0)
RETRY_FAILED_S = 60.0  # for a log that failed for its own reason

log = logging.getLogger(__name__)


class Follower:
    """Copies one namespace, round by round, and evicts from Redis what the policy allows.

    A round begins when something has waited for `interval_s`, and sooner when much waits. It takes
    a tenth of the time until the next round is due. While nothing changes, the follower sleeps.

    Several followers of a namespace take turns; two that copy at once do no harm.

    If the backup or Redis is away, it waits, longer each time up to five seconds, and warns once. A
    log that cannot be copied does not stop the copy of the others.

    Args:
        store: The source. The caller keeps ownership.
        backup: Returns the destination, anew in each round. The caller keeps ownership.
        kind: Whether the follower is its own process or a thread of a trainer.
        to: Name of the destination: hosts, or `EMBEDDED`.
        is_new: Whether to move the namespace's backup to this destination. If False, the follower
            copies only while no other destination is set.
        interval_s: As the attribute.
        let_go: Called when the backup is not needed for a while; the next round opens it again.

    Attributes:
        interval_s: The longest time that a change in Redis waits for the copy, seconds.
        trouble: What stopped the copy in the last round; None if nothing did.
    """

    def __init__(
        self,
        store: RedisStore,
        backup: Callable[[], BackupStore],
        *,
        to: str,
        is_new: bool,
        kind: Kind = "process",
        interval_s: float = DEFAULT_INTERVAL_S,
        let_go: Callable[[], None] = lambda: None,
    ) -> None:
        self.trouble: str | None = None
        self.interval_s = interval_s
        self._store = store
        self._open_backup = backup
        self._let_go = let_go
        self._backup: BackupStore | None = None
        self._leader_lock = LeaderLock(store, kind, to=to, is_new=is_new)
        self._to = to
        self._copier: LogCopier | None = None
        self._trimmer: Trimmer | None = None
        self._failed: dict[str, tuple[int, str]] = {}  # log -> its revision then, and the reason
        self._try_again_at = 0.0
        self._warned: set[str] = set()
        self._outages = 0
        self._error = ""  # of the last copy
        self._awake_s = AWAKE_S
        self._doorbell = Doorbell(store.link, self._watched_keys)
        self._pressure = Pressure(store)
        self._stop = StopSignal()  # never set before `run`

    def run(self, stop: StopSignal) -> None:
        """Copy, unless another backup does, until `stop` is set; then copy once more.

        The lease is released before the last round. A process that delivers later then finds no
        backup, and copies itself.
        """
        self._stop = stop
        try:
            while not stop.is_set():
                pause_s = self._attempt(self._copy_in_turn)
                if stop.is_set() and self.trouble is not None:
                    self._leader_lock.release()
                    return  # that was the last attempt
                if pause_s < math.inf:
                    stop.wait(pause_s)
                else:
                    self._attempt(self._wait_for_work)
            self._attempt(self._copy_at_last)
        finally:
            self._doorbell.close()

    def _watched_keys(self) -> list[str]:
        return [*self._store.acknowledgements.watched_keys(), self._store.keyspace.retention]

    def copy_once(self) -> float:
        """Copy what is new; return the seconds to wait before the next round.

        They are infinite if nothing is left to do before something changes.
        """
        return self._attempt(self._copy)

    def _wait_for_work(self) -> float:
        """Sleep until something changes, and then until it has waited long enough."""
        began = time.monotonic()
        if not self._sleep():
            return 0.0
        if time.monotonic() - began > QUIET_S and not self._failed:
            now = self._store.time()  # until the bell rang, nothing had changed since the copy
            mark = BackupMark(self._leader_lock.name, now, now, self._error)
            self._store.backup_state.put_mark(mark)
        began = time.monotonic()
        while (left_s := began + self.interval_s - time.monotonic()) > 0:
            if self._stop.wait(min(left_s, self._pressure.check_s)) or self._pressure.is_high():
                break
            self._leader_lock.renew_if_due()
        return 0.0

    def _sleep(self) -> bool:
        """Sleep until something changes, at most until the next round; whether it has changed."""
        can_sleep = bool(self._doorbell.sockets) and not self._needs_rounds
        idle_s = max(self.interval_s, IDLE_ROUND_S if can_sleep else SHORTEST_LOOK_S)
        awake_s, self._awake_s = min(idle_s, self._awake_s), AWAKE_S
        has_changed = wait_for_change(self._doorbell, self._stop, awake_s)
        if has_changed or idle_s == awake_s or self._stop.is_set():
            return has_changed
        if self._trimmer is None or not self._trimmer.is_limited:  # else it knows what comes next
            self._copier = self._trimmer = self._backup = None
            self._let_go()
        has_changed = wait_for_change(self._doorbell, self._stop, idle_s - awake_s)
        if not has_changed:
            self._awake_s = 0.0  # after the next round, which will find nothing to copy
        return has_changed

    @property
    def _needs_rounds(self) -> bool:
        """Whether there is something to do even if nothing changes."""
        ages = self._trimmer is not None and self._trimmer.policy.max_age_s is not None
        return ages or bool(self._failed)

    def _attempt(self, copy: Callable[[], float]) -> float:
        """Run one round; record its error and lengthen the pause after a failure."""
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
            self._warned.clear()
        self._outages, self.trouble = 0, None
        return pause_s

    def _copy_in_turn(self) -> float:
        if self._leader_lock.claim():
            self._doorbell.arm()  # before the copy: so no change is missed
            return self._copy(due=time.monotonic() + self.interval_s)
        if self._leader_lock.to != self._to:
            if self._open_backup().identity().id == self._store.backup_state.copied_to_id():
                self._to = self._leader_lock.to
                self._leader_lock.copy_to(self._to)  # the same backup under another name
                return 0.0
            self._warn_once(
                f"{self._store.keyspace.namespace} is copied to "
                f"{backup_name(self._leader_lock.to)}, and no more to {self._to}: "
                "the Jamboree that was opened last says so"
            )
        return CLAIM_AGAIN_S

    def _copy_at_last(self) -> float:
        if not self._leader_lock.claim():
            return 0.0  # the backup that copies has seen all earlier deliveries
        self._leader_lock.release()
        return self._copy(by="")  # nobody copies any more

    def _copy(self, *, due: float = -math.inf, by: str | None = None) -> float:
        """Copy all that waits, and evict. It rests in between until it is `due`.

        `by` is who is said to copy; None = this follower.
        """
        store, backup = self._store, self._open_backup()
        began = store.time()
        copier, trimmer = self._copier_to(backup)
        self._pressure.begin_copy()
        copier.begin(self._to)
        cover(store, backup)
        unbacked = dict(store.acknowledgements.unbacked())
        failed = self._failed_so_far(unbacked)
        pending = [one for one in unbacked.items() if one[0] not in failed]
        copier.failures = {}
        portion_at = time.monotonic()
        for _ in copier.copy(pending):
            self._leader_lock.renew_if_due()
            self._make_room(trimmer)
            self._rest(time.monotonic() - portion_at, due)
            portion_at = time.monotonic()
        self._failed = failed | {
            key: (unbacked[key], str(failure)) for key, failure in copier.failures.items()
        }
        reasons = [reason for _, reason in self._failed.values()]
        for reason in reasons:
            self._warn_once(reason)
        until = None if reasons else began
        damaged = self._make_room(trimmer)
        error = self._error = next(iter(reasons), damaged)
        by = self._leader_lock.name if by is None else by
        store.backup_state.put_mark(BackupMark(by, began, until, error))
        self._pressure.end_copy(trimmer.policy)
        return EVICTING_S if trimmer.is_behind else math.inf

    def _rest(self, worked_s: float, due: float) -> None:
        """Leave the processor to others for a while, unless the round is late or much waits."""
        pause_s = min(worked_s * (1 / BUSY_SHARE - 1), due - time.monotonic())
        if pause_s > 0 and not self._pressure.is_high():
            self._stop.wait(pause_s)

    def _copier_to(self, backup: BackupStore) -> tuple[LogCopier, Trimmer]:
        if self._copier is None or self._trimmer is None or self._backup is not backup:
            self._backup, self._trimmer = backup, Trimmer(self._store, backup)
            self._copier = LogCopier(self._store, backup, on_acknowledged=self._trimmer.add)
        return self._copier, self._trimmer

    def _make_room(self, trimmer: Trimmer) -> str:
        """Evict what the policy allows; return what is wrong with the policy, if anything."""
        try:
            trimmer.work_for_a_turn()
        except DecodeError as error:  # with an unknown policy, evict nothing and copy everything
            self._warn_once(f"{error}; nothing is evicted from Redis: call backup.retain() anew")
            return str(error)
        return ""

    def _failed_so_far(self, unbacked: Mapping[str, int]) -> dict[str, tuple[int, str]]:
        """Logs that failed and have not changed since; the list is cleared from time to time."""
        if time.monotonic() > self._try_again_at:
            self._try_again_at = time.monotonic() + RETRY_FAILED_S
            return {}
        return {key: one for key, one in self._failed.items() if unbacked.get(key) == one[0]}

    def _note(self, error: str, *, kind: str) -> None:
        """Warn about an error, and store it in Redis for `status` if Redis answers."""
        self._warn_once(f"{error}; the backup goes on when that is over, and nothing is lost", kind)
        try:
            mark = BackupMark(self._leader_lock.name, self._store.time(), None, error)
            self._store.backup_state.put_mark(mark)
        except JamboreeError as second:  # Redis is away
            log.debug("%s", second)

    def _warn_once(self, what: str, kind: str = "") -> None:
        """Warn once per outage. Warnings of the same kind count as one, whatever their text."""
        if (kind or what) not in self._warned:
            self._warned.add(kind or what)
            log.warning("%s", what)


class OpenedBackup:
    """A namespace in the backup at a URL; opened when it is needed, and again at another URL."""

    def __init__(self, url: Callable[[], str], namespace: str) -> None:
        self._find_url = url
        self._namespace = namespace
        self._url = ""
        self._store: BackupStore | None = None

    def open(self) -> BackupStore:
        """The store at the current URL.

        Raises:
            JamboreeError: The server does not run, or does not answer.
        """
        url = self._find_url()
        if self._store is None or url != self._url:
            self.close()
            self._store, self._url = open_backup(url, self._namespace), url
        return self._store

    def let_go(self) -> None:
        """Close it until it is opened again; not a folder, which costs nothing while it is open."""
        if not is_folder(self._url):
            self.close()

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()
            self._store = None
