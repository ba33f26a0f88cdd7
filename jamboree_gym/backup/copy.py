"""One run of the backup: logs from Redis to MongoDB, with a bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from jamboree_gym.backup.adopt import adopt
from jamboree_gym.backup.pages import ROUND_TRIP_BYTES, pages
from jamboree_gym.backup.rejoin import rejoin
from jamboree_gym.backup.restore import Restorer
from jamboree_gym.encoding.batch_format import CODEC_STEPS, Frame, Head, decode_frame, frame_span
from jamboree_gym.encoding.rows import schema_digest
from jamboree_gym.encoding.summary_codec import decode_episode_note
from jamboree_gym.errors import BackupMismatch, DecodeError, JamboreeError
from jamboree_gym.store.mongo.documents import MAX_INLINE_BYTES, GrownLog, KeptLog, NewLog
from jamboree_gym.store.mongo.reader import kept_logs
from jamboree_gym.store.mongo.store import MongoStore
from jamboree_gym.store.redis.store import RedisStore

__all__ = [
    "FEW_REVISIONS",
    "FIRST_LOGS",
    "LogCopier",
    "finish_deletions",
    "next_portion",
    "pending_records",
    "raise_first",
]

FIRST_LOGS = 20  # not knowing yet how large they are
MAX_LOGS = 400
FEW_REVISIONS = 8  # a log that was written no more often than this is small


class LogCopier:
    """Copies logs; keeps what went wrong with single ones until all have been tried.

    Args:
        store: From where.
        mongo: To where.
        told: Called with heads of logs as far as MongoDB has acknowledged them.

    Attributes:
        copied: Number of records and episode rows copied so far.
        failures: Why single logs could not be copied.
    """

    def __init__(
        self,
        store: RedisStore,
        mongo: MongoStore,
        *,
        told: Callable[[Mapping[str, Head]], None] | None = None,
    ) -> None:
        self.copied = 0
        self.failures: dict[str, JamboreeError] = {}
        self._store = store
        self._mongo = mongo
        self._told = told
        self._blobs: set[str] = set()
        self._epoch = ""
        self._changed: set[str] = set()
        self._rejoined: list[str] = []

    def begin(self, to: str = "") -> None:
        """Have this MongoDB acknowledge, and forget what was deleted; before logs are listed.

        Args:
            to: In which words the namespace is copied there by itself; empty = it is not.
        """
        epoch = adopt(self._store, self._mongo, to=to)
        if epoch != self._epoch:
            self._epoch, self._blobs = epoch, set()
        finish_deletions(self._store, self._mongo)

    def copy(self, pending: Sequence[tuple[str, int]]) -> Iterator[int]:
        """Copy logs, given with their revisions; yields how many have been dealt with."""
        self._changed = set()
        small = [key for key, revision in pending if revision <= FEW_REVISIONS]
        done, at_once = 0, FIRST_LOGS
        while done < len(small):
            keys = small[done : done + at_once]
            size = self._copy_together(keys)
            done += len(keys)
            at_once = next_portion(at_once, len(keys), size)
            yield done
        for key in (key for key, revision in pending if revision > FEW_REVISIONS):
            self._copy_in_pages(key)
            done += 1
            yield done
        rejoined, self._rejoined = self._rejoined, []
        for key in rejoined:
            self._copy_in_pages(key)

    def _copy_together(self, keys: Sequence[str]) -> int:
        """Copy small logs in one round trip each way; the number of bytes."""
        new: dict[str, NewLog] = {}
        grown: dict[str, GrownLog] = {}
        frames: list[tuple[str, float, bytes]] = []
        by_themselves: list[str] = []
        copied_bytes = 0
        unacked = self._store.reader.unacked(keys)
        heads = {key: one[0] for key, one in unacked.items() if not isinstance(one, DecodeError)}
        read_anew = self._bear_anew(heads) | self._kept_in_part(heads)
        for key, found in unacked.items():
            if key in read_anew:
                by_themselves.append(key)
                continue
            try:
                if isinstance(found, DecodeError):
                    raise found
                head, blobs = found
                run = self._put_blobs(key, head, [decode_frame(one, where=key) for one in blobs])
            except DecodeError as error:
                self.failures[key] = error
                continue
            size = sum(map(len, blobs))
            copied_bytes += size
            if head.acked == 0 and size <= MAX_INLINE_BYTES:
                new[key] = NewLog(_acked(head), blobs, run)
            elif head.acked == 0:
                by_themselves.append(key)
            else:
                grown[key] = GrownLog(_acked(head), head.acked, run)
                frames += [(key, head.born, blob) for blob in blobs]
        refused = self._differing(grown)
        frames = [one for one in frames if one[0] not in refused]
        refused |= self._mongo.insert_logs(new) | self._mongo.insert_frames(frames)
        self._refuse(refused)
        heads = {key: log.head for key, log in new.items() if key not in refused}
        self.copied += sum(head.count for head in heads.values())
        self._acknowledge(heads)
        self._put_heads({key: one for key, one in grown.items() if key not in refused})
        for key in by_themselves:
            self._copy_in_pages(key)
        return copied_bytes

    def _bear_anew(self, logs: Mapping[str, Head]) -> set[str]:
        """Give logs that began again under the birth of one that was deleted another one.

        Returns:
            Those that have changed in Redis, and have to be read again.
        """
        new = {(key, head.born): head for key, head in logs.items() if head.acked == 0}
        taken = self._mongo.deleted(new) if new else set()
        for key, born in taken:
            if not self._store.deletions.bear_anew(key, new[key, born], epoch=self._epoch):
                self._changed.add(key)
        return {key for key, _ in taken}

    def _kept_in_part(self, logs: Mapping[str, Head]) -> set[str]:
        """Logs of which nothing is acknowledged, and which are not whole here, or there."""
        new = {key: head for key, head in logs.items() if head.acked == 0}
        counts = self._mongo.counts(list(new))
        shorter = {key for key, (_, count) in counts.items() if count != new[key].count}
        return shorter | {key for key, head in new.items() if head.held > head.first}

    def _copy_in_pages(self, key: str) -> None:
        """Copy a log that may be too long for memory."""
        head: Head | None = None
        try:
            head = self._store.head(key)
            while head is not None and self._bear_anew({key: head}):
                if key in self._changed:  # the next round sees what it is by then
                    return
                head = self._store.head(key)
            if head is None:
                return
            run, since = self._put_blobs(key, head, ()), head.acked or self._kept_of(key, head)
            if since < head.held > head.first:
                self.failures[key] = BackupMismatch(
                    f"{key}: MongoDB at {self._mongo.where} lacks its first {head.held} records, "
                    "and Redis has let go of them: they are in the MongoDB that was the backup "
                    "before; open that by mongo_url=..., and call backup.restore()"
                )
                return
            known = GrownLog(_acked(head), since, run)
            if refused := self._differing({key: known}):
                self._refuse(refused)
                return
            for page in pages(self._store, key, since, head.count):
                self._put_blobs(key, head, page)
                refused = self._mongo.insert_frames((key, head.born, one.blob) for one in page)
                self._refuse(refused)
                if refused:
                    return
        except DecodeError as error:
            if head is None or not self._was_trimmed(key, head):
                self.failures[key] = error
        else:
            self._put_heads({key: known}, acked=head.acked)

    def _differing(self, logs: Mapping[str, GrownLog]) -> dict[str, str]:
        """Logs of which MongoDB holds more than it has acknowledged, and something else; and what.

        To be asked before frames are inserted: they would lie between those that are there.
        """
        counts = self._mongo.counts(list(logs))
        others = {(key, born) for key, (born, _) in counts.items() if born != logs[key].head.born}
        others -= self._mongo.deleted(others)
        found = {key: "another log of the same name" for key, _ in others}
        for key, (born, count) in counts.items():
            if not isinstance(count, int):  # a damaged document, which is named below
                continue
            if born == logs[key].head.born and count > logs[key].since:
                what = self._difference(key, logs[key].since)
                if what is not None:
                    found[key] = what
        return found

    def _was_trimmed(self, key: str, head: Head) -> bool:
        """Whether another backup was quicker, so that Redis has let go of what was to be read."""
        now = self._store.head(key)
        return now is None or now.born != head.born or now.held > head.held

    def _kept_of(self, key: str, head: Head) -> int:
        """How far MongoDB holds a log of which it has acknowledged nothing yet.

        A backup that was killed has not told. What it brought is not brought again in another form.
        """
        log = self._mongo.logs([key]).get(key)
        if not isinstance(log, KeptLog) or log.head.born != head.born:
            return 0
        return 0 if self._difference(key, 0) else min(log.head.count, head.count)

    def _refuse(self, refused: Mapping[str, str]) -> None:
        """Have records moved behind what MongoDB holds; note what cannot be copied."""
        for key, what in refused.items():
            try:
                was_moved = rejoin(self._store, self._mongo, key, epoch=self._epoch)
                if was_moved or self._was_unfinished(key):
                    self._rejoined.append(key)
                    continue
            except DecodeError as error:
                self.failures[key] = error
                continue
            self.failures[key] = BackupMismatch(
                f"MongoDB at {self._mongo.where} keeps something else under {key}: {what}; nothing "
                "was overwritten. Was Redis emptied and the log begun anew? Delete the log, or "
                "keep it under another name."
            )

    def _was_unfinished(self, key: str) -> bool:
        """Clear frames that a backup brought to MongoDB before it was killed, and Redis has lost.

        No head tells of them, and others have taken their place; in one epoch they are the same.
        """
        head, kept = self._store.head(key), self._mongo.logs([key]).get(key)
        if head is None or isinstance(kept, DecodeError):
            return False
        if kept is not None and (kept.head.born != head.born or self._difference(key, 0)):
            return False
        start = 0 if kept is None else kept.head.count
        return self._mongo.clear_frames(key, head.born, start) > 0

    def _put_blobs(self, key: str, head: Head, frames: Sequence[Frame]) -> str | None:
        """Insert what frames and head refer to, once; the run of an episode."""
        if head.codec != CODEC_STEPS:
            return None
        episode_id = self._store.keyspace.episode_id(key)
        summary, origin = decode_episode_note(head.note, episode_id=episode_id, where=key)
        names = {schema_digest(frame, where=key) for frame in frames} | {origin.provenance}
        new = names - self._blobs
        if new:
            self._mongo.put_blobs({name: self._blob(name) for name in sorted(new)})
            self._blobs |= new
        return summary.run

    def _blob(self, name: str) -> bytes:
        """From Redis, or, where it has lost it, from MongoDB; then it is put back, too."""
        try:
            return self._store.blobs.get(name)
        except DecodeError:
            kept = self._mongo.blob(name)
            if kept is None:
                raise
        self._store.blobs.put(name, kept)
        return kept

    def _put_heads(self, logs: Mapping[str, GrownLog], *, acked: int | None = None) -> None:
        unsettled = self._mongo.put_heads(logs)
        found = {key: what or self._settle(key, logs[key]) for key, what in unsettled.items()}
        refused = {key: what for key, what in found.items() if what is not None}
        self._refuse(refused)
        heads = {key: log.head for key, log in logs.items() if key not in refused}
        for key, head in heads.items():
            self.copied += head.count - (logs[key].since if acked is None else acked)
        self._acknowledge(heads)

    def _settle(self, key: str, log: GrownLog) -> str | None:
        """More is kept than was known: what of it differs; if nothing, keep the head."""
        difference = self._difference(key, log.since)
        if difference is not None:
            return difference
        return self._mongo.put_heads({key: replace(log, since=log.head.count)}).get(key)

    def _difference(self, key: str, since: int) -> str | None:
        """What of the frames that MongoDB holds differs from those of Redis."""
        try:
            for _, kept in kept_logs(self._mongo, [key]):
                if isinstance(kept, DecodeError):
                    return str(kept)
                for blob in kept[1] if kept is not None else ():
                    start, stop, _, _ = frame_span(blob)
                    found = self._store.read(key, start, stop) if stop > since else None
                    if found is None or found.head.held > start:  # MongoDB alone has it
                        continue
                    if [frame.blob for frame in found.frames] != [blob]:
                        return f"other bytes at index {start}"
        except DecodeError as error:
            return str(error)
        return None

    def _acknowledge(self, heads: Mapping[str, Head]) -> None:
        """Tell Redis; what was deleted there meanwhile must not stay in MongoDB.

        What Redis lost while it was on its way to MongoDB comes back from there.
        """
        gone, overtaken = self._store.acknowledgements.acknowledge(heads, epoch=self._epoch)
        self._mongo.clear_deleted((key, heads[key].born) for key in gone)
        if overtaken:
            restorer = Restorer(self._store, self._mongo, is_asked_for=False)
            deque(restorer.restore(sorted(overtaken)), maxlen=0)
        if self._told is not None:
            told = heads.keys() - gone - overtaken
            self._told({key: heads[key] for key in told})


def next_portion(at_once: int, logs: int, size: int) -> int:
    """How many logs to take next, where the last so many had so many bytes."""
    return max(1, min(at_once * 4, MAX_LOGS, logs * ROUND_TRIP_BYTES // max(1, size)))


def _acked(head: Head) -> Head:
    """The head as it is once all is acknowledged."""
    return replace(head, acked=head.count)


def finish_deletions(store: RedisStore, mongo: MongoStore) -> int:
    """Have MongoDB forget what was deleted in Redis; the number of logs."""
    deleted = store.deletions.noted()
    for key, born in sorted(deleted):
        mongo.delete(key, born)
        store.deletions.forget(key, born, mongo=mongo.identity())
    return len(deleted)


def pending_records(store: RedisStore, keys: Sequence[str] | None = None) -> int:
    """Records and rows that MongoDB does not hold; of a log that is damaged, none.

    Args:
        store: Where they are.
        keys: The logs that have changed, where they are known.
    """
    pending = [key for key, _ in store.acknowledgements.unbacked()] if keys is None else keys
    heads = store.reader.heads(pending) if pending else {}
    return sum(one.count - one.acked for one in heads.values() if isinstance(one, Head))


def raise_first(failures: Sequence[JamboreeError]) -> None:
    """Raise the first failure, if there is one, and say how many there are."""
    if len(failures) == 1:
        raise failures[0]
    if failures:
        first = failures[0]
        raise type(first)(f"{first} (and {len(failures) - 1} more like it)") from first
