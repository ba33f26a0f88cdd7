"""What a history of operations must not hold: a pure function from operations to violations.

The manner is that of Jepsen (https://jepsen.io): clients note each call and each answer, a nemesis
breaks what they stand on, and a checker that knows neither of them compares the notes with the
promises. A call without an answer, or with an error, may have happened or not.

The promises are those of docs/promises.md. What may be lost is just this:

- Redis was emptied: what no backup had copied completely before;
- Redis was killed with `appendfsync everysec`: what it had answered to shortly before;
- a primary of a cluster was killed or stopped: what it had answered to shortly before, or when it
  was woken and had been replaced, of the buckets that it had;
- an episode that lost a row in one of these ways, from there on, until its writer was told.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from operations import Operation

from jamboree_gym.keys import Keyspace
from jamboree_gym.store.redis.buckets import BUCKETS

__all__ = [
    "AFTER_ALL",
    "EMPTIED_AFTER_ALL",
    "LOG",
    "NAMESPACE",
    "NODE_TIMEOUT_S",
    "PRIMARY",
    "RULES",
    "Violation",
    "bucket_of",
    "violations",
]

NAMESPACE = "history"
LOG = "shared"
"""The log of records that all writers share."""

PRIMARY = "primary"  # of a cluster, as the nemesis calls it
EVERYSEC_S = 3.0  # `everysec` puts off a write for 2 s at most while the disk is busy with a sync
NODE_TIMEOUT_S = 2.0  # so long the replica of a silent primary waits at least
LAG_S = 2.0  # of a replica
TOLD_S = 10.0  # by then, a writer has tried to deliver a step, also if a primary fails meanwhile
LEASE_S = 10.0
ASK_AGAIN_S = 30.0  # so long a process does not ask a MongoDB that was away
LATE_S = 3.0  # of a process on a busy machine
RENEWED_S = 4.0 + LATE_S  # a lease is renewed at least so often
AFTER_ALL, EMPTIED_AFTER_ALL = "after all", "emptied after all"
"""The processes that read when all others have ended: before and after Redis was emptied again."""

ENDS = ("terminated", "truncated", "abandoned")
MAY_FAIL = (
    "StoreUnavailable",
    "BackupUnavailable",
    "StoreFull",
    "UnsavedRecords",
    "EpisodeNotFound",
    "EmbeddedServerError",  # a server was killed at its start
)
WRITES = ("begin", "step", "save", "flush", "close", "import")
TROUBLES = ("kill", "stop", "hold", "slow", "cut", "full", "disk")


@cache
def bucket_of(what: str) -> int:
    """Where an episode or the shared log is."""
    keys = Keyspace(NAMESPACE)
    key = keys.records("note", {"name": LOG}) if what == LOG else keys.episode(what)
    return keys.bucket_of(key, BUCKETS)


class Violation(NamedTuple):
    """What must not be.

    Attributes:
        rule: Which promise is broken.
        words: How.
    """

    rule: str
    words: str


class Span(NamedTuple):
    """From when to when, seconds."""

    start: float
    end: float

    def meets(self, start: float, end: float) -> bool:
        """Whether some of it is between these."""
        return self.start <= end and self.end >= start


@dataclass(frozen=True, slots=True)
class Loss:
    """Redis has lost what it had answered to.

    Attributes:
        since: What it answered before this is still there.
        span: When it happened.
        spares_fsync: Whether what `WAITAOF` confirmed is still there.
        buckets: Those that the primary of a cluster had; None = all.
    """

    since: float
    span: Span
    spares_fsync: bool
    buckets: frozenset[int] | None = None

    @property
    def is_failover(self) -> bool:
        """Whether a replica took the place of a primary."""
        return self.buckets is not None

    def touches(self, what: str) -> bool:
        """Whether an episode or the shared log may have lost something."""
        return self.buckets is None or bucket_of(what) in self.buckets


@dataclass(frozen=True, slots=True)
class Claim:
    """What a writer was told: so much is stored.

    Attributes:
        start: Before the first call that brought some of it.
        acked: After the call that said so; infinity where only the journal has promised it.
        count: Steps, or the number of the record.
        status: How the episode has ended by then; empty if it has not.
        is_fsync: Whether it is on the disk.
    """

    start: float
    acked: float
    count: int
    status: str = ""
    is_fsync: bool = False


class Step(NamedTuple):
    """A step that a writer asked for."""

    number: int
    start: float
    end: float
    is_ok: bool
    ending: str


@dataclass
class Episode:
    """What its writer did.

    Attributes:
        id: Its id.
        writer: Name of the process.
        start: Before it was begun.
        token: What each of its observations holds beside the count.
        steps: Those that were asked for, in order.
        given_up: When it was given up before its end; infinity if it was not.
        claims: In order.
    """

    id: str
    writer: str
    start: float
    token: int
    steps: list[Step] = field(default_factory=list)
    given_up: float = math.inf
    claims: list[Claim] = field(default_factory=list)

    def asked_by(self, time: float) -> int:
        """How many steps were asked for before that time."""
        place = bisect_left(self.steps, time, key=lambda step: step.start)
        return max((step.number for step in self.steps[max(0, place - 1) : place]), default=0)

    @property
    def returned(self) -> int:
        """How many steps have returned without an error."""
        return max((step.number for step in self.steps if step.is_ok), default=0)

    def may_be(self, status: str, time: float) -> bool:
        """Whether its writer has asked for such an end before that time."""
        if status == "abandoned":
            return self.given_up <= time
        return any(step.ending == status and step.start <= time for step in self.steps[-2:])

    def is_over_by(self, time: float) -> bool:
        """Whether its writer has asked for an end before that time."""
        return any(self.may_be(status, time) for status in ENDS)


class Sighting(NamedTuple):
    """An episode as a read has shown it.

    Attributes:
        by: The operation.
        id: Of the episode.
        count: Its steps; -1 if it is not there.
        status: Its status; empty if that was not asked for.
    """

    by: Operation
    id: str
    count: int
    status: str


class History:
    """The operations, sorted by what they are about.

    Args:
        operations: Those of all processes, each in the order of its calls.
    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.by_process = defaultdict[str, list[Operation]](list)
        self.by_action = defaultdict[str, list[Operation]](list)
        for operation in operations:
            self.by_process[operation.process].append(operation)
            self.by_action[operation.action].append(operation)
        self.modes = {one.process: one.asked for one in self.by_action["open"]}
        self.copies = [Span(one.start, one.end) for one in self.by_action["copy"] if one.is_ok]
        self.deletions = defaultdict[str, list[Operation]](list)
        for one in self.by_action["delete"]:
            self.deletions[one.what].append(one)
        self.died = {one.what: one.start for one in self.by_action["kill"]}
        self.failovers = list(self._failovers())
        self.woken = list(self._woken())
        self.losses = [*self._losses(), *self.failovers, *self.woken]
        self.met_outages = {
            process: [Span(one.start, one.end) for one in own if one.error == "BackupUnavailable"]
            for process, own in self.by_process.items()
        }
        self.mongo_away = [
            *self._troubles("mongo"),  # an embedded one comes back later than it is killed
            *(span for spans in self.met_outages.values() for span in spans),
        ]
        self.episodes: dict[str, Episode] = {}
        self.records = defaultdict[str, dict[str, list[Claim]]](dict)  # by log, by process
        self.saved = defaultdict[str, dict[tuple[str, int], float]](dict)  # by log: start of save
        for process in list(self.by_process):
            _Writer(self, process).follow()
        self.sightings = list(self._sightings())

    # -- faults -----------------------------------------------------------------------------

    def _losses(self) -> Iterator[Loss]:
        is_lazy = any(one.asked == "everysec" for one in self.by_action["setup"])
        for one in self.by_action["empty"]:
            yield Loss(-math.inf, Span(one.start, one.end), spares_fsync=False)
        for one in self.by_action["kill"]:
            if one.what == "redis" and is_lazy:
                yield Loss(one.start - EVERYSEC_S, Span(one.start, one.end), spares_fsync=True)

    def _of_primaries(self, *actions: str) -> Iterator[tuple[Operation, frozenset[int]]]:
        for action in actions:
            for one in self.by_action[action]:
                if one.what == PRIMARY:
                    yield one, frozenset(one.asked)

    def _failovers(self) -> Iterator[Loss]:
        """A replica took over: until then, its primary alone could answer."""
        for one, buckets in self._of_primaries("kill", "stop"):
            span = Span(one.start, one.start + NODE_TIMEOUT_S)
            yield Loss(one.start - LAG_S, span, False, buckets)

    def _woken(self) -> Iterator[Loss]:
        """Who was a primary answers to what had come meanwhile, until it hears that it is none."""
        for one, buckets in self._of_primaries("stop"):
            span = Span(max(one.start, one.end - LATE_S), one.end + LATE_S)
            yield Loss(span.start, span, False, buckets)

    def is_stale(self, by: Operation, what: str) -> bool:
        """Whether a read of it may have been answered by one that was a primary before."""
        return any(one.span.meets(by.start, by.end) and one.touches(what) for one in self.woken)

    def _troubles(self, *targets: str) -> Iterator[Span]:
        for action in TROUBLES:
            for one in self.by_action[action]:
                if one.what in targets:
                    yield Span(one.start, one.end)

    def trouble_s(self, start: float, end: float, *targets: str) -> float:
        """For how long one of these was in trouble, between two times."""
        spans = [
            Span(max(one.start, start), min(one.end, end))
            for one in self._troubles(*targets)
            if one.meets(start, end)
        ]
        return sum(one.end - one.start for one in spans)

    def is_mongo_well(self, start: float, end: float) -> bool:
        """Whether MongoDB answered all the time between."""
        return not any(one.meets(start, end) for one in self.mongo_away)

    def losses_of(self, what: str, start: float, end: float) -> Iterator[Loss]:
        """Why some of it that was known at `start` may be gone at `end`."""
        for loss in self.losses:
            if loss.span.meets(start, end) and loss.touches(what):
                yield loss

    def has_loss(self, what: str, start: float, end: float) -> bool:
        """Whether some of it that was known at `start` may be gone at `end`."""
        return any(self.losses_of(what, start, end))

    def holds(self, what: str, claim: Claim, time: float) -> bool:
        """Whether what was claimed has to be there for a read that ends at that time."""
        return not any(self._takes(loss, claim, time) for loss in self.losses if loss.touches(what))

    def _takes(self, loss: Loss, claim: Claim, time: float) -> bool:
        is_spared = loss.spares_fsync and claim.is_fsync
        if is_spared or claim.acked < loss.since or not claim.start <= loss.span.end:
            return False
        if loss.span.start > time:
            return False
        is_copied = any(claim.acked < start and end < loss.span.start for start, end in self.copies)
        return not (is_copied and self.is_mongo_well(loss.span.start, time))

    # -- what is expected -------------------------------------------------------------------

    def may_be_deleted(self, id: str, time: float) -> bool:
        """Whether somebody has asked for that before."""
        return any(one.start <= time for one in self.deletions[id])

    def demanded(self, episode: Episode, start: float, end: float) -> Claim | None:
        """The most that a read between two times has to find; None: perhaps nothing."""
        known = bisect_left(episode.claims, start, key=lambda claim: claim.acked)
        for claim in reversed(episode.claims[:known]):
            if self.holds(episode.id, claim, end):
                return claim
            if not self.copies:  # those before it are not copied, either
                return None
        return None

    def is_alive(self, process: str, time: float) -> bool:
        """Whether a process has called something after that time."""
        own = self.by_process[process]
        return bool(own) and own[-1].start > time

    def _sightings(self) -> Iterator[Sighting]:
        return (seen for seen in self._shown() if not self.is_stale(seen.by, seen.id))

    def _shown(self) -> Iterator[Sighting]:
        for one in self.by_action["read"]:
            if one.error == "EpisodeNotFound":
                yield Sighting(one, one.what, -1, "")
            elif one.is_ok:
                yield Sighting(one, one.what, one.result["steps"], one.result["status"])
        for one in self.by_action["list"]:
            for id, (status, steps) in (one.result or {}).items():
                yield Sighting(one, id, steps, status)


