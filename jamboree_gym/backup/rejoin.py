"""Rejoins a log that has diverged: Redis' records move behind those in the backup.

A log diverges when Redis is emptied while the backup is away, and the log is begun again. It also
diverges when Redis loses what is being copied at that moment, while others keep saving.

An episode that is begun again has the same rows; only its batches may differ. The backup keeps its
own batches, and Redis keeps those that follow them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from jamboree_gym.backup.portions import pages
from jamboree_gym.encoding.batch_format import (
    CODEC_RECORDS,
    CODEC_STEPS,
    Batch,
    Head,
    decode_batch,
    decode_head,
    encode_batch,
    encode_records,
    raw_records,
    times_of,
    without_index,
)
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.backups.reader import StoredBatches
from jamboree_gym.store.backups.records import StoredLog
from jamboree_gym.store.log import LogSlice
from jamboree_gym.store.lost_deletions import FIRST_REVISION_UNASKED
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["rejoin"]

MAX_MOVED_BYTES = 64 << 20
ATTEMPTS = 20  # while others save to the log: from the second on, only Redis is asked


def rejoin(store: RedisStore, backup: BackupStore, key: str, *, epoch: str) -> bool:
    """Move the records that only Redis holds behind the records that the backup holds.

    The records get new indices. They keep their times if these are later than those before them.
    Records that were moved before, and that a failover of Redis has moved back, are not moved
    again. What Redis has lost of the log is in the backup only, then. `epoch` is the one in which
    the difference was found.

    Returns:
        Whether the log was changed. It is not changed if both sides differ in what the backup has
        acknowledged, if another backup has just changed it, or if Redis was emptied. Records that
        were popped are left out.

    Raises:
        DecodeError: Data of the log is damaged.
    """
    kept: _KeptLog | None = None
    for _ in range(ATTEMPTS):
        raw, damage = store.reader.undecoded_head(key), None
        if not raw:
            return False
        try:
            head = decode_head(raw, where=key)
            if kept is None or not kept.belongs_to(head):
                kept = _KeptLog(backup, key, head)
            joined = _joined(store, key, head, kept)
            if joined and store.restorer.replace(key, *joined, instead_of=raw, epoch=epoch):
                return True
        except DecodeError as error:
            damage = error
        if store.reader.undecoded_head(key) == raw:
            if damage is not None:
                raise damage
            return False
    return False


class _KeptLog:
    """What the backup holds of a log; asked for once, while records are added to it in Redis.

    Attributes:
        log: The log; None if the backup does not hold it.
    """

    def __init__(self, backup: BackupStore, key: str, head: Head) -> None:
        self._standing = self._standing_of(head)
        found = backup.logs([key]).get(key)
        self.log = found if isinstance(found, StoredLog) else None
        self._backup, self._key = backup, key
        self._read: dict[tuple[Any, ...], list[Batch]] = {}

    @staticmethod
    def _standing_of(head: Head) -> tuple[float, int, int, int]:
        return head.born, head.first, head.held, head.acked

    def belongs_to(self, head: Head) -> bool:
        """Whether a log in Redis has at most got more records since."""
        return self._standing_of(head) == self._standing

    def selected(self, *how: Any) -> list[Batch]:
        """The batches that such a read has to return."""
        if self.log is not None and how not in self._read:
            stored = StoredBatches(self._backup, self._key, self.log, self.log.head.count)
            self._read[how] = stored.selected(LogSlice(self.log.head, []), how)
        return self._read.get(how, [])


def _joined(
    store: RedisStore, key: str, head: Head, kept: _KeptLog
) -> tuple[Head, list[bytes]] | None:
    """The log as it has to be in Redis; None if there is nothing to move, or it must not be."""
    if kept.log is None:
        return None
    there = kept.log.head
    if head.codec == CODEC_STEPS:
        return _begun_again(store, key, head, there)
    are_popped = head.first > max(head.acked, head.held)
    if head.codec != CODEC_RECORDS:
        return None
    ours = _batches_only_in_redis(store, key, head, kept)
    is_nothing_left = are_popped and head.first == head.count and head.born != there.born
    if (
        not (ours or is_nothing_left or _has_popped_since(head, there))
        or sum(len(one.blob) for one in ours) > MAX_MOVED_BYTES
    ):
        return None
    new = [_without_popped(one, head.first) for one in _without_moved(kept, ours)]
    moved = list(_renumbered(there, new))
    joined = Head(
        codec=CODEC_RECORDS,
        first=max(there.first, _popped_of_both(head, ours, kept)),
        held=there.count,
        newest=there.count,
        count=there.count + sum(batch.count for batch in new),
        acked=there.count,
        revision=max(head.revision, there.revision) + 1,
        t_last=moved[-1][1] if moved else there.t_last,
        born=there.born,
        note=b"",
    )
    return joined, [blob for blob, _ in moved]


def _begun_again(
    store: RedisStore, key: str, head: Head, there: Head
) -> tuple[Head, list[bytes]] | None:
    """An episode that was begun again unasked, without the rows that the backup has.

    The journal of a dead process does not say how its rows were cut into batches. Where the backup
    ends in the middle of a batch, nothing can be done.
    """
    is_same = head.born == there.born and there.count <= head.count
    if not is_same or head.acked or head.revision < FIRST_REVISION_UNASKED:
        return None
    later = [one for page in pages(store, key, there.count, head.count) for one in page]
    if later and later[0].start != there.count:
        return None
    count = there.count
    joined = replace(head, held=count, newest=count, acked=count, revision=head.revision + 1)
    return joined, [one.blob for one in later]


def _has_popped_since(head: Head, kept: Head) -> bool:
    """Whether a failover of Redis has lost records of a log, and others were popped since."""
    is_shorter = head.born == kept.born and head.count < kept.count
    return is_shorter and (head.first > kept.first or head.revision >= kept.revision)


def _batches_only_in_redis(store: RedisStore, key: str, head: Head, kept: _KeptLog) -> list[Batch]:
    """The batches of Redis from the first difference on; empty if there is no difference."""
    is_same_log = kept.log is not None and head.born == kept.log.head.born
    if not is_same_log and (head.acked or head.held > head.first):
        return []
    start = max(head.acked, head.held)
    if is_same_log:
        start = max(start, head.first)
    ours = [batch for page in pages(store, key, start, head.count) for batch in page]
    theirs: Sequence[Batch] = ()
    since = min(start, ours[0].start) if ours else start  # some of its first records may be popped
    if is_same_log and kept.log is not None and since < kept.log.head.count:
        theirs = kept.selected("range", since, kept.log.head.count)
    same = 0
    while same < min(len(ours), len(theirs)) and ours[same].blob == theirs[same].blob:
        same += 1
    is_beyond = is_same_log and same == len(theirs)
    return [] if is_beyond else ours[same:]


def _popped_of_both(head: Head, ours: Sequence[Batch], kept: _KeptLog) -> int:
    """Up to which index Redis has popped records that the backup has, too, of a log of records.

    A failover may have lost records, and others were popped in their place. If they are in a batch
    that has more than these, they can be compared.
    """
    assert kept.log is not None
    there = kept.log.head
    if head.born != there.born:
        return 0
    if not ours or ours[0].start >= head.first:
        return head.first
    first, until = ours[0].start, min(head.first, there.count)
    theirs = dict[int, tuple[float, bytes]]()
    for batch in kept.selected("range", first, until) if first < until else ():
        theirs |= zip(range(batch.start, batch.stop), _records(batch), strict=True)
    for index, record in zip(range(first, until), _records(ours[0]), strict=False):
        if theirs.get(index) != record:
            return index
    return until


def _records(batch: Batch) -> Iterator[tuple[float, bytes]]:
    """Time and content of each record."""
    return zip(times_of(batch), raw_records(batch), strict=True)


def _without_moved(kept: _KeptLog, batches: Sequence[Batch]) -> list[Batch]:
    """The batches without those that the backup holds at another index."""
    if not batches:
        return []
    since = kept.selected("between", batches[0].t_first, math.inf, 0)
    there = {without_index(one.blob) for one in since}
    return [one for one in batches if without_index(one.blob) not in there]


def _without_popped(batch: Batch, first: int) -> Batch:
    """A batch without the records before an index, which somebody has taken off the log."""
    popped = first - batch.start
    if popped <= 0:
        return batch
    times = times_of(batch)
    blob = encode_batch(
        codec=CODEC_RECORDS,
        start=first,
        count=batch.count - popped,
        writer=batch.writer,
        t_first=times[popped],
        t_last=batch.t_last,
        body=encode_records(times[popped:], raw_records(batch)[popped:]),
    )
    return decode_batch(blob, where="a part of a batch")


def _renumbered(kept: Head, batches: Sequence[Batch]) -> Iterator[tuple[bytes, float]]:
    """Re-encode batches to follow a log, with new indices and times; yield (batch, last time)."""
    start, t_last = kept.count, kept.t_last
    for batch in batches:
        split = batch.count * 8
        times = list[float]()
        for time_s in times_of(batch):
            t_last = time_s if time_s > t_last else math.nextafter(t_last, math.inf)
            times.append(t_last)
        body = struct.pack(f"<{batch.count}d", *times) + bytes(batch.body[split:])
        blob = encode_batch(
            codec=CODEC_RECORDS,
            start=start,
            count=batch.count,
            writer=batch.writer,
            t_first=times[0],
            t_last=t_last,
            body=body,
        )
        start += batch.count
        yield blob, t_last
