"""What Redis lets go of once MongoDB holds it, and what stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from backed_up import follower_of
from conftest import Server, StartRedis
from msgspec.structs import replace
from processes import NoteHandler
from recorded_envs import ACTION, CountingEnv, play
from stored import at, beside, keys_like, listed

from jamboree_gym import Jamboree
from jamboree_gym.backup import RetentionPolicy
from jamboree_gym.backup import copy as copying
from jamboree_gym.backup.copy import LogCopier
from jamboree_gym.backup.eviction import trimmer as trimming
from jamboree_gym.backup.eviction.candidates import find_candidates
from jamboree_gym.backup.eviction.trimmer import Trimmer
from jamboree_gym.delivery.outbox import Outbox
from jamboree_gym.encoding.batch_format import (
    CODEC_RECORDS,
    Head,
    decode_records,
    encode_batch,
    encode_records,
)
from jamboree_gym.errors import (
    DecodeError,
    InvalidArgument,
    StoreUnavailable,
    UnsavedRecords,
)
from jamboree_gym.store import restore
from jamboree_gym.store.backups.errors import BackupUnavailable
from jamboree_gym.store.backups.questions import BackupQuestions
from jamboree_gym.store.backups.reader import checked_chain, stored_logs
from jamboree_gym.store.log import Append, AppendResult
from jamboree_gym.store.mongo import client as mongo_client
from jamboree_gym.store.redis.appender import LogAppender
from jamboree_gym.store.redis.eviction import Candidate

OpenJamboree = Callable[..., Jamboree]
WRITER, OTHER = b"writer-a", b"writer-b"
LONG_AGO = 1000.0


@pytest.fixture(autouse=True)
def long_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of a follower ends with its work, also on a machine that is very busy."""
    monkeypatch.setattr(trimming, "TURN_S", 60.0)


@pytest.fixture
def jam(valkey: Server, mongo: Server, namespace: str) -> Iterator[Jamboree]:
    """Saves when it is flushed, so that an episode comes in one append."""
    with Jamboree(valkey.url, mongo.url, namespace=namespace, flush_interval_s=600) as opened:
        yield opened


@pytest.fixture
def any_jam(any_redis: Server, mongo: Server, namespace: str) -> Iterator[Jamboree]:
    """The same on each kind of Redis server."""
    with Jamboree(any_redis.url, mongo.url, namespace=namespace, flush_interval_s=600) as opened:
        yield opened


def recorded(jam: Jamboree, count: int = 1, length: int = 3, **options: Any) -> list[str]:
    """Keys of episodes that came in one append each."""
    env = jam.record(CountingEnv(length), **options)
    keys = []
    for _ in range(count):
        play(env, [ACTION] * length)
        keys.append(jam._connection.keyspace.episode(env.episode_id))
        jam.flush()
    return keys


def over(jam: Jamboree) -> Candidate:
    """An episode that is over and backed up, as it is found."""
    (key,) = recorded(jam)
    jam.backup.flush()
    head = jam._connection.redis_store.head(key)
    assert head is not None
    return Candidate(head.t_last, key, head.born, head.revision)


def here(jam: Jamboree) -> set[str]:
    """Keys of the logs that Redis holds."""
    return set(jam._connection.redis_store.log_keys())


def kept(jam: Jamboree, key: str) -> tuple[Head, int]:
    """The head of a log in MongoDB, and how many records there are, without a gap."""
    (_, found), *_ = stored_logs(jam._connection.backup_store, [key])
    assert isinstance(found, tuple)
    head, blobs = found
    return head, sum(batch.count for batch in checked_chain(blobs, head, where=key))


def trim_all(jam: Jamboree) -> None:
    """Let go of all that may go."""
    jam.backup.retain(max_redis_bytes=0)
    jam.backup.trim()


# -- what goes, and what stays --------------------------------------------------------------------


def test_without_a_policy_nothing_goes(jam: Jamboree) -> None:
    keys = recorded(jam, 3)
    jam.backup.flush()
    assert jam.backup.trim().freed_bytes == 0
    follower_of(jam).copy_once()
    assert here(jam) == set(keys)


def test_what_is_backed_up_goes_and_is_whole_in_mongodb(any_jam: Jamboree) -> None:
    keys = recorded(any_jam, 3)
    any_jam.backup.flush()
    any_jam.backup.retain(max_redis_bytes=0)
    trimmed = any_jam.backup.trim()
    assert here(any_jam) == set()
    assert [kept(any_jam, key)[1] for key in keys] == [4, 4, 4]
    assert trimmed.freed_bytes == any_jam.backup.status().trimmed_bytes > 0
    assert any_jam.backup.verify()