class _Writer:
    """Takes the operations of one process, in order, for what they say of its episodes."""

    def __init__(self, history: History, process: str) -> None:
        self._history = history
        self._process = process
        mode = history.modes.get(process, "")
        self._is_buffered, self._is_fsync = mode == "buffered", mode == "fsync"
        self._since = -math.inf  # the last flush was tried then
        self._open: list[Episode] = []  # grown since then
        self._lost = set[str]()  # and told so, perhaps
        self._records: list[tuple[str, int, float]] = []

    def follow(self) -> None:
        """Take them all."""
        for one in self._history.by_process[self._process]:
            if one.action in WRITES:
                getattr(self, f"_{one.action}")(one)
        self._leave()

    def _claim(self, start: float, end: float, count: int, status: str) -> Claim:
        return Claim(start, end, count, status, self._is_fsync)

    def _begun(self, one: Operation, begun: Sequence[tuple[str, int]] | None) -> None:
        for id, token in begun or ():
            episode = Episode(id, self._process, one.start, token)
            self._history.episodes[id] = episode
            if one.is_ok and not self._is_buffered:
                episode.claims.append(self._claim(one.start, one.end, 0, ""))

    def _begin(self, one: Operation) -> None:
        self._give_up(one)
        self._begun(one, one.result)

    def _give_up(self, one: Operation) -> None:
        for id in one.asked or ():
            episode = self._history.episodes[id]
            episode.given_up = min(episode.given_up, one.start)

    def _step(self, one: Operation) -> None:
        for id, number, ending in one.asked:
            episode = self._history.episodes[id]
            episode.steps.append(Step(number, one.start, one.end, one.is_ok, ending))
            if self._is_buffered and episode not in self._open[-64:]:
                self._open.append(episode)
            if one.is_ok and not self._is_buffered:
                episode.claims.append(self._claim(one.start, one.end, number, ending))
        self._begun(one, one.result)

    def _save(self, one: Operation) -> None:
        self._history.saved[one.what][self._process, one.asked] = one.start
        claims = self._history.records[one.what].setdefault(self._process, [])
        if one.is_ok and not self._is_buffered:
            claims.append(self._claim(one.start, one.end, one.asked, ""))
        elif one.is_ok:
            self._records.append((one.what, one.asked, one.start))

    def _flush(self, one: Operation) -> None:
        if not self._is_buffered:
            return
        if one.is_ok:
            for episode in self._open:
                if episode.id not in self._lost:
                    self._flushed(episode, one)
            for log, number, start in self._records:
                claims = self._history.records[log][self._process]
                claims.append(self._claim(start, one.end, number, ""))
            self._records = []
        self._leave()
        if one.cause == "EpisodeNotFound":  # said once: some of those that are open are lost
            self._lost |= {episode.id for episode in self._open}
        self._open = []
        self._since = one.start

    def _leave(self) -> None:
        """What nobody has acknowledged is in the journal alone."""
        for log, number, start in self._records:
            claims = self._history.records[log][self._process]
            claims.append(self._claim(start, math.inf, number, ""))
        self._records = []

    def _flushed(self, episode: Episode, one: Operation) -> None:
        new = [
            step for step in episode.steps if step.is_ok and self._since <= step.start < one.start
        ]
        if new:
            last = new[-1]
            episode.claims.append(self._claim(new[0].start, one.end, last.number, last.ending))

    def _close(self, one: Operation) -> None:
        self._give_up(one)
        self._flush(one)

    def _import(self, one: Operation) -> None:
        count, token, status = one.asked
        episode = Episode(one.what, self._process, one.start, token)
        episode.steps.append(Step(count, one.start, one.end, one.is_ok, status))
        self._history.episodes[one.what] = episode
        if one.is_ok:
            episode.claims.append(self._claim(one.start, one.end, count, status))


