"""What Redis knows of the backup: who copies, what the backup holds, and what it has to forget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jamboree_gym.encoding.batch_format import Head
from jamboree_gym.errors import DecodeError
from jamboree_gym.keys import BucketKeys
from jamboree_gym.store.log import (
    Acknowledged,
    Adoption,
    BackupClaim,
    BackupIdentity,
    BackupMark,
    IndexEntry,
    identity,
    key_of,
)
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.buckets import BucketPart, as_one_text, new_epoch, part_of
from jamboree_gym.store.redis.link import Call, as_named, as_pairs, as_text, script_call
from jamboree_gym.store.redis.scripts import BORN

__all__ = ["Acknowledgements", "BackupState", "Deletions", "DeletionsMark"]


class DeletionsMark(NamedTuple):
    """The mark of the deletions that the backup has carried out, as a bucket has it.

    Both texts may be empty: there is no mark, or an older release noted no epoch.

    Attributes:
        mark: Random digits.
        epoch: Of all buckets, when Redis was last compared with the tombstones.
        is_own: Whether this bucket has it. Else it is that of an older release.
    """

    mark: str
    epoch: str
    is_own: bool


class BackupState(BucketPart):
    """What the backup process says of itself in Redis. A full server takes it, too."""

    def take_lead(
        self, claim: BackupClaim, *, known_to: str, is_new: bool = False, instead_of: str = ""
    ) -> tuple[str, str]:
        """Say that somebody copies to the backup, for so long, unless another does.

        Args:
            claim: Who wants to, and where to.
            known_to: Where the namespace is to be copied to, as far as that one knows.
            is_new: Whether it is to be copied to where the claim says from now on.
            instead_of: This other one may be replaced.

        Returns:
            Who copies now, empty = nobody, and where the namespace is to be copied to.
        """
        keys = (self._keyspace.backup_holder, self._keyspace.backup)
        new = "1" if is_new else ""
        arguments = (claim.by, int(claim.seconds * 1000), instead_of, claim.to, known_to, new)
        holder, to = self._link.script(scripts.TAKE_LEAD, keys, arguments)
        return as_text(holder), as_text(to)

    def release_lead(self, who: str) -> None:
        """Say that this one does not copy any more."""
        self._link.script(scripts.RELEASE_LEAD, (self._keyspace.backup_holder,), (who,))

    def copy_to(self, to: str) -> None:
        """Say where the namespace is to be copied to from now on."""
        fields = ("HSET", "to", to, "to_id", "")
        self._link.script(scripts.PUT, (self._keyspace.backup,), fields)

    def copied_to_id(self) -> str:
        """Identity of the backup that the namespace is copied to; empty until it was copied."""
        return as_text(self._fields().get("to_id", b""))

    def backup_place(self) -> str | None:
        """Where the backup is that acknowledges; None where none has yet."""
        (places,) = self._of_all("mongo_at")
        return next((as_text(one) for one in places if one is not None), None)

    def acknowledging(self) -> tuple[str | None, bool]:
        """`backup_place`, and whether nothing counts as acknowledged that another one holds."""
        places, unsettled = self._of_all("mongo_at", "unsettled")
        place = next((as_text(one) for one in places if one is not None), None)
        return place, not any(unsettled)

    def put_mark(self, mark: BackupMark) -> None:
        """Say how far the backup is; also where the server's memory is full."""
        fields: list[Any] = ["by", mark.by, "seen_at", repr(mark.seen_at), "error", mark.error]
        if mark.complete_until is not None:
            fields += ["complete_until", repr(mark.complete_until)]
        self._link.script(scripts.PUT, (self._keyspace.backup,), ("HSET", *fields))

    def mark(self) -> BackupMark | None:
        """What the backup last said of itself, None where there has been none."""
        found = self._fields()
        if "by" not in found:
            return None
        until = found.get("complete_until")
        try:
            return BackupMark(
                as_text(found["by"]),
                float(found["seen_at"]),
                None if until is None else float(until),
                as_text(found["error"]),
            )
        except (KeyError, ValueError) as error:
            raise self._not_a_mark(error) from error

    def deletions_marks(self) -> dict[int, DeletionsMark]:
        """The mark of the deletions that the backup has carried out, as each bucket has it."""
        marks, epochs = self._of_all("deletions", "deletions_epoch")
        older = {} if all(marks) else self._fields()  # earlier releases had one for all buckets
        former = [as_text(older.get(name, b"")) for name in ("deletions", "deletions_epoch")]
        found = {}
        for bucket, mark, epoch in zip(self._buckets.all, marks, epochs, strict=True):
            texts = [as_text(mark), as_text(epoch or b"")] if mark else former
            found[bucket.at] = DeletionsMark(texts[0], texts[1], is_own=bool(mark))
        return found

    def note_deletions(self, before: Mapping[int, str], now: str, *, epoch: str = "") -> None:
        """Change this mark where it is still the one before, and the epoch if given."""

        def call(bucket: BucketKeys) -> Call:
            arguments = (before.get(bucket.at, ""), now, epoch)
            return script_call(scripts.NOTE_DELETIONS, (bucket.backup,), arguments)

        self._of_each(call, self._buckets.all)

    def trimmed_bytes(self) -> int:
        """How much has been evicted here in all, roughly."""
        try:
            (sizes,) = self._of_all("trimmed_bytes")
            return sum(int(one or 0) for one in sizes)
        except ValueError as error:
            raise self._not_a_mark(error) from error

    def _of_all(self, *fields: str) -> list[list[bytes | None]]:
        """Some fields of what is said of each bucket."""
        keys = [bucket.backup for bucket in self._buckets.all]
        answers = self._link.send([("HGET", key, field) for field in fields for key in keys])
        found = [self._link.checked(one, key=self._keyspace.backup) for one in answers]
        return [found[at : at + len(keys)] for at in range(0, len(found), len(keys))]

    def _fields(self) -> dict[str, bytes]:
        return as_named(self._link.call("HGETALL", self._keyspace.backup))

    def _not_a_mark(self, error: Exception) -> DecodeError:
        key = self._keyspace.backup
        return DecodeError(f"{key}: the backup did not write this ({error!r}): DEL it in Redis")