def test_what_mongodb_has_not_acknowledged_stays(jam: Jamboree) -> None:
    copied = recorded(jam, 2)
    jam.backup.flush()
    fresh = recorded(jam, 2)
    trim_all(jam)
    assert here(jam) == set(fresh)
    assert not here(jam) & set(copied)


def test_what_only_another_mongodb_holds_stays(jam: Jamboree) -> None:
    """Somebody gave the backup the wrong address, or MongoDB was set back."""
    gone, other, stays = recorded(jam, 3)
    jam.backup.flush()
    jam.mongo.logs.delete_one({"_id": stays})
    jam.mongo.logs.update_one({"_id": other}, {"$set": {"born": 1.0}})
    trim_all(jam)
    assert here(jam) == {other, stays}
    assert gone not in here(jam)


def test_without_mongodb_nothing_goes(
    jam: Jamboree, open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 0.2)
    keys = recorded(jam)
    jam.backup.flush()
    jam.backup.retain(max_redis_bytes=0)
    alone = open_jamboree(mongo_url="mongodb://127.0.0.1:1/")
    with pytest.raises(StoreUnavailable):
        alone.backup.trim()
    assert here(jam) == set(keys)


def test_a_log_that_began_anew_is_not_taken_for_the_one_that_was_found(jam: Jamboree) -> None:
    found = over(jam)
    jam._connection.redis_store.eviction.trim(
        [found._replace(born=found.born - 1)], {found.key: 4}, before=1e300
    )
    assert here(jam) == {found.key}
    jam._connection.redis_store.eviction.trim([found], {found.key: 4}, before=1e300)
    assert here(jam) == set()


def test_a_log_of_which_something_is_not_acknowledged_stays_whatever_else_is_said(
    jam: Jamboree,
) -> None:
    found = over(jam)
    head = jam._connection.redis_store.head(found.key)
    assert head is not None
    jam.redis.lset(at(jam, found.key), 0, replace(head, acked=3).encode())
    jam._connection.redis_store.eviction.trim([found], {found.key: 4}, before=1e300)
    assert here(jam) == {found.key}


def test_a_change_that_came_after_it_was_found_keeps_an_episode(jam: Jamboree) -> None:
    found = over(jam)
    changed = found._replace(over_at=found.over_at + 1)
    jam._connection.redis_store.eviction.trim([changed], {found.key: 4}, before=1e300)
    assert here(jam) == {found.key}
    jam._connection.redis_store.eviction.trim([found], {found.key: 3}, before=1e300)
    assert here(jam) == {found.key}
    jam.redis.zadd(beside(jam, found.key, "unbacked"), {at(jam, found.key): 9})
    jam._connection.redis_store.eviction.trim([found], {found.key: 4}, before=1e300)
    assert here(jam) == {found.key}


def test_damaged_logs_stay_and_keep_no_other_from_going(jam: Jamboree) -> None:
    bad, good, note_is_bad = recorded(jam, 3)
    jam.backup.flush()
    head = jam.redis.lindex(at(jam, bad), 0)
    jam.redis.lset(at(jam, bad), 0, head[:40] + b"!!!!" + head[44:])
    head = jam.redis.lindex(at(jam, note_is_bad), 0)
    jam.redis.lset(at(jam, note_is_bad), 0, head[:-4] + b"!!!!")
    trim_all(jam)
    assert here(jam) == {bad, note_is_bad}
    assert good not in here(jam)


# -- the policy -----------------------------------------------------------------------------------


def test_episodes_that_fit_a_rule_stay(jam: Jamboree) -> None:
    best = recorded(jam, 2, run="best")
    tagged = recorded(jam, 1, run="a", tags={"branch": "main", "lr": 0.1})
    long = recorded(jam, 1, length=9, run="a")
    recorded(jam, 2, run="a", tags={"branch": "other"})
    jam.backup.flush()
    rules = [{"run": "best"}, {"tags": {"branch": "main"}}, {"min_return": 40, "run": "a"}]
    jam.backup.retain(max_redis_bytes=0, keep=rules)
    jam.backup.trim()
    assert here(jam) == {*best, *tagged, *long}


def test_an_interrupted_episode_is_kept_as_such(jam: Jamboree, open_jamboree: OpenJamboree) -> None:
    env = jam.record(CountingEnv(length=10**9))
    env.reset()
    for _ in range(3):
        env.step(ACTION)
        jam.flush()
    jam.backup.flush()
    jam._connection._lease.close(1)
    jam.redis.delete(jam._connection.keyspace.lease(jam._connection.writer_name))
    reader = open_jamboree(mongo_url=jam._connection.backup_url)
    key = jam._connection.keyspace.episode(env.episode_id)
    reader.backup.retain(max_redis_bytes=0, keep=[{"status": "interrupted"}])
    reader.backup.trim()
    assert reader._connection.redis_store.head(key).held == 0  # type: ignore[union-attr]
    reader.backup.retain(max_redis_bytes=0, keep=[{"status": "terminated"}])
    reader.backup.trim()
    assert reader._connection.redis_store.head(key).held > 0  # type: ignore[union-attr]


