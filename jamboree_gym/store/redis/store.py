"""The hot log on Redis or Valkey: batches are appended and read in one round trip.

A read of more than 8 MB is asked for part by part.
"""

from __future__ import annotations

import itertools
import math
import os
import secrets
import struct
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from redis.exceptions import RedisError

from jamboree_gym.encoding.batch_format import (
    Frame,
    Head,
    decode_frame,
    decode_head,
    decode_note,
    encode_note,
    frame_span,
)
from jamboree_gym.errors import DecodeError, JamboreeError, StoreUnavailable
from jamboree_gym.keys import Keyspace, digest
from jamboree_gym.store.log import (
    Acknowledged,
    Adoption,
    Append,
    AppendResult,
    Asked,
    BackupClaim,
    BackupMark,
    IndexEntry,
    LogSlice,
    MongoIdentity,
    identity,
    key_of,
)
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.check import check_server
from jamboree_gym.store.redis.client import client_from_url
from jamboree_gym.store.redis.eviction import Room
from jamboree_gym.store.redis.feed import Feed
from jamboree_gym.store.redis.link import AccessRefused, Call, RedisLink, as_text, script_call

__all__ = ["Append", "AppendResult", "IndexEntry", "LogSlice", "RedisStore"]

FSYNC_TIMEOUT_S = 4.0
NEVER_STANDS = "?"  # nothing can be put back: this user may not write
_NOT_ASKED = object()
_BORN = struct.Struct("<d")
_T = TypeVar("_T")


