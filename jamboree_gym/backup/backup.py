"""Redis -> MongoDB and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jamboree_gym.backup.compare import Comparison
from jamboree_gym.backup.copy import (
    LogCopier,
    finish_deletions,
    pending_records,
    raise_first,
)
from jamboree_gym.backup.policy import RetentionPolicy
from jamboree_gym.backup.restore import Restorer
from jamboree_gym.backup.retention import (
    Trimmed,
    Trimmer,
    known_policy,
    load_policy,
    memory_limit,
    store_policy,
)
from jamboree_gym.backup.summary_repair import damaged_summaries, mend_listings
from jamboree_gym.connection import Connection
from jamboree_gym.errors import DecodeError, JamboreeError
from jamboree_gym.progress import Progress
from jamboree_gym.store.listing_recovery import cover

__all__ = ["Backup", "BackupReport", "BackupStatus"]

UNSEEN_S = 10.0  # a backup that says nothing for so long does not run


@dataclass(frozen=True, slots=True)
class BackupStatus:
    """How far MongoDB is behind.

    Attributes:
        pending_logs: Logs (episodes, records of a handler) with changes not yet in MongoDB.
        pending_records: Records and episode rows of these that MongoDB does not hold; of a log that
            is damaged, none.
        pending_deletes: Logs that were deleted, and that MongoDB has not forgotten yet.
        lag_s: For how long the oldest of what is pending may have waited, seconds: 0 where nothing
            is pending, None where no backup has ever been complete.
        mongo: Where the MongoDB is that has acknowledged what is not pending: its hosts. None where
            none has yet.
        follower: Host and process that copies by itself; None where none has been seen for 10 s.
        last_error: What keeps it from copying, None while all is well.
        redis_bytes: Memory that the Redis server uses, for all that it holds.
        redis_limit_bytes: Above this the oldest that is backed up is let go of; None = no limit.
        trimmed_bytes: How much of the namespace's logs has been let go of in all, roughly.
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


@dataclass(frozen=True, slots=True)
class BackupReport:
    """Result of comparing both sides; true when MongoDB holds everything, byte for byte.

    Attributes:
        logs: Number of logs compared.
        batches: Number of batches compared.
        different: What is missing in MongoDB, differs there, or is damaged on either side: its key
            and, in words, how.
    """

    logs: int
    batches: int
    different: Mapping[str, str]

    def __bool__(self) -> bool:
        """Whether all are equal."""
        return not self.different


class HasId(Protocol):
    """An episode, as `jam.episodes()` gives them."""

    id: str


