"""Appending to logs, whatever happens to the server meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import RedisError

from jamboree_gym.encoding.batch_format import CODEC_STEPS, batch_span
from jamboree_gym.errors import DecodeError, JamboreeError, StoreUnavailable
from jamboree_gym.keys import BucketKeys
from jamboree_gym.store.log import Append, AppendResult
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.buckets import BucketPart, Buckets, as_one_text, new_epoch, part_of
from jamboree_gym.store.redis.feed import LIFETIME_S
from jamboree_gym.store.redis.link import Call, RedisLink, as_text, script_call
from jamboree_gym.store.redis.listings import listing_arguments, newest_in_runs
from jamboree_gym.store.redis.plain_keys import Blobs

__all__ = ["LogAppender"]

FSYNC_TIMEOUT_S = 4.0


@dataclass(slots=True)
class _Server:
    """What is remembered of the server, as long as it is true.

    `epochs` are those of its buckets, and empty as long as nobody has asked; if more connections
    were lost than `losses`, another server may have taken its place since; `blobs` are digests of
    those that it holds.
    """

    epochs: Mapping[int, str]
    losses: int
    blobs: set[str] = field(default_factory=set)


class LogAppender(BucketPart):
    """What stores of logs share: appending, and what has to be known of the server for that.

    `blobs` are stored before the batches that refer to them; `can_ask` says whether a log that is
    not here may be in MongoDB. The methods are those of `LogStore`.

    Attributes:
        is_followed: Whether somebody followed what is written, at the last append or a little
            before it.
    """

    def __init__(self, link: RedisLink, buckets: Buckets, blobs: Blobs, *, can_ask: bool) -> None:
        super().__init__(link, buckets)
        self._blobs = blobs
        self._can_ask = can_ask
        self.is_followed = False
        self._followed_until: dict[int, float] = {}
        self._server = _Server({}, 0)
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
        waiting = list(range(len(appends)))
        groups: Mapping[BucketKeys, Sequence[int]] = {}
        results: dict[int, AppendResult | JamboreeError] = {}

        def calls() -> list[Call]:
            nonlocal tries, server
            tries += 1
            server = self._known_server()
            missing = blobs.keys() - server.blobs
            sent: list[Call] = [self._blobs.put_call(name, blobs[name]) for name in missing]
            for bucket, places in groups.items():
                some = [appends[at] for at in places]
                sent.append(self._append_call(bucket, some, is_repeated=tries > 1))
            if fsync:
                sent.append(("WAITAOF", 1, 0, int(FSYNC_TIMEOUT_S * 1000)))
            return sent

        while waiting:
            if prepare is not None:
                prepare()
            self._learn_epochs()
            groups = self._grouped(appends, waiting)
            answers = self._link.pipeline(calls)
            on_disk = answers.pop()[0] if fsync else 1
            if on_disk < 1:
                late = f"did not bring the append to disk in {FSYNC_TIMEOUT_S} s"
                raise StoreUnavailable(f"Redis at {self._link.where} {late}")
            waiting, was_repeated = [], tries > 1
            answers = answers[-len(groups) :]
            for (bucket, places), answer in zip(groups.items(), answers, strict=True):
                if isinstance(answer, bytes):
                    waiting += places
                    continue
                self._link.checked(answer, key=appends[places[0]].key)
                self._note_followers(bucket, is_followed=bool(answer.pop()))
                epoch = f"{server.losses} {server.epochs.get(bucket.at, '')}"
                for at, one in zip(places, answer, strict=True):
                    results[at] = self._append_result(
                        appends[at], one, epoch, was_repeated=was_repeated
                    )
            if waiting:
                self._enter_new_epoch()
        server.blobs |= blobs.keys()
        return [results[at] for at in range(len(appends))]

    def _grouped(
        self, appends: Sequence[Append], places: Sequence[int]
    ) -> dict[BucketKeys, list[int]]:
        found: dict[BucketKeys, list[int]] = {}
        for at in places:
            found.setdefault(self._buckets.of(appends[at].key), []).append(at)
        return found

    def _note_followers(self, bucket: BucketKeys, *, is_followed: bool) -> None:
        """Who follows says so in some buckets; the next append may be to another bucket."""
        now = time.monotonic()
        if is_followed:
            self._followed_until[bucket.at] = now + LIFETIME_S
        else:
            self._followed_until.pop(bucket.at, None)
        self.is_followed = any(until > now for until in self._followed_until.values())

    def _append_result(
        self, append: Append, answer: Any, epoch: str, *, was_repeated: bool
    ) -> AppendResult | JamboreeError:
        if isinstance(answer, RedisError):
            translated = self._link.translated(answer, key=append.key)
            if isinstance(translated, DecodeError):
                return translated
            raise translated from answer
        stored, count, t_last, *more = answer
        first, log = (more[0], (epoch, more[1])) if more else (0, None)
        stored = int(stored)
        is_deleted = stored < 0
        return AppendResult(
            max(0, stored), int(count), t_last, is_deleted, was_repeated, first, log
        )

    def _append_call(
        self, bucket: BucketKeys, appends: Sequence[Append], *, is_repeated: bool
    ) -> Call:
        keys = [bucket.unbacked, bucket.runs, bucket.feed]
        keys += [bucket.coverage, bucket.epoch, bucket.deleted]
        epoch = self._server.epochs.get(bucket.at, "")
        arguments: list[Any] = ["1" if self._can_ask else "", epoch, new_epoch()]
        runs = newest_in_runs(append.entry for append in appends)
        listings = {run: bucket.summaries(run) for run in ("", *runs)}
        for append in appends:
            entry, batches = append.entry, append.batches
            log = self._keyspace.in_bucket(append.key, bucket)
            keys += (log, listings[entry.run if entry else ""])
            repeated = "1" if is_repeated or append.is_repeated else ""
            asked_in = "" if is_repeated else part_of(append.asked_in, bucket)
            arguments += (str(append.codec), append.note, *listing_arguments(entry, runs))
            arguments += (str(append.after), repeated, asked_in, str(len(batches)), *batches)
        return script_call(scripts.APPEND, keys, arguments)

    def must_ask(self, append: Append, result: AppendResult) -> bool:
        """Whether MongoDB has to be asked for this log before anything is stored there."""
        is_lacking = result.is_absent or _is_behind(append, result)
        if not is_lacking or not self._can_ask:
            return False
        bucket = self._buckets.of(append.key)
        asked_in = part_of(append.asked_in, bucket)
        return result.was_repeated or asked_in != self._server.epochs.get(bucket.at, "")

    def epoch(self) -> str:
        """The epoch of the namespace, which has a part for each bucket: see `LogStore.epoch`."""
        return as_one_text(self._epochs().items())

    def _epochs(self) -> dict[int, str]:
        def call(bucket: BucketKeys) -> Call:
            return script_call(scripts.EPOCH, (bucket.epoch,), (new_epoch(),))

        found = self._of_each(call, self._buckets.all, is_first=True)
        return {bucket.at: as_text(epoch) for bucket, epoch in found}

    @property
    def losses(self) -> int:
        """How often what was known of the server became untrue: see `LogStore.losses`."""
        return self._link.losses + self._emptied

    def _learn_epochs(self) -> None:
        """Before the first append: blobs that are sent with it must not be of an earlier epoch."""
        if not self._known_server().epochs:
            self._server.epochs = self._epochs()

    def _enter_new_epoch(self) -> None:
        """Redis was emptied: forget what is remembered of it."""
        self._emptied += 1
        self._buckets.forget()
        self._server = _Server({}, self._link.losses)

    def _known_server(self) -> _Server:
        """Nothing is known of one that was away."""
        if self._server.losses != self._link.losses:
            self._server = _Server(self._server.epochs, self._link.losses)
        return self._server


def _is_behind(append: Append, result: AppendResult) -> bool:
    """Whether Redis lacks rows of an episode that come before those of an append.

    A Redis that fails, or a replica that takes its place, lacks its newest writes.
    """
    if append.codec != CODEC_STEPS or result.count >= append.after or result.is_deleted:
        return False
    start = batch_span(append.batches[0])[0] if append.batches else append.after
    return result.count < start