# -- the rules ------------------------------------------------------------------------------------


def a_reader_sees_a_prefix(history: History) -> Iterator[str]:
    """Rows from the first on, those of this episode, and none that was not taken."""
    for one in history.by_action["read"]:
        if not one.is_ok:
            continue
        rows, episode = one.result["rows"], history.episodes.get(one.what)
        asked = 0 if episode is None else episode.asked_by(one.end)
        token = one.result["tokens"][0] if episode is None else episode.token
        if rows != [[0, one.result["steps"]]]:
            yield f"{_seen(one)}: rows {rows} of {one.result['steps']} steps"
        if one.result["tokens"] != [token]:
            yield f"{_seen(one)}: rows of {one.result['tokens']}, not of {token}"
        if one.result["steps"] > asked:
            yield f"{_seen(one)}: {one.result['steps']} steps, of {asked} that were asked for"


def records_come_once_and_in_order(history: History) -> Iterator[str]:
    """Indices without a gap; those of each writer ascend, and were saved."""
    for one in history.by_action["records"]:
        for words in _faults_of_records(history, one.what, one.result or (), one.end):
            yield f"{one.what} as {one.process} saw it at {one.start:.3f}: {words}"


def _faults_of_records(
    history: History, log: str, records: Sequence[Any], time: float
) -> Iterator[str]:
    newest: dict[str, int] = {}
    before = None
    for index, by, number in records:
        if before is not None and index != before + 1:
            yield f"index {index} after {before}"
        if number <= newest.get(by, 0):
            yield f"{number} of {by} after {newest[by]}"
        if not history.saved[log].get((by, number), math.inf) <= time:
            yield f"{number} of {by}, which nobody saved"
        before, newest[by] = index, number


