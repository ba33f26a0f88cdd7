"""What Redis knows of the backup: who copies, what MongoDB holds, and what it has to forget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jamboree_gym.encoding.batch_format import Head
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.log import (
    Acknowledged,
    Adoption,
    BackupClaim,
    BackupMark,
    IndexEntry,
    MongoIdentity,
    identity,
    key_of,
)
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.link import RedisPart, as_named, as_text
from jamboree_gym.store.redis.liveness import new_epoch
from jamboree_gym.store.redis.scripts import BORN

__all__ = ["Acknowledgements", "BackupState", "Deletions"]


class BackupState(RedisPart):
    """What the backup process says of itself in Redis. A full server takes it, too."""

    def take_lead(
        self, claim: BackupClaim, *, known_to: str, is_new: bool = False, instead_of: str = ""
    ) -> tuple[str, str]:
        """Say that somebody copies to MongoDB, for so long, unless another does.

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
        """Identity of the MongoDB that the namespace is copied to; empty until it was copied."""
        return as_text(self._fields().get("to_id", b""))

    def mongo_at(self) -> str | None:
        """Where the MongoDB is that acknowledges; None where none has yet."""
        where = self._fields().get("mongo_at")
        return None if where is None else as_text(where)

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

    def trimmed_bytes(self) -> int:
        """How much the backup has let go of here in all, roughly."""
        try:
            return int(self._fields().get("trimmed_bytes", 0))
        except ValueError as error:
            raise self._not_a_mark(error) from error

    def _fields(self) -> dict[str, bytes]:
        return as_named(self._link.call("HGETALL", self._keyspace.backup))

    def _not_a_mark(self, error: Exception) -> DecodeError:
        key = self._keyspace.backup
        return DecodeError(f"{key}: the backup did not write this ({error!r}): DEL it in Redis")


class Acknowledgements(RedisPart):
    """Notes how much of each log MongoDB holds, and which MongoDB that is."""

    def unbacked(self) -> Iterator[tuple[str, int]]:
        """Logs with changes that MongoDB has not acknowledged, and the revision they are at."""
        key, client = self._keyspace.unbacked, self._link.client
        pairs: Any = self._link.run(lambda: client.zrange(key, 0, -1, withscores=True))
        return ((as_text(log), int(score)) for log, score in pairs)

    def acknowledge(self, heads: Mapping[str, Head], *, epoch: str) -> Acknowledged:
        """Note that MongoDB holds these logs as far as these heads, which it has now, say.

        `epoch` is the one in which they were read here.
        """
        if not heads:
            return Acknowledged(set(), set())
        arguments = [
            argument
            for head in heads.values()
            for argument in (head.count, head.revision, BORN.pack(head.born))
        ]
        keys = (self._keyspace.unbacked, self._keyspace.epoch, *heads)
        answers = self._link.script(scripts.ACKNOWLEDGE, keys, (epoch, *arguments))
        by_answer = list(zip(heads, map(int, answers), strict=True))
        gone = {key for key, answer in by_answer if answer == 0}
        return Acknowledged(gone, {key for key, answer in by_answer if answer < 0})

    def adopt(self, mongo: MongoIdentity, *, to: str) -> Adoption:
        """Say which MongoDB acknowledges from now on.

        `to` names the destination of the automatic copy; empty = there is none.
        """
        space = self._keyspace
        keys = (space.epoch, space.backup, space.coverage, space.deleted)
        answer = self._link.script(scripts.ADOPT, keys, (*mongo, new_epoch(), to))
        epoch, unsettled, before = map(as_text, answer)
        return Adoption(epoch, unsettled == "1", before)

    def unacknowledge(self, keys: Sequence[str], *, epoch: str) -> None:
        """Nothing of these logs is acknowledged any more."""
        all_keys = (self._keyspace.unbacked, self._keyspace.epoch, *keys)
        self._link.script(scripts.UNACKNOWLEDGE, all_keys, (epoch,))

    def adopted(self, *, epoch: str) -> None:
        """That was done with all logs."""
        keys = (self._keyspace.epoch, self._keyspace.backup)
        self._link.script(scripts.FINISH_ADOPTION, keys, (epoch,))


class Deletions(RedisPart):
    """Deletes logs, and remembers each deletion until MongoDB has forgotten the log."""

    def delete(
        self, key: str, *, entry: IndexEntry | None = None, born: float | None = None
    ) -> float | None:
        """Delete a log and its listing, and note that MongoDB has to forget it, too.

        Arguments and result are those of `LogStore.delete`.
        """
        run, name = (entry.run, entry.name) if entry else ("", "")
        space = self._keyspace
        keys = (key, space.unbacked, space.summaries(run), space.deleted, space.deletions)
        given = b"" if born is None else BORN.pack(born)
        answer = self._link.script(scripts.DELETE, keys, (name, given))
        return None if answer is None else float(BORN.unpack(answer)[0])

    def noted(self) -> set[tuple[str, float]]:
        """Logs that were deleted here and that MongoDB has to forget, and their births."""
        deleted = as_named(self._link.call("HGETALL", self._keyspace.deleted))
        return {(key_of(one), float(BORN.unpack(born)[0])) for one, born in deleted.items()}

    def forget(self, key: str, born: float, *, mongo: MongoIdentity) -> None:
        """This MongoDB has forgotten a log; those that were the backup before may come back."""
        keys = (self._keyspace.deleted, self._keyspace.backup)
        arguments = (identity(key, born), BORN.pack(born), mongo.id)
        self._link.script(scripts.FORGET_DELETION, keys, arguments)

    def assign_new_birth(self, key: str, head: Head, *, epoch: str) -> bool:
        """Give a log another birth, as one of this birth was deleted; False if it has changed."""
        born = math.nextafter(head.born, math.inf)
        arguments = (epoch, BORN.pack(head.born), head.revision, BORN.pack(born))
        keys = (key, self._keyspace.unbacked, self._keyspace.epoch)
        return bool(self._link.script(scripts.ASSIGN_BIRTH, keys, arguments, again=False))