def test_only_what_is_old_enough_goes_for_its_age(jam: Jamboree) -> None:
    old = recorded(jam, 2)
    between = time.time()
    recent = recorded(jam, 2)
    jam.backup.flush()
    age_s = jam._connection.redis_store.time() - between
    jam.backup.retain(max_age_s=age_s + 3600)
    jam.backup.trim()
    assert here(jam) == {*old, *recent}
    jam.backup.retain(max_age_s=age_s)
    jam.backup.trim()
    assert here(jam) <= {*recent}
    assert not here(jam) & {*old}


def test_the_oldest_goes_first(
    own_valkey: Server, mongo: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url, flush_interval_s=600)
    keys = recorded(jam, 300, length=60)
    jam.backup.flush()
    limit = (
        jam._connection.redis_store.eviction.memory().used_bytes
        - 20 * jam._connection.redis_store.memory(keys[0])
    )
    jam.backup.retain(max_redis_bytes=limit)
    jam.backup.trim()
    gone = len(keys) - len(here(jam))
    assert here(jam) == set(keys[gone:])
    assert 20 <= gone < len(keys)
    assert jam._connection.redis_store.eviction.memory().used_bytes < limit


def test_no_more_goes_than_is_needed(jam: Jamboree) -> None:
    keys = recorded(jam, 4)
    jam.backup.flush()
    found = [
        Candidate(head.t_last, key, head.born, head.revision)
        for key, head in jam._connection.redis_store.reader.heads(keys).items()
        if isinstance(head, Head)
    ]
    enough = jam._connection.redis_store.memory(keys[0]) + 1
    let = jam._connection.redis_store.eviction.trim(
        found, dict.fromkeys(keys, 4), before=1e300, enough_bytes=enough
    )
    assert here(jam) == set(keys[2:])
    assert list(let.retry_later) == found[2:]


def test_of_what_goes_in_part_no_more_goes_than_is_needed(jam: Jamboree) -> None:
    store, key = jam._connection.redis_store, jam._connection.keyspace.records("n", {})
    times = [time.time() + number for number in range(6)]
    batches = [append(key, number, t=t) for number, t in enumerate(times)]
    for one in batches:
        store.append([one])
    jam.backup.flush()
    found, counts = [Candidate(times[0], key, times[0], None)], {key: 6}
    size = len(batches[0].batches[0])
    let = store.eviction.trim(found, counts, before=1e300, enough_bytes=size + 1)
    assert (let.freed_bytes, [one.time for one in let.retry_later]) == (2 * size, [times[2]])
    let = store.eviction.trim(let.retry_later, counts, before=times[4])
    assert (let.freed_bytes, [one.time for one in let.retry_later]) == (2 * size, [times[4]])
    let = store.eviction.trim(let.retry_later, counts, before=1e300)
    assert (let.freed_bytes, list(let.retry_later)) == (size, [])
    assert store.head(key).held == 5  # type: ignore[union-attr]


@pytest.mark.parametrize(("acked", "counted"), [(2, 5), (5, 2)])
def test_of_what_goes_on_only_what_both_stores_say_is_kept_goes(
    jam: Jamboree, acked: int, counted: int
) -> None:
    env = jam.record(CountingEnv(length=10**9))
    env.reset()
    for number in range(5):
        jam.flush()
        if number + 1 == acked:
            jam.backup.flush()
        env.step(ACTION)
    key = jam._connection.keyspace.episode(env.episode_id)
    head = jam._connection.redis_store.head(key)
    assert head is not None
    found = Candidate(head.born, key, head.born, None)
    jam._connection.redis_store.eviction.trim([found], {key: counted}, before=1e300)
    assert jam._connection.redis_store.head(key).held == 2  # type: ignore[union-attr]