def a_follower_sees_each_once(history: History) -> Iterator[str]:
    """Steps of an episode one after the other, from the first one on."""
    next_ones: dict[tuple[str, int, str], int] = {}
    for one in history.by_action["saw"]:
        if not one.is_ok:  # killed while it noted that
            continue
        key = (one.process, one.asked, one.what)
        expected = next_ones.get(key, 0)
        if one.result != expected:
            yield f"{_seen(one)}: step {one.result}, not {expected}"
        next_ones[key] = one.result + 1
    yield from _followed_records(history)
    for one in history.by_action["follow"]:
        episode = history.episodes.get(one.what)
        if one.result != "over" or not one.is_ok or episode is None:
            continue
        seen = next_ones.get((one.process, one.asked, one.what), 0)
        claim = history.demanded(episode, one.start, one.end)
        if claim is not None and seen < claim.count:
            yield f"{one.process}: {one.what} was over after {seen} steps, and has {claim.count}"


def _followed_records(history: History) -> Iterator[str]:
    sessions = defaultdict[tuple[str, int, str], list[Operation]](list)
    for one in history.by_action["saw record"]:
        if one.is_ok:
            sessions[one.process, one.asked, one.what].append(one)
    for (process, _, log), seen in sessions.items():
        part: list[Any] = []
        since = seen[0].start
        for one in seen:
            has_gap = bool(part) and one.result[0] != part[-1][0] + 1
            if has_gap and history.has_loss(log, since, one.end):
                part, since = [], one.start  # the log has begun anew, or goes on elsewhere
            before = since - ASK_AGAIN_S - LATE_S
            was_away = not history.is_mongo_well(before, one.end)
            if was_away and history.has_loss(log, before, one.end):
                part, since = [], one.start  # begun anew, it moves behind what MongoDB has
            part.append(one.result)
        for words in _faults_of_records(history, log, part, math.inf):
            yield f"{log} as {process} followed it: {words}"


