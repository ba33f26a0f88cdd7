"""What every store of logs has to do. A backend runs it with a class of one fixture.

See `test_contract.py`: it inherits from `StoreContract` and has a fixture `backend`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from lengths import examples
from msgspec import structs

from jamboree_gym.arrays.values import encode_mapping
from jamboree_gym.delivery.outbox import MAX_BATCHES_PER_APPEND, RecordOutbox
from jamboree_gym.encoding.batch_format import (
    CODEC_RECORDS,
    CODEC_STEPS,
    Batch,
    decode_records,
    encode_batch,
    encode_records,
)
from jamboree_gym.encoding.column_batch import PREFIX
from jamboree_gym.encoding.summary_codec import (
    decode_summary,
    encode_episode_note,
    encode_origin,
    encode_summary,
)
from jamboree_gym.errors import DecodeError
from jamboree_gym.keys import digest
from jamboree_gym.records import EpisodeOrigin, EpisodeStatus, EpisodeSummary
from jamboree_gym.store.log import Append, AppendResult, IndexEntry, LogSlice
from jamboree_gym.store.protocol import LogStore

Record = dict[str, Any]
EVERYTHING = (0, 2**52)
SCHEMA, PROVENANCE = b"a schema", b"a provenance"
BLOBS = {digest(content): content for content in (SCHEMA, PROVENANCE)}


@dataclass
class Backend:
    """A store with its servers.

    Attributes:
        store: It has an empty namespace.
        lose: Empties the server that is written to.
        disturb: What happens to stored logs between a write and a read; no reader may notice it.
        examples: How many examples `make long` tries of a log and a list.
    """

    store: LogStore
    lose: Callable[[], object]
    disturb: Callable[[], object] = lambda: None
    examples: int = 400


def batch(start: int, times: list[float], *, writer: bytes = b"writer-a") -> bytes:
    records = [encode_mapping({"n": start + i}) for i in range(len(times))]
    return encode_batch(
        codec=CODEC_RECORDS,
        start=start,
        count=len(times),
        writer=writer,
        t_first=times[0],
        t_last=times[-1],
        body=encode_records(times, records),
    )


def deliver(store: LogStore, append: Append) -> AppendResult:
    """As a writer does: before MongoDB was asked for a log, it may not be begun."""
    (result,) = store.append([append])
    assert isinstance(result, AppendResult), result
    if result.must_ask:
        asked = store.ask_for([append])
        if append.key in asked.deleted:
            return AppendResult(0, 0, -math.inf, is_deleted=True)
        assert not asked.failed
        stored = asked.stored.get(append.key, 0)
        left = append.batches[stored:]
        again = structs.replace(append, batches=left, asked_in=asked.epoch, is_repeated=False)
        result = deliver(store, again)
        return structs.replace(result, stored=result.stored + stored)
    return result


def append(store: LogStore, key: str, *batches: bytes) -> AppendResult:
    return deliver(store, Append(key, CODEC_RECORDS, batches, 0))


def delete(store: LogStore, key: str, entry: IndexEntry | None = None) -> float | None:
    """As a Jamboree does, which says which log it means."""
    head = store.head(key)
    assert head is not None
    return store.delete(key, entry=entry, born=head.born)


def decided(result: AppendResult) -> tuple[int, int, float]:
    return result.stored, result.count, result.t_last


def records_of(batches: list[Batch]) -> list[Record]:
    return [record for part in batches for record in decode_records(part, where="k")]


def readable(found: LogSlice | None) -> list[Record]:
    if found is None:
        return []
    return [record for record in records_of(found.batches) if record["index"] >= found.head.first]


def indices(found: LogSlice | None) -> list[int]:
    return [record["index"] for record in readable(found)]


def episode_append(
    store: LogStore,
    id: str,
    *,
    run: str = "run",
    started_at: float = 1.0,
    status: EpisodeStatus = "terminated",
    start: int = 0,
) -> Append:
    """Two rows of an episode, with its entry in the listing and the blobs that it refers to."""
    steps = start + 1
    summary = EpisodeSummary(id, "Env-v0", run, status, steps, 1.0, started_at, 1.0, None)
    origin = EpisodeOrigin(None, None, None, digest(PROVENANCE))
    encoded = encode_summary(summary)
    body = bytes.fromhex(digest(SCHEMA)) + bytes(PREFIX.size)
    rows = {"codec": CODEC_STEPS, "start": start, "count": 2, "writer": b"writer-a", "body": body}
    t_first = started_at + start
    return Append(
        store.keyspace.episode(id),
        CODEC_STEPS,
        [encode_batch(**rows, t_first=t_first, t_last=t_first + 1.0)],
        start + 2,
        encode_episode_note(encoded, encode_origin(origin)),
        IndexEntry(id, encoded, run, started_at + 1.0),
        BLOBS,
        started_at,
    )


# -- outboxes, which send again what they do not know to be stored -------------------------------


def ticks(first: float = 1.0) -> Iterator[float]:
    while True:
        yield first
        first += 1.0


def outbox(key: str, writer: bytes, clock: Iterator[float]) -> RecordOutbox:
    return RecordOutbox(key, writer, lambda _: None, clock=lambda: next(clock))


def put(box: RecordOutbox, *numbers: int) -> None:
    for number in numbers:
        box.append(encode_mapping({"n": number}))
        box.seal()


def send(store: LogStore, box: RecordOutbox) -> None:
    """Deliver, and hear the answer."""
    while (waiting := box.next_append()) is not None:
        box.settle(deliver(store, waiting))


def send_and_lose_the_answer(store: LogStore, box: RecordOutbox) -> None:
    waiting = box.next_append()
    assert waiting is not None
    deliver(store, waiting)


def numbers_in(store: LogStore, key: str) -> list[int]:
    found = readable(store.read(key, *EVERYTHING))
    assert [record["index"] for record in found] == list(range(len(found)))
    times = [record["timestamp"] for record in found]
    assert times == sorted(set(times))
    return [record["n"] for record in found]


class LogMachine(RuleBasedStateMachine):
    """Whatever is done to the log is done to a list, and both read the same."""

    store: LogStore
    number = 0

    @initialize()
    def begin(self) -> None:
        LogMachine.number += 1
        self.key = self.store.keyspace.records("machine", {"number": LogMachine.number})
        self.model: list[tuple[int, float]] = []
        self.count = 0
        self.t_first = self.t_last = float(int(time.time()))
        self.sent: list[bytes] = []

    @rule(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), step=st.sampled_from([1, 0.5]))
    def append(self, sizes: list[int], step: float) -> None:
        self.sent = []
        for size in sizes:
            times = [self.t_last + step * (i + 1) for i in range(size)]
            self.sent.append(batch(self.count, times))
            self.model += [(self.count + i, t) for i, t in enumerate(times)]
            self.count, self.t_last = self.count + size, times[-1]
        result = append(self.store, self.key, *self.sent)
        assert decided(result) == (len(sizes), self.count, self.t_last)

    @rule()
    def append_the_same_again(self) -> None:
        if self.sent:
            result = append(self.store, self.key, *self.sent)
            assert decided(result) == (len(self.sent), self.count, self.t_last)

    @rule(offset=st.integers(-9, 9).filter(bool))
    def append_at_a_wrong_index(self, offset: int) -> None:
        stale = batch(max(0, self.count + offset), [self.t_last + 1], writer=b"writer-b")
        if self.count + offset >= 0:
            result = append(self.store, self.key, stale)
            assert (result.stored, result.count) == (0, self.count)

    @rule()
    def append_at_a_past_time(self) -> None:
        if self.count:
            result = append(self.store, self.key, batch(self.count, [self.t_last]))
            assert decided(result) == (0, self.count, self.t_last)

    @rule(n=st.integers(1, 9))
    def pop(self, n: int) -> None:
        popped = self.store.pop(self.key, n)
        assert popped is not None
        start, stop, batches = popped
        taken = [r["index"] for r in records_of(batches) if start <= r["index"] < stop]
        assert taken == [index for index, _ in self.model[:n]]
        del self.model[:n]

    @rule()
    def delete(self) -> None:
        assert (self.store.delete(self.key) is not None) == (self.count > 0)
        self.model, self.count, self.t_last, self.sent = [], 0, self.t_first, []

    @rule(start=st.integers(0, 30), length=st.integers(0, 30))
    def read(self, start: int, length: int) -> None:
        found = self._within(self.store.read(self.key, start, start + length))
        expected = [pair for pair in self.model if start <= pair[0] < start + length]
        assert [pair for pair in found if start <= pair[0] < start + length] == expected

    @rule(n=st.integers(1, 30))
    def last(self, n: int) -> None:
        assert self._within(self.store.last(self.key, n))[-n:] == self.model[-n:]

    @rule(t0=st.integers(-2, 40), length=st.sampled_from([-1, 0, 0.5, 1, 5, math.inf]))
    def between(self, t0: float, length: float) -> None:
        t0 += self.t_first
        found = self._within(self.store.between(self.key, t0, t0 + length))
        expected = [pair for pair in self.model if t0 <= pair[1] <= t0 + length]
        assert [pair for pair in found if t0 <= pair[1] <= t0 + length] == expected

    @rule(t=st.sampled_from([-math.inf, 0, 0.5, 1, 2.25, 7, 20, math.inf]))
    def as_of(self, t: float) -> None:
        t += self.t_first
        found = [pair for pair in self._within(self.store.as_of(self.key, t)) if pair[1] <= t]
        assert found[-1:] == [pair for pair in self.model if pair[1] <= t][-1:]

    @invariant()
    def holds_the_list(self) -> None:
        assert self._within(self.store.read(self.key, *EVERYTHING)) == self.model
        assert self.store.count(self.key) == len(self.model)

    def _within(self, found: LogSlice | None) -> list[tuple[int, float]]:
        return [(record["index"], record["timestamp"]) for record in readable(found)]


class StoreContract:
    """Tests of a `LogStore`; a class that inherits from it has a fixture `backend`."""

    @pytest.fixture
    def store(self, backend: Backend) -> LogStore:
        return backend.store

    @pytest.fixture
    def key(self, store: LogStore) -> str:
        return store.keyspace.records("e", {"name": "log"})

    @pytest.mark.deep
    def test_a_log_behaves_as_a_list(self, backend: Backend) -> None:
        machine = type("Machine", (LogMachine,), {"store": backend.store})
        run_state_machine_as_test(
            machine,
            settings=settings(max_examples=examples(backend.examples), stateful_step_count=30),
        )

    # -- reading ----------------------------------------------------------------------------

    def test_a_log_that_is_not_there_reads_as_none(self, store: LogStore, key: str) -> None:
        assert store.read(key, 0, 9) is None
        assert store.last(key, 1) is None
        assert store.between(key, 0, 1) is None
        assert store.as_of(key, 1) is None
        assert store.read_many([key], [("last", 1)]) == [None]
        assert store.whole([key]) == [[]]
        assert store.head(key) is None
        assert store.count(key) == store.memory(key) == 0
        assert store.pop(key, 3) == (0, 0, [])
        assert store.delete(key) is None

    def test_a_log_of_many_batches_is_searched_from_any_end(
        self, backend: Backend, key: str
    ) -> None:
        store, count = backend.store, 1200
        batches = [batch(start, [start + 1.0, start + 1.5]) for start in range(0, count, 2)]
        for first in range(0, len(batches), 300):
            append(store, key, *batches[first : first + 300])
        backend.disturb()
        for index in (0, 1, 2, count // 2 - 1, count // 2, count - 2, count - 1):
            first = index // 2 * 2
            assert indices(store.read(key, index, index + 1)) == [first, first + 1]
            assert indices(store.as_of(key, first + 1.5))[-1] == first + 1
        assert indices(store.last(key, 4)) == list(range(count - 4, count))
        assert indices(store.between(key, 1.0, 100.0)) == list(range(100))
        assert store.count(key) == count

    def test_reads_of_several_logs_answer_each_in_its_place(
        self, backend: Backend, key: str
    ) -> None:
        store, other = backend.store, backend.store.keyspace.records("e", {"name": "other"})
        append(store, key, batch(0, [1.0]), batch(1, [2.0]))
        append(store, other, batch(0, [3.0]))
        backend.disturb()
        keys = [other, store.keyspace.records("e", {"name": "none"}), key]
        reads = [("range", 0, 9), ("range", 0, 9), ("last", 1)]
        assert list(map(indices, store.read_many(keys, reads))) == [[0], [], [1]]
        assert [log[1:] for log in store.whole(keys)] == [
            [batch(0, [3.0])],
            [],
            [batch(0, [1.0]), batch(1, [2.0])],
        ]

    def test_a_head_tells_what_the_log_holds(self, backend: Backend, key: str) -> None:
        store = backend.store
        append(store, key, batch(0, [1.0, 2.0]))
        append(store, key, batch(2, [3.0]))
        assert store.pop(key, 1) is not None
        backend.disturb()
        head = store.head(key)
        assert head is not None
        assert (head.first, head.count, head.born, head.t_last) == (1, 3, 1.0, 3.0)
        assert store.memory(key) > 0

    # -- exactly once -----------------------------------------------------------------------

    def test_an_append_whose_answer_was_lost_is_not_stored_twice(
        self, backend: Backend, key: str
    ) -> None:
        box = outbox(key, b"writer-a", ticks(float(int(time.time()))))
        put(box, 1, 2)
        send_and_lose_the_answer(backend.store, box)
        backend.disturb()
        send(backend.store, box)
        assert numbers_in(backend.store, key) == [1, 2]
        assert box.unsaved == 0

    def test_nothing_is_stored_twice_when_another_writer_comes_between_two_tries(
        self, store: LogStore, key: str
    ) -> None:
        ours, theirs = (outbox(key, writer, ticks()) for writer in (b"writer-a", b"writer-b"))
        put(ours, 1, 2)
        send_and_lose_the_answer(store, ours)
        put(theirs, 10, 11)
        send(store, theirs)
        put(ours, 3)
        send(store, ours)
        assert numbers_in(store, key) == [1, 2, 10, 11, 3]
        assert ours.unsaved == theirs.unsaved == 0

    @pytest.mark.parametrize("delivered", [1, MAX_BATCHES_PER_APPEND, MAX_BATCHES_PER_APPEND + 9])
    def test_a_conflict_in_the_middle_of_many_batches_keeps_their_order(
        self, store: LogStore, key: str, delivered: int
    ) -> None:
        ours, theirs = (outbox(key, writer, ticks()) for writer in (b"writer-a", b"writer-b"))
        put(ours, *range(delivered))
        send_and_lose_the_answer(store, ours)
        put(theirs, 1000)
        send(store, theirs)
        put(ours, *range(delivered, 200))
        send(store, ours)
        stored = numbers_in(store, key)
        assert stored.index(1000) == min(delivered, MAX_BATCHES_PER_APPEND)
        assert [number for number in stored if number != 1000] == list(range(200))

    @pytest.mark.parametrize("late_s", [0, 3600], ids=["", "of an hour ago"])
    def test_an_append_whose_records_were_popped_meanwhile_is_not_stored_again(
        self, store: LogStore, key: str, late_s: int
    ) -> None:
        box = outbox(key, b"writer-a", ticks(float(int(time.time()) - late_s)))
        put(box, 1, 2, 3)
        send_and_lose_the_answer(store, box)
        popped = store.pop(key, 9)
        assert popped is not None
        assert popped[:2] == (0, 3)
        put(box, 4)
        send(store, box)
        assert [record["n"] for record in readable(store.read(key, 0, 99))] == [4]
        assert box.unsaved == 0

    def test_a_writer_whose_clock_is_behind_costs_no_more_than_one_conflict(
        self, store: LogStore, key: str
    ) -> None:
        ahead, behind = (
            outbox(key, writer, ticks(first))
            for writer, first in ((b"writer-a", 1e9), (b"writer-b", 1.0))
        )
        put(ahead, 1)
        send(store, ahead)
        put(behind, 2, 3)
        send(store, behind)
        put(behind, 4)
        waiting = behind.next_append()
        assert waiting is not None
        assert deliver(store, waiting).stored == 1
        assert numbers_in(store, key) == [1, 2, 3, 4]

    # -- taking off, and deleting -----------------------------------------------------------

    def test_records_are_taken_off_in_order_wherever_they_are(
        self, backend: Backend, key: str
    ) -> None:
        store = backend.store
        append(store, key, *(batch(n, [n + 1.0]) for n in range(5)))
        backend.disturb()
        for n in (0, 2, 4):
            popped = store.pop(key, 2)
            assert popped is not None
            start, stop, batches = popped
            assert (start, stop) == (n, min(n + 2, 5))
            assert [r["n"] for r in records_of(batches)] == list(range(start, stop))
        assert store.count(key) == 0

    def test_a_deleted_log_does_not_come_back(self, backend: Backend, key: str) -> None:
        store = backend.store
        append(store, key, batch(0, [1.0]))
        backend.disturb()
        assert delete(store, key) == 1.0
        backend.disturb()
        assert store.read(key, *EVERYTHING) is None
        assert store.whole([key]) == [[]]

    def test_a_log_that_is_begun_after_a_deletion_is_another_log(
        self, backend: Backend, key: str
    ) -> None:
        store = backend.store
        append(store, key, batch(0, [1.0]), batch(1, [2.0]))
        backend.disturb()
        assert delete(store, key) == 1.0
        assert append(store, key, batch(0, [5.0])).stored == 1
        backend.disturb()
        head = store.head(key)
        assert head is not None
        assert (head.born, head.count) == (5.0, 1)
        assert [r["timestamp"] for r in readable(store.read(key, *EVERYTHING))] == [5.0]

    def test_an_append_that_is_sent_again_after_its_log_was_deleted_does_not_begin_it(
        self, backend: Backend, key: str
    ) -> None:
        append(backend.store, key, batch(0, [1.0]))
        assert backend.store.delete(key) == 1.0
        backend.disturb()
        late = Append(key, CODEC_RECORDS, [batch(0, [1.0])], 1, born=1.0, is_repeated=True)
        assert deliver(backend.store, late).is_deleted
        assert backend.store.head(key) is None

    def test_a_log_that_was_deleted_meanwhile_begins_anew_and_says_so(
        self, store: LogStore, key: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        box = outbox(key, b"writer-a", ticks())
        put(box, 1, 2)
        send(store, box)
        store.delete(key)
        put(box, 3)
        send(store, box)
        assert numbers_in(store, key) == [3]
        assert f"{key} held 2 records and holds 0 now" in caplog.text

    # -- what belongs to logs ---------------------------------------------------------------

    @pytest.mark.parametrize("has_grown", [False, True])
    def test_a_first_try_that_arrives_after_a_later_one_changes_no_note(
        self, store: LogStore, has_grown: bool
    ) -> None:
        late, ended = episode_append(store, "e"), episode_append(store, "e", status="abandoned")
        assert deliver(store, structs.replace(ended, is_repeated=True)).stored == 1
        if has_grown:
            more = episode_append(store, "e", status="abandoned", start=2)
            assert deliver(store, more).count == 4

        def told() -> tuple[bytes, dict[str, bytes]]:
            head = store.head(late.key)
            assert head is not None
            return head.encode(), dict(store.listings.summaries("run"))

        before = told()
        assert decided(deliver(store, late))[:2] == (1, 4 if has_grown else 2)
        assert told() == before

    def test_an_episode_is_listed_in_its_run_until_it_is_deleted(self, backend: Backend) -> None:
        store = backend.store
        appends = [
            episode_append(store, "e1", run="a", started_at=1.0),
            episode_append(store, "e2", run="b", started_at=2.0),
            episode_append(store, "e3", run="b", started_at=3.0),
        ]
        for one in appends:
            assert deliver(store, one).stored == 1
        backend.disturb()
        assert sorted(store.listings.runs()) == ["a", "b"]
        found = store.listings.summaries("b")
        assert sorted(found) == ["e2", "e3"]
        summary = decode_summary(found["e3"], episode_id="e3", where="e3")
        assert (summary.run, summary.started_at) == ("b", 3.0)
        assert delete(store, appends[1].key, appends[1].entry) == 2.0
        backend.disturb()
        assert list(store.listings.summaries("b")) == ["e3"]
        assert store.read(appends[2].key, 0, 9) is not None

    def test_a_blob_comes_back_by_its_digest(self, backend: Backend) -> None:
        deliver(backend.store, episode_append(backend.store, "e"))
        backend.disturb()
        for name, content in BLOBS.items():
            assert backend.store.blobs.get(name) == content
        with pytest.raises(DecodeError, match="missing"):
            backend.store.blobs.get(digest(b"another"))

    # -- epochs -----------------------------------------------------------------------------

    def test_an_emptied_store_is_in_another_epoch(self, backend: Backend, key: str) -> None:
        store = backend.store
        append(store, key, batch(0, [1.0]))
        epoch, losses = store.epoch(), store.losses
        assert store.epoch() == epoch
        backend.lose()
        assert append(store, key, batch(0, [5.0])).stored == 1
        assert store.epoch() != epoch
        assert store.losses > losses