def test_what_is_asked_for_is_in_both_stores_and_outlives_an_emptied_redis(jam: Jamboree) -> None:
    jam.backup.retain(max_redis_bytes=10**12, max_age_s=3600, keep=[{"tags": {"n": [1, 2]}}])
    told = RetentionPolicy(10**12, 3600, ({"tags": {"n": [1, 2]}},))
    assert jam.backup.retention() == told
    jam.redis.delete(jam._connection.keyspace.retention)
    assert jam.backup.retention() == told
    assert jam.redis.exists(jam._connection.keyspace.retention)
    jam.backup.retain()
    jam.redis.delete(jam._connection.keyspace.retention)
    assert jam.backup.retention() == RetentionPolicy()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"max_redis_bytes": -1}, "max_redis_bytes=-1"),
        ({"max_redis_bytes": "2G"}, "max_redis_bytes='2G'"),
        ({"max_age_s": float("nan")}, "max_age_s=nan"),
        ({"max_age_s": True}, "max_age_s=True"),
        ({"keep": {"run": "best"}}, "give a list"),
        ({"keep": [{}]}, "names any of run"),
        ({"keep": ["best"]}, "give a list of dicts"),
        ({"keep": [{"runs": "best"}]}, "there is no 'runs'"),
        ({"keep": [{"run": 3}]}, "run=3 is no text"),
        ({"keep": [{"min_return": "3"}]}, "min_return='3' is no number"),
        ({"keep": [{"status": "best"}]}, "an episode is running"),
        ({"keep": [{"tags": {}}]}, "is not a dict of tags"),
        ({"keep": [{"tags": {"lr": abs}}]}, "can be stored"),
        ({"keep": [{"test": abs}]}, "there is no 'test'"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    jam: Jamboree, arguments: dict[str, Any], what: str
) -> None:
    jam.backup.retain(max_age_s=3600)
    with pytest.raises(InvalidArgument, match=what):
        jam.backup.retain(**arguments)
    assert jam.backup.retention() == RetentionPolicy(max_age_s=3600)