def what_was_acknowledged_is_there(history: History) -> Iterator[str]:
    """In reads that begin after the acknowledgement, unless it may be lost or deleted."""
    for seen in history.sightings:
        episode = history.episodes.get(seen.id)
        if episode is None or history.may_be_deleted(seen.id, seen.by.end):
            continue
        claim = history.demanded(episode, seen.by.start, seen.by.end)
        if claim is None:
            continue
        if seen.count < claim.count or (claim.status and seen.status != claim.status):
            yield f"{_sight(seen)}, and {claim} was acknowledged to {episode.writer}"
    yield from _lacking_in_lists(history)
    yield from _lacking_records(history)
    yield from _lost_from_journals(history)


def _lacking_in_lists(history: History) -> Iterator[str]:
    for one in history.by_action["list"]:
        if not one.is_ok or not history.is_mongo_well(one.start - LATE_S, one.end):
            continue  # without MongoDB a listing has what Redis has
        asked_again = one.start - ASK_AGAIN_S - LATE_S
        if any(span.meets(asked_again, one.end) for span in history.met_outages[one.process]):
            continue
        for episode in history.episodes.values():
            if episode.id in one.result or history.may_be_deleted(episode.id, one.end):
                continue
            if history.is_stale(one, episode.id):
                continue
            if claim := history.demanded(episode, one.start, one.end):
                yield f"{_seen(one)}: {episode.id} is not listed, and {claim} was acknowledged"