class Backup:
    """Copies, compares and restores the logs of a `Jamboree`; reach it as `jam.backup`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._store = connection.redis_store

    def flush(self, *, progress: Progress | None = None) -> int:
        """Copy to MongoDB what it does not hold yet, and return once it has acknowledged it.

        Interrupted at any point, the next call goes on; nothing is kept twice. A log that cannot
        be copied does not keep the others from it.

        Args:
            progress: Called with logs done and logs in all.

        Returns:
            Number of records and episode rows that were copied.

        Raises:
            UnsavedRecords: Redis does not have everything itself.
            StoreUnavailable: MongoDB or Redis does not answer.
            BackupMismatch: MongoDB holds other bytes under one of the keys.
            DecodeError: A batch in Redis is damaged; its log was not copied.
        """
        self._connection.flush()
        copier = LogCopier(self._store, self._connection.mongo_store)
        copier.begin()
        pending = list(self._store.acknowledgements.unbacked())
        for done in copier.copy(pending):
            if progress is not None:
                progress(done, len(pending))
        raise_first(list(copier.failures.values()))
        return copier.copied

    def status(self) -> BackupStatus:
        """How far MongoDB is behind, and who copies. Asks Redis only."""
        pending = [key for key, _ in self._store.acknowledgements.unbacked()]
        deletes = len(self._store.deletions.noted())
        records = pending_records(self._store, pending)
        mark, now = self._store.backup_state.mark(), self._store.time()
        is_seen = mark is not None and now - mark.seen_at < UNSEEN_S
        until = None if mark is None else mark.complete_until
        lag_s = 0.0 if not pending and not deletes else None if until is None else now - until
        error = mark.error if mark is not None else ""
        memory, policy = self._store.room.memory(), RetentionPolicy()
        try:
            policy = known_policy(self._store)
        except DecodeError as damaged:
            error = error or str(damaged)
        return BackupStatus(
            len(pending),
            records,
            deletes,
            lag_s,
            self._store.backup_state.mongo_at(),
            mark.by if mark is not None and is_seen else None,
            error or None,
            memory.used_bytes,
            memory_limit(policy, memory),
            self._store.backup_state.trimmed_bytes(),
        )

    # -- how much stays in Redis ------------------------------------------------------------

    def retain(
        self,
        *,
        max_redis_bytes: int | None = None,
        max_age_s: float | None = None,
        keep: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Say how much stays in Redis of what MongoDB holds; without arguments, all of it.

        It is kept with the namespace, in both stores, and carried out by whoever runs the backup;
        `trim` does it once. Nothing goes that MongoDB has not acknowledged, and nothing ever goes
        from MongoDB.

        Args:
            max_redis_bytes: While the Redis server uses more memory than this, for all that it
                holds, the oldest goes. Where the server has a `maxmemory`, it goes at 80 % of that.
            max_age_s: What is older than this goes, seconds.
            keep: Episodes that stay: each rule names what `jam.episodes(...)` asks for (`run`,
                `env_id`, `status`, `parent`, `tags`, `min_return`, `max_steps`, ...), and to fit
                one of them is enough.

        Example:
            >>> jam.backup.retain(max_redis_bytes=2 * 2**30, keep=[{"run": "best"}])

        Raises:
            InvalidRecord: A limit or a rule makes no sense; says which.
            StoreUnavailable: MongoDB or Redis does not answer.
        """
        policy = RetentionPolicy(max_redis_bytes, max_age_s, keep)
        store_policy(self._store, self._connection.mongo_store, policy)

    def retention(self) -> RetentionPolicy:
        """What `retain` was last told.

        Raises:
            StoreUnavailable: MongoDB or Redis does not answer.
            DecodeError: It is damaged; tell it anew.
        """
        return load_policy(self._store, self._connection.mongo_store)

    def trim(self) -> Trimmed:
        """Let go of what `retain` says, now; without waiting for the backup that runs by itself.

        Raises:
            StoreUnavailable: MongoDB or Redis does not answer.
            DecodeError: What `retain` was told is damaged; nothing was let go of.
        """
        mongo = self._connection.mongo_store
        cover(self._store, mongo)
        return Trimmer(self._store, mongo).trim()

    # -- comparing --------------------------------------------------------------------------

    def verify(self, *, progress: Progress | None = None) -> BackupReport:
        """Compare all that Redis holds with the copy in MongoDB, byte for byte.

        What MongoDB alone holds is checked, too: every checksum, and that no batch is missing. So
        are the summaries in Redis' listings.

        Raises:
            StoreUnavailable: MongoDB or Redis does not answer.
        """
        self._connection.flush()
        comparison = Comparison(self._store, self._connection.mongo_store)
        keys = comparison.keys()
        for done in comparison.compare(keys):
            if progress is not None:
                progress(done, len(keys))
        comparison.compare_blobs()
        listed = {key: str(error) for key, error in damaged_summaries(self._store).items()}
        return BackupReport(len(keys), comparison.batches, {**listed, **comparison.different})

    # -- MongoDB -> Redis -------------------------------------------------------------------

    def restore(
        self,
        episodes: Iterable[HasId | str] | None = None,
        *,
        progress: Progress | None = None,
    ) -> int:
        """Put back into Redis every log that MongoDB holds and Redis does not, byte for byte.

        A log of which Redis holds as much or more stays as it is; one of which it holds the newest
        part alone is filled up. One whose head is damaged in Redis is replaced, if MongoDB has
        acknowledged all of it; where a summary is damaged in a listing, the episode is listed anew.
        One that is damaged in MongoDB does not keep the others from coming
        back.

        Args:
            episodes: Only these, given as themselves or by their ids; None = all there is.
            progress: Called with logs done and logs in all.

        Returns:
            Number of logs that were put back, or listed anew.

        Raises:
            DecodeError: A log is damaged or incomplete in MongoDB, and was not put back; or it is
                damaged in Redis, and MongoDB does not hold all of it.
            EpisodeNotFound: MongoDB does not hold one of the episodes.
            StoreUnavailable: MongoDB or Redis does not answer.
        """
        mongo = self._connection.mongo_store
        finish_deletions(self._store, mongo)
        failures: list[JamboreeError] = []
        for name, content in mongo.blobs().items():
            if isinstance(content, DecodeError):
                failures.append(content)
            else:
                self._store.blobs.put(name, content)
        keys = list(mongo.keys()) if episodes is None else self._keys_of(episodes)
        restorer = Restorer(self._store, mongo, is_asked_for=episodes is not None)
        for done in restorer.restore(keys):
            if progress is not None:
                progress(done, len(keys))
        listed, unlisted = mend_listings(self._store, mongo, None if episodes is None else keys)
        raise_first([*failures, *restorer.failures, *unlisted])
        return restorer.restored + listed

    def _keys_of(self, episodes: Iterable[HasId | str]) -> list[str]:
        ids = [one if isinstance(one, str) else one.id for one in episodes]
        return sorted({self._connection.keyspace.episode(id) for id in ids})