class _Server:
    """What is remembered of the server, as long as it is true.

    Attributes:
        epoch: Of the namespace; empty as long as nobody has asked.
        losses: Connections lost by then; another server may have taken its place since.
        blobs: Digests of the blobs that it holds.
    """

    def __init__(self, epoch: str, losses: int) -> None:
        self.epoch = epoch
        self.losses = losses
        self.blobs: set[str] = set()


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
        self._server = _Server("", 0)
        self._emptied = 0

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
        self,
        appends: Sequence[Append],
        *,
        fsync: bool = False,
        prepare: Callable[[], None] | None = None,
    ) -> list[AppendResult | JamboreeError]:
        """Append to several logs in one round trip, atomically for each of them.

        Sending the same append again is harmless: a frame that is already there is not added.

        Args:
            appends: What to append.
            fsync: Whether to wait until the server has it on disk.
            prepare: Called before each try, of which there are more where Redis was emptied.

        Returns:
            For each append the server's decision, or why this one log cannot be written.

        Raises:
            StoreUnavailable: No answer; what was sent may or may not be stored. Send it again.
            StoreFull: The server has no memory or disk left.
        """
        blobs = {name: blob for append in appends for name, blob in append.blobs.items()}
        tries = 0
        server = self._server

        def calls() -> list[Call]:
            nonlocal tries, server
            tries += 1
            server = self._known_server()
            missing = blobs.keys() - server.blobs
            sent: list[Call] = [self._blob_call(name, blobs[name]) for name in missing]
            sent.append(self._append_call(appends, server.epoch, is_repeated=tries > 1))
            if fsync:
                sent.append(("WAITAOF", 1, 0, int(FSYNC_TIMEOUT_S * 1000)))
            return sent

        while True:
            if prepare is not None:
                prepare()
            self._learn_epoch()
            answers = self.link.pipeline(calls)
            on_disk = answers.pop()[0] if fsync else 1
            results = answers[-1]
            if not isinstance(results, bytes):
                break
            self._enter(as_text(results))
        if on_disk < 1:
            raise StoreUnavailable(
                f"Redis at {self.where} did not bring the append to disk in {FSYNC_TIMEOUT_S} s"
            )
        server.blobs |= blobs.keys()
        if isinstance(results, RedisError):
            raise self.link.translated(results, key=appends[0].key) from results
        was_repeated = tries > 1
        return [
            self._append_result(append, answer, was_repeated=was_repeated)
            for append, answer in zip(appends, results, strict=True)
        ]

    def _append_result(
        self, append: Append, answer: Any, *, was_repeated: bool
    ) -> AppendResult | JamboreeError:
        if isinstance(answer, RedisError):
            translated = self.link.translated(answer, key=append.key)
            if isinstance(translated, DecodeError):
                return translated
            raise translated from answer
        stored, count, t_last = answer
        is_deleted = int(stored) < 0
        return AppendResult(
            max(0, int(stored)), int(count), float(t_last), is_deleted, was_repeated
        )

    def _append_call(self, appends: Sequence[Append], epoch: str, *, is_repeated: bool) -> Call:
        space = self.keyspace
        keys = [space.unbacked, space.runs, space.feed, space.coverage, space.epoch, space.deleted]
        arguments: list[Any] = ["1" if self.can_ask else "", epoch, _new_epoch()]
        for append in appends:
            entry, frames = append.entry, append.frames
            keys += (append.key, space.summaries(entry.run if entry else ""))
            repeated = "1" if is_repeated or append.is_repeated else ""
            asked_in = "" if is_repeated else append.asked_in
            arguments += (str(append.codec), append.note, *_listing(entry), str(append.after))
            arguments += (repeated, asked_in, str(len(frames)), *frames)
        return script_call(scripts.APPEND, keys, arguments)

    @property
    def can_ask(self) -> bool:
        """Whether a log that is not here may be in MongoDB."""
        return False

    def must_ask(self, append: Append, result: AppendResult) -> bool:
        """Whether MongoDB has to be asked for this log before anything is stored there."""
        if not result.is_absent or not self.can_ask:
            return False
        return result.was_repeated or append.asked_in != self._server.epoch

    def ask_for(self, appends: Sequence[Append]) -> Asked:
        """Bring back what MongoDB holds of these logs. It may take its time."""
        del appends
        return Asked(self._server.epoch, set())

    # -- whether it was emptied -------------------------------------------------------------

    def epoch(self) -> str:
        """The epoch of the namespace: another one than before, and Redis was emptied meanwhile.

        Raises:
            AccessRefused: There is none, and this user may not write.
        """
        return as_text(self.link.script(scripts.EPOCH, (self.keyspace.epoch,), (_new_epoch(),)))

    def standing(self) -> str:
        """How things stand: to be asked before MongoDB is, and told when putting back.

        So nothing is put back that was deleted, or that was read before Redis was emptied again.
        """
        keys = (self.keyspace.epoch, self.keyspace.deletions)
        try:
            return as_text(self.link.script(scripts.STANDING, keys, (_new_epoch(),)))
        except AccessRefused:
            return NEVER_STANDS

    def _learn_epoch(self) -> None:
        """Before the first append: blobs that are sent with it must not be of an earlier epoch."""
        if not self._known_server().epoch:
            self._server.epoch = self.epoch()

    def _enter(self, epoch: str) -> None:
        """Redis was emptied: forget what is remembered of it."""
        self._emptied += 1
        self._server = _Server(epoch, self.link.losses)

    def _known_server(self) -> _Server:
        """Nothing is known of one that was away."""
        if self._server.losses != self.link.losses:
            self._server = _Server(self._server.epoch, self.link.losses)
        return self._server

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
        return LogSlice.from_answer(self._in_parts(key, how), where=key)

    def _in_parts(self, key: str, how: tuple[Any, ...], answer: Any = _NOT_ASKED) -> Any:
        """What the script `READ` answers without a limit, asked for part by part.

        Redis puts an answer together before it sends any of it, and who waits for it gives up
        after a time; so no answer may be large.

        Args:
            key: The log.
            how: What to read of it.
            answer: The first part, if it has been asked for already.
        """
        if answer is _NOT_ASKED:
            answer = self.link.script(scripts.READ, (key,), (*how, scripts.PART_BYTES))
        if answer is None or len(answer) == 2:
            return answer
        raw_head, frames, stop = answer
        head, end = decode_head(raw_head, where=key), _end_of(frames)
        while end < stop:
            part = ("rest", end, stop, scripts.PART_BYTES)
            more = self.link.script(scripts.READ, (key,), part)
            if more is None:
                return None
            now = decode_head(more[0], where=key)
            is_forgotten = now.first != head.first and not _begins_at(more[1], end)
            # It is another log, MongoDB has the rest now, or it was popped and is forgotten.
            if now.born != head.born or now.held > end or is_forgotten:
                return self._in_parts(key, how)
            frames += more[1]
            if not more[1] or _end_of(more[1]) <= end:  # damaged: decoding it says so
                break
            end = _end_of(more[1])
        return raw_head, frames

    def read_many(
        self, keys: Sequence[str], reads: Sequence[tuple[Any, ...]]
    ) -> list[LogSlice | None]:
        """Slices of several logs in one round trip.

        Args:
            keys: The logs.
            reads: What to read of each: `("range", start, stop)` or `("last", n)`.
        """
        calls = [
            script_call(scripts.READ, (key,), (*how, scripts.PART_BYTES))
            for key, how in zip(keys, reads, strict=True)
        ]
        answers = self.link.pipeline(lambda: calls) if calls else []
        return [self._slice(*one) for one in zip(keys, answers, reads, strict=True)]

    def _slice(self, key: str, answer: Any, how: tuple[Any, ...]) -> LogSlice | None:
        if isinstance(answer, RedisError):
            raise self.link.translated(answer, key=key) from answer
        return LogSlice.from_answer(self._in_parts(key, how, answer), where=key)

    def unacked(self, keys: Sequence[str]) -> dict[str, tuple[Head, list[bytes]] | DecodeError]:
        """Heads, and frames that MongoDB has not acknowledged, of several logs in one round trip.

        Args:
            keys: The logs; those that do not exist are left out.

        Returns:
            For each log its head and undecoded frames, or what is wrong with it.
        """
        calls = [script_call(scripts.READ, (key,), ("unacked", scripts.PART_BYTES)) for key in keys]
        found: dict[str, tuple[Head, list[bytes]] | DecodeError] = {}
        answers = self.link.pipeline(lambda: calls) if calls else []
        for key, answer in zip(keys, answers, strict=True):
            try:
                if isinstance(answer, RedisError):
                    raise self.link.translated(answer, key=key) from answer
                answer = self._in_parts(key, ("unacked",), answer)
                if answer is not None:
                    found[key] = (decode_head(answer[0], where=key), answer[1])
            except DecodeError as error:
                found[key] = error
        return found

    def whole(self, keys: Sequence[str]) -> list[list[bytes]]:
        """All that several logs hold, in one round trip: head and frames, undecoded.

        Without a script, which would take three times as long for short ones; a single one, which
        may be large, in parts. Empty where there is no such log. Not for logs that are popped.
        """
        if len(keys) == 1:
            return [self._whole_one(keys[0])]
        answers = self.link.pipeline(lambda: [("LRANGE", key, "0", "-1") for key in keys])
        for key, answer in zip(keys, answers, strict=True):
            if isinstance(answer, RedisError):
                raise self.link.translated(answer, key=key) from answer
        return answers

    def _whole_one(self, key: str) -> list[bytes]:
        try:
            answer = self._in_parts(key, ("all",))
        except DecodeError:  # reading it by itself says what is wrong
            return [self.undecoded_head(key)]
        return [] if answer is None else [answer[0], *answer[1]]

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
        self, key: str, *, entry: IndexEntry | None = None, born: float | None = None
    ) -> float | None:
        """Delete a log and its listing, and note that MongoDB has to forget it, too.

        Args:
            key: The log.
            entry: Where it is listed.
            born: Its birth, where it is known from elsewhere; else that of the log here.

        Returns:
            Its birth, None where there was no log and none was given.
        """
        run, name = (entry.run, entry.name) if entry else ("", "")
        space = self.keyspace
        keys = (key, space.unbacked, space.summaries(run), space.deleted, space.deletions)
        given = b"" if born is None else _BORN.pack(born)
        answer = self.link.script(scripts.DELETE, keys, (name, given))
        return None if answer is None else float(_BORN.unpack(answer)[0])

    def deleted(self) -> set[tuple[str, float]]:
        """Logs that were deleted here and that MongoDB has to forget, and their births."""
        deleted = self._hash(self.keyspace.deleted)
        return {(key_of(one), float(_BORN.unpack(born)[0])) for one, born in deleted.items()}

    def forget_deleted(self, key: str, born: float, *, mongo: MongoIdentity) -> None:
        """This MongoDB has forgotten a log; those that were the backup before may come back."""
        keys = (self.keyspace.deleted, self.keyspace.backup)
        arguments = (identity(key, born), _BORN.pack(born), mongo.id)
        self.link.script(scripts.FORGET, keys, arguments)

    def bear_anew(self, key: str, head: Head, *, epoch: str) -> bool:
        """Give a log another birth, as one of this birth was deleted; False if it has changed."""
        born = math.nextafter(head.born, math.inf)
        arguments = (epoch, _BORN.pack(head.born), head.revision, _BORN.pack(born))
        keys = (key, self.keyspace.unbacked, self.keyspace.epoch)
        return bool(self.link.script(scripts.BEAR_ANEW, keys, arguments, again=False))

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
        self._blobs[name] = content

    def _blob_call(self, name: str, content: bytes) -> tuple[Any, ...]:
        return ("SET", self.keyspace.blob(name), encode_note(content), "NX")

    def blob(self, name: str) -> bytes:
        """Content stored by `put_blob`; asked for once, as it never changes.

        Raises:
            DecodeError: It is gone, or damaged.
        """
        if name not in self._blobs:
            key = self.keyspace.blob(name)
            note: bytes | None = self.link.call("GET", key)
            if note is None:
                raise DecodeError(f"{key} is missing on {self.where}: restore it from the backup")
            self._blobs[name] = _checked_blob(name, note, where=key)
        return self._blobs[name]

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
        """How many connections were lost, and how often the server was found emptied.

        What was known of it before may be untrue.
        """
        return self.link.losses + self._emptied

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

    def backup_at(self) -> str | None:
        """Where the MongoDB is that acknowledges; None where none has yet."""
        where = self._hash(self.keyspace.backup).get("mongo_at")
        return None if where is None else as_text(where)

    def hold_backup(
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
        keys = (self.keyspace.backup_holder, self.keyspace.backup)
        new = "1" if is_new else ""
        arguments = (claim.by, int(claim.seconds * 1000), instead_of, claim.to, known_to, new)
        holder, to = self.link.script(scripts.HOLD, keys, arguments)
        return as_text(holder), as_text(to)

    def copy_to(self, to: str) -> None:
        """Say where the namespace is to be copied to from now on."""
        fields = ("HSET", "to", to, "to_id", "")
        self.link.script(scripts.PUT, (self.keyspace.backup,), fields)

    def copied_to_id(self) -> str:
        """Identity of the MongoDB that the namespace is copied to; empty until it was copied."""
        return as_text(self._hash(self.keyspace.backup).get("to_id", b""))

    def adopt(self, mongo: MongoIdentity, *, to: str) -> Adoption:
        """Say which MongoDB acknowledges from now on.

        Args:
            mongo: Which one.
            to: In which words the namespace is copied there by itself; empty = it is not.
        """
        space = self.keyspace
        keys = (space.epoch, space.backup, space.coverage, space.deleted)
        answer = self.link.script(scripts.ADOPT, keys, (*mongo, _new_epoch(), to))
        epoch, unsettled, before = map(as_text, answer)
        return Adoption(epoch, unsettled == "1", before)

    def unacknowledge(self, keys: Sequence[str], *, epoch: str) -> None:
        """Nothing of these logs is acknowledged any more."""
        self.link.script(
            scripts.UNACKNOWLEDGE, (self.keyspace.unbacked, self.keyspace.epoch, *keys), (epoch,)
        )

    def adopted(self, *, epoch: str) -> None:
        """That was done with all logs."""
        keys = (self.keyspace.epoch, self.keyspace.backup)
        self.link.script(scripts.ADOPTED, keys, (epoch,))

    def let_go_of_backup(self, who: str) -> None:
        """Say that this one does not copy any more."""
        self.link.script(scripts.LET_GO, (self.keyspace.backup_holder,), (who,))

    def acknowledge(self, heads: Mapping[str, Head], *, epoch: str) -> Acknowledged:
        """Note that MongoDB holds these logs as far as these heads say.

        Args:
            heads: As they are in MongoDB now.
            epoch: In which they were read here.
        """
        if not heads:
            return Acknowledged(set(), set())
        arguments = [
            argument
            for head in heads.values()
            for argument in (head.count, head.revision, _BORN.pack(head.born))
        ]
        keys = (self.keyspace.unbacked, self.keyspace.epoch, *heads)
        answers = self.link.script(scripts.ACKNOWLEDGE, keys, (epoch, *arguments))
        by_answer = list(zip(heads, map(int, answers), strict=True))
        gone = {key for key, answer in by_answer if answer == 0}
        return Acknowledged(gone, {key for key, answer in by_answer if answer < 0})

    # -- putting back -----------------------------------------------------------------------

    def restore(
        self,
        key: str,
        head: Head,
        frames: Iterable[bytes],
        entry: IndexEntry | None,
        *,
        standing: str,
        mongo: MongoIdentity,
        instead_of: bytes = b"",
    ) -> bool:
        """Put a log back as it was.

        Args:
            key: The log.
            head: Its head; `held` says which of its frames are not among these.
            frames: The others.
            entry: Where it is listed.
            standing: As it was before MongoDB was asked.
            mongo: Where it was.
            instead_of: A damaged head, whose log is replaced if MongoDB has all of it.

        Returns:
            False when Redis already holds as much or more, or something else, or anything was
            deleted meanwhile, or Redis emptied.
        """
        space = self.keyspace
        summaries = space.summaries(entry.run if entry else "")
        listings = (summaries, space.runs, space.deletions, space.unbacked)
        keys = (key, *listings, space.epoch, space.backup)
        arguments = (standing, *_listing(entry), instead_of, head.encode(), *mongo, *frames)
        return bool(self.link.script(scripts.RESTORE, keys, arguments))

    def replace(
        self, key: str, head: Head, frames: Sequence[bytes], *, instead_of: bytes, epoch: str
    ) -> bool:
        """Have another head and other frames take the place of a log's; False if it has changed."""
        keys = (key, self.keyspace.unbacked, self.keyspace.epoch)
        arguments = (epoch, instead_of, head.encode(), *frames)
        return bool(self.link.script(scripts.REPLACE, keys, arguments, again=False))

    def refill(self, key: str, head: Head, start: int, frames: Sequence[bytes]) -> bool:
        """Put the frames from `start` to `head.held` back; False when the log has changed."""
        arguments = (_BORN.pack(head.born), head.held, start, *frames)
        return bool(self.link.script(scripts.REFILL, (key,), arguments, again=False))

    def list_episodes(self, entries: Sequence[IndexEntry], *, standing: str) -> int | None:
        """List episodes of one run.

        Returns:
            How many were not listed; None if anything was deleted meanwhile, or Redis emptied.
        """
        run, newest = entries[0].run, max(entry.time for entry in entries)
        space = self.keyspace
        keys = (space.summaries(run), space.runs, space.deletions, space.epoch)
        pairs = [part for entry in entries for part in (entry.name, entry.summary)]
        added = self.link.script(scripts.LIST, keys, (standing, run, repr(newest), *pairs))
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


def _end_of(frames: Sequence[bytes]) -> int:
    """Index after the last record of frames as they are stored; a large one where it is damaged."""
    try:
        return frame_span(frames[-1])[1]
    except struct.error:
        return sys.maxsize


def _begins_at(frames: Sequence[bytes], index: int) -> bool:
    """Whether no record is missing before these; a damaged frame is named when it is decoded."""
    try:
        return bool(frames) and frame_span(frames[0])[0] <= index
    except struct.error:
        return True


_PROCESS = secrets.token_hex(8)
_counter = itertools.count()


def _new_epoch() -> str:
    return f"{_PROCESS}-{os.getpid()}-{next(_counter)}"


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