def _lacking_records(history: History) -> Iterator[str]:
    for one in history.by_action["records"]:
        if not one.is_ok or history.is_stale(one, one.what):
            continue
        found = {(by, number) for _, by, number in one.result}
        is_last = one.process in (AFTER_ALL, EMPTIED_AFTER_ALL)
        was_emptied = any(not loss.is_failover for loss in history.losses)
        if not is_last and not history.is_mongo_well(-math.inf, one.end) and was_emptied:
            continue  # a log that is not in Redis counts as new while MongoDB does not answer
        for by, claims in history.records[one.what].items():
            known = [claim for claim in claims if claim.acked < one.start or is_last]
            for claim in known if is_last else known[-1:]:
                if (by, claim.count) not in found and history.holds(one.what, claim, one.end):
                    yield f"{_seen(one)}: record {claim} of {by} is not there"


def _lost_from_journals(history: History) -> Iterator[str]:
    """What `step` has returned from in `buffered` mode, at the end, unless Redis lost something."""
    last = [one for one in history.by_process.get(AFTER_ALL, ()) if one.is_ok]
    if not last:
        return
    found = {one.what: one.result["steps"] for one in last if one.action == "read"}
    end = last[-1].end
    for episode in history.episodes.values():
        is_buffered = history.modes.get(episode.writer) == "buffered"
        losses = history.losses_of(episode.id, episode.start, end)
        if not is_buffered or any(_may_end(history, episode, loss) for loss in losses):
            continue
        count = found.get(episode.id, 0)
        if count < episode.returned and not history.may_be_deleted(episode.id, end):
            words = f"and {episode.returned} of {episode.writer} had returned"
            yield f"{episode.id} has {count} steps, {words}"


def _may_end(history: History, episode: Episode, loss: Loss) -> bool:
    """Whether a loss may have ended an episode: its writer sends again what a failover has lost.

    If it cannot, it says so. After the end of the episode it does not know.
    """
    newest = max((step.start for step in episode.steps if step.is_ok), default=-math.inf)
    if not loss.is_failover or history.died.get(episode.writer, math.inf) < newest + TOLD_S:
        return True
    own = history.by_process[episode.writer]
    was_told = any(
        "EpisodeNotFound" in (one.error, one.cause) for one in own if one.end > loss.since
    )
    return newest <= loss.span.end or was_told


def a_process_reads_its_own_writes(history: History) -> Iterator[str]:
    """All that it has saved before."""
    for one in history.by_action["own"]:
        count, since = one.asked
        if not one.is_ok or history.may_be_deleted(one.what, one.end):
            continue
        if one.result < count and not history.has_loss(one.what, since, one.end):
            yield f"{_seen(one)}: {one.result} of {count} that it has written itself"


def reads_never_go_back(history: History) -> Iterator[str]:
    """In one process: no fewer steps than before, and no end that is taken back."""
    before: dict[tuple[str, str], Sighting] = {}
    for seen in sorted(history.sightings, key=lambda seen: seen.by.start):
        key = (seen.by.process, seen.id)
        last, before[key] = before.get(key), seen
        if last is None or history.may_be_deleted(seen.id, seen.by.end):
            continue
        episode = history.episodes.get(seen.id)
        since = last.by.start if episode is None else episode.start
        losses = history.losses_of(seen.id, since, seen.by.end)
        if any(_may_hide(loss, last.by) for loss in losses):
            continue
        if seen.count < last.count or (last.status in ENDS and seen.status != last.status):
            yield f"{_sight(seen)}, after {last.count} steps and {last.status!r}"


