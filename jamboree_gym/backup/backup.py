"""`jam.backup`: copies Redis to the backup, compares both, and restores from the backup."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from jamboree_gym.backup.compare import Comparison
from jamboree_gym.backup.copy import LogCopier, finish_deletions, read_pending
from jamboree_gym.backup.eviction.policy import (
    RETENTION_SETTING,
    RetentionPolicy,
    known_policy,
    load_policy,
    memory_limit,
    store_policy,
)
from jamboree_gym.backup.eviction.preview import WouldEvict, preview
from jamboree_gym.backup.eviction.trimmer import Trimmed, Trimmer
from jamboree_gym.backup.restore import BackupRestorer, damaged_summaries, repair_listings
from jamboree_gym.backup.transfer import BackupTransfer
from jamboree_gym.checked import checked
from jamboree_gym.connection import Connection
from jamboree_gym.errors import BackupMismatch, DecodeError, JamboreeError
from jamboree_gym.progress import Progress
from jamboree_gym.reading.episode import Episode
from jamboree_gym.reading.finding.names import id_of
from jamboree_gym.servers.home import Home
from jamboree_gym.servers.programs.mongo import describe_backup
from jamboree_gym.store.backups.opening import open_backup
from jamboree_gym.store.backups.presence import check_is_there
from jamboree_gym.store.listing_recovery import cover
from jamboree_gym.store.log import BackupMark
from jamboree_gym.store.urls import folder_of, is_folder

__all__ = ["Backup", "BackupReport", "BackupStatus"]

MAX_LISTED = 20
FLUSH_ATTEMPTS = 10  # while a copier to another backup ends its round
UNSEEN_S = 150.0  # a backup of another machine, silent for this long, counts as stopped


@dataclass(frozen=True, slots=True)
class BackupStatus:
    """How far the backup is behind.

    Attributes:
        pending_logs: Logs (episodes, records of a handler) with changes not yet in the backup.
            While another backup takes over: all logs (1 if this user of Redis has no `SCAN`).
        pending_records: Records and episode rows in these logs that the backup does not hold. A
            damaged log counts as 0.
        pending_deletes: Logs that were deleted in Redis, and that the backup has not deleted yet.
        lag_s: The longest time that a pending change may have waited, seconds: 0 if nothing is
            pending, None if no backup has ever been complete.
        mongo: Where the backup is that acknowledged all changes that are not pending: hosts of a
            MongoDB, or the URL of a folder. None if none has acknowledged anything yet.
        follower: Host and process of the automatic backup; None if there is none, or it is gone.
        last_error: What stops the backup from copying; None while it works.
        redis_bytes: All memory that the Redis server uses.
        redis_limit_bytes: Above this the oldest backed-up logs are evicted; None = no limit.
        trimmed_bytes: Bytes of the namespace's logs that were evicted so far, approximately.
        copied_by: The process or thread that copies by itself. If there is none, the reason.
        kind: What the backup is, in words: your MongoDB, a folder, or the embedded server.
    """

    pending_logs: int
    pending_records: int
    pending_deletes: int
    lag_s: float | None
    mongo: str | None
    follower: str | None
    last_error: str | None
    redis_bytes: int
    redis_limit_bytes: int | None
    trimmed_bytes: int
    copied_by: str = ""
    kind: str = ""

    def __str__(self) -> str:
        """A few lines: who copies where to, and how far behind it is."""
        if self.lag_s is None:
            lag = "no copy has been complete yet"
        else:
            lag = f"{self.lag_s:.1f} s behind" if self.lag_s else "nothing is behind"
        limit = "no limit" if self.redis_limit_bytes is None else _mib(self.redis_limit_bytes)
        lines = [
            f"copied by: {self.copied_by}",
            f"copied to: {self.mongo or 'nothing has acknowledged anything yet'}",
            f"backup is: {self.kind}",
            f"not copied: {self.pending_records:,} records in {self.pending_logs:,} logs, "
            f"{self.pending_deletes:,} deletions; {lag}",
            f"Redis: {_mib(self.redis_bytes)} of {limit}; evicted: {_mib(self.trimmed_bytes)}",
        ]
        return "\n".join(lines + ([f"error: {self.last_error}"] if self.last_error else []))


@dataclass(frozen=True, slots=True)
class BackupReport:
    """Result of comparing both sides; true if the backup holds everything, byte for byte.

    Attributes:
        logs: Number of logs compared.
        batches: Number of batches compared.
        different: Keys that are missing in the backup, differ there, or are damaged on either side;
            each with a description of the difference.
    """

    logs: int
    batches: int
    different: Mapping[str, str]

    def __bool__(self) -> bool:
        """Whether both sides are equal."""
        return not self.different

    def __str__(self) -> str:
        """How many logs are equal, and the first that are not."""
        verdict = "all equal" if self else f"{len(self.different):,} differences"
        lines = [f"{self.logs:,} logs compared ({self.batches:,} batches): {verdict}"]
        lines += list(self.different.values())[:MAX_LISTED]
        more = len(self.different) - MAX_LISTED
        return "\n".join(lines + ([f"... and {more:,} more in .different"] if more > 0 else []))


class Backup:
    """Copies, compares and restores the logs of a `Jamboree`; reach it as `jam.backup`."""

    @checked
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._store = connection.redis_store

    @checked
    def flush(self, *, progress: Progress | None = None) -> int:
        """Copy to the backup what it does not hold yet; return once the backup has acknowledged it.

        If the call is interrupted, the next call continues. Nothing is stored twice. A log that
        cannot be copied does not stop the copy of the others.

        Args:
            progress: Called with the number of logs copied and the number of all.

        Returns:
            Number of records and episode rows that were copied.

        Raises:
            UnsavedRecords: Some records of this process have not reached Redis.
            StoreUnavailable: The backup or Redis does not answer.
            BackupMismatch: The backup holds other bytes under one of the keys, or a copier to
                another backup goes on at the same time.
            DecodeError: A batch in Redis is damaged; its log was not copied.
        """
        self._connection.flush()
        backup = self._connection.backup_store
        copier = LogCopier(self._store, backup)
        copier.begin()
        for _ in range(FLUSH_ATTEMPTS):
            pending = list(self._store.acknowledgements.unbacked())
            _run(copier.copy(pending), len(pending), progress)
            _raise_first(list(copier.failures.values()))
            if not copier.begin():
                return copier.copied
        raise BackupMismatch(
            f"{backup.where} does not hold all: another process copies this namespace to another "
            "backup again and again\nend it, or give it this backup, too"
        )

    def status(self) -> BackupStatus:
        """How far the backup is behind, and which process copies. Asks only Redis."""
        self._connection.check_open()
        pending = read_pending(self._store)
        deletes = len(self._store.deletions.noted())
        mark, now = self._store.backup_state.mark(), self._store.time()
        is_seen = mark is not None and _is_there(mark, now)
        until = None if mark is None else mark.complete_until
        lag_s = 0.0 if not pending.logs and not deletes else None if until is None else now - until
        error = mark.error if mark is not None else ""
        memory, policy = self._store.eviction.memory(), RetentionPolicy()
        try:
            policy = known_policy(self._store)
        except DecodeError as damaged:
            error = error or str(damaged)
        return BackupStatus(
            pending.logs,
            pending.records,
            deletes,
            lag_s,
            pending.place,
            mark.by if mark is not None and is_seen else None,
            error or None,
            memory.used_bytes,
            memory_limit(policy, memory),
            self._store.backup_state.trimmed_bytes(),
            mark.by if mark is not None and is_seen else self._will_copy(),
            self._kind(),
        )

    def _kind(self) -> str:
        connection = self._connection
        if connection.backup_url is None:
            return describe_backup(Home.at(connection.opened.home))
        if self._is_without_folder():
            return f"the folder {folder_of(connection.backup_url)}, which is not there"
        return "a folder" if is_folder(connection.backup_url) else "your MongoDB"

    def _will_copy(self) -> str:
        """Who copies while none has said so lately."""
        connection = self._connection
        if connection.opened.backup is None:
            if connection.redis_url is not None and connection.backup_url is None:
                return "nobody: there is no backup URL; jam.backup.flush() copies now"
            return "nobody: backup=False; jam.backup.flush() copies now"
        if connection.backup_url is None:
            return "the backup process of the embedded servers, which is starting"
        return "a thread of this process, from the first save on"

    @checked
    def copy_to(self, url: str, *, progress: Progress | None = None) -> int:
        """Copy this backup to another one, which may be of another kind.

        Copies first what Redis has that this backup lacks. What was deleted here is deleted there,
        too, so that a restore from there does not bring it back. Nothing is overwritten. If the
        call is interrupted, the next call continues.

        Example:
            >>> jam.backup.copy_to("file:///srv/copy")

        Args:
            url: `mongodb://`, `mongodb+srv://` or `file:///path/of/a/folder`.
            progress: Called with the number of logs looked at and the number of all.

        Returns:
            Number of logs of which something was copied.

        Raises:
            InvalidUrl: There is no such kind of backup.
            InvalidArgument: It is the same backup.
            StoreUnavailable: One of the backups, or Redis, does not answer.
            BackupMismatch: The other backup holds something else under one of the keys.
            DecodeError: A log is damaged; it was not copied.
        """
        failures: list[JamboreeError] = []
        try:
            self.flush()
        except (BackupMismatch, DecodeError) as error:  # of single logs
            failures.append(error)
        connection = self._connection
        with closing(open_backup(url, connection.keyspace.namespace)) as target:
            transfer = BackupTransfer(connection.backup_store, target, connection.keyspace)
            for done, total in transfer.copy():
                if progress is not None:
                    progress(done, total)
            transfer.copy_setting(RETENTION_SETTING)
        _raise_first([*failures, *transfer.failures])
        return transfer.copied

    # -- what stays in Redis ----------------------------------------------------------------

    @checked
    def retain(
        self,
        *,
        max_redis_bytes: int | None = None,
        max_age_s: float | None = None,
        keep: Sequence[Mapping[str, Any]] = (),
    ) -> RetentionPolicy:
        """Set how much of the backed-up data stays in Redis; without arguments, all of it.

        Both stores keep this policy for the namespace. It replaces all of the one before, which is
        returned: to add to that one, give its values again. `would_evict` with the same arguments
        says what would go. The running backup applies the policy; `trim` applies it once. Redis
        evicts only what the backup has acknowledged. The backup never loses anything.

        Args:
            max_redis_bytes: While the Redis server uses more memory than this in total, the oldest
                data is evicted. If the server has a `maxmemory`, eviction starts at 80 % of that.
            max_age_s: Data older than this is evicted, seconds.
            keep: Rules for episodes that stay. A rule takes the arguments of `jam.episodes(...)`
                (`run`, `env_id`, `status`, `parent`, `tags`, `min_return`, `max_steps`, ...). An
                episode stays if it matches at least one rule.

        Example:
            >>> jam.backup.retain(max_redis_bytes=2 * 2**30, keep=[{"run": "best"}])

        Returns:
            The policy that it replaces.

        Raises:
            InvalidArgument: A limit or a rule is invalid; says which.
            StoreUnavailable: The backup or Redis does not answer.
        """
        policy = RetentionPolicy(max_redis_bytes, max_age_s, keep)
        replaced = self._replaced_policy()
        store_policy(self._store, self._connection.backup_store, policy)
        return replaced

    def _replaced_policy(self) -> RetentionPolicy:
        try:
            return self.retention()
        except DecodeError:  # `retain` is what mends a damaged one
            return RetentionPolicy()

    @checked
    def would_evict(
        self,
        *,
        max_redis_bytes: int | None = None,
        max_age_s: float | None = None,
        keep: Sequence[Mapping[str, Any]] = (),
    ) -> WouldEvict:
        """What `retain` with these arguments would evict from Redis now. Changes nothing.

        Example:
            >>> print(jam.backup.would_evict(max_age_s=3 * 86400))
            120 episodes would leave Redis, at most 3.1 MiB; the backup keeps them

        Raises:
            InvalidArgument: A limit or a rule is invalid; says which.
            StoreUnavailable: Redis does not answer.
        """
        return preview(self._store, RetentionPolicy(max_redis_bytes, max_age_s, keep))

    def retention(self) -> RetentionPolicy:
        """The policy that `retain` set last.

        Raises:
            StoreUnavailable: The backup or Redis does not answer.
            DecodeError: The stored policy is damaged; call `retain` again.
        """
        return load_policy(self._store, self._connection.backup_store)

    def trim(self) -> Trimmed:
        """Apply the policy of `retain` now, without waiting for the automatic backup.

        Raises:
            StoreUnavailable: The backup or Redis does not answer.
            DecodeError: The stored policy is damaged; nothing was evicted.
        """
        backup = self._connection.backup_store
        cover(self._store, backup)
        return Trimmer(self._store, backup).trim()

    # -- comparing --------------------------------------------------------------------------

    @checked
    def verify(self, *, progress: Progress | None = None) -> BackupReport:
        """Compare all that Redis holds with the copy in the backup, byte for byte.

        Also checks data that only the backup holds: every checksum, and that no batch is missing.
        Also checks the summaries in Redis' listings.

        Raises:
            StoreUnavailable: The backup or Redis does not answer; or nothing was ever copied
                to the folder that the URL names.
        """
        self._connection.flush()
        comparison = Comparison(self._store, self._connection.backup_store)
        keys = comparison.keys()
        if self._is_without_folder() or (not keys and self._has_folder()):
            self._check_is_there()
        _run(comparison.compare(keys), len(keys), progress)
        comparison.check_places()
        comparison.compare_blobs()
        listed = {key: str(error) for key, error in damaged_summaries(self._store).items()}
        return BackupReport(len(keys), comparison.batches, {**listed, **comparison.different})

    # -- the backup -> Redis ----------------------------------------------------------------

    @checked
    def restore(
        self,
        episodes: Iterable[Episode | str] | None = None,
        *,
        progress: Progress | None = None,
    ) -> int:
        """Restore to Redis every log that the backup holds and Redis does not, byte for byte.

        A log stays as it is if Redis holds as much of it as the backup, or more. If Redis holds
        only the newest part, the older part is added. If the head of a log is damaged in Redis, the
        log is replaced, provided that the backup has acknowledged all of it. If a summary is
        damaged in a listing, the episode is listed again. A log that is damaged in the backup does
        not stop the restoration of the others.

        Args:
            episodes: Only these episodes, or their ids; None = everything.
            progress: Called with the number of logs checked and the number of all.

        Returns:
            Number of logs that were restored or listed again.

        Raises:
            DecodeError: A log is damaged or incomplete in the backup, and was not restored; or it
                is damaged in Redis, and the backup does not hold all of it.
            EpisodeNotFound: The backup does not hold one of the episodes.
            StoreUnavailable: The backup or Redis does not answer; or the URL names a place where
                nothing was ever copied.
        """
        if episodes is not None:
            self._check_is_there()
        backup = self._connection.backup_store
        finish_deletions(self._store, backup)
        failures: list[JamboreeError] = []
        for name, content in backup.blobs().items():
            if isinstance(content, DecodeError):
                failures.append(content)
            else:
                self._store.blobs.put(name, content)
        keys = list(backup.keys()) if episodes is None else self._keys_of(episodes)
        restorer = BackupRestorer(self._store, backup, is_asked_for=episodes is not None)
        _run(restorer.restore(keys), len(keys), progress)
        listed, unlisted = repair_listings(self._store, backup, None if episodes is None else keys)
        _raise_first([*failures, *restorer.failures, *unlisted])
        if not restorer.restored:
            self._check_is_there()
        return restorer.restored + listed

    def _check_is_there(self) -> None:
        """Check that a backup which a URL names holds something: the URL may be mistyped."""
        connection = self._connection
        if connection.backup_url is not None:
            check_is_there(connection.backup_store, connection.keyspace.namespace)

    def _has_folder(self) -> bool:
        """Whether a URL names a folder."""
        url = self._connection.backup_url
        return url is not None and is_folder(url)

    def _is_without_folder(self) -> bool:
        """Whether that folder is not there."""
        url = self._connection.backup_url
        return url is not None and is_folder(url) and not folder_of(url).is_dir()

    def _keys_of(self, episodes: Iterable[Episode | str]) -> list[str]:
        ids = {id_of(self._connection, one) for one in episodes}
        return sorted(map(self._connection.keyspace.episode, ids))


def _is_there(mark: BackupMark, now: float) -> bool:
    """Whether the backup that left a mark still runs. Of one on this machine we know it."""
    node, _, pid = mark.by.rpartition(" ")
    if node == platform.node() and pid.isdecimal():
        import psutil  # here: it takes a while to load

        return psutil.pid_exists(int(pid))
    return bool(mark.by) and now - mark.seen_at < UNSEEN_S


def _run(work: Iterable[int], total: int, progress: Progress | None) -> None:
    """Do work that says how much of it is done."""
    for done in work:
        if progress is not None:
            progress(done, total)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _raise_first(failures: Sequence[JamboreeError]) -> None:
    """Raise the first failure, if there is one, and say how many there are in total."""
    if len(failures) == 1:
        raise failures[0]
    if failures:
        first = failures[0]
        raise type(first)(f"{first} (and {len(failures) - 1} more like it)") from first
