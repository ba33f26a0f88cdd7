"""Read-through: what Redis no longer has is read from the backup."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from msgspec.structs import replace

from jamboree_gym.encoding.batch_format import (
    CODEC_RECORDS,
    CODEC_STEPS,
    Batch,
    Head,
    batch_span,
    without_index,
)
from jamboree_gym.encoding.summary_codec import decode_stored_summary
from jamboree_gym.errors import DecodeError, JamboreeError, StoreFull
from jamboree_gym.store.backups.errors import BackupUnavailable
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.backups.questions import BackupQuestions
from jamboree_gym.store.backups.reader import StoredBatches, batches_of, is_lacking
from jamboree_gym.store.backups.records import StoredLog
from jamboree_gym.store.listing_recovery import is_covered
from jamboree_gym.store.log import Append, Asked, IndexEntry, LogSlice, birth_of
from jamboree_gym.store.protocol import LogStore
from jamboree_gym.store.read_through_parts import ReadThroughBlobs, ReadThroughListings
from jamboree_gym.store.redis.appender import LastAppend, LogAppender
from jamboree_gym.store.redis.buckets import part_of
from jamboree_gym.store.redis.link import AccessRefused
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.store.restore import put_back, refill

__all__ = ["ReadThroughStore"]

MAX_PUT_BACK_BYTES = 64 << 20  # larger logs are read from the backup each time
LOGS_AT_ONCE = 200
GROWING_S = 60.0  # a log without a newer record is not taken for one that is being written
TRIES = 3  # to put a log back, if others delete some meanwhile
ABSENT_S = 1.0  # how long the backup's answer "not here" is remembered
MAX_ABSENT = 10_000
_PRICE = "if Redis has lost this log, what is saved begins it anew, or may be there twice"

log = logging.getLogger(__name__)


class _Absent(NamedTuple):
    """The backup had no such log; it is asked again at `until`, on the monotonic clock.

    It is also asked again once Redis was emptied, which changes `Restorer.standing`, and once
    something was appended here.
    """

    until: float
    standing: str
    appended: LastAppend


class ReadThroughStore(LogAppender, LogStore):
    """Reads as `RedisStore` does. The backup supplies what Redis lacks, and Redis gets it back.

    A missing log is restored whole. If Redis holds only the newest batches of a log, the older
    batches are restored, up to 64 MB. Larger logs are read from the backup alone, and so are logs
    for which Redis has no room, or which this user may not write. If Redis was emptied, the
    listings are restored before they are read, and no log of records is begun again.

    Args:
        redis: The same store without a backup. `close` closes it, too.
        find_backup: Opens the backup; returns None if there is none.
        is_own: Whether this process writes a log. A reader of a log that another process
            writes tells that writer.

    Attributes:
        redis: As given; reads only what Redis holds.
        listings: The listings, with those of the backup.
        blobs: The blobs, with those of the backup.
    """

    listings: ReadThroughListings
    blobs: ReadThroughBlobs

    def __init__(
        self,
        redis: RedisStore,
        find_backup: Callable[[], BackupStore | None],
        *,
        is_own: Callable[[str], bool] = lambda key: False,
    ) -> None:
        super().__init__(redis.link, redis.buckets, redis.blobs, can_ask=True)
        self.redis = redis
        self.keyspace = redis.keyspace
        self.leases = redis.leases
        self.feed = redis.feed
        self._is_own = is_own
        self._ask = BackupQuestions(redis.where, find_backup)
        self.listings = ReadThroughListings(redis, self._ask)
        self.blobs = ReadThroughBlobs(redis, self._ask)
        self._absent: dict[str, _Absent] = {}
        self._warned: set[str] = set()

    @property
    def where(self) -> str:
        """Where Redis is: host and port, or socket path."""
        return self.redis.where

    def close(self) -> None:
        """Close the connections to Redis; the backup belongs to the caller."""
        self.redis.close()

    # -- single logs ------------------------------------------------------------------------

    def select(self, key: str, *how: Any) -> LogSlice | None:
        """As `RedisStore.select`; what Redis lacks comes from the backup."""
        return self.completed(key, self.redis.reader.read(key, *how), how)

    def read_many(
        self, keys: Sequence[str], reads: Sequence[tuple[Any, ...]]
    ) -> list[LogSlice | None]:
        """As `RedisStore.read_many`; what Redis lacks comes from the backup."""
        answers = self.redis.reader.read_many(keys, reads)
        pairs = list(zip(keys, answers, strict=True))
        self._put_back([key for key, found in pairs if found is None])
        self._announce([(key, found.head) for key, found in pairs if found is not None])
        return [self._completed(*one) for one in zip(keys, answers, reads, strict=True)]

    def completed(self, key: str, found: LogSlice | None, how: tuple[Any, ...]) -> LogSlice | None:
        """Complete the answer of Redis to a read with batches that only the backup holds.

        Raises:
            StoreUnavailable: The backup is needed, and does not answer.
            DecodeError: The log is damaged in the backup.
        """
        if found is not None:
            self._announce([(key, found.head)])
        return self._completed(key, found, how)

    def _completed(self, key: str, found: LogSlice | None, how: tuple[Any, ...]) -> LogSlice | None:
        if found is not None:
            return self._filled_up(key, found, how) if is_lacking(found, how) else found
        stored = self._put_back([key]).get(key)
        if stored is None:
            return None
        found = self.redis.reader.read(key, *how)
        if found is not None:
            return self._filled_up(key, found, how) if is_lacking(found, how) else found
        head = replace(stored.head, held=stored.head.count)  # Redis had no room for it
        found = LogSlice(head, [])
        try:
            batches = self._ask(lambda backup: self._stored_batches(backup, key, head))
            return None if batches is None else self._joined(found, batches, how)
        except DecodeError:
            if self._was_deleted(key, head):
                return None
            raise

    def _announce(self, read: Sequence[tuple[str, Head]]) -> None:
        """Tell the writers of logs that are being written that somebody reads them."""
        growing = [key for key, head in read if self.feed.is_due(key) and self._grows(key, head)]
        if growing:
            with suppress(AccessRefused, DecodeError):  # who may read may have no right to write
                self.feed.announce(growing)

    def _grows(self, key: str, head: Head) -> bool:
        """Whether another process seems to write a log."""
        if head.t_last < time.time() - GROWING_S or self._is_own(key):
            return False
        if head.codec != CODEC_STEPS:
            return True
        with suppress(DecodeError):
            summary = decode_stored_summary(head.note, episode_id="", where=key)
            return summary.status == "running"
        return False

    def _filled_up(self, key: str, found: LogSlice, how: tuple[Any, ...]) -> LogSlice | None:
        """Add older batches to the answer of Redis; restore them to Redis if they are small."""
        head, damage = found.head, None
        try:
            batches = self._ask(lambda backup: self._stored_batches(backup, key, head))
            if batches is not None:
                if self._refilled(key, head, batches):
                    again = self.redis.reader.read(key, *how)
                    if again is not None and not is_lacking(again, how):
                        return again
                return self._joined(found, batches, how)
        except DecodeError as error:
            damage = error
        now = self.redis.reader.read(key, *how)
        if now is None or now.head.born != head.born:  # it was deleted meanwhile
            return self._completed(key, now, how)
        if self._was_deleted(key, head):
            return _without_held(now)  # a failover of Redis has lost its deletion
        raise damage or DecodeError(
            f"{key} at index {head.first}: Redis at {self.where} has evicted it, and no "
            "backup is known that holds it; backup=URL says where that is"
        )

    def _was_deleted(self, key: str, head: Head) -> bool:
        return bool(self._ask(lambda backup: backup.deleted([(key, head.born)])))

    def _joined(self, found: LogSlice, batches: StoredBatches, how: tuple[Any, ...]) -> LogSlice:
        below = self._ask(lambda _: batches.selected(found, how)) or []
        return LogSlice(found.head, [*below, *found.batches])

    def _stored_batches(self, backup: BackupStore, key: str, head: Head) -> StoredBatches | None:
        """The batches of a log in the backup; None if the backup holds no log, or another one."""
        stored = backup.logs([key]).get(key)
        if isinstance(stored, DecodeError):
            raise stored
        if stored is None or stored.head.born != head.born:
            return None
        return StoredBatches(backup, key, stored, head.held)

    def _refilled(self, key: str, head: Head, stored: StoredBatches) -> bool:
        def fill(_: BackupStore) -> bool:
            return refill(self.redis, key, head, stored, max_bytes=MAX_PUT_BACK_BYTES)

        try:
            return bool(self._ask(fill))
        except (AccessRefused, StoreFull) as error:
            log.debug("%s: read from the backup alone: %s", key, error)
            return False

    def _put_back(self, keys: Sequence[str]) -> dict[str, StoredLog]:
        """Restore logs that Redis does not have, as far as it has room.

        Returns:
            The logs that the backup holds.

        Raises:
            BackupUnavailable: It is unknown now whether an episode exists. A log of records counts
                as missing then: Redis never evicts its head.
            DecodeError: The only requested log is damaged.
        """
        if not keys or not self._ask.may_be_answered:
            return {}
        now, standing = time.monotonic(), self.redis.restorer.standing(keys)
        asked = sorted(key for key in keys if not self._is_known_absent(key, standing, now))
        if not asked:
            return {}
        appended = {key: self.last_append(key) for key in asked}
        found = self._restore_missing(asked)
        if len(self._absent) > MAX_ABSENT:
            self._absent = {}
        for key in asked:
            if key not in found:
                self._absent[key] = _Absent(now + ABSENT_S, standing, appended[key])
        return found

    def _is_known_absent(self, key: str, standing: str, now: float) -> bool:
        known = self._absent.get(key)
        if known is None or known.until <= now or known.appended != self.last_append(key):
            return False
        return self.redis.restorer.stands(key, known.standing, standing)

    def _restore_missing(self, keys: Sequence[str]) -> dict[str, StoredLog]:
        try:
            return self._ask(lambda backup: self._put_back_from(backup, keys)) or {}
        except BackupUnavailable:
            if any(map(self.keyspace.is_episode, keys)):
                raise
            return {}

    def _put_back_from(self, backup: BackupStore, keys: Sequence[str]) -> dict[str, StoredLog]:
        found: dict[str, StoredLog] = {}
        for first in range(0, len(keys), LOGS_AT_ONCE):
            some = keys[first : first + LOGS_AT_ONCE]
            is_alone = len(keys) == 1
            for more_tries in reversed(range(TRIES)):
                standing = self.redis.restorer.standing(some)
                kept, refused = self._put_back_as_of(backup, some, standing, is_alone=is_alone)
                found |= kept
                if not refused or not more_tries:
                    break
                if self.redis.restorer.standing(some) == standing:
                    break  # somebody else has put it back
                for key in refused:
                    del found[key]
                some = refused
        return found

    def _put_back_as_of(
        self, backup: BackupStore, keys: Sequence[str], standing: str, *, is_alone: bool
    ) -> tuple[dict[str, StoredLog], list[str]]:
        """Those that the backup holds, and which of them Redis has refused."""
        deleted = self.redis.deletions.waiting(keys)
        found: dict[str, StoredLog] = {}
        for key, stored in backup.logs(keys).items():
            if isinstance(stored, DecodeError):
                if is_alone:
                    raise stored
            elif key not in deleted:
                found[key] = stored
        refused = [
            key
            for key, stored in found.items()
            if not self._put_back_one(backup, key, stored, standing, is_alone=is_alone)
        ]
        return found, refused

    def _put_back_one(
        self, backup: BackupStore, key: str, stored: StoredLog, standing: str, *, is_alone: bool
    ) -> bool:
        """False if Redis has refused it, as it may have changed."""
        batches, identity = batches_of(backup, key, stored), backup.identity()
        try:
            return put_back(
                self.redis, key, stored.head, batches, backup=identity, standing=standing
            )
        except DecodeError:  # a read of this log alone raises the error
            if backup.deleted([(key, stored.head.born)]):
                return False
            if is_alone:
                raise
        except (AccessRefused, StoreFull) as error:
            log.debug("%s: read from the backup alone: %s", key, error)
        return True

    def whole(self, keys: Sequence[str]) -> list[list[bytes]]:
        """As `RedisStore.whole`; only the head of a log that cannot be restored."""
        answers = self.redis.reader.whole(keys)
        gone = [key for key, answer in zip(keys, answers, strict=True) if not answer]
        if not gone:
            return answers
        stored = self._put_back(gone)
        back = dict(zip(gone, self.redis.reader.whole(gone), strict=True))
        heads = {key: [one.head.encode()] for key, one in stored.items()}
        return [
            answer or back[key] or heads.get(key, [])
            for key, answer in zip(keys, answers, strict=True)
        ]

    def head(self, key: str) -> Head | None:
        """As `RedisStore.head`; if Redis does not have the log, the head in the backup."""
        head = self.redis.head(key)
        if head is not None:
            return head
        stored = self._put_back([key]).get(key)
        return self.redis.head(key) or (None if stored is None else stored.head)

    def heads_of_records(self, keys: Sequence[str]) -> dict[str, Head]:
        """Heads of several logs of records, without those that do not exist.

        Redis never evicts such a head. So the backup is asked, once for all of them, only if Redis
        was emptied and does not list yet what the backup holds.

        Raises:
            DecodeError: A head is damaged.
        """
        found = self.redis.reader.heads(keys)
        missing = [key for key in keys if key not in found]
        if missing and not is_covered(self.listings.cover()):
            stored = self._put_back(missing)
            found = {**{key: one.head for key, one in stored.items()}, **found}
        for head in found.values():
            if isinstance(head, DecodeError):
                raise head
        return {key: head for key, head in found.items() if isinstance(head, Head)}

    def memory(self, key: str) -> int:
        """Approximate bytes that a log occupies in Redis, or would occupy if it were complete."""
        newest = self.last(key, 1)
        if newest is None or not newest.batches:
            return 0
        head, batch = newest.head, newest.batches[-1]
        below = max(0, head.held - head.first) * len(batch.blob) // batch.count
        return self.redis.memory(key) + below

    def pop(self, key: str, n: int, *, first: int | None = None) -> tuple[int, int, list[Batch]]:
        """As `RedisStore.pop`; batches that only the backup holds are read before their removal."""
        answer = self.redis.pop(key, n, first=first)
        if answer == (0, 0, []) and self._put_back([key]):
            answer = self.redis.pop(key, n)
        while answer is None:
            head = self.head(key)
            first = 0 if head is None else head.first
            found = self.read(key, first, first + n)
            answer = self.redis.pop(key, n, first=first)
            if answer is not None and answer[0] == first and found is not None:
                return (*answer[:2], found.batches)
        return answer

    # -- writing ----------------------------------------------------------------------------

    def delete(
        self, key: str, *, entry: IndexEntry | None = None, born: float | None = None
    ) -> float | None:
        """As `RedisStore.delete`, which notes that the backup has to forget the log, too."""
        return self.redis.delete(key, entry=entry, born=born)

    def after_fork_in_child(self) -> None:
        """As `RedisStore.after_fork_in_child`."""
        self.redis.after_fork_in_child()

    def ask_for(self, appends: Sequence[Append]) -> Asked:
        """Restore what the backup holds of these logs; return which of them were deleted.

        This may take long. It is no error if the backup does not answer, and Redis has nothing of a
        log: the saved records then begin it again. An append has to wait that `is_continued`, or
        whose records an earlier try may have stored before Redis was emptied.
        """
        keys = [append.key for append in appends]
        epoch, deleted = self.epoch(keys), set[str]()
        unavailable: BackupUnavailable | None = None
        kept = dict[str, StoredLog]()
        finds: list[Callable[[], object]] = [
            lambda: deleted.update(self._deleted_among(appends)),
            lambda: kept.update(self._put_back(keys)),
        ]
        has_records = any(append.codec == CODEC_RECORDS for append in appends)
        if has_records and self._ask.may_be_answered:
            finds.append(self.listings.cover)
        for find in finds:
            try:
                find()
            except BackupUnavailable as error:  # the warning was already logged
                log.debug("%s", error)
                unavailable = error
            except (AccessRefused, DecodeError) as error:
                self.warn_once(f"{error}; {_PRICE}")
        stored, failed = dict[str, int](), self._not_put_back(kept)
        for append in appends:
            try:
                if unavailable is not None and self._has_to_wait(append, epoch):
                    raise unavailable
                stored[append.key] = self._stored_batches_of(append)
            except BackupUnavailable as error:
                failed[append.key] = error
        return Asked(epoch, deleted, stored, failed, unavailable is not None)

    def _has_to_wait(self, append: Append, epoch: str) -> bool:
        """Whether only the backup can say what becomes of an append."""
        bucket = self._buckets.of(append.key)
        return append.is_continued or self._may_predate(append, part_of(epoch, bucket))

    def _not_put_back(self, kept: Iterable[str]) -> dict[str, JamboreeError]:
        """Logs of the backup that Redis had no room for: they must not be begun again there."""
        keys = sorted(kept)
        there = self.redis.reader.heads(keys) if keys else {}
        return {
            key: StoreFull(
                f"{self.keyspace.in_words(key)} is in the backup, and could not be put back into "
                f"Redis at {self.redis.where}: is it full? What is saved to it waits"
            )
            for key in keys
            if key not in there
        }

    def _stored_batches_of(self, append: Append) -> int:
        """How many of the batches, from the first on, the log has, here or in the backup.

        Raises:
            BackupUnavailable: Redis has evicted those that it may have, or has the log, and it may
                have been begun anew there.
        """
        if not append.batches:
            return 0
        since, until = batch_span(append.batches[0])[2], batch_span(append.batches[-1])[3]
        try:
            found = self.between(append.key, since, until)
            batches = [] if found is None else found.batches
            if append.codec == CODEC_RECORDS and found is not None and not found.head.held:
                kept = self.in_backup(append.key, "between", repr(since), repr(until), 0)
                batches = [*batches, *([] if kept is None else kept.batches)]
        except BackupUnavailable:
            if self.redis.head(append.key) is None:
                return 0
            raise
        except (AccessRefused, DecodeError) as error:
            self.warn_once(f"{error}; {_PRICE}")
            return 0
        there = {without_index(one.blob) for one in batches}
        are_stored = [without_index(one) in there for one in append.batches]
        return [*are_stored, False].index(False)

    def in_backup(self, key: str, *how: Any) -> LogSlice | None:
        """What the backup holds of a part of a log, also if another one was begun in Redis since.

        Raises:
            BackupUnavailable: It does not answer.
            DecodeError: The log is damaged in the backup.
        """

        def selected(backup: BackupStore) -> LogSlice | None:
            log = backup.logs([key]).get(key)
            if isinstance(log, DecodeError):
                raise log
            if log is None:
                return None
            stored = StoredBatches(backup, key, log, log.head.count)
            return LogSlice(log.head, stored.selected(LogSlice(log.head, []), how))

        return self._ask(selected)

    def _deleted_among(self, appends: Sequence[Append]) -> set[str]:
        """Which of these logs were deleted after they had begun."""
        logs = {(append.key, birth_of(append)) for append in appends}
        deleted = self.redis.deletions.noted(key for key, _ in logs)
        noted = {key for key, born in deleted if (key, born) in logs}
        stored = self._ask(lambda backup: backup.deleted(logs)) or set()
        return noted | {key for key, _ in stored}

    def warn_once(self, what: str) -> None:
        """Log a warning, unless it has been logged before."""
        if what not in self._warned:
            self._warned.add(what)
            log.warning("%s", what)


def _without_held(found: LogSlice) -> LogSlice | None:
    """What is left of a log without the records that only the backup had."""
    head = found.head
    if head.held >= head.count:
        return None
    return LogSlice(replace(head, first=max(head.first, head.held)), found.batches)