def _may_hide(loss: Loss, read: Operation) -> bool:
    """Whether what a read has shown may be gone: a replica has it from before, or gets it later."""
    if loss.is_failover:
        return loss.since <= read.end and read.start <= loss.span.end
    return True


def what_is_deleted_stays_deleted(history: History) -> Iterator[str]:
    """As soon as MongoDB knows it, whatever happens; before that, unless Redis loses it."""
    deleted = {id: one for id, asked in history.deletions.items() for one in asked if one.is_ok}
    shown = [(seen.id, seen.by) for seen in history.sightings if seen.count >= 0]
    for id, by in shown:
        one = deleted.get(id)
        if one is None or by.start <= one.end or _may_be_back(history, one, by.end):
            continue
        yield f"{id} was deleted at {one.end:.3f}, and {by.process} saw it at {by.start:.3f}"


def _may_be_back(history: History, deletion: Operation, time: float) -> bool:
    known = deletion.end if history.is_mongo_well(deletion.start, deletion.end) else math.inf
    for start, end in history.copies:
        if start > deletion.end:
            known = min(known, end)
    return any(
        loss.span.meets(deletion.start, time) and loss.span.start < known
        for loss in history.losses
        if deletion.end >= loss.since and not loss.is_failover
    ) or _failed_over(history, deletion, time)


def _failed_over(history: History, deletion: Operation, time: float) -> bool:
    """Whether a replica may lack a deletion: in a cluster, only one of them is compared then."""
    return any(
        loss.span.meets(deletion.start, time) and deletion.end >= loss.since
        for loss in history.losses
        if loss.is_failover and loss.touches(deletion.what)
    )


def the_status_is_true(history: History) -> Iterator[str]:
    """And in time: a death shows when the lease is over, and no living writer counts as dead."""
    for seen in history.sightings:
        episode = history.episodes.get(seen.id)
        if episode is None:
            if seen.count > 0:
                yield f"{_sight(seen)}, and nobody began it"
            continue
        if seen.status == "running":
            died = history.died.get(episode.writer, math.inf)
            if seen.by.start > died + LEASE_S + LATE_S:
                yield f"{_sight(seen)}, and {episode.writer} was killed at {died:.3f}"
        elif seen.status == "interrupted":
            yield from _wrongly_dead(history, episode, seen.by, _sight(seen))
        elif seen.status and not _may_have_ended(history, episode, seen):
            yield f"{_sight(seen)}, and {episode.writer} did not end it so"
    for one in history.by_action["follow"]:
        episode = history.episodes.get(one.what)
        is_over = one.is_ok and one.result == "over" and episode is not None
        if is_over and not episode.is_over_by(one.end):
            yield from _wrongly_dead(history, episode, one, f"{_seen(one)}: it was over")


def _wrongly_dead(history: History, episode: Episode, by: Operation, words: str) -> Iterator[str]:
    start, end = by.start - LEASE_S - LATE_S, by.end
    if history.died.get(episode.writer, math.inf) <= end:
        return
    if not history.is_alive(episode.writer, end):
        return
    if history.trouble_s(start, end, episode.writer, "redis", PRIMARY) > LEASE_S - RENEWED_S:
        return
    if any(loss.span.meets(by.start - RENEWED_S, end) for loss in history.losses):
        return
    if history.has_loss(episode.id, episode.start, end):  # it may have been given up for that
        return
    yield f"{words}, and {episode.writer} lives"


def _may_have_ended(history: History, episode: Episode, seen: Sighting) -> bool:
    """By its writer; or a recorder has given up what it could not write."""
    if seen.status == "abandoned":
        own = history.by_process[episode.writer]
        if any(one.error and one.start <= seen.by.end for one in own):
            return True
    return episode.may_be(seen.status, seen.by.end)


def only_faults_that_can_be_are_told(history: History) -> Iterator[str]:
    """Servers that are away or full, and what was deleted or lost: nothing is ever damaged."""
    for one in history.by_action["crash"]:
        yield f"{one.what} ended by itself: {one.result}"
    for operations in history.by_process.values():
        for one in operations:
            if one.error and one.error not in MAY_FAIL:
                yield f"{_seen(one)}: {one.error}: {one.words}"


