"""Who copies the namespace to MongoDB, where to, and how far that has come."""

from __future__ import annotations

from typing import Any

from jamboree_gym.errors import DecodeError
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.log import BackupClaim, BackupMark
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.link import RedisLink, as_named, as_text

__all__ = ["BackupState"]


class BackupState:
    """What the backup process says of itself in Redis. A full server takes it, too.

    Args:
        link: To the server.
        keyspace: Names of all keys.
    """

    def __init__(self, link: RedisLink, keyspace: Keyspace) -> None:
        self._link = link
        self._keyspace = keyspace

    def hold(
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
        holder, to = self._link.script(scripts.HOLD, keys, arguments)
        return as_text(holder), as_text(to)

    def let_go(self, who: str) -> None:
        """Say that this one does not copy any more."""
        self._link.script(scripts.LET_GO, (self._keyspace.backup_holder,), (who,))

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
