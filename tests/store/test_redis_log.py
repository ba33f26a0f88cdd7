"""The log on each kind of server: what is Redis' own, beside the contract of every store."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from conftest import REDIS_PROGRAMS, Server, StartRedis
from contract import EVERYTHING, append, batch, indices, outbox, put, readable, send, ticks
from msgspec.structs import replace
from redis.exceptions import ResponseError

from jamboree_gym.arrays.values import encode_mapping
from jamboree_gym.encoding.batch_format import CODEC_RECORDS, encode_batch, encode_records
from jamboree_gym.errors import DecodeError, StoreUnavailable
from jamboree_gym.keys import Keyspace, digest
from jamboree_gym.store.log import Append, AppendResult, BackupIdentity, IndexEntry
from jamboree_gym.store.redis.appender import newest_in_runs
from jamboree_gym.store.redis.link import SENT_AHEAD, Call
from jamboree_gym.store.redis.store import RedisStore

MONGO = BackupIdentity("0123456789abcdef", "mongo:27017")
KINDS = sorted(REDIS_PROGRAMS)


def indices_in(store: RedisStore, key: str) -> list[int]:
    return indices(store.read(key, *EVERYTHING))


def stored(store: RedisStore, key: str) -> str:
    """The key under which Redis has a log."""
    return store.buckets.log(key)


@pytest.fixture
def store(any_redis: Server, namespace: str) -> Iterator[RedisStore]:
    opened = RedisStore.from_url(any_redis.url, Keyspace(namespace))
    yield opened
    opened.close()


def test_a_batch_of_ten_megabytes_comes_back(store: RedisStore) -> None:
    key = store.keyspace.records("large", {})
    body = encode_records([1.0], [encode_mapping({"blob": bytes(10 << 20)})])
    header = {"codec": CODEC_RECORDS, "start": 0, "count": 1, "writer": b"writer-a"}
    append(store, key, encode_batch(**header, t_first=1.0, t_last=1.0, body=body))
    assert len(readable(store.last(key, 1))[0]["blob"]) == 10 << 20


@pytest.mark.parametrize("count", [0, 1, SENT_AHEAD, SENT_AHEAD + 1, 2 * SENT_AHEAD + 7])
def test_many_calls_are_answered_in_order_and_a_refused_one_in_its_place(
    store: RedisStore, namespace: str, count: int
) -> None:
    store.link.call("SET", namespace, "no list")
    calls: list[Call] = [("ECHO", str(n)) for n in range(count)]
    refused = [at for at in (0, SENT_AHEAD - 1, SENT_AHEAD, count - 1) if 0 <= at < count]
    for at in refused:
        calls[at] = ("LLEN", namespace)

    answers = store.link.send(calls)

    assert len(answers) == count
    for at, answer in enumerate(answers):
        assert isinstance(answer, ResponseError) if at in refused else answer == b"%d" % at
    if refused:
        with pytest.raises(DecodeError, match="is not a log of this release"):
            store.link.all_checked(answers, keys=[namespace] * count)
    assert store.link.call("GET", namespace) == b"no list"
    store.client.delete(namespace)


@pytest.mark.parametrize("at", [0, SENT_AHEAD - 1, SENT_AHEAD, 2 * SENT_AHEAD + 3])
def test_many_calls_are_sent_again_where_the_connection_is_lost_among_them(
    store: RedisStore, at: int
) -> None:
    calls: list[Call] = [("ECHO", str(n)) for n in range(2 * SENT_AHEAD + 7)]
    calls[at] = ("CLIENT", "KILL", "ID", str(store.link.send([("CLIENT", "ID")])[0]))
    calls[at] += ("SKIPME", "no")
    losses = store.link.losses

    answers = store.link.send(calls)

    assert store.link.losses == losses + 2  # one is dropped, then all are forgotten
    assert answers.pop(at) == 0  # the second connection is another one
    assert answers == [b"%d" % n for n in range(len(calls)) if n != at]


def test_what_was_popped_is_forgotten_after_a_while(store: RedisStore) -> None:
    box = outbox("k5", b"writer-a", ticks(1000.0))
    put(box, *range(50))
    send(store, box)
    store.pop("k5", 40)
    assert store.client.llen(stored(store, "k5")) == 51
    head = store.head("k5")
    assert head is not None
    minute, until = struct.unpack("<dd", head.note)
    assert (minute % 60, until) == (0, 40)
    long_ago = replace(head, note=struct.pack("<dd", minute - 660, until))
    store.client.lset(stored(store, "k5"), 0, long_ago.encode())
    store.pop("k5", 9)
    assert store.client.llen(stored(store, "k5")) == 11
    assert [record["n"] for record in readable(store.last("k5", 9))] == [49]


def test_a_damaged_note_of_what_was_popped_costs_no_record(store: RedisStore) -> None:
    for damaged in (b"x" * 15, b"x" * 16, struct.pack("<dd", 0.0, 1e300), b"\xff" * 40):
        append(store, "k6", batch(0, [1.0]), batch(1, [2.0]), batch(2, [3.0]))
        head = store.head("k6")
        assert head is not None
        store.client.lset(stored(store, "k6"), 0, replace(head, note=damaged).encode())
        for n in range(3):
            popped = store.pop("k6", 1)
            assert popped is not None
            assert popped[:2] == (n, n + 1)
            assert store.client.llen(stored(store, "k6")) > 3 - n - 1
        store.client.delete(stored(store, "k6"))


def test_content_that_goes_while_all_of_it_is_read_is_said_to_be_missing(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when Redis is emptied in the middle of a comparison with the backup."""
    name, list_keys = digest(b"content"), store.link.keys
    store.blobs.put(name, b"content")

    def listed_and_gone(pattern: str) -> list[str]:
        keys = list_keys(pattern)
        store.client.delete(*keys)
        return keys

    monkeypatch.setattr(store.link, "keys", listed_and_gone)
    (error,) = store.blobs.all().values()
    assert isinstance(error, DecodeError)
    assert f"{name} is missing" in str(error)


