"""Logs lie in buckets. A call of a script touches one bucket, and so one slot of a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any

import pytest
from backed_up import follower_of
from conftest import Server
from contract import batch
from processes import NoteHandler
from recorded_envs import ACTION, CountingEnv, RenderingEnv, play
from redis.crc import key_slot
from redis.exceptions import ResponseError
from stored import keys_like

from jamboree_gym import Jamboree
from jamboree_gym.encoding.batch_format import CODEC_RECORDS, Head, encode_batch
from jamboree_gym.encoding.episode_stamps import EpisodeStamps
from jamboree_gym.errors import DecodeError
from jamboree_gym.keys import Keyspace, without_buckets
from jamboree_gym.store.log import Append, BackupClaim, IndexEntry
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.buckets import BUCKETS
from jamboree_gym.store.redis.eviction import Candidate
from jamboree_gym.store.redis.link import Call
from jamboree_gym.store.redis.store import RedisStore

OpenJamboree = Callable[..., Jamboree]
NAMES = {value.sha: name for name, value in vars(scripts).items() if hasattr(value, "sha")}


@pytest.fixture
def store(valkey: Server, namespace: str) -> Iterator[RedisStore]:
    opened = RedisStore.from_url(valkey.url, Keyspace(namespace))
    yield opened
    opened.close()


def keys_of_scripts(sent: Sequence[Sequence[Call]]) -> Iterator[tuple[str, list[str]]]:
    """Each call of a script: its name, and its keys."""
    for call in (call for calls in sent for call in calls):
        if call[0] == "EVALSHA":
            yield NAMES[call[1]], list(call[3 : 3 + int(call[2])])


class Clock:
    """Each look is a second later: episodes that are recorded one after the other are apart."""

    def __init__(self) -> None:
        self.now_s = 1.7e9

    def __call__(self) -> float:
        self.now_s += 1
        return self.now_s


def record(jam: Jamboree, run: str = "run", **options: Any) -> str:
    """An episode of four rows and, with `record_frames`, of pictures."""
    env = jam.record(RenderingEnv(3), run=run, **options)
    play(env, [ACTION] * 3)
    return str(env.episode_id)


# -- one call, one slot -----------------------------------------------------------------------


def test_every_call_of_a_script_touches_one_slot(
    open_jamboree: OpenJamboree, mongo: Server, sent: list[list[Call]]
) -> None:
    jam = open_jamboree(mongo_url=mongo.url, clock=Clock())
    ids = [record(jam, run=f"r{n % 2}", record_frames=1) for n in range(6)]
    notes = [NoteHandler(jam, name) for name in "abcdefgh"]
    for one in notes:
        one.save_many([{"n": 1}, {"n": 2}])
    jam.flush()
    assert len(list(jam.tail(since=0, timeout_s=0.01))) == 18
    assert len(list(jam.episode(ids[0]).tail(timeout_s=0.01))) == 3
    assert [one.pop(1)[0]["n"] for one in notes] == [1] * 8
    assert len(jam.runs()) == 2
    follower_of(jam).copy_once()
    claim = BackupClaim("somebody", "there", 1.0)
    jam._connection.redis_store.backup_state.take_lead(claim, known_to="there")
    jam.episode(ids[0]).delete()
    notes[0].delete()
    jam.backup.flush()
    jam.backup.retain(max_redis_bytes=1)
    jam._connection.redis_store.eviction.trim(
        [Candidate(0.0, key, head.born, head.revision) for key, head in heads_of(jam).items()],
        {key: head.count for key, head in heads_of(jam).items()},
        before=1e300,
    )
    assert len(jam.episodes()) == 5
    assert len(jam.episode(ids[1]).data()) == 3
    jam.redis.delete(*keys_like(jam.redis, f"{{{jam._connection.keyspace.namespace}:??}}:*"))
    assert jam.episodes(run="r1").ids() == ids[1::2]
    jam.backup.restore()
    assert jam.backup.verify()

    calls = list(keys_of_scripts(sent))
    assert {name: keys for name, keys in calls if len(set(map(slot_of, keys))) > 1} == {}
    assert {name for name, _ in calls} >= {
        *("APPEND", "READ", "POP", "DELETE", "EPOCH", "STANDING", "RESTORE", "LIST_EPISODES"),
        *("ADOPT", "NAME_DESTINATION", "ACKNOWLEDGE", "FORGET_DELETION", "TRIM", "TAKE_LEAD"),
        *("PUT", "SET_COVERAGE"),
    }
    # Of the other commands, docs/decisions/server-side-scripts.md names those that do not.
    others = [call for calls in sent for call in calls if call[0] != "EVALSHA"]
    slots = [(call[0], set(map(slot_of, keys_of(call)))) for call in others]
    assert {name for name, some in slots if len(some) > 1} <= {"XREAD", "MGET"}
    assert {name for name, some in slots if not some} <= {"SCAN", "SCRIPT", "WAITAOF"}


def keys_of(call: Call) -> Sequence[str]:
    """The keys that a command names."""
    name, *rest = call
    if name in ("SCAN", "SCRIPT", "WAITAOF"):
        return ()
    if name == "XREAD":
        streams = rest[rest.index("STREAMS") + 1 :]
        return streams[: len(streams) // 2]
    return rest if name == "MGET" else rest[1:2] if name == "MEMORY" else rest[:1]


def slot_of(key: str) -> int:
    return int(key_slot(key.encode()))


def heads_of(jam: Jamboree) -> dict[str, Head]:
    store = jam._connection.redis_store
    found = store.reader.heads(list(store.log_keys()))
    return {key: head for key, head in found.items() if isinstance(head, Head)}


# -- which bucket -----------------------------------------------------------------------------


def buckets_of(ids: Iterable[str]) -> Counter[int]:
    space = Keyspace("space")
    return Counter(space.bucket_of(space.episode(id), BUCKETS) for id in ids)


def ids_of(writer: str, times_s: Iterable[float]) -> list[str]:
    """Ids of episodes that a writer begins at these times."""
    times = list(times_s)
    stamps = EpisodeStamps(iter(times).__next__)
    return [stamps.new_id(bytes.fromhex(writer)) for _ in times]


def test_what_a_writer_begins_within_some_seconds_lies_together() -> None:
    for start_s in range(0, 1000, 7):
        ids = ids_of("00112233445566aa", [1.7e9 + start_s + n / 64 for n in range(64)])
        assert len(buckets_of(ids)) <= 2


def test_over_an_hour_the_episodes_of_a_writer_lie_in_all_buckets() -> None:
    found = buckets_of(ids_of("00112233445566aa", [1.7e9 + second for second in range(3600)]))
    assert len(found) == BUCKETS
    assert max(found.values()) < 2 * 3600 / BUCKETS


def test_many_writers_that_begin_at_once_lie_in_all_buckets() -> None:
    rng = Random(1)
    writers = [f"{rng.getrandbits(64):016x}" for _ in range(1600)]
    found = buckets_of(id for writer in writers for id in ids_of(writer, [1.7e9]))
    assert len(found) == BUCKETS
    assert max(found.values()) < 2 * 1600 / BUCKETS


@pytest.mark.parametrize("id", ["01a21175f9b6cd4307826afe59f70000", "e1", "a:b{c}", ""])
def test_what_is_beside_an_episode_lies_in_its_bucket(id: str) -> None:
    space = Keyspace("space")
    keys = [space.episode(id), *(space.records(of, {"episode": id}) for of in ("render", "x"))]
    assert len({space.bucket_of(key, 256) for key in keys}) == 1


@pytest.mark.parametrize("name", ["a", "a:b", "{a}"])
def test_a_log_is_found_again_by_the_key_that_redis_has(name: str) -> None:
    space = Keyspace(name)
    for key in (space.episode(name), space.records(name, {name: name})):
        stored = space.in_bucket(key, space.buckets(16)[10])
        assert slot_of(stored) == slot_of(f"{{{space.lease('').split(':')[0]}:0a}}")
        assert space.out_of_bucket(stored) == key
        assert (
            without_buckets(f"what lies under {stored} is odd") == f"what lies under {key} is odd"
        )


def test_a_delivery_of_a_writer_is_one_call_or_two(
    open_jamboree: OpenJamboree, sent: list[list[Call]]
) -> None:
    jam = open_jamboree()
    envs = [jam.record(CountingEnv(3)) for _ in range(40)]
    for env in envs:
        play(env, [ACTION] * 3)
    sent.clear()
    jam.flush()

    appends = [keys for name, keys in keys_of_scripts(sent) if name == "APPEND"]
    assert sum(len(keys) - 7 for keys in appends) == 2 * 40
    assert len(appends) <= 2


# -- how many ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 5, 256])
def test_the_number_that_is_stored_is_used(
    open_jamboree: OpenJamboree, store: RedisStore, mongo: Server, namespace: str, number: int
) -> None:
    """Also where Redis is emptied while somebody records: who comes later uses the same number."""
    for key in Keyspace(namespace).layout:
        store.client.hset(key, "buckets", str(number))
    writer = open_jamboree(mongo_url=mongo.url, clock=Clock())
    ids = [record(writer) for _ in range(9)]
    for _ in range(2):
        writer.flush()
        reader = open_jamboree(mongo_url=mongo.url)
        assert sorted(reader.episodes().ids()) == sorted(ids)
        assert [len(reader.episode(id).data()) for id in ids] == [3] * len(ids)
        expected = {
            stored_key(reader, reader._connection.keyspace.episode(id), number) for id in ids
        }
        assert (
            set(map(bytes.decode, keys_like(reader.redis, f"*{namespace}:*}}:episode:*")))
            == expected
        )
        writer.backup.flush()
        writer.redis.delete(*keys_like(writer.redis, f"*{namespace}:*"))
        ids.append(record(writer))


@pytest.mark.parametrize("act", ["restore", "flush"])
def test_who_is_first_in_an_emptied_redis_stores_the_number_there(
    open_jamboree: OpenJamboree, store: RedisStore, mongo: Server, namespace: str, act: str
) -> None:
    """Also who only puts back, or copies."""
    for key in Keyspace(namespace).layout:
        store.client.hset(key, "buckets", "5")
    jam = open_jamboree(mongo_url=mongo.url)
    id = record(jam)
    jam.backup.flush()
    jam.redis.delete(*keys_like(jam.redis, f"*{namespace}:*"))
    getattr(jam.backup, act)()

    other = open_jamboree(mongo_url=mongo.url)
    assert len(other.episode(id).data()) == 3
    assert len(other._connection.redis_store.buckets.all) == 5


def stored_key(jam: Jamboree, key: str, number: int) -> str:
    space = jam._connection.keyspace
    return space.in_bucket(key, space.buckets(number)[space.bucket_of(key, number)])


@pytest.mark.parametrize("number", ["0", "257", "-1", "many", ""])
def test_a_number_that_is_none_is_refused(
    open_jamboree: OpenJamboree, store: RedisStore, namespace: str, number: str
) -> None:
    store.client.hset(Keyspace(namespace).layout[0], "buckets", number)
    jam = open_jamboree()
    with pytest.raises(DecodeError, match=r"how many buckets there are.*upgrade"):
        jam.episodes().ids()
    with pytest.raises(DecodeError, match=r"how many buckets there are.*upgrade"):
        NoteHandler(jam, "n").count()


def test_what_an_older_release_does_first_is_refused(jam: Jamboree) -> None:
    record(jam)
    jam.flush()
    epoch, runs = jam._connection.keyspace.layout
    source = scripts.EPOCH.source
    for write in (
        lambda: jam.redis.eval(source, 1, epoch, "new"),
        lambda: jam.redis.zadd(runs, {"run": 1.0}, gt=True),
        lambda: jam.redis.zrange(runs, 0, -1),
    ):
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            write()


# -- several buckets at once ------------------------------------------------------------------


def test_the_oldest_go_first_and_no_more_than_needed_in_whatever_buckets(
    open_jamboree: OpenJamboree, mongo: Server
) -> None:
    jam = open_jamboree(mongo_url=mongo.url, clock=Clock())
    keys = [jam._connection.keyspace.episode(record(jam)) for _ in range(12)]
    jam.backup.flush()
    store = jam._connection.redis_store
    heads = heads_of(jam)
    assert len({store.buckets.of(key) for key in keys}) > 4
    candidates = [Candidate(float(at), key, heads[key].born, heads[key].revision)
                  for at, key in enumerate(keys)]  # fmt: skip
    counts = {key: head.count for key, head in heads.items()}
    needed = sum(store.memory(key) for key in keys[:5]) - 1

    evicted = store.eviction.trim(candidates, counts, before=1e300, enough_bytes=needed)

    assert evicted.freed_bytes == needed + 1
    assert sorted(store.log_keys()) == sorted(keys[5:])
    assert evicted.retry_later == candidates[5:]


def one_batch() -> bytes:
    """Of an episode."""
    times = {"t_first": 1.0, "t_last": 1.0}
    return encode_batch(codec=2, start=0, count=1, writer=bytes(8), body=b"", **times)


def test_runs_come_in_the_order_of_what_was_written_last_in_any_bucket(store: RedisStore) -> None:
    for time, (run, id) in enumerate([("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"), ("b", "5")]):
        entry = IndexEntry(id, b"summary", run, float(time))
        append = Append(store.keyspace.episode(id), 2, [one_batch()], 1, b"n", entry)
        store.append([append])
    assert store.listings.runs() == ["a", "c", "b"]
    assert store.listings.summaries("a").keys() == {"1", "3"}


def test_who_follows_one_log_is_noticed_whatever_else_is_written(store: RedisStore) -> None:
    followed, other = store.keyspace.episode("1"), store.keyspace.records("n", {})
    assert store.buckets.of(followed) is not store.buckets.of(other)
    store.feed.announce([followed])

    for key in (followed, other):
        store.append([Append(key, CODEC_RECORDS, [batch(0, [1.0])], 1)])
        assert store.is_followed
    store.client.delete(store.buckets.of(followed).feed)
    store.append([Append(followed, CODEC_RECORDS, [batch(1, [2.0])], 2)])
    assert not store.is_followed


def test_of_a_redis_that_was_emptied_between_two_buckets_nothing_is_lost(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [store.keyspace.records("n", {"name": name}) for name in "abcdefgh"]
    first = [Append(key, CODEC_RECORDS, [batch(0, [1.0])], 1) for key in keys]
    assert [result.stored for result in store.append(first)] == [1] * 8
    emptied = store.buckets.of(keys[0])
    store.client.delete(emptied.epoch, *(store.buckets.log(key) for key in keys
                                         if store.buckets.of(key) is emptied))  # fmt: skip
    second = [Append(key, CODEC_RECORDS, [batch(1, [2.0])], 2) for key in keys]

    results = store.append(second)

    is_there = [store.buckets.of(key).at != emptied.at for key in keys]
    assert [bool(result.stored) for result in results] == is_there
    assert [result.is_absent for result in results] == [not there for there in is_there]
    assert store.losses == 1