def a_loss_is_said_once(history: History) -> Iterator[str]:
    """To the writer of an episode, and only if there was one."""
    for operations in history.by_process.values():
        said = set[str]()
        for one in operations:
            if one.action not in ("begin", "step") or one.error != "EpisodeNotFound":
                continue
            if one.words in said:
                yield f"{_seen(one)}: said again: {one.words}"
            said.add(one.words)
            told = history.episodes.keys() & set(re.findall(r"\w+", one.words))
            lost = [
                *(loss for loss in history.losses if not told or any(map(loss.touches, told))),
                *history.by_action["delete"],
            ]
            if not any(_start_of(other) <= one.end for other in lost):
                yield f"{_seen(one)}: {one.words}"


def _start_of(one: Loss | Operation) -> float:
    return one.span.start if isinstance(one, Loss) else one.start


def the_backup_is_equal(history: History) -> Iterator[str]:
    """At the end: MongoDB has what Redis has, and the same comes back from it."""
    back = {
        id
        for id, deletions in history.deletions.items()
        if any(_failed_over(history, one, math.inf) for one in deletions)
    }
    logs = set(map(Keyspace(NAMESPACE).episode, back))
    for one in history.by_action["verify"]:
        different = {key: words for key, words in (one.result or {}).items() if key not in logs}
        if not one.is_ok or different:
            yield f"{_seen(one)}: {different or one.words or 'it did not return'}"
    found = [
        {
            (one.action, one.what): _without_lease(one.result)
            for one in history.by_process.get(process, ())
            if one.action in ("read", "records") and one.is_ok and one.what not in back
        }
        for process in (AFTER_ALL, EMPTIED_AFTER_ALL)
    ]
    if not all(found):
        return
    for key in sorted(found[0].keys() | found[1].keys()):
        if found[0].get(key) != found[1].get(key):
            yield f"{key}: {_short(found[0].get(key))} in Redis, {_short(found[1].get(key))} again"


def a_listing_shows_what_its_log_has(history: History) -> Iterator[str]:
    """At the end, when nobody writes: as many steps, and the same end."""
    for process in (AFTER_ALL, EMPTIED_AFTER_ALL):
        own = [one for one in history.by_process.get(process, ()) if one.is_ok]
        read = {one.what: one.result for one in own if one.action == "read"}
        for one in own:
            for id, (status, steps) in one.result.items() if one.action == "list" else ():
                shown, has = ({"status": status, "steps": steps}, read.get(id))
                if has is not None and _without_lease(shown) != _without_lease(_outline(has)):
                    yield f"{_seen(one)}: {id} has {shown}, and its log {_outline(has)}"


def _outline(result: Any) -> dict[str, Any]:
    return {name: result[name] for name in ("status", "steps")}


def _without_lease(result: Any) -> Any:
    """Leases are in Redis alone: without one, who was killed just now counts as dead sooner."""
    is_running = isinstance(result, dict) and result["status"] == "running"
    return {**result, "status": "interrupted"} if is_running else result


Rule = Callable[[History], Iterator[str]]
RULES: tuple[Rule, ...] = (
    a_reader_sees_a_prefix,
    records_come_once_and_in_order,
    a_follower_sees_each_once,
    what_was_acknowledged_is_there,
    a_process_reads_its_own_writes,
    reads_never_go_back,
    what_is_deleted_stays_deleted,
    the_status_is_true,
    only_faults_that_can_be_are_told,
    a_loss_is_said_once,
    the_backup_is_equal,
    a_listing_shows_what_its_log_has,
)


def violations(operations: Iterable[Operation]) -> list[Violation]:
    """What must not be in a history of all processes, each in the order of its calls."""
    history = History(operations)
    return [Violation(rule.__name__, words) for rule in RULES for words in rule(history)]


def _seen(one: Operation) -> str:
    return f"{one.action} {one.what} by {one.process} at {one.start:.3f}"


def _sight(seen: Sighting) -> str:
    what = "not there" if seen.count < 0 else f"{seen.count} steps, {seen.status}"
    return (
        f"{seen.id} as {seen.by.process} saw it at {seen.by.start:.3f} ({seen.by.action}): {what}"
    )


def _short(value: Any) -> str:
    return repr(value)[:200]