# -- servers that forget, and keys of others --------------------------------------------------


def test_a_script_that_the_server_forgot_is_loaded_again(store: RedisStore) -> None:
    append(store, "k", batch(0, [1.0]))
    store.client.script_flush()
    assert indices_in(store, "k") == [0]
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


def test_content_is_sent_once(store: RedisStore) -> None:
    name = digest(b"content")
    blobs = {name: b"content"}
    store.append([Append("k", CODEC_RECORDS, [batch(0, [1.0])], 1, blobs=blobs)])
    assert store.client.delete(store.keyspace.blob(name)) == 1
    store.append([Append("k", CODEC_RECORDS, [batch(1, [2.0])], 2, blobs=blobs)])
    assert store.client.exists(store.keyspace.blob(name)) == 0


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
    assert indices_in(store, key) == [0]
    assert list(store.log_keys()) == [key]


def test_a_foreign_value_under_the_key_is_named_and_holds_no_other_log_back(
    store: RedisStore,
) -> None:
    store.client.set(stored(store, "text"), "x")
    store.client.rpush(stored(store, "list"), "x")
    store.client.rpush(stored(store, "long"), b"x" * 100)
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
    store.client.lrem(stored(store, "k8"), 1, batch(1, [2.0]).decode("latin-1").encode("latin-1"))
    with pytest.raises(DecodeError, match="k8 at index 1: a batch is missing"):
        store.read("k8", 0, 9)


def test_a_batch_behind_the_end_is_noticed(store: RedisStore) -> None:
    append(store, "k9", batch(0, [1.0]))
    store.client.lset(
        stored(store, "k9"), 1, batch(0, [1.0, 2.0])
    )  # who follows would read it again and again
    with pytest.raises(DecodeError, match=r"k9 at index 0: a batch beyond"):
        store.read("k9", 0, 9)


def test_a_log_of_a_newer_format_is_left_alone(store: RedisStore) -> None:
    head = store.client.rpush(stored(store, "newer"), b"JH\x63" + bytes(80))
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
    store.deletions.forget(key, 1.0, backup=MONGO)
    assert store.deletions.noted() == {(key, 2.0)}
    store.deletions.forget(key, 2.0, backup=MONGO)
    assert store.deletions.noted() == set()


def test_namespaces_are_kept_apart(any_redis: Server, store: RedisStore) -> None:
    other = RedisStore.from_url(any_redis.url, Keyspace(store.keyspace.namespace + "x"))
    append(store, store.keyspace.records("e", {}), batch(0, [1.0]))
    assert list(other.log_keys()) == []
    assert other.count(other.keyspace.records("e", {})) == 0
    other.close()


def test_a_run_was_written_when_the_newest_of_its_episodes_was() -> None:
    times = [("a", 2.5), ("b", 7.0), ("a", 9.25), ("a", 1.0)]
    entries = [IndexEntry("e", b"", run, time) for run, time in times]

    assert newest_in_runs([None, *entries]) == {"a": "9.25", "b": "7.0"}
