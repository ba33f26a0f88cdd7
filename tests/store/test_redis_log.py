"""The log on each kind of server against a plain list."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from conftest import REDIS_PROGRAMS, Server, StartRedis
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

from jamboree_gym.arrays.values import encode_mapping
from jamboree_gym.delivery.outbox import MAX_BATCHES_PER_APPEND, RecordOutbox
from jamboree_gym.encoding.batch_format import (
    CODEC_RECORDS,
    Batch,
    decode_records,
    encode_batch,
    encode_records,
)
from jamboree_gym.errors import DecodeError, StoreUnavailable
from jamboree_gym.keys import Keyspace, digest
from jamboree_gym.store.log import Append, AppendResult, LogSlice, MongoIdentity
from jamboree_gym.store.redis.store import RedisStore

MONGO = MongoIdentity("0123456789abcdef", "mongo:27017")
KINDS = sorted(REDIS_PROGRAMS)
Record = dict[str, Any]


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


def append(store: RedisStore, key: str, *batches: bytes) -> AppendResult:
    (result,) = store.append([Append(key, CODEC_RECORDS, batches, 0)])
    assert isinstance(result, AppendResult), result
    return result


def records_of(batches: list[Batch]) -> list[Record]:
    return [record for part in batches for record in decode_records(part, where="k")]


def readable(found: LogSlice | None) -> list[Record]:
    if found is None:
        return []
    return [record for record in records_of(found.batches) if record["index"] >= found.head.first]


def everything(store: RedisStore, key: str) -> list[int]:
    return [record["index"] for record in readable(store.read(key, 0, 2**52))]


@pytest.fixture
def store(any_redis: Server, namespace: str) -> Iterator[RedisStore]:
    opened = RedisStore.from_url(any_redis.url, Keyspace(namespace))
    yield opened
    bare = [key for key in opened.client.scan_iter() if b":" not in key]
    if bare:  # a log may lie under any key; the next test begins without
        opened.client.delete(*bare)
    opened.close()


# -- against a plain list ---------------------------------------------------------------------


class LogMachine(RuleBasedStateMachine):
    """Whatever is done to the log is done to a list, and both read the same."""

    store: RedisStore
    number = 0

    @initialize()
    def begin(self) -> None:
        LogMachine.number += 1
        self.key = self.store.keyspace.records("machine", {"number": LogMachine.number})
        self.model: list[tuple[int, float]] = []
        self.count = 0
        self.t_first = self.t_last = float(self.store.client.time()[0])
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
        assert result == AppendResult(len(sizes), self.count, self.t_last)

    @rule()
    def append_the_same_again(self) -> None:
        if self.sent:
            result = append(self.store, self.key, *self.sent)
            assert result == AppendResult(len(self.sent), self.count, self.t_last)

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
            assert result == AppendResult(0, self.count, self.t_last)

    @rule(n=st.integers(1, 9))
    def pop(self, n: int) -> None:
        start, stop, batches = self.store.pop(self.key, n)
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
        assert self._within(self.store.read(self.key, 0, 2**52)) == self.model
        assert self.store.count(self.key) == len(self.model)

    def _within(self, found: LogSlice | None) -> list[tuple[int, float]]:
        return [(record["index"], record["timestamp"]) for record in readable(found)]


@pytest.mark.deep
def test_a_log_behaves_as_a_list(store: RedisStore) -> None:
    machine = type("Machine", (LogMachine,), {"store": store})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples(400), stateful_step_count=30),
    )


# -- the ends ---------------------------------------------------------------------------------


def test_a_log_that_is_not_there_reads_as_none(store: RedisStore) -> None:
    assert store.read("k", 0, 9) is None
    assert store.last("k", 1) is None
    assert store.between("k", 0, 1) is None
    assert store.as_of("k", 1) is None
    assert store.head("k") is None
    assert store.count("k") == 0
    assert store.pop("k", 3) == (0, 0, [])
    assert store.delete("k") is None


def test_a_log_of_many_batches_is_searched_from_any_end(store: RedisStore) -> None:
    key = store.keyspace.records("large", {})
    batches = [batch(start, [start + 1.0, start + 1.5]) for start in range(0, 6000, 2)]
    for first in range(0, len(batches), 500):
        append(store, key, *batches[first : first + 500])
    for index in (0, 1, 2, 2999, 3000, 5998, 5999):
        assert index in [r["index"] for r in readable(store.read(key, index, index + 1))]
        assert len(readable(store.read(key, index, index + 1))) == 2
        (newest, *_) = reversed(readable(store.as_of(key, index // 2 * 2 + 1.5)))
        assert newest["index"] == index // 2 * 2 + 1
    assert [r["index"] for r in readable(store.last(key, 4))] == [5996, 5997, 5998, 5999]
    assert len(readable(store.between(key, 1.0, 100.0))) == 100


def test_a_batch_of_ten_megabytes_comes_back(store: RedisStore) -> None:
    key = store.keyspace.records("large", {})
    body = encode_records([1.0], [encode_mapping({"blob": bytes(10 << 20)})])
    header = {"codec": CODEC_RECORDS, "start": 0, "count": 1, "writer": b"writer-a"}
    append(store, key, encode_batch(**header, t_first=1.0, t_last=1.0, body=body))
    assert len(readable(store.last(key, 1))[0]["blob"]) == 10 << 20


# -- exactly once -----------------------------------------------------------------------------


def outbox(key: str, writer: bytes, clock: Iterator[float]) -> RecordOutbox:
    return RecordOutbox(key, writer, lambda _: None, clock=lambda: next(clock))


def put(box: RecordOutbox, *numbers: int) -> None:
    for number in numbers:
        box.append(encode_mapping({"n": number}))
        box.seal()


def send(store: RedisStore, box: RecordOutbox) -> None:
    """Deliver, and hear the answer."""
    while (waiting := box.next_append()) is not None:
        (result,) = store.append([waiting])
        assert isinstance(result, AppendResult)
        box.settle(result)


def send_and_lose_the_answer(store: RedisStore, box: RecordOutbox) -> None:
    waiting = box.next_append()
    assert waiting is not None
    store.append([waiting])


def numbers_in(store: RedisStore, key: str) -> list[int]:
    found = readable(store.read(key, 0, 2**52))
    assert [record["index"] for record in found] == list(range(len(found)))
    times = [record["timestamp"] for record in found]
    assert times == sorted(set(times))
    return [record["n"] for record in found]


def ticks(first: float = 1.0) -> Iterator[float]:
    while True:
        yield first
        first += 1.0


def test_an_append_whose_answer_was_lost_is_not_stored_twice(store: RedisStore) -> None:
    box = outbox("k1", b"writer-a", ticks())
    put(box, 1, 2)
    send_and_lose_the_answer(store, box)
    send(store, box)
    assert numbers_in(store, "k1") == [1, 2]
    assert box.unsaved == 0


def test_nothing_is_stored_twice_when_another_writer_comes_between_two_tries(
    store: RedisStore,
) -> None:
    ours, theirs = (outbox("k2", writer, ticks()) for writer in (b"writer-a", b"writer-b"))
    put(ours, 1, 2)
    send_and_lose_the_answer(store, ours)
    put(theirs, 10, 11)
    send(store, theirs)
    put(ours, 3)
    send(store, ours)
    assert numbers_in(store, "k2") == [1, 2, 10, 11, 3]
    assert ours.unsaved == theirs.unsaved == 0


@pytest.mark.parametrize("delivered", [1, MAX_BATCHES_PER_APPEND, MAX_BATCHES_PER_APPEND + 9])
def test_a_conflict_in_the_middle_of_many_batches_keeps_their_order(
    store: RedisStore, delivered: int
) -> None:
    key = f"k3:{delivered}"
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


def test_an_append_whose_records_were_popped_meanwhile_is_not_stored_again(
    store: RedisStore,
) -> None:
    now = float(store.client.time()[0])
    box = outbox("k4", b"writer-a", ticks(now))
    put(box, 1, 2, 3)
    send_and_lose_the_answer(store, box)
    start, stop, _ = store.pop("k4", 9)
    assert (start, stop) == (0, 3)
    put(box, 4)
    send(store, box)
    assert [record["n"] for record in readable(store.read("k4", 0, 99))] == [4]
    assert box.unsaved == 0


def test_what_was_popped_is_forgotten_after_a_while(store: RedisStore) -> None:
    box = outbox("k5", b"writer-a", ticks(1000.0))
    put(box, *range(50))
    send(store, box)
    store.pop("k5", 49)
    assert store.client.llen("k5") == 2
    assert [record["n"] for record in readable(store.last("k5", 9))] == [49]


def test_a_log_that_was_deleted_meanwhile_begins_anew_and_says_so(
    store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    box = outbox("k6", b"writer-a", ticks())
    put(box, 1, 2)
    send(store, box)
    store.delete("k6")
    put(box, 3)
    send(store, box)
    assert numbers_in(store, "k6") == [3]
    assert "k6 held 2 records and holds 0 now" in caplog.text


def test_a_writer_whose_clock_is_behind_costs_no_more_than_one_conflict(store: RedisStore) -> None:
    ahead, behind = outbox("k7", b"writer-a", ticks(1e9)), outbox("k7", b"writer-b", ticks(1.0))
    put(ahead, 1)
    send(store, ahead)
    put(behind, 2, 3)
    send(store, behind)
    put(behind, 4)
    waiting = behind.next_append()
    assert waiting is not None
    (result,) = store.append([waiting])
    assert isinstance(result, AppendResult)
    assert result.stored == 1
    assert numbers_in(store, "k7") == [1, 2, 3, 4]


# -- servers that forget, and keys of others --------------------------------------------------


def test_a_script_that_the_server_forgot_is_loaded_again(store: RedisStore) -> None:
    append(store, "k", batch(0, [1.0]))
    store.client.script_flush()
    assert everything(store, "k") == [0]
    store.client.script_flush()
    append(store, "k", batch(1, [2.0]))
    store.client.script_flush()
    assert store.pop("k", 1)[:2] == (0, 1)


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_was_killed_and_started_again_is_used_as_before(
    start_own_redis: StartRedis, kind: str
) -> None:
    server = start_own_redis(kind, "--appendfsync", "always")
    store = RedisStore.from_url(server.url, Keyspace("test"))
    append(store, "k", batch(0, [1.0]), batch(1, [2.0]))
    for restart in range(3):
        server.kill()
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            store.count("k")
        server.start()
        assert store.pop("k", 1)[0] == restart
        append(store, "k", batch(2 + restart, [3.0 + restart]))
        assert store.count("k") == 2
    store.close()


@pytest.mark.faults
def test_content_is_sent_again_to_a_server_that_came_back_empty(
    start_own_redis: StartRedis,
) -> None:
    server = start_own_redis("valkey9", "--appendonly", "no")
    store = RedisStore.from_url(server.url, Keyspace("test"))
    name = digest(b"content")
    blobs = {name: b"content"}
    store.append([Append("k", CODEC_RECORDS, [batch(0, [1.0])], 1, blobs=blobs)])
    server.kill()
    server.start()
    store.append([Append("k", CODEC_RECORDS, [batch(0, [1.0])], 1, blobs=blobs)])
    other = RedisStore.from_url(server.url, Keyspace("test"))
    assert other.blobs.get(name) == b"content"
    store.close()
    other.close()


@pytest.mark.parametrize("part", ["a:b", "a/b", "{a}", "a}{b", "line\nbreak", "süß 🎲", "", " "])
def test_a_key_of_odd_characters_is_a_log_like_any_other(store: RedisStore, part: str) -> None:
    key = store.keyspace.records(part or "empty", {"name": part})
    append(store, key, batch(0, [1.0]))
    assert everything(store, key) == [0]
    assert list(store.log_keys()) == [key]


def test_a_foreign_value_under_the_key_is_named_and_holds_no_other_log_back(
    store: RedisStore,
) -> None:
    store.client.set("text", "x")
    store.client.rpush("list", "x")
    store.client.rpush("long", b"x" * 100)
    keys = ("text", "list", "long", "ours")
    answers = store.append([Append(key, CODEC_RECORDS, [batch(0, [1.0])], 1) for key in keys])
    for key, answer in zip(("text", "list", "long"), answers, strict=False):
        assert isinstance(answer, DecodeError)
        assert str(answer).startswith(f"{key} on ")
    assert isinstance(answers[3], AppendResult)
    for key in ("text", "list", "long"):
        with pytest.raises(DecodeError, match=f"{key} on .* is not a log"):
            store.last(key, 1)


def test_a_batch_that_is_missing_in_the_middle_is_noticed(store: RedisStore) -> None:
    append(store, "k8", *(batch(i, [i + 1.0]) for i in range(3)))
    store.client.lrem("k8", 1, batch(1, [2.0]).decode("latin-1").encode("latin-1"))
    with pytest.raises(DecodeError, match="k8 at index 1: a batch is missing"):
        store.read("k8", 0, 9)


def test_a_batch_behind_the_end_is_noticed(store: RedisStore) -> None:
    append(store, "k9", batch(0, [1.0]))
    store.client.lset("k9", 1, batch(0, [1.0, 2.0]))  # who follows would read it again and again
    with pytest.raises(DecodeError, match=r"k9 at index 0: a batch beyond"):
        store.read("k9", 0, 9)


def test_a_log_of_a_newer_format_is_left_alone(store: RedisStore) -> None:
    head = store.client.rpush("newer", b"JH\x63" + bytes(80))
    assert head == 1
    (answer,) = store.append([Append("newer", CODEC_RECORDS, [batch(0, [1.0])], 1)])
    assert isinstance(answer, DecodeError)
    assert "is of format 99" in str(answer)


def test_a_log_that_was_begun_anew_is_not_acknowledged_by_a_copy_of_the_old_one(
    store: RedisStore,
) -> None:
    key = store.keyspace.records("e", {})
    append(store, key, batch(0, [1.0]))
    (old, _) = store.reader.unacked([key])[key]
    store.delete(key)
    append(store, key, batch(0, [2.0]))

    answer = store.acknowledgements.acknowledge({key: replace(old, acked=1)}, epoch=store.epoch())
    assert answer == ({key}, set())
    assert store.head(key).acked == 0
    assert dict(store.acknowledgements.unbacked()) == {key: 1}


def test_a_deletion_is_noted_until_mongodb_has_forgotten_that_very_log(store: RedisStore) -> None:
    key = store.keyspace.records("e", {})
    for first_time in (1.0, 2.0):
        append(store, key, batch(0, [first_time]))
        assert store.delete(key) == first_time
    store.deletions.forget(key, 1.0, mongo=MONGO)
    assert store.deletions.noted() == {(key, 2.0)}
    store.deletions.forget(key, 2.0, mongo=MONGO)
    assert store.deletions.noted() == set()


def test_namespaces_are_kept_apart(any_redis: Server, store: RedisStore) -> None:
    other = RedisStore.from_url(any_redis.url, Keyspace(store.keyspace.namespace + "x"))
    append(store, store.keyspace.records("e", {}), batch(0, [1.0]))
    assert list(other.log_keys()) == []
    assert other.count(other.keyspace.records("e", {})) == 0
    other.close()
