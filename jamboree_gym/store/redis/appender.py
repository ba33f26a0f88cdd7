"""Appending to logs, whatever happens to the server meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from redis.exceptions import ReadOnlyError, RedisError

from jamboree_gym.encoding.batch_format import CODEC_RECORDS, CODEC_STEPS, batch_span
from jamboree_gym.errors import DecodeError, JamboreeError, StoreFull, StoreUnavailable
from jamboree_gym.keys import BucketKeys, Keyspace
from jamboree_gym.store.log import Append, AppendResult, IndexEntry
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.buckets import BucketPart, Buckets, as_one_text, new_epoch, part_of
from jamboree_gym.store.redis.feed import LIFETIME_S
from jamboree_gym.store.redis.link import Call, RedisLink, as_text, script_call
from jamboree_gym.store.redis.plain_keys import Blobs

__all__ = ["LastAppend", "LogAppender", "listing_arguments", "newest_in_runs"]

FSYNC_TIMEOUT_S = 4.0
MAX_REMEMBERED = 4096  # logs and listings


class _Places:
    """Where logs and listings are, where Redis has these buckets: the newest are remembered."""

    def __init__(self, keyspace: Keyspace, buckets: Sequence[BucketKeys]) -> None:
        def of_log(key: str) -> tuple[BucketKeys, str]:
            bucket = buckets[keyspace.bucket_of(key, len(buckets))]
            return bucket, keyspace.in_bucket(key, bucket)

        self.of_log = lru_cache(MAX_REMEMBERED)(of_log)
        self.of_listing = lru_cache(MAX_REMEMBERED)(BucketKeys.summaries)


@dataclass(slots=True)
class _Server:
    """What is remembered of the server, as long as it is true.

    `epochs` are those of its buckets, and empty as long as nobody has asked, as is `places`. If
    more connections were lost than `losses`, another server may have taken its place since. `blobs`
    are digests of those that it holds.
    """

    epochs: Mapping[int, str]
    places: _Places
    losses: int
    blobs: set[str] = field(default_factory=set)


class _Where(NamedTuple):
    """Where appends went to, and whether they may have gone there before."""

    bucket: BucketKeys
    epoch: str
    losses_and_epoch: str
    was_repeated: bool


class LastAppend(NamedTuple):
    """The `number` of the last append to a log; 0 if there was none after the append `since`."""

    since: int
    number: int


class LogAppender(BucketPart):
    """What stores of logs share: appending, and what has to be known of the server for that.

    `blobs` are stored before the batches that refer to them; `can_ask` says whether a log that is
    not here may be in the backup. The methods are those of `LogStore`.

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
        self._server = self._unknown_server()
        self._emptied = 0
        self._last_appends: dict[str, int] = {}
        self._appends = self._appends_since = 0
        self._unanswered: dict[str, str] = {}  # logs, and the epoch of the first try without answer

    def append(
        self,
        appends: Sequence[Append],
        *,
        fsync: bool = False,
        prepare: Callable[[], None] | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[AppendResult | JamboreeError]:
        """Append to several logs in one round trip, atomically for each: see `LogStore.append`."""
        blobs: dict[str, bytes] = {}
        for append in appends:
            blobs |= append.blobs
        tries = 0
        server = self._server
        waiting = list(range(len(appends)))
        known_places = server.places
        groups: Mapping[BucketKeys, Mapping[int, str]] = {}
        results: dict[int, AppendResult | JamboreeError] = {}

        def calls() -> list[Call]:
            nonlocal tries, server
            tries += 1
            server = self._known_server()
            sent: list[Call] = [
                self._blobs.put_call(name, blob)
                for name, blob in blobs.items()
                if name not in server.blobs
            ]
            for bucket, logs in groups.items():
                some = [(log, appends[at]) for at, log in logs.items()]
                epoch = server.epochs.get(bucket.at, "")
                call = self._append_call(bucket, epoch, some, known_places, is_repeated=tries > 1)
                sent.append(call)
            if fsync:
                sent.append(("WAITAOF", 1, 0, int(FSYNC_TIMEOUT_S * 1000)))
            return sent

        while waiting:
            if prepare is not None:
                prepare()
            known_places = self._learned_server().places
            groups = _grouped(appends, waiting, known_places)
            try:
                answers = self._link.pipeline(calls, meanwhile=meanwhile)
                on_disk = answers.pop()[0] if fsync else 1
                if on_disk < 1:
                    late = f"did not bring the append to disk in {FSYNC_TIMEOUT_S} s"
                    raise StoreUnavailable(f"Redis at {self._link.where} {late}")
            except BaseException:
                for bucket, logs in groups.items():
                    self._note_unanswered(appends, logs, server.epochs.get(bucket.at, ""))
                raise
            waiting, was_repeated = [], tries > 1
            answers = answers[-len(groups) :]
            for (bucket, logs), answer in zip(groups.items(), answers, strict=True):
                epoch = server.epochs.get(bucket.at, "")
                if isinstance(answer, bytes):
                    waiting += logs
                    if was_repeated:
                        self._note_unanswered(appends, logs, epoch)
                    continue
                self._link.checked(answer, key=appends[next(iter(logs))].key)
                self._note_followers(bucket, is_followed=bool(answer.pop()))
                where = _Where(bucket, epoch, f"{server.losses} {epoch}", was_repeated)
                for at, one in zip(logs, answer, strict=True):
                    results[at] = self._append_result(appends[at], one, where)
            if waiting:
                self._enter_new_epoch()
        server.blobs.update(blobs)
        self._remember(appends)
        if self._unanswered:
            self._note_answers(appends, results)
        return [results[at] for at in range(len(appends))]

    def _note_unanswered(self, appends: Sequence[Append], at: Iterable[int], epoch: str) -> None:
        """The appends at these places may be stored, in this epoch."""
        for place in at:
            self._unanswered.setdefault(appends[place].key, epoch)

    def _note_answers(
        self, appends: Sequence[Append], results: Mapping[int, AppendResult | JamboreeError]
    ) -> None:
        for at, append in enumerate(appends):
            result = results[at]
            if not (isinstance(result, AppendResult) and result.must_ask):
                self._unanswered.pop(append.key, None)

    def _remember(self, appends: Sequence[Append]) -> None:
        self._appends += 1
        if len(self._last_appends) > MAX_REMEMBERED:
            self._last_appends, self._appends_since = {}, self._appends
        for append in appends:
            self._last_appends[append.key] = self._appends

    def last_append(self, key: str) -> LastAppend:
        """As long as this is the same, nothing was appended to a log here."""
        return LastAppend(self._appends_since, self._last_appends.get(key, 0))

    def _note_followers(self, bucket: BucketKeys, *, is_followed: bool) -> None:
        """Who follows says so in some buckets; the next append may be to another bucket."""
        known = self._followed_until
        if is_followed:
            known[bucket.at] = time.monotonic() + LIFETIME_S
        else:
            known.pop(bucket.at, None)
        self.is_followed = max(known.values(), default=0.0) > time.monotonic()

    def _append_result(
        self, append: Append, answer: Any, where: _Where
    ) -> AppendResult | JamboreeError:
        if isinstance(answer, RedisError):
            translated = self._link.translated(answer, key=append.key)
            is_full = isinstance(translated, StoreFull)
            if isinstance(translated, DecodeError) or (is_full and not where.was_repeated):
                return translated
            if isinstance(answer, ReadOnlyError):  # the script has caught it, for this log
                self._link.forget_connections()
            raise translated from answer
        stored, count, t_last, *more = answer
        stored, count, was_repeated = int(stored), int(count), where.was_repeated
        must_ask = stored == 0
        if more:
            is_repeated = was_repeated or append.is_repeated
            is_evicted = is_repeated and _may_be_evicted(append, stored, held=int(more[2]))
            must_ask = is_evicted or _is_behind(append, count)
            must_ask |= stored == 0 and self._may_predate(append, where.epoch)
        if must_ask and append.asked_in and not was_repeated:
            must_ask = part_of(append.asked_in, where.bucket) != where.epoch
        must_ask &= self._can_ask
        if not more:
            return AppendResult(0, 0, t_last, stored < 0, was_repeated, must_ask)
        first, log = more[0], (where.losses_and_epoch, more[1])
        return AppendResult(stored, count, t_last, False, was_repeated, must_ask, first, log)

    def _may_predate(self, append: Append, epoch: str) -> bool:
        """Whether records may have been stored by an earlier try, before Redis was emptied.

        Then the backup alone may have them, and a log that is here was begun anew by others.
        """
        if append.codec != CODEC_RECORDS:
            return False
        return append.may_predate_epoch or self._unanswered.get(append.key, epoch) != epoch

    def _append_call(
        self,
        bucket: BucketKeys,
        epoch: str,
        appends: Sequence[tuple[str, Append]],
        places: _Places,
        *,
        is_repeated: bool,
    ) -> Call:
        keys = [bucket.unbacked, bucket.runs, bucket.feed]
        keys += [bucket.coverage, bucket.epoch, bucket.deleted, bucket.carried_out]
        arguments: list[Any] = ["1" if self._can_ask else "", epoch]
        runs = newest_in_runs([append.entry for _, append in appends])
        listings = {run: places.of_listing(bucket, run) for run in ("", *runs)}
        for log, append in appends:
            entry, batches = append.entry, append.batches
            keys += (log, listings[entry.run if entry else ""])
            has_asked = append.asked_in and not is_repeated
            asked_in = part_of(append.asked_in, bucket) if has_asked else ""
            uncertain = "?" if append.is_uncertain else ""
            repeated = "1" if is_repeated or append.is_repeated else uncertain
            if self._can_ask and asked_in != epoch and self._may_predate(append, epoch):
                repeated = "before"
            arguments += (str(append.codec), append.note, *listing_arguments(entry, runs))
            arguments += (str(append.after), repeated, asked_in, str(len(batches)), *batches)
        return script_call(scripts.APPEND, keys, arguments)

    def epoch(self, keys: Iterable[str] | None = None) -> str:
        """The epoch of the namespace, which has a part for each bucket: see `LogStore.epoch`."""
        return as_one_text(self._epochs(self._buckets.some(keys)).items())

    def _epochs(self, buckets: Sequence[BucketKeys]) -> dict[int, str]:
        def call(bucket: BucketKeys) -> Call:
            return script_call(scripts.EPOCH, (bucket.epoch,), (new_epoch(),))

        found = self._of_each(call, buckets, is_first=True)
        return {bucket.at: as_text(epoch) for bucket, epoch in found}

    @property
    def losses(self) -> int:
        """How often what was known of the server became untrue: see `LogStore.losses`."""
        return self._link.losses + self._emptied

    def _learned_server(self) -> _Server:
        """Before the first append: blobs that are sent with it must not be of an earlier epoch."""
        server = self._known_server()
        if not server.epochs:
            epochs = self._epochs(self._buckets.all)
            server.places = _Places(self._keyspace, self._buckets.all)
            server.epochs = epochs  # last: another thread may look
        return server

    def _enter_new_epoch(self) -> None:
        """Redis was emptied: forget what is remembered of it."""
        self._emptied += 1
        self._buckets.forget()
        self._server = self._unknown_server()

    def _unknown_server(self) -> _Server:
        return _Server({}, _Places(self._keyspace, ()), self._link.losses)

    def _known_server(self) -> _Server:
        """Nothing is known of one that was away, but where logs have to be."""
        known = self._server
        if known.losses != self._link.losses:
            self._server = _Server(known.epochs, known.places, self._link.losses)
        return self._server


def _grouped(
    appends: Sequence[Append], places: Sequence[int], known: _Places
) -> dict[BucketKeys, dict[int, str]]:
    """Which of the appends at these places are to which bucket, and to which log there."""
    found: dict[BucketKeys, dict[int, str]] = {}
    for at in places:
        bucket, log = known.of_log(appends[at].key)
        found.setdefault(bucket, {})[at] = log
    return found


def listing_arguments(entry: IndexEntry | None, runs: Mapping[str, str]) -> tuple[Any, ...]:
    """What a script needs to list a log: field, summary, run, time of the run."""
    if entry is None:
        return "", "", "", "0"
    return entry.name, entry.summary, entry.run, runs[entry.run]


def newest_in_runs(entries: Iterable[IndexEntry | None]) -> dict[str, str]:
    """The runs of these entries, with the time of the newest in each.

    One text for each run, as a number with 17 digits takes longer than the rest of an entry.
    """
    newest: dict[str, float] = {}
    for entry in entries:
        if entry is not None and (entry.run not in newest or entry.time > newest[entry.run]):
            newest[entry.run] = entry.time
    return {run: repr(time) for run, time in newest.items()}


def _may_be_evicted(append: Append, stored: int, *, held: int) -> bool:
    """Whether Redis may have evicted batches of an append, so that it cannot recognize them."""
    return stored < len(append.batches) and batch_span(append.batches[stored])[0] < held


def _is_behind(append: Append, count: int) -> bool:
    """Whether Redis lacks rows of an episode that come before those of an append.

    A Redis that fails, or a replica that takes its place, lacks its newest writes.
    """
    if append.codec != CODEC_STEPS or count >= append.after:
        return False
    return count < (batch_span(append.batches[0])[0] if append.batches else append.after)
