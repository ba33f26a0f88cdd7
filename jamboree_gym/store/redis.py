"""The hot log on Redis or Valkey: batches appended and read, each in one round trip."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from redis.exceptions import RedisError

from jamboree_gym.codec import (
    Frame,
    Head,
    decode_frame,
    decode_head,
    decode_note,
    digest,
    encode_note,
)
from jamboree_gym.errors import DecodeError, JamboreeError, StoreUnavailable
from jamboree_gym.keys import Keyspace
from jamboree_gym.store import scripts
from jamboree_gym.store.feed import Feed
from jamboree_gym.store.log import Append, AppendResult, BackupMark, IndexEntry, LogSlice
from jamboree_gym.store.redis_check import check_server
from jamboree_gym.store.redis_client import client_from_url
from jamboree_gym.store.redis_link import Call, RedisLink, as_text, script_call
from jamboree_gym.store.room import Room

__all__ = ["Append", "AppendResult", "IndexEntry", "LogSlice", "RedisStore"]

FSYNC_TIMEOUT_S = 4.0
_BORN = struct.Struct("<d")
_T = TypeVar("_T")


class RedisStore:
    """Logs, blobs and listings of one namespace on one server.

    Args:
        link: To the server.
        keyspace: Names of all keys.

    Attributes:
        client: The redis-py client of the link.
        link: As given.
        feed: Tells which episodes grow.
        room: What takes up the server's memory, and what may be let go of.
    """

    def __init__(self, link: RedisLink, keyspace: Keyspace) -> None:
        self.client = link.client
        self.keyspace = keyspace
        self.link = link
        self.feed = Feed(link, keyspace)
        self.room = Room(link, keyspace)
        self._blobs: dict[str, bytes] = {}
        self._blobs_as_of = 0  # the link's losses

    @classmethod
    def from_url(
        cls, url: str, keyspace: Keyspace, *, revive: Callable[[], None] | None = None
    ) -> RedisStore:
        """Open a store of its own by URL: `redis://`, `rediss://` or `unix://`.

        Args:
            url: The address.
            keyspace: Names of all keys.
            revive: Called once after a lost connection, before the one retry (embedded servers come
                back this way).

        Raises:
            InvalidUrl: Another scheme, or a malformed address.
        """
        return cls(RedisLink(client_from_url(url), revive=revive), keyspace)

    @property
    def where(self) -> str:
        """Host and port, or socket path; never a user or a password."""
        return self.link.where

    def close(self) -> None:
        """Close the client's connections. Twice is quiet."""
        self.link.close()

    def after_fork_in_child(self) -> None:
        """Leave the connections to the parent process."""
        self.link.after_fork_in_child()

    # -- the server -------------------------------------------------------------------------

    def check(self, *, fsync: bool = False) -> None:
        """Make sure that a server answers that can do what is asked.

        Args:
            fsync: Whether appends are to be confirmed by `WAITAOF`.

        Raises:
            StoreUnavailable: Nothing answers there, or it refuses the login.
            UnsupportedServer: It is not Redis, is too old, or keeps no append-only file.
        """
        check_server(self.link, fsync=fsync)

    # -- the log ----------------------------------------------------------------------------

    def append(
        self, appends: Sequence[Append], *, fsync: bool = False, is_covered: bool = True
    ) -> list[AppendResult | JamboreeError]:
        """Append to several logs in one round trip, atomically for each of them.

        Sending the same append again is harmless: a frame that is already there is not added.

        Args:
            appends: What to append.
            fsync: Whether to wait until the server has it on disk.
            is_covered: Whether a log of records that is not there may be begun. If not, that needs
                `coverage`, and without it nothing is stored.

        Returns:
            For each append the server's decision, or why this one log cannot be written.

        Raises:
            StoreUnavailable: No answer; what was sent may or may not be stored. Send it again.
            StoreFull: The server has no memory or disk left.
        """
        blobs = {name: blob for append in appends for name, blob in append.blobs.items()}

        def calls() -> list[Call]:
            missing = blobs.keys() - self._known_blobs().keys()
            sent: list[Call] = [self._blob_call(name, blobs[name]) for name in missing]
            sent.append(self._append_call(appends, is_covered))
            if fsync:
                sent.append(("WAITAOF", 1, 0, int(FSYNC_TIMEOUT_S * 1000)))
            return sent

        answers = self.link.pipeline(calls)
        if fsync and answers.pop()[0] < 1:
            raise StoreUnavailable(
                f"Redis at {self.where} did not bring the append to disk in {FSYNC_TIMEOUT_S} s"
            )
        self._known_blobs().update(blobs)
        results = answers[-1]
        if isinstance(results, RedisError):
            raise self.link.translated(results, key=appends[0].key) from results
        return [self._append_result(*pair) for pair in zip(appends, results, strict=True)]

    def _append_result(self, append: Append, answer: Any) -> AppendResult | JamboreeError:
        if isinstance(answer, RedisError):
            translated = self.link.translated(answer, key=append.key)
            if isinstance(translated, DecodeError):
                return translated
            raise translated from answer
        return AppendResult(int(answer[0]), int(answer[1]), float(answer[2]))

    def _append_call(self, appends: Sequence[Append], is_covered: bool) -> Call:
        space = self.keyspace
        keys = [space.unbacked, space.runs, space.feed, space.coverage]
        arguments: list[Any] = ["" if is_covered else "1"]
        for append in appends:
            entry, frames = append.entry, append.frames
            keys += (append.key, space.summaries(entry.run if entry else ""))
            listing = _listing(entry)
            arguments += (str(append.codec), append.note, *listing, str(len(frames)), *frames)
        return script_call(scripts.APPEND, keys, arguments)

    def read(self, key: str, start: int, stop: int) -> LogSlice | None:
        """Frames that hold any index in `[start, stop)`; None when there is no such log."""
        return self._read(key, "range", start, stop)

    def last(self, key: str, n: int) -> LogSlice | None:
        """Frames that hold any of the newest n records."""
        return self._read(key, "last", n)

    def between(self, key: str, t0: float, t1: float, *, before: int = 0) -> LogSlice | None:
        """Frames that hold any record with t0 <= timestamp <= t1, and `before` more before them."""
        return self._read(key, "between", repr(float(t0)), repr(float(t1)), before)

    def as_of(self, key: str, t: float, *, before: int = 0) -> LogSlice | None:
        """The frame that holds the newest record with timestamp <= t, and `before` before it."""
        return self._read(key, "as_of", repr(float(t)), before)

    def _read(self, key: str, *how: Any) -> LogSlice | None:
        answer = self.link.script(scripts.READ, (key,), how)
        return LogSlice.from_answer(answer, where=key)

    def read_many(
        self, keys: Sequence[str], reads: Sequence[tuple[Any, ...]]
    ) -> list[LogSlice | None]:
        """Slices of several logs in one round trip.

        Args:
            keys: The logs.
            reads: What to read of each: `("range", start, stop)` or `("last", n)`.
        """
        calls = [
            script_call(scripts.READ, (key,), how) for key, how in zip(keys, reads, strict=True)
        ]
        answers = self.link.pipeline(lambda: calls) if calls else []
        return [self._slice(*pair) for pair in zip(keys, answers, strict=True)]

    def _slice(self, key: str, answer: Any) -> LogSlice | None:
        if isinstance(answer, RedisError):
            raise self.link.translated(answer, key=key) from answer
        return LogSlice.from_answer(answer, where=key)

    def unacked(self, keys: Sequence[str]) -> dict[str, tuple[Head, list[bytes]] | DecodeError]:
        """Heads, and frames that MongoDB has not acknowledged, of several logs in one round trip.

        Args:
            keys: The logs; those that do not exist are left out.

        Returns:
            For each log its head and undecoded frames, or what is wrong with it.
        """
        calls = [script_call(scripts.READ, (key,), ("unacked",)) for key in keys]
        found: dict[str, tuple[Head, list[bytes]] | DecodeError] = {}
        answers = self.link.pipeline(lambda: calls) if calls else []
        for key, answer in zip(keys, answers, strict=True):
            try:
                if isinstance(answer, RedisError):
                    raise self.link.translated(answer, key=key) from answer
                if answer is not None:
                    found[key] = (decode_head(answer[0], where=key), answer[1])
            except DecodeError as error:
                found[key] = error
        return found

    def whole(self, keys: Sequence[str]) -> list[list[bytes]]:
        """All that several logs hold, in one round trip: head and frames, undecoded.

        Without a script, which would take three times as long for short ones. Empty where there is
        no such log. Not for logs that are popped.
        """
        answers = self.link.pipeline(lambda: [("LRANGE", key, "0", "-1") for key in keys])
        for key, answer in zip(keys, answers, strict=True):
            if isinstance(answer, RedisError):
                raise self.link.translated(answer, key=key) from answer
        return answers

    def memory(self, key: str) -> int:
        """Bytes that a log takes up in the server, roughly; 0 when there is no such log."""
        return int(self.link.call("MEMORY", "USAGE", key) or 0)

    def head(self, key: str) -> Head | None:
        """The head of a log, None when there is no such log."""
        raw: bytes | None = self.link.call("LINDEX", key, 0)
        return None if raw is None else decode_head(raw, where=key)

    def undecoded_head(self, key: str) -> bytes:
        """The bytes of a log's head, whether they are whole or not; none where there is no log."""
        return self.link.call("LINDEX", key, 0) or b""

    def heads(self, keys: Sequence[str]) -> dict[str, Head | DecodeError]:
        """Heads of several logs in one round trip; of one that is damaged, what is wrong."""
        answers = self.link.pipeline(lambda: [("LINDEX", key, "0") for key in keys])
        found: dict[str, Head | DecodeError] = {}
        for key, answer in zip(keys, answers, strict=True):
            try:
                if isinstance(answer, RedisError):
                    raise self.link.translated(answer, key=key) from answer
                if answer is not None:
                    found[key] = decode_head(answer, where=key)
            except DecodeError as error:
                found[key] = error
        return found

    def count(self, key: str) -> int:
        """Number of readable records in a log."""
        head = self.head(key)
        return 0 if head is None else head.count - head.first

    def pop(
        self, key: str, n: int, *, first: int | None = None
    ) -> tuple[int, int, list[Frame]] | None:
        """Take the n oldest records off a log.

        Args:
            key: The log.
            n: How many.
            first: The oldest, where the caller has read them already.

        Returns:
            First index taken, the index after the last, and the frames that hold them. None where
            MongoDB alone holds some of these: nothing is taken unless `first` is right.
        """
        keys = (key, self.keyspace.unbacked)
        known = "" if first is None else first
        answer = self.link.script(scripts.POP, keys, (n, known), again=False)
        if answer is None:
            return None
        start, stop, frames = answer
        return start, stop, [decode_frame(frame, where=key) for frame in frames]

    def delete(
        self,
        key: str,
        *,
        entry: IndexEntry | None = None,
        born: float | None = None,
        is_backed_up: bool = False,
    ) -> float | None:
        """Delete a log and its listing.

        Args:
            key: The log.
            entry: Where it is listed.
            born: Its birth, where it is known from elsewhere; else that of the log here.
            is_backed_up: Whether to note that MongoDB has to forget it, too.

        Returns:
            Its birth, None where there was no log and none was given.
        """
        run, name = (entry.run, entry.name) if entry else ("", "")
        space = self.keyspace
        keys = (key, space.unbacked, space.summaries(run), space.deleted, space.deletions)
        given = b"" if born is None else _BORN.pack(born)
        answer = self.link.script(scripts.DELETE, keys, (name, given, "1" if is_backed_up else ""))
        return None if answer is None else float(_BORN.unpack(answer)[0])

    def deleted(self) -> dict[str, float]:
        """Logs that were deleted here and that MongoDB has to forget, and their births."""
        deleted = self._hash(self.keyspace.deleted)
        return {key: _BORN.unpack(born)[0] for key, born in deleted.items()}

    def forget_deleted(self, key: str, born: float) -> None:
        """MongoDB has forgotten a log."""
        self.link.script(scripts.FORGET, (self.keyspace.deleted, key), (_BORN.pack(born),))

    def deletions(self) -> int:
        """Number of deletions so far: to be asked before MongoDB is, and told when putting back."""
        return int(self.link.call("GET", self.keyspace.deletions) or 0)

    # -- listings and blobs -----------------------------------------------------------------

    def summaries(self, run: str) -> dict[str, bytes]:
        """All summaries of a run by episode id."""
        return self._hash(self.keyspace.summaries(run))

    def summaries_and_coverage(self, run: str) -> tuple[dict[str, bytes], str]:
        """Both in one round trip: see `summaries` and `coverage`."""
        key = self.keyspace.summaries(run)
        found, coverage = self.link.pipeline(
            lambda: [("HGETALL", key), ("GET", self.keyspace.coverage)]
        )
        if isinstance(found, RedisError):
            raise self.link.translated(found, key=key) from found
        return _named(found), as_text(coverage or b"")

    def _hash(self, key: str) -> dict[str, bytes]:
        return _named(self.link.call("HGETALL", key))

    def runs(self) -> list[str]:
        """Names of all runs, the one written last at the end."""
        names = self.link.run(lambda: cast(Any, self.client.zrange(self.keyspace.runs, 0, -1)))
        return [as_text(name) for name in names]

    def put_blob(self, name: str, content: bytes) -> None:
        """Store immutable content under its own digest, also over what is damaged there."""
        self.link.call("SET", self.keyspace.blob(name), encode_note(content))
        self._known_blobs()[name] = content

    def _known_blobs(self) -> dict[str, bytes]:
        """Blobs that this server holds; nothing is known of one that was away."""
        if self._blobs_as_of != self.link.losses:
            self._blobs_as_of = self.link.losses
            self._blobs = {}
        return self._blobs

    def _blob_call(self, name: str, content: bytes) -> tuple[Any, ...]:
        return ("SET", self.keyspace.blob(name), encode_note(content), "NX")

    def blob(self, name: str) -> bytes:
        """Content stored by `put_blob`.

        Raises:
            DecodeError: It is gone, or damaged.
        """
        known = self._known_blobs()
        if name not in known:
            key = self.keyspace.blob(name)
            note: bytes | None = self.link.call("GET", key)
            if note is None:
                raise DecodeError(f"{key} is missing on {self.where}: restore it from the backup")
            known[name] = _checked_blob(name, note, where=key)
        return known[name]

    def blobs(self) -> dict[str, bytes | DecodeError]:
        """All immutable content of the namespace, by digest; of what is damaged, what is wrong."""
        prefix = self.keyspace.blob("")
        found: dict[str, bytes | DecodeError] = {}
        for key in map(as_text, self._scan(f"{prefix}*")):
            try:
                note = self.link.call("GET", key)
                found[key[len(prefix) :]] = _checked_blob(key[len(prefix) :], note, where=key)
            except DecodeError as error:
                found[key[len(prefix) :]] = error
        return found

    def run(self, action: Callable[[], _T]) -> _T:
        """Do something with `client`; repeated once after a lost connection, errors translated."""
        return self.link.run(action)

    def log_keys(self) -> Iterator[str]:
        """Keys of all logs of the namespace, in no order."""
        for pattern in self.keyspace.log_patterns():
            yield from sorted(map(as_text, self._scan(pattern)))

    def _scan(self, pattern: str) -> list[bytes]:
        found = self.link.run(lambda: list(self.client.scan_iter(match=pattern, count=1000)))
        return cast("list[bytes]", found)

    # -- who is alive -----------------------------------------------------------------------

    @property
    def losses(self) -> int:
        """How many connections have been lost: what was known of the server may be untrue."""
        return self.link.losses

    def put_lease(self, writer: str, holder: str, seconds: float) -> None:
        """Say that a writer lives, for so long; also where the server's memory is full."""
        lease = ("SET", holder, "PX", int(seconds * 1000))
        self.link.script(scripts.PUT, (self.keyspace.lease(writer),), lease)

    def living(self, writers: Collection[str]) -> set[str]:
        """Which of these writers hold a lease."""
        names = sorted(writers)
        leases = self.link.call("MGET", *map(self.keyspace.lease, names)) if names else []
        return {name for name, lease in zip(names, leases, strict=True) if lease is not None}

    # -- backup's side ----------------------------------------------------------------------

    def unbacked(self) -> Iterator[tuple[str, int]]:
        """Logs with changes that MongoDB has not acknowledged, and the revision they are at."""
        pairs = self.link.run(
            lambda: cast(Any, self.client.zrange(self.keyspace.unbacked, 0, -1, withscores=True))
        )
        return ((as_text(key), int(score)) for key, score in pairs)

    def time(self) -> float:
        """The server's clock, epoch seconds."""
        seconds, microseconds = self.link.run(lambda: cast(Any, self.client.time()))
        return float(seconds + microseconds / 1e6)

    def put_backup_mark(self, mark: BackupMark) -> None:
        """Say how far the backup is; also where the server's memory is full."""
        fields: list[Any] = ["by", mark.by, "seen_at", repr(mark.seen_at), "error", mark.error]
        if mark.complete_until is not None:
            fields += ["complete_until", repr(mark.complete_until)]
        self.link.script(scripts.PUT, (self.keyspace.backup,), ("HSET", *fields))

    def backup_mark(self) -> BackupMark | None:
        """What the backup last said of itself, None where there has been none."""
        found = self._hash(self.keyspace.backup)
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
            return int(self._hash(self.keyspace.backup).get("trimmed_bytes", 0))
        except ValueError as error:
            raise self._not_a_mark(error) from error

    def _not_a_mark(self, error: Exception) -> DecodeError:
        key = self.keyspace.backup
        return DecodeError(f"{key}: the backup did not write this ({error!r}): DEL it in Redis")

    def hold_backup(self, who: str, seconds: float, *, instead_of: str = "") -> str:
        """Say that somebody copies to MongoDB, for so long, unless another does.

        Args:
            who: Wants to.
            seconds: For so long, if it is not said again.
            instead_of: This other one may be replaced.

        Returns:
            Who copies now.
        """
        arguments = (who, int(seconds * 1000), instead_of)
        holder = self.link.script(scripts.HOLD, (self.keyspace.backup_holder,), arguments)
        return as_text(holder)

    def let_go_of_backup(self, who: str) -> None:
        """Say that this one does not copy any more."""
        self.link.script(scripts.LET_GO, (self.keyspace.backup_holder,), (who,))

    def acknowledge(self, heads: Mapping[str, Head]) -> set[str]:
        """Note that MongoDB holds these logs as far as these heads say.

        Returns:
            Logs that are not there any more.
        """
        if not heads:
            return set()
        arguments = [
            argument
            for head in heads.values()
            for argument in (head.count, head.revision, _BORN.pack(head.born))
        ]
        keys = (self.keyspace.unbacked, *heads)
        answers = self.link.script(scripts.ACKNOWLEDGE, keys, arguments)
        return {key for key, answer in zip(heads, answers, strict=True) if not answer}

    # -- putting back -----------------------------------------------------------------------

    def restore(
        self,
        key: str,
        head: Head,
        frames: Iterable[bytes],
        entry: IndexEntry | None,
        *,
        deletions: int,
        instead_of: bytes = b"",
    ) -> bool:
        """Put a log back as it was.

        Args:
            key: The log.
            head: Its head; `held` says which of its frames are not among these.
            frames: The others.
            entry: Where it is listed.
            deletions: As they were before MongoDB was asked.
            instead_of: A damaged head, whose log is replaced if MongoDB has all of it.

        Returns:
            False when Redis already holds as much or more, or anything was deleted meanwhile.
        """
        space = self.keyspace
        summaries = space.summaries(entry.run if entry else "")
        keys = (key, summaries, space.runs, space.deletions, space.unbacked)
        arguments = (deletions, *_listing(entry), instead_of, head.encode(), *frames)
        return bool(self.link.script(scripts.RESTORE, keys, arguments))

    def refill(self, key: str, head: Head, start: int, frames: Sequence[bytes]) -> bool:
        """Put the frames from `start` to `head.held` back; False when the log has changed."""
        arguments = (_BORN.pack(head.born), head.held, start, *frames)
        return bool(self.link.script(scripts.REFILL, (key,), arguments, again=False))

    def list_episodes(self, entries: Sequence[IndexEntry], *, deletions: int) -> int | None:
        """List episodes of one run.

        Returns:
            How many were not listed; None if anything was deleted meanwhile.
        """
        run, newest = entries[0].run, max(entry.time for entry in entries)
        space = self.keyspace
        keys = (space.summaries(run), space.runs, space.deletions)
        pairs = [part for entry in entries for part in (entry.name, entry.summary)]
        added = self.link.script(scripts.LIST, keys, (deletions, run, repr(newest), *pairs))
        return None if added is None else int(added)

    def mend(self, run: str, entry: IndexEntry, *, instead_of: bytes) -> bool:
        """Replace a damaged summary in the listing of a run; False where it is another by now."""
        arguments = (entry.name, instead_of, entry.summary)
        return bool(self.link.script(scripts.MEND, (self.keyspace.summaries(run),), arguments))

    def coverage(self) -> str:
        """Whether the listings hold what MongoDB does: `all` or `part`; anything else: unknown."""
        return as_text(self.link.call("GET", self.keyspace.coverage) or b"")

    def put_coverage(self, value: str) -> None:
        """Say so."""
        self.link.call("SET", self.keyspace.coverage, value)

    def settle_coverage(self, expected: str, value: str) -> bool:
        """Say so if nobody has said anything else, and Redis was not emptied meanwhile."""
        return bool(self.link.script(scripts.SETTLE, (self.keyspace.coverage,), (expected, value)))


def _named(found: Any) -> dict[str, bytes]:
    """What HGETALL answers: with RESP 3 a dict, with RESP 2 a list."""
    pairs = found.items() if isinstance(found, dict) else zip(*[iter(found)] * 2, strict=True)
    return {as_text(name): content for name, content in pairs}


def _checked_blob(name: str, note: bytes, *, where: str) -> bytes:
    content = decode_note(note, where=where)
    if digest(content) != name:
        raise DecodeError(f"{where}: the content is not that of its name, it is damaged")
    return content


def _listing(entry: IndexEntry | None) -> tuple[Any, ...]:
    """What a script needs to list a log."""
    if entry is None:
        return "", "", "", "0"
    return entry.name, entry.summary, entry.run, repr(entry.time)