class Acknowledgements(BucketPart):
    """Notes how much of each log the backup holds, and which backup that is."""

    def unbacked(self) -> Iterator[tuple[str, int]]:
        """Logs with changes that the backup has not acknowledged, and the revision they are at."""
        whole = ("0", "-1", "WITHSCORES")
        found = self._of_each(lambda one: ("ZRANGE", one.unbacked, *whole), self._buckets.all)
        name = self._keyspace.out_of_bucket
        pending = [
            (int(float(score)), name(as_text(log)))
            for _, flat in found
            for log, score in as_pairs(flat)
        ]
        return ((log, revision) for revision, log in sorted(pending))

    def watched_keys(self) -> list[str]:
        """Keys of which one changes when there is something to copy, or to delete in the backup."""
        return [
            key
            for bucket in self._buckets.all
            for key in (bucket.unbacked, bucket.deleted, bucket.epoch)
        ]

    def acknowledge(self, heads: Mapping[str, Head], *, epoch: str) -> Acknowledged:
        """Note that the backup holds these logs as far as these heads, which it has now, say.

        `epoch` is the one in which they were read here.
        """

        def call(bucket: BucketKeys, logs: list[str]) -> Call:
            arguments: list[Any] = [part_of(epoch, bucket)]
            for log in logs:
                head = heads[log]
                arguments += (head.count, head.revision, *map(BORN.pack, (head.born, head.t_last)))
            keys = (bucket.unbacked, bucket.epoch, *self._logs(bucket, logs))
            return script_call(scripts.ACKNOWLEDGE, keys, arguments)

        answered = [
            (log, int(answer))
            for logs, answers in self._of_groups(heads, call)
            for log, answer in zip(logs, answers, strict=True)
        ]
        gone = {log for log, answer in answered if answer == 0}
        return Acknowledged(gone, {log for log, answer in answered if answer < 0})

    def adopt(self, backup: BackupIdentity, *, to: str) -> Adoption:
        """Say which backup acknowledges from now on.

        `to` names the destination of the automatic copy; empty = there is none.
        """

        def call(bucket: BucketKeys) -> Call:
            keys = (bucket.epoch, bucket.backup, bucket.coverage, bucket.deleted)
            return script_call(scripts.ADOPT, keys, (*backup, new_epoch()))

        buckets = self._buckets.all
        found = [
            (bucket.at, as_text(epoch), as_text(unsettled), as_text(before))
            for bucket, (epoch, unsettled, before) in self._of_each(call, buckets, is_first=True)
        ]
        self._link.script(scripts.NAME_DESTINATION, (self._keyspace.backup,), (backup.id, to))
        return Adoption(
            as_one_text((at, epoch) for at, epoch, _, _ in found),
            any(unsettled == "1" for _, _, unsettled, _ in found),
            next((before for _, _, _, before in found if before), ""),
        )

    def unacknowledge(self, keys: Sequence[str], *, epoch: str) -> None:
        """Nothing of these logs is acknowledged any more."""

        def call(bucket: BucketKeys, logs: list[str]) -> Call:
            all_keys = (bucket.unbacked, bucket.epoch, *self._logs(bucket, logs))
            return script_call(scripts.UNACKNOWLEDGE, all_keys, (part_of(epoch, bucket),))

        self._of_groups(keys, call)

    def adopted(self, *, epoch: str) -> None:
        """That was done with all logs."""

        def call(bucket: BucketKeys) -> Call:
            keys = (bucket.epoch, bucket.backup)
            return script_call(scripts.FINISH_ADOPTION, keys, (part_of(epoch, bucket),))

        self._of_each(call, self._buckets.all)