def test_a_damaged_policy_keeps_all_and_copies_all(
    jam: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    recorded(jam)
    jam.backup.flush()
    jam.backup.retain(max_redis_bytes=0)
    note = jam.redis.get(jam._connection.keyspace.retention)
    jam.redis.set(jam._connection.keyspace.retention, note[:-1] + b"!")
    with pytest.raises(DecodeError, match="retention"):
        jam.backup.trim()
    follower = follower_of(jam)
    recorded(jam)
    for _ in range(2):
        follower.copy_once()
    status = jam.backup.status()
    assert (len(here(jam)), status.pending_logs) == (2, 0)
    assert "retention" in str(status.last_error)
    assert caplog.text.count("nothing is evicted from Redis") == 1
    jam.backup.retain(max_redis_bytes=0)
    follower.copy_once()
    assert jam.backup.status().last_error is None


# -- logs that go on ------------------------------------------------------------------------------


def test_of_an_episode_that_goes_on_the_newest_append_stays(any_jam: Jamboree) -> None:
    jam = any_jam
    env = jam.record(CountingEnv(length=10**9))
    key = None
    env.reset()
    for number in range(30):
        env.step(ACTION)
        jam.flush()
        key = jam._connection.keyspace.episode(env.episode_id)
        if number % 10 == 9:
            jam.backup.flush()
            trim_all(jam)
            head = jam._connection.redis_store.head(key)
            assert head is not None
            assert head.held == head.newest == head.count - 1
            assert jam.redis.llen(at(jam, key)) == 2
    env.close()
    jam.backup.flush()
    assert kept(jam, str(key))[1] == 31


def test_an_append_that_is_repeated_after_trimming_is_stored_once(jam: Jamboree) -> None:
    """Its answer was lost."""
    store, key = jam._connection.redis_store, jam._connection.keyspace.records("n", {})
    appends = [append(key, start) for start in range(3)]
    for one in appends:
        store.append([one])
    jam.backup.flush()
    trim_all(jam)
    assert store.head(key).held == 2  # type: ignore[union-attr]
    (again,) = store.append([appends[2]])
    assert (again.stored, again.count) == (1, 3)  # type: ignore[union-attr]
    store.append([append(key, 3)])
    jam.backup.flush()
    assert kept(jam, key)[1] == 4


def test_an_episode_in_one_append_that_is_repeated_after_trimming_is_kept_once(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    real = LogAppender.append

    def noted(self: LogAppender, appends: Any, **options: Any) -> Any:
        sent.extend(appends)
        return real(self, appends, **options)

    monkeypatch.setattr(LogAppender, "append", noted)
    (key,) = recorded(jam)
    jam.backup.flush()
    trim_all(jam)
    assert here(jam) == set()
    jam._connection.redis_store.append(sent[-1:])
    jam.backup.flush()
    assert kept(jam, key)[1] == 4
    assert jam.backup.verify()
    trim_all(jam)
    assert here(jam) == set()


@pytest.fixture
def late_jam(valkey: Server, mongo: Server, namespace: str) -> Iterator[Jamboree]:
    """Its clock is slow: what it has just saved may be evicted at once."""
    urls = valkey.url, mongo.url
    slow = {"namespace": namespace, "clock": lambda: time.time() - LONG_AGO}
    with Jamboree(*urls, **slow, flush_interval_s=600) as opened:  # type: ignore[arg-type]
        yield opened


def send_unheard(jam: Jamboree, outbox: Outbox) -> Append:
    """Send what waits; the answer is lost."""
    outbox.seal()
    sent = outbox.next_append()
    assert sent is not None
    jam._connection.redis_store.append([sent])
    return sent


def save_unheard(jam: Jamboree) -> NoteHandler:
    """A log of two records: the first writer has not heard that it is stored."""
    notes = NoteHandler(jam, "n")
    notes.save({"n": 1})
    assert notes._outbox is not None
    send_unheard(jam, notes._outbox)
    other = append(notes._key, 1, writer=OTHER, t=time.time() - LONG_AGO + 1)
    jam._connection.redis_store.append([other])
    follower_of(jam).copy_once()
    return notes


def evict_log(jam: Jamboree, key: str) -> None:
    """Evict it, and let nothing bring it back to Redis."""
    trim_all(jam)
    head = jam._connection.redis_store.head(key)
    assert head is None or head.held == head.count


@pytest.mark.parametrize("is_emptied", [False, True])
def test_a_record_that_is_sent_again_after_its_eviction_is_there_once(
    late_jam: Jamboree, monkeypatch: pytest.MonkeyPatch, is_emptied: bool
) -> None:
    monkeypatch.setattr(restore, "PAGE_BYTES", 0)  # as with a large log: only its head comes back
    notes = save_unheard(late_jam)
    if is_emptied:
        everything = keys_like(late_jam.redis, f"*{late_jam._connection.keyspace.namespace}*")
        late_jam.redis.delete(*everything)
    else:
        evict_log(late_jam, notes._key)
    late_jam.flush()

    assert late_jam._connection.writer.unsaved == 0
    assert [one["n"] for one in notes.many(9)] == [1, 1]
    assert notes.count() == 2


def test_an_episode_that_is_sent_again_after_its_eviction_is_there_once(
    late_jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "PAGE_BYTES", 0)
    env = late_jam.record(CountingEnv(length=3))
    env.reset()
    late_jam.flush()
    for _ in range(3):
        env.step(ACTION)
    outbox = late_jam._connection.held(late_jam._connection.keyspace.episode(env.episode_id))
    assert outbox is not None
    send_unheard(late_jam, outbox)
    follower_of(late_jam).copy_once()
    evict_log(late_jam, outbox.key)
    late_jam.flush()

    assert late_jam._connection.writer.unsaved == 0
    assert late_jam.episode(env.episode_id).status == "terminated"
    assert len(late_jam.episode(env.episode_id).data()) == 3


def test_what_may_be_stored_waits_until_the_backup_can_be_asked(
    late_jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = save_unheard(late_jam)
    evict_log(late_jam, notes._key)
    with monkeypatch.context() as away:
        away.setattr(late_jam._connection.store, "_ask", BackupQuestions("here", no_backup))
        with pytest.raises(UnsavedRecords, match="no answer") as caught:
            late_jam.flush(timeout_s=0.1)
    assert caught.value.unsaved == 1
    late_jam.flush()

    assert [one["n"] for one in notes.many(9)] == [1, 1]


def no_backup() -> None:
    raise BackupUnavailable("no answer")


def test_an_episode_in_several_appends_stays_for_a_minute(jam: Jamboree) -> None:
    env = jam.record(CountingEnv(length=3))
    env.reset()
    jam.flush()
    for _ in range(3):
        env.step(ACTION)
        jam.flush()
    key = jam._connection.keyspace.episode(env.episode_id)
    jam.backup.flush()
    trim_all(jam)
    head = jam._connection.redis_store.head(key)
    assert head is not None
    assert head.held == head.newest > 0
    age(jam, key)
    jam.backup.trim()
    assert here(jam) == set()


def append(key: str, start: int, *, writer: bytes = WRITER, t: float | None = None) -> Append:
    """One record."""
    t = time.time() if t is None else t
    body = encode_records([t], [b"\x81\xa1n" + bytes([start])])
    options: Any = {"codec": CODEC_RECORDS, "start": start, "count": 1, "writer": writer}
    batch = encode_batch(**options, t_first=t, t_last=t, body=body)
    return Append(key, CODEC_RECORDS, [batch], start + 1)


def age(jam: Jamboree, key: str) -> None:
    """Make a log's newest record long past."""
    head = jam._connection.redis_store.head(key)
    assert head is not None
    jam.redis.lset(at(jam, key), 0, replace(head, t_last=head.t_last - LONG_AGO).encode())


def test_records_of_another_writer_stay_for_a_minute(jam: Jamboree) -> None:
    store, key, now = (
        jam._connection.redis_store,
        jam._connection.keyspace.records("n", {}),
        time.time(),
    )
    times = [now - LONG_AGO, now - LONG_AGO + 1, now, now, now]
    writers = [OTHER, WRITER, WRITER, OTHER, WRITER]
    for start, (t, writer) in enumerate(zip(times, writers, strict=True)):
        store.append([append(key, start, writer=writer, t=t + start * 1e-3)])
    jam.backup.flush()
    trim_all(jam)
    assert store.head(key).held == 3  # type: ignore[union-attr]
    assert kept(jam, key)[1] == 5


def test_of_records_that_are_old_the_head_stays(any_jam: Jamboree) -> None:
    store, key = any_jam._connection.redis_store, any_jam._connection.keyspace.records("n", {})
    store.append([append(key, 0, t=time.time() - LONG_AGO)])
    any_jam.backup.flush()
    trim_all(any_jam)
    head = store.head(key)
    assert head is not None
    assert (head.held, head.count, any_jam.redis.llen(at(any_jam, key))) == (1, 1, 1)
    (result,) = store.append([append(key, 1)])
    assert (result.stored, result.count) == (1, 2)  # type: ignore[union-attr]
    any_jam.backup.flush()
    (_, found), *_ = stored_logs(any_jam._connection.backup_store, [key])
    assert isinstance(found, tuple)
    batches = checked_chain(found[1], found[0], where=key)
    assert [decode_records(one, where=key)[0]["n"] for one in batches] == [0, 1]


def test_records_that_are_old_go_as_they_come_to_be_too_old(jam: Jamboree) -> None:
    store, key, first = (
        jam._connection.redis_store,
        jam._connection.keyspace.records("n", {}),
        time.time() - LONG_AGO,
    )
    for start in range(2):
        store.append([append(key, start, t=first + start)])
    jam.backup.flush()
    found = [Candidate(first, key, first, None)]
    let = store.eviction.trim(found, {key: 2}, before=first + 1)
    assert [one.time for one in let.retry_later] == [first + 1]
    assert store.head(key).held == 1  # type: ignore[union-attr]
    store.eviction.trim(let.retry_later, {key: 2}, before=first + 1.5)
    assert store.head(key).held == 2  # type: ignore[union-attr]


def test_a_log_that_is_popped_keeps_its_first(jam: Jamboree) -> None:
    notes = NoteHandler(jam, "n")
    for number in range(4):
        notes.save({"n": number})
        jam.flush()
    assert [note["n"] for note in notes.pop(2)] == [0, 1]
    jam.backup.flush()
    trim_all(jam)
    head = jam._connection.redis_store.head(notes._key)
    assert head is not None
    assert (head.first, head.held, head.count) == (2, 3, 4)
    age(jam, notes._key)
    jam.backup.trim()
    head = jam._connection.redis_store.head(notes._key)
    assert head is not None
    assert (head.first, head.held, head.count) == (2, 4, 4)
    assert kept(jam, notes._key)[0].first == 2


# -- listings -------------------------------------------------------------------------------------


def test_listings_stay_until_logs_are_not_enough(
    own_valkey: Server, mongo: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url, flush_interval_s=600)
    recorded(jam, 20, length=400, run="first")
    key, *_ = recorded(jam, 20, length=400, run="second")
    jam.backup.flush()
    used = (
        jam._connection.redis_store.eviction.memory().used_bytes
    )  # other connections' buffers come and go
    jam.backup.retain(max_redis_bytes=used - 5 * jam._connection.redis_store.memory(key))
    jam.backup.trim()
    assert len(here(jam)) < 40
    assert len(jam.episodes().ids()) == 40
    assert jam._connection.redis_store.listings.coverage() == "all"
    trim_all(jam)
    assert jam._connection.redis_store.listings.coverage() == "part"
    assert listed(jam, "first") == {}


def test_listings_of_what_is_here_or_not_in_mongodb_stay(jam: Jamboree) -> None:
    recorded(jam, 1, run="gone")
    lost, unlisted = recorded(jam, 2, run="stays")
    jam.backup.flush()
    recorded(jam, 1, run="fresh")
    jam.mongo.logs.delete_one({"_id": lost})
    jam.redis.delete(at(jam, lost))
    trim_all(jam)
    runs = jam._connection.redis_store.listings.runs()
    assert {run: len(listed(jam, run)) for run in runs} == {"gone": 0, "stays": 1, "fresh": 1}
    assert unlisted not in here(jam)


@pytest.mark.parametrize(
    ("coverage", "then"),
    [("", ""), ("of a process that restores them", "unknown"), ("all", "part"), ("part", "part")],
)
def test_what_came_here_again_meanwhile_stays_listed(
    jam: Jamboree, coverage: str, then: str
) -> None:
    here_again, to_be_copied, gone = recorded(jam, 3, run="a")
    jam.redis.delete(at(jam, to_be_copied), at(jam, gone))
    for key in (here_again, gone):
        jam.redis.zrem(beside(jam, key, "unbacked"), at(jam, key))
    ids = [jam._connection.keyspace.episode_id(key) for key in (here_again, to_be_copied, gone)]
    store = jam._connection.redis_store
    if coverage:
        store.listings.put_coverage(coverage)
    store.eviction.unlist("a", ids)
    assert set(store.listings.summaries("a")) == set(ids[:2])
    assert (jam.redis.get(beside(jam, gone, "coverage")) or b"").decode() == then


# -- who carries it out ---------------------------------------------------------------------------


def test_a_follower_carries_it_out(jam: Jamboree) -> None:
    keys = recorded(jam, 3)
    jam.backup.retain(max_redis_bytes=0, keep=[{"run": jam._connection.own_run, "min_steps": 4}])
    follower = follower_of(jam)
    follower.copy_once()
    assert here(jam) == set()
    assert [kept(jam, key)[1] for key in keys] == [4, 4, 4]
    status = jam.backup.status()
    assert status.redis_limit_bytes == 0
    assert status.redis_bytes > 0
    assert status.trimmed_bytes > 0


def test_an_episode_that_ends_with_the_row_that_it_began_with_does_not_stop_the_backup(
    jam: Jamboree,
) -> None:
    """It is a candidate twice then, with the same time: as one that goes on, and as one that does
    not.
    """
    jam.backup.retain(max_age_s=3600)
    follower = follower_of(jam)
    follower.copy_once()
    env = jam.record(CountingEnv())
    for _ in range(2):
        env.reset()
        jam.flush()
        follower.copy_once()
    assert follower.trouble is None


def test_what_a_follower_has_copied_goes_without_being_looked_for(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trimming, "find_candidates", lambda *_: iter(()))
    jam.backup.retain(max_redis_bytes=0, keep=[{"run": "best"}])
    follower = follower_of(jam)
    follower.copy_once()
    best = recorded(jam, 1, run="best")
    recorded(jam, 3)
    follower._trimmer._check_at = 0.0  # type: ignore[union-attr]
    follower.copy_once()
    assert here(jam) == set(best)


def test_what_is_kept_from_now_on_is_not_let_go_of_as_it_was_found_before(jam: Jamboree) -> None:
    jam.backup.retain(max_redis_bytes=10**15)
    follower = follower_of(jam)
    follower.copy_once()
    best, other = recorded(jam, 1, run="best"), recorded(jam, 1, run="other")
    follower.copy_once()
    jam.backup.retain(max_redis_bytes=0, keep=[{"run": "best"}])
    follower._trimmer._check_at = 0.0  # type: ignore[union-attr]
    follower.copy_once()
    assert here(jam) == set(best)
    assert here(jam) != set(other)


def test_what_was_found_and_not_needed_goes_the_next_time(jam: Jamboree) -> None:
    keys = recorded(jam, 3)
    jam.backup.flush()
    trimmer = Trimmer(jam._connection.redis_store, jam._connection.backup_store)
    *_, found = find_candidates(jam._connection.redis_store, RetentionPolicy())
    trimmer._candidates = sorted(found)
    for number in range(3):
        assert here(jam) == set(keys[number:])
        trimmer._trim_by_size(1)
    assert here(jam) == set()


def test_what_is_copied_while_a_search_goes_on_is_not_missed_by_it(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def passes_by(*_: object) -> Iterator[list[Candidate]]:
        yield []

    monkeypatch.setattr(trimming, "find_candidates", passes_by)
    jam.backup.retain(max_redis_bytes=10**15)
    trimmer = Trimmer(jam._connection.redis_store, jam._connection.backup_store)
    trimmer.work_for_a_turn()
    trimmer._begin_search()
    copier = LogCopier(
        jam._connection.redis_store, jam._connection.backup_store, on_acknowledged=trimmer.add
    )
    keys = recorded(jam, 2)
    copier.begin()
    list(copier.copy(list(jam._connection.redis_store.acknowledgements.unbacked())))
    while trimmer._search is not None:
        trimmer._continue_search()
    trimmer._trim_by_size(10**15)
    assert [key in here(jam) for key in keys] == [False, False]


def test_a_follower_without_a_limit_remembers_nothing(jam: Jamboree) -> None:
    follower = follower_of(jam)
    follower.copy_once()
    recorded(jam, 3)
    follower.copy_once()
    assert follower._trimmer._candidates == []  # type: ignore[union-attr]


@pytest.mark.parametrize("where", ["pages", "put_heads"])
def test_what_another_backup_copies_and_lets_go_of_meanwhile_is_no_failure(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    env = jam.record(CountingEnv(length=10**9))
    env.reset()
    for _ in range(20):
        jam.flush()
        env.step(ACTION)
    jam.flush()
    owner = copying if where == "pages" else type(jam._connection.backup_store)
    real = getattr(owner, where)

    def another_is_quicker(*arguments: Any) -> Any:
        monkeypatch.undo()
        for _ in range(3):
            env.step(ACTION)
            jam.flush()
        jam.backup.flush()
        trim_all(jam)
        return real(*arguments)

    monkeypatch.setattr(owner, where, another_is_quicker)
    copier = LogCopier(jam._connection.redis_store, jam._connection.backup_store)
    copier.begin()
    list(copier.copy(list(jam._connection.redis_store.acknowledgements.unbacked())))
    assert copier.failures == {}
    key = jam._connection.keyspace.episode(env.episode_id)
    assert jam._connection.redis_store.head(key).held == 23  # type: ignore[union-attr]
    assert kept(jam, key)[1] == 24
    assert jam.backup.verify()


def test_two_followers_let_go_of_it_once(jam: Jamboree) -> None:
    env = jam.record(CountingEnv(length=10**9))
    env.reset()
    jam.backup.retain(max_redis_bytes=0)
    followers = [follower_of(jam), follower_of(jam)]
    for number in range(20):
        env.step(ACTION)
        recorded(jam, 1)
        followers[number % 2].copy_once()
    for follower in followers:
        follower.copy_once()
    status = jam.backup.status()
    assert (status.pending_logs, status.last_error) == (0, None)
    assert kept(jam, jam._connection.keyspace.episode(env.episode_id))[1] == 21


def test_the_share_of_maxmemory_is_the_limit_without_a_policy(
    start_own_redis: StartRedis, mongo: Server, open_jamboree: OpenJamboree
) -> None:
    server = start_own_redis("valkey9", "--maxmemory", "100mb")
    jam = open_jamboree(server.url, mongo_url=mongo.url)
    assert jam.backup.status().redis_limit_bytes == 80 * 2**20
    jam.backup.retain(max_redis_bytes=2**20)
    assert jam.backup.status().redis_limit_bytes == 2**20


def test_a_server_that_throws_away_anything_is_warned_of_once(
    start_own_redis: StartRedis,
    mongo: Server,
    open_jamboree: OpenJamboree,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = start_own_redis("valkey9", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    follower = follower_of(open_jamboree(server.url, mongo_url=mongo.url))
    follower.copy_once()
    follower._trimmer._check_at = 0.0  # type: ignore[union-attr]
    follower.copy_once()
    assert caplog.text.count("set it to noeviction") == 1


# -- an answer that was lost --------------------------------------------------------------------


def append_without_answer(jam: Jamboree, outbox: Outbox) -> None:
    """Redis stores what waits, and its answer does not arrive."""
    outbox.seal()
    append = outbox.next_append()
    assert append is not None
    (result,) = jam._connection.store.append([append])
    assert isinstance(result, AppendResult)
    assert result.stored == len(append.batches) > 0


@pytest.fixture
def other(jam: Jamboree, valkey: Server, mongo: Server) -> Iterator[Jamboree]:
    namespace = jam._connection.keyspace.namespace
    with Jamboree(valkey.url, mongo.url, namespace=namespace) as opened:
        yield opened


def evict_all(other: Jamboree) -> None:
    other.backup.flush()
    other.backup.retain(max_redis_bytes=0)
    assert other.backup.trim().freed_bytes > 0


def test_a_record_that_was_evicted_before_its_answer_came_is_stored_once(
    jam: Jamboree, other: Jamboree
) -> None:
    notes = NoteHandler(jam, "n")
    notes.save({"n": 0})
    jam.flush()
    with jam._connection.writer.paused():
        notes.save({"n": 1})
        append_without_answer(jam, notes._outbox)
        evict_all(other)
    notes.save({"n": 2})
    jam.flush()

    assert [note["n"] for note in NoteHandler(other, "n").many(9)] == [0, 1, 2]


def test_an_answer_of_the_backup_about_an_older_append_is_not_taken(jam: Jamboree) -> None:
    notes, writer = NoteHandler(jam, "n"), jam._connection.writer
    notes.save({"n": 0})
    with writer.paused():
        notes._outbox.seal()
        older = notes._outbox.next_append()
    jam.flush()
    with writer.paused():
        notes.save({"n": 1})
        notes._outbox.seal()
        assert notes._outbox.next_append().batches != older.batches
    writer._ask_for({notes._outbox: older})
    jam.flush()

    assert [note["n"] for note in notes.many(9)] == [0, 1]


def test_an_episode_that_was_evicted_before_the_answer_to_its_end_came_is_over(
    jam: Jamboree, other: Jamboree
) -> None:
    env = jam.record(CountingEnv(length=3))
    with jam._connection.writer.paused():
        env.reset()
        writing = env.handler.writing
        for _ in range(3):
            env.step(ACTION)
        append_without_answer(jam, writing)
        evict_all(other)
    jam.flush()

    assert len(other.episode(env.episode_id).data()) == 3
    assert other.episode(env.episode_id).status == "terminated"
    assert other.backup.verify()
