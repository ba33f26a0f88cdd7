"""What Redis evicts because the backup holds it, and what is put back from there."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

from jamboree_gym.encoding.batch_format import Head, decode_note, encode_note
from jamboree_gym.keys import BucketKeys
from jamboree_gym.store.log import BackupIdentity, IndexEntry
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.appender import listing_arguments, newest_in_runs
from jamboree_gym.store.redis.buckets import BucketPart, as_one_text, new_epoch, part_of
from jamboree_gym.store.redis.link import SCAN_COUNT, AccessRefused, Call, as_text, script_call
from jamboree_gym.store.redis.reader import LogReader
from jamboree_gym.store.redis.scripts import BORN

__all__ = ["Candidate", "Evicted", "Eviction", "Memory", "Restorer"]

LOGS_AT_ONCE = 500
NEVER_STANDS = "?"  # nothing can be put back: this user may not write
_ENDLESS = 1e300  # Lua need not read `inf` from text
_ENTRY_BYTES = 48  # of a hash, beside name and value


@dataclass(frozen=True, slots=True)
class Memory:
    """What a server says of its memory.

    It uses `used_bytes` of `max_bytes` (`maxmemory`; None where that is not limited), and follows
    its `policy` (`maxmemory-policy`) where that is used up.
    """

    used_bytes: int
    max_bytes: int | None
    policy: str


class Candidate(NamedTuple):
    """A log that may be evicted, or a part of it. They sort by time.

    No record that may go is older than `time`, epoch seconds. `over_at` is the revision at which
    its episode was over; 0 for one that has not ended, and for records.
    """

    time: float
    key: str
    born: float
    over_at: int


class Evicted(NamedTuple):
    """Roughly how much memory one call has freed, and the candidates that may free more later."""

    freed_bytes: int
    retry_later: Sequence[Candidate]


class Eviction(BucketPart):
    """What of the namespace takes up the server's memory, and what of it may go."""

    def memory(self) -> Memory:
        """How much memory the server uses, for all that it holds, and how much it may.

        Of a cluster it is the primary that has the smallest share of its memory left.
        """

        def found() -> list[Memory]:
            return [_memory(cast(Any, one.info("memory"))) for one in self._link.servers()]

        return max(self._link.run(found), key=_used_share)

    # -- the policy -------------------------------------------------------------------------

    def policy(self) -> bytes | None:
        """What `put_policy` has put there; None where there was none, or the server was emptied.

        Raises:
            DecodeError: It is damaged.
        """
        note: bytes | None = self._link.call("GET", self._keyspace.retention)
        return None if note is None else decode_note(note, where=self._keyspace.retention)

    def put_policy(self, content: bytes) -> None:
        """Store what may be evicted; also if the memory is full."""
        self._link.script(scripts.PUT, (self._keyspace.retention,), ("SET", encode_note(content)))

    # -- logs -------------------------------------------------------------------------------

    def heads(self) -> Iterator[dict[str, Head]]:
        """Heads of all logs, some hundred at a time. Damaged ones are left out."""
        reader, space = LogReader(self._link, self._buckets), self._keyspace
        for pattern in space.log_patterns():
            for keys in self._link.scan(pattern):
                found = reader.heads([space.out_of_bucket(as_text(key)) for key in keys])
                yield {key: head for key, head in found.items() if isinstance(head, Head)}

    def sizes(self, keys: Sequence[str]) -> Iterator[int]:
        """Memory that each log takes, bytes; 0 for one that is gone."""
        for first in range(0, len(keys), LOGS_AT_ONCE):
            stored = map(self._buckets.log, keys[first : first + LOGS_AT_ONCE])
            calls = [("MEMORY", "USAGE", key) for key in stored]
            answers = self._link.pipeline(partial(list, calls))
            yield from (one if isinstance(one, int) else 0 for one in answers)

    def trim(
        self,
        candidates: Sequence[Candidate],
        kept: Mapping[str, int],
        *,
        before: float,
        enough_bytes: float = math.inf,
    ) -> Evicted:
        """Evict what the backup has acknowledged, and nothing else, the first logs first.

        Args:
            candidates: Logs that were found; what has changed since is left alone.
            kept: How many records of each the backup holds.
            before: Only what is older, epoch seconds.
            enough_bytes: End once so much is free.
        """
        if enough_bytes == math.inf:
            return self._trim(candidates, kept, before, enough_bytes)
        later: list[Candidate] = []
        freed, left = 0, deque(candidates)
        sizes = dict(zip(candidates, self.sizes([one.key for one in candidates]), strict=True))
        while left and freed < enough_bytes:
            # Of what is needed in any case, the buckets need not be in the order of time.
            some = [left.popleft()]
            size = sizes[some[0]]
            while left and size + sizes[left[0]] <= enough_bytes - freed:
                size += sizes[left[0]]
                some.append(left.popleft())
            evicted = self._trim(some, kept, before, enough_bytes - freed)
            freed += evicted.freed_bytes
            later += evicted.retry_later
        return Evicted(freed, [*later, *left])

    def _trim(
        self,
        candidates: Sequence[Candidate],
        kept: Mapping[str, int],
        before: float,
        enough_bytes: float,
    ) -> Evicted:
        by_log = {one.key: one for one in candidates}
        limits = [repr(min(limit, _ENDLESS)) for limit in (before, enough_bytes)]

        def call(bucket: BucketKeys, logs: list[str]) -> Call:
            arguments: list[Any] = list(limits)
            for one in map(by_log.__getitem__, logs):
                over_at = one.over_at or ""
                arguments += (BORN.pack(one.born), kept.get(one.key, 0), over_at)
            keys = (bucket.unbacked, bucket.backup, *self._logs(bucket, logs))
            return script_call(scripts.TRIM, keys, arguments)

        later: list[Candidate] = []
        freed = 0
        for logs, answers in self._of_groups(by_log, call):
            freed += sum(size for size, _ in answers)
            later += (by_log[log] for log in logs[len(answers) :])
            for log, (_, time) in zip(logs, answers, strict=False):
                if time:
                    later.append(by_log[log]._replace(time=float(time)))
        return Evicted(freed, later)

    # -- listings ---------------------------------------------------------------------------

    def listed_only(self, run: str) -> Iterator[dict[str, int]]:
        """Episodes of a run that are listed, and whose logs are not here; some at a time.

        Yields their ids, and how many bytes their summaries take up, roughly.
        """
        for bucket in self._buckets.all:
            for pairs in self._pages_of_hash(bucket.summaries(run)):
                sizes = {
                    as_text(name): len(name) + len(summary) + _ENTRY_BYTES
                    for name, summary in zip(pairs[::2], pairs[1::2], strict=True)
                }
                logs = self._logs(bucket, map(self._keyspace.episode, sizes))
                answers = self._link.send([("EXISTS", log) for log in logs])
                yield {id: sizes[id] for id, there in zip(sizes, answers, strict=True) if not there}

    def unlist(self, run: str, ids: Sequence[str], *, are_deleted: bool = False) -> None:
        """Take episodes out of the listing of their run, if their logs are still not here.

        The listing counts as incomplete then, unless they were deleted.
        """
        episode_ids = {self._keyspace.episode(id): id for id in ids}

        def call(bucket: BucketKeys, logs: list[str]) -> Call:
            listing = (bucket.unbacked, bucket.coverage, bucket.summaries(run))
            names = [episode_ids[log] for log in logs]
            keys = (*listing, *self._logs(bucket, logs))
            arguments = ("1" if are_deleted else "", *names)
            return script_call(scripts.UNLIST_EPISODES, keys, arguments)

        self._of_groups(episode_ids, call)

    # -- round trips ------------------------------------------------------------------------

    def _pages_of_hash(self, of: str) -> Iterator[list[bytes]]:
        """Names and contents of a hash, some hundred at a time."""
        cursor = b"0"
        while True:
            call = ("HSCAN", of, cursor, "COUNT", str(SCAN_COUNT))
            cursor, found = self._link.checked(self._link.send([call])[0], key=of)
            if found:
                yield found
            if cursor in (b"0", 0):
                return