class Deletions(BucketPart):
    """Deletes logs, and remembers each deletion until the backup has forgotten the log."""

    def delete(
        self,
        key: str,
        *,
        entry: IndexEntry | None = None,
        born: float | None = None,
        only_this: bool = False,
    ) -> float | None:
        """Delete a log and its listing, and note that the backup has to forget it, too.

        With `only_this`, a log of another birth stays. The other arguments and the result are those
        of `LogStore.delete`.
        """
        of_run = self._keyspace.run_of(key) or ""
        run, name = (entry.run, entry.name) if entry else (of_run, "")
        bucket = self._buckets.of(key)
        keys = (
            *self._logs(bucket, [key]),
            *(bucket.unbacked, bucket.summaries(run), bucket.deleted, bucket.deletions),
            *(bucket.runs, bucket.coverage, *self._logs_of_run(run, bucket)),
        )
        given = b"" if born is None else BORN.pack(born)
        arguments = (name, given, run, "1" if only_this else "")
        answer = self._link.script(scripts.DELETE, keys, arguments)
        return None if answer is None else float(BORN.unpack(answer)[0])

    def noted(self, keys: Iterable[str] | None = None) -> set[tuple[str, float]]:
        """Logs that were deleted here and that the backup has to forget, and their births.

        Of `keys` those, and perhaps others; None = all.
        """
        buckets = self._buckets.some(keys)
        found = self._of_each(lambda bucket: ("HGETALL", bucket.deleted), buckets)
        return {
            (self._keyspace.out_of_bucket(key_of(one)), float(BORN.unpack(born)[0]))
            for _, deleted in found
            for one, born in as_named(deleted).items()
        }

    def waiting(self, keys: Iterable[str] | None = None) -> set[str]:
        """Keys of `noted`: what the backup holds under these is deleted, unless Redis has it.

        That may be another log than the one that was deleted in Redis: Redis was emptied, and the
        log was begun again there.
        """
        return {key for key, _ in self.noted(keys)}

    def forget(self, key: str, born: float, *, backup: BackupIdentity) -> bool:
        """This backup has forgotten a log; those that were the backup before may come back.

        Returns whether Redis has the log again.
        """
        bucket = self._buckets.of(key)
        stored = identity(self._keyspace.in_bucket(key, bucket), born)
        kept = bucket.deleted, bucket.backup, bucket.carried_out, bucket.deletions
        keys = (*kept, *self._logs(bucket, [key]))
        arguments = (stored, BORN.pack(born), backup.id)
        return bool(self._link.script(scripts.FORGET_DELETION, keys, arguments))

    def assign_new_birth(
        self, key: str, head: Head, *, epoch: str, without_evicted: bool = False
    ) -> bool:
        """Give a log another birth, as one of this birth was deleted; False if it has changed.

        `without_evicted` says that what Redis has evicted of it was deleted, too.
        """
        bucket, born = self._buckets.of(key), math.nextafter(head.born, math.inf)
        of_epoch, pack = part_of(epoch, bucket), BORN.pack
        births = pack(head.born), head.revision, pack(born)
        arguments = (of_epoch, *births, "1" if without_evicted else "")
        keys = (*self._logs(bucket, [key]), bucket.unbacked, bucket.epoch)
        return bool(self._link.script(scripts.ASSIGN_BIRTH, keys, arguments, again=False))
