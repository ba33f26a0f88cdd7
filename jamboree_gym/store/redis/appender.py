"""Appending to logs, whatever happens to the server meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import RedisError

from jamboree_gym.errors import DecodeError, JamboreeError, StoreUnavailable
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.log import Append, AppendResult
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.blobs import Blobs
from jamboree_gym.store.redis.link import Call, RedisLink, RedisPart, as_text, script_call
from jamboree_gym.store.redis.listings import listing_arguments, newest_in_runs
from jamboree_gym.store.redis.liveness import new_epoch

__all__ = ["LogAppender"]

FSYNC_TIMEOUT_S = 4.0


@dataclass(slots=True)
class _Server:
    """What is remembered of the server, as long as it is true.

    `epoch` is empty as long as nobody has asked; if more connections were lost than `losses`,
    another server may have taken its place since; `blobs` are digests of those that it holds.
    """

    epoch: str
    losses: int
    blobs: set[str] = field(default_factory=set)


class LogAppender(RedisPart):
    """What stores of logs share: appending, and what has to be known of the server for that.

    `blobs` are stored before the batches that refer to them; `can_ask` says whether a log that is
    not here may be in MongoDB. The methods are those of `LogStore`.

    Attributes:
        is_followed: Whether somebody followed what is written, at the last append.
    """

    def __init__(self, link: RedisLink, keyspace: Keyspace, blobs: Blobs, *, can_ask: bool) -> None:
        super().__init__(link, keyspace)
        self._blobs = blobs
        self._can_ask = can_ask
        self.is_followed = False
        self._server = _Server("", 0)
        self._emptied = 0

    def append(
        self,
        appends: Sequence[Append],
        *,
        fsync: bool = False,
        prepare: Callable[[], None] | None = None,
    ) -> list[AppendResult | JamboreeError]:
        """Append to several logs in one round trip, atomically for each: see `LogStore.append`."""
        blobs = dict[str, bytes]()
        for append in appends:
            blobs |= append.blobs
        tries = 0
        server = self._server

        def calls() -> list[Call]:
            nonlocal tries, server
            tries += 1
            server = self._known_server()
            missing = blobs.keys() - server.blobs
            sent: list[Call] = [self._blobs.put_call(name, blobs[name]) for name in missing]
            sent.append(self._append_call(appends, server.epoch, is_repeated=tries > 1))
            if fsync:
                sent.append(("WAITAOF", 1, 0, int(FSYNC_TIMEOUT_S * 1000)))
            return sent

        while True:
            if prepare is not None:
                prepare()
            self._learn_epoch()
            answers = self._link.pipeline(calls)
            on_disk = answers.pop()[0] if fsync else 1
            results = answers[-1]
            if not isinstance(results, bytes):
                break
            self._enter(as_text(results))
        if on_disk < 1:
            late = f"did not bring the append to disk in {FSYNC_TIMEOUT_S} s"
            raise StoreUnavailable(f"Redis at {self._link.where} {late}")
        server.blobs |= blobs.keys()
        self._link.checked(results, key=appends[0].key)
        self.is_followed = bool(results.pop())
        was_repeated = tries > 1
        return [
            self._append_result(append, answer, was_repeated=was_repeated)
            for append, answer in zip(appends, results, strict=True)
        ]

    def _append_result(
        self, append: Append, answer: Any, *, was_repeated: bool
    ) -> AppendResult | JamboreeError:
        if isinstance(answer, RedisError):
            translated = self._link.translated(answer, key=append.key)
            if isinstance(translated, DecodeError):
                return translated
            raise translated from answer
        stored, count, t_last = answer
        stored = int(stored)
        is_deleted = stored < 0
        return AppendResult(max(0, stored), int(count), t_last, is_deleted, was_repeated)

    def _append_call(self, appends: Sequence[Append], epoch: str, *, is_repeated: bool) -> Call:
        space = self._keyspace
        keys = [space.unbacked, space.runs, space.feed, space.coverage, space.epoch, space.deleted]
        arguments: list[Any] = ["1" if self._can_ask else "", epoch, new_epoch()]
        runs = newest_in_runs(append.entry for append in appends)
        listings = {run: space.summaries(run) for run in ("", *runs)}
        for append in appends:
            entry, batches = append.entry, append.batches
            keys += (append.key, listings[entry.run if entry else ""])
            repeated = "1" if is_repeated or append.is_repeated else ""
            asked_in = "" if is_repeated else append.asked_in
            arguments += (str(append.codec), append.note, *listing_arguments(entry, runs))
            arguments += (str(append.after), repeated, asked_in, str(len(batches)), *batches)
        return script_call(scripts.APPEND, keys, arguments)

    def must_ask(self, append: Append, result: AppendResult) -> bool:
        """Whether MongoDB has to be asked for this log before anything is stored there."""
        if not result.is_absent or not self._can_ask:
            return False
        return result.was_repeated or append.asked_in != self._server.epoch

    def epoch(self) -> str:
        """The epoch of the namespace: see `LogStore.epoch`."""
        return as_text(self._link.script(scripts.EPOCH, (self._keyspace.epoch,), (new_epoch(),)))

    @property
    def losses(self) -> int:
        """How often what was known of the server became untrue: see `LogStore.losses`."""
        return self._link.losses + self._emptied

    def _learn_epoch(self) -> None:
        """Before the first append: blobs that are sent with it must not be of an earlier epoch."""
        if not self._known_server().epoch:
            self._server.epoch = self.epoch()

    def _enter(self, epoch: str) -> None:
        """Redis was emptied: forget what is remembered of it."""
        self._emptied += 1
        self._server = _Server(epoch, self._link.losses)

    def _known_server(self) -> _Server:
        """Nothing is known of one that was away."""
        if self._server.losses != self._link.losses:
            self._server = _Server(self._server.epoch, self._link.losses)
        return self._server