def _memory(info: Mapping[str, Any]) -> Memory:
    limit, policy = info.get("maxmemory", 0), info.get("maxmemory_policy", "noeviction")
    return Memory(info["used_memory"], limit or None, policy)


def _used_share(memory: Memory) -> tuple[float, int]:
    return memory.used_bytes / (memory.max_bytes or math.inf), memory.used_bytes


class Restorer(BucketPart):
    """Puts back what the backup holds, unless Redis has changed since the backup was asked."""

    def standing(self, keys: Iterable[str] | None = None) -> str:
        """How things stand: to be asked before the backup is, and told when putting back.

        So nothing is put back that was deleted, or that was read before Redis was emptied again.
        It can be told for any of these logs; None = for all.
        """

        def call(bucket: BucketKeys) -> Call:
            return script_call(scripts.STANDING, (bucket.epoch, bucket.deletions), (new_epoch(),))

        try:
            found = self._of_each(call, self._buckets.some(keys), is_first=True)
        except AccessRefused:
            return NEVER_STANDS
        return as_one_text((bucket.at, as_text(standing)) for bucket, standing in found)

    def stands(self, key: str, standing: str, now: str) -> bool:
        """Whether things stand `now` as before, as far as a log is concerned."""
        bucket = self._buckets.of(key)
        return part_of(standing, bucket) == part_of(now, bucket)

    def restore(
        self,
        key: str,
        head: Head,
        batches: Iterable[bytes],
        entry: IndexEntry | None,
        *,
        standing: str,
        backup: BackupIdentity,
        instead_of: bytes = b"",
        newest: bytes = b"",
    ) -> bool:
        """Put a log back as it was; arguments and result are those of `put_back`.

        `head.held` says which of its batches are not among these; `entry` is where it is listed.
        `newest` is the newest batch of Redis, if the backup holds it, too.
        """
        bucket = self._buckets.of(key)
        summaries = bucket.summaries(entry.run if entry else "")
        listings = (summaries, bucket.runs, bucket.deletions, bucket.unbacked)
        keys = (*self._logs(bucket, [key]), *listings, bucket.epoch, bucket.backup)
        content = (instead_of, head.encode(), *backup, newest, *batches)
        listed = listing_arguments(entry, newest_in_runs([entry]))
        arguments = (part_of(standing, bucket), *listed, *content)
        return bool(self._link.script(scripts.RESTORE, keys, arguments))

    def replace(
        self, key: str, head: Head, batches: Sequence[bytes], *, instead_of: bytes, epoch: str
    ) -> bool:
        """Replace the head and the batches of a log; False if the log has changed."""
        bucket = self._buckets.of(key)
        keys = (*self._logs(bucket, [key]), bucket.unbacked, bucket.epoch)
        arguments = (part_of(epoch, bucket), instead_of, head.encode(), *batches)
        return bool(self._link.script(scripts.REPLACE, keys, arguments, again=False))

    def refill(self, key: str, head: Head, start: int, batches: Sequence[bytes]) -> bool:
        """Put the batches from `start` to `head.held` back; False when the log has changed."""
        stored, arguments = self._buckets.log(key), (BORN.pack(head.born), head.held, start)
        call = (scripts.REFILL, (stored,), (*arguments, *batches))
        return bool(self._link.script(*call, again=False))
