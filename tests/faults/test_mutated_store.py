"""What stands in Redis and in MongoDB is changed: each read gives an error of ours, or data.

How many changes are tried is said by the environment variable JAMBOREE_MUTATED_INPUTS, which
`make faults` sets; every bit of an episode is flipped there as well.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import gymnasium as gym
import pytest
from conftest import Server
from decoders import mutate_batch, seal_batch
from lengths import quick_and_long
from mutations import mutate_bytes, mutate_json, mutate_msgpack
from processes import NoteHandler
from recorded_envs import CountingEnv, RenderingEnv, play
from stored import at, keys_like, listing_of

from jamboree_gym import Jamboree
from jamboree_gym.encoding.batch_format import encode_note
from jamboree_gym.errors import DecodeError, JamboreeError
from jamboree_gym.keys import BucketKeys
from jamboree_gym.replay import verify

pytestmark = [pytest.mark.faults, pytest.mark.once]

THOROUGH = "JAMBOREE_MUTATED_INPUTS" in os.environ
CHANGES = 300 if THOROUGH else 15
EVERY_BIT = 1 if THOROUGH else 17
HEAD_BYTES = 76  # without the note

OpenJamboree = Callable[..., Jamboree]


class Telling(CountingEnv):
    """Tells something beside what is observed."""

    def info(self) -> dict[str, Any]:
        return {"lives": 3 - self.count, "text": "x" * self.count}


def record(jam: Jamboree, env: gym.Env[Any, Any] | None = None, **options: Any) -> str:
    recorded = jam.record(env or Telling(), run="run", tags={"lr": 0.1}, **options)
    recorded.action_space.seed(1)
    play(recorded, [recorded.action_space.sample() for _ in range(3)], seed=1)
    recorded.close()
    return str(recorded.episode_id)


def flips(content: bytes, first: int = 0) -> Iterator[bytes]:
    """The content with one bit changed, each in turn."""
    for bit in range(first * 8, len(content) * 8, EVERY_BIT):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def test_each_flipped_bit_of_an_episode_is_noticed(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree()
    episode, other = jam.episode(record(jam)), jam.episode(record(jam))
    jam.flush()
    key = jam._connection.keyspace.episode(episode.id)
    for place, whole in enumerate(jam.redis.lrange(at(jam, key), 0, -1)):
        for changed in flips(whole):
            jam.redis.lset(at(jam, key), place, changed)
            with pytest.raises(DecodeError, match=re.escape(key)):  # at an index, or which rows
                episode.data() if place else len(episode)
        jam.redis.lset(at(jam, key), place, whole)
    assert episode.data().rewards.tolist() == other.data().rewards.tolist() == [1.0, 2.0, 3.0]


def test_each_flipped_bit_of_a_listing_is_noticed_and_hides_nothing(
    open_jamboree: OpenJamboree, caplog: pytest.LogCaptureFixture
) -> None:
    jam = open_jamboree()
    record(jam)
    name = record(jam)
    jam.flush()
    listing = jam._connection.keyspace.summaries("run")
    whole = jam.episodes(run="run").summaries()
    stored = listing_of(jam, "run", name)
    for changed in flips(jam.redis.hget(stored, name)):
        jam.redis.hset(stored, name, changed)
        caplog.clear()
        jam._connection.store._warned.clear()  # what has been warned of
        assert jam.episodes(run="run").summaries() == whole
        assert f"{listing}: summary of {name}" in caplog.text


def test_each_flipped_bit_of_a_schema_and_a_provenance_is_noticed(
    open_jamboree: OpenJamboree,
) -> None:
    jam = open_jamboree()
    name = record(jam)
    jam.flush()
    for digest in jam._connection.redis_store.blobs.all():
        key = jam._connection.keyspace.blob(digest)
        whole = jam.redis.get(at(jam, key))
        for changed in flips(whole):
            jam.redis.set(at(jam, key), changed)
            jam._connection.store.blobs._redis._known.clear()  # what is known of it here
            with pytest.raises(DecodeError, match=key):
                jam._connection.store.blobs.get(digest)
        jam.redis.set(at(jam, key), whole)
    jam._connection.store.blobs._redis._known.clear()
    assert len(jam.episode(name).data()) == 3


# -- changed by somebody who makes the checksums right again --------------------------------


def reads(jam: Jamboree, name: str, other: str) -> dict[str, Callable[[], Any]]:
    """Everything that can be asked of an episode, and of what it is listed with."""
    episode, notes = jam.episode(name), NoteHandler(jam, "n")
    query = jam.episodes(run="run")
    return {
        "data": episode.data,
        "steps": lambda: list(episode.steps()),
        "recent": lambda: list(episode.recent(2)),
        "between": lambda: list(episode.between(0.0, 1e12)),
        "as_of": lambda: episode.as_of(1e12),
        "table": episode.table,
        "frame": episode.frame,
        "find": lambda: episode.find("reward > 1 and index < 9"),
        "find each": lambda: episode.find(lambda step: step.reward > 1),
        "summary": lambda: episode.summary,
        "origin": lambda: episode.origin,
        "provenance": lambda: episode.provenance,
        "lineage": lambda: episode.lineage,
        "children": lambda: episode.children,
        "renders": lambda: list(episode.renders()),
        "snapshots": lambda: episode.snapshots().newest(before=3),
        "tail": lambda: list(episode.tail(timeout_s=0.01)),
        "listing": lambda: list(query),
        "listed by tag": lambda: list(jam.episodes(tags={"lr": 0.1}).order_by("tags.lr")),
        "listed table": query.table,
        "summary table": query.summary_table,
        "records": lambda: notes.many(9),
        "last record": notes.last,
        "records between": lambda: notes.between(0.0, 1e12),
        "record as of": lambda: notes.as_of(1e12),
        "records tail": lambda: list(notes.tail(timeout_s=0.01)),
        "verify": lambda: verify([episode, jam.episode(other)]),
        "verify one": lambda: verify(episode),
        "backup": jam.backup.flush,
        "backup status": jam.backup.status,
        "compare": jam.backup.verify,
        "restore": jam.backup.restore,
        "pop": notes.pop,
    }


def mutated_note(rng: Random, note: bytes) -> bytes:
    """A note with a checksum that fits."""
    return encode_note(mutate_msgpack(rng, note[4:]))


def mutated_episode_note(rng: Random, note: bytes) -> bytes:
    """The same, where the summary in it has a checksum of its own."""
    head = rng.choice([mutated_note, lambda _, whole: whole])
    return head(rng, encode_note(mutate_bytes(rng, note[4:]) if rng.random() < 0.3 else note[4:]))


def change_something(jam: Jamboree, rng: Random, keys: list[str]) -> str:
    """Change one thing in Redis, and make its checksum right; what it was."""
    key = rng.choice(keys)
    kind = jam.redis.type(key)
    if kind == b"list":
        place = rng.randrange(jam.redis.llen(at(jam, key)))
        old = jam.redis.lindex(at(jam, key), place)
        new = old[:HEAD_BYTES] + mutated_episode_note(rng, old[HEAD_BYTES:])
        jam.redis.lset(at(jam, key), place, seal_batch(mutate_batch(rng, old)) if place else new)
        return f"{key} {place}"
    if kind == b"hash":
        name = rng.choice(jam.redis.hkeys(at(jam, key)))
        jam.redis.hset(at(jam, key), name, mutated_note(rng, jam.redis.hget(at(jam, key), name)))
        return f"{key} {name}"
    content = jam.redis.get(at(jam, key))[4:]
    mutate = rng.choice([mutate_bytes, mutate_json])
    jam.redis.set(at(jam, key), encode_note(mutate(rng, content)))
    return key


def assert_errors_of_ours_or_data(jam: Jamboree, name: str, other: str, changed: str) -> None:
    for what, read in reads(jam, name, other).items():
        try:
            read()
        except JamboreeError:
            pass
        except Exception as error:
            raise AssertionError(f"{what}, after {changed} was changed") from error


def other_stays(jam: Jamboree, changed: str) -> bool:
    """Whether the other episode can still be read: its blobs and its bucket can be found."""
    in_all = (":blob:", *(f"{key} " for key in jam._connection.keyspace.layout))
    return not any(part in changed for part in in_all)


@pytest.mark.timeout(3600)
def test_a_store_that_was_written_into_gives_errors_of_ours_or_data(
    open_jamboree: OpenJamboree, valkey: Server, mongo: Server
) -> None:
    for number in range(CHANGES):
        rng, namespace = Random(number), f"changed-{number}"
        jam = open_jamboree(mongo_url=mongo.url, namespace=namespace)
        env = gym.make("CartPole-v1") if number % 2 else RenderingEnv(4)
        name, other = record(jam, env, record_frames=not number % 2 or None), record(jam)
        NoteHandler(jam, "n").save_many([{"a": 1}, {"b": (1, 2)}])
        jam.flush()
        keys = sorted(key.decode() for key in jam.redis.scan_iter(f"*{namespace}:*"))
        keys = [key for key in keys if other not in key and ":" in key]
        keys = [key for key in keys if jam.redis.type(key) in (b"list", b"hash", b"string")]
        keys = [key for key in keys if ":lease:" not in key]
        if number % 3 == 0:
            jam.backup.flush()
        changed = change_something(jam, rng, keys)
        expected = jam.episode(other).data().rewards.tolist() if other_stays(jam, changed) else None
        jam.close()

        reader = open_jamboree(mongo_url=mongo.url, namespace=namespace)
        assert_errors_of_ours_or_data(reader, name, other, f"{changed} ({number})")
        if expected is not None:
            assert reader.episode(other).data().rewards.tolist() == expected
        reader.redis.delete(*keys_like(reader.redis, f"*{namespace}:*"))
        reader.close()


NO_TEXT = b"\xac\xff"
WRITTEN_OVER: dict[str, Callable[[Any, BucketKeys, str], Any]] = {
    "coverage": lambda jam, beside, _: jam.redis.set(beside.coverage, NO_TEXT),
    "a run": lambda jam, beside, _: jam.redis.zadd(beside.runs, {NO_TEXT: 1.0}),
    "an episode": lambda jam, beside, name: jam.redis.hset(
        beside.summaries("run"), NO_TEXT, jam.redis.hget(beside.summaries("run"), name)
    ),
    "a log": lambda jam, beside, _: jam.redis.zadd(beside.unbacked, {NO_TEXT: 1.0}),
    "a mark": lambda jam, _, __: jam.redis.hset(
        jam._connection.keyspace.backup, mapping={"by": NO_TEXT, "error": NO_TEXT}
    ),
    "times": lambda jam, _, __: jam.redis.hset(
        jam._connection.keyspace.backup, mapping={"by": "b", "error": "", "seen_at": NO_TEXT}
    ),
    "bytes": lambda jam, beside, _: jam.redis.hset(beside.backup, "trimmed_bytes", NO_TEXT),
    "the number of buckets": lambda jam, _, __: jam.redis.hset(
        jam._connection.keyspace.layout[0], "buckets", NO_TEXT
    ),
    "the feed": lambda jam, beside, _: jam.redis.xadd(
        beside.feed, {"episode": NO_TEXT, "run": NO_TEXT}
    ),
}


@pytest.mark.parametrize("what", WRITTEN_OVER)
@pytest.mark.parametrize("is_backed_up", quick_and_long([False, True], quick=[True]))
def test_what_is_no_text_where_names_and_numbers_stand_gives_errors_of_ours_or_data(
    what: str, is_backed_up: bool, open_jamboree: OpenJamboree, mongo: Server
) -> None:
    jam = open_jamboree(mongo_url=mongo.url)
    name, other = record(jam), record(jam)
    NoteHandler(jam, "n").save({"a": 1})
    jam.flush()
    if is_backed_up:
        jam.backup.flush()
    key = jam._connection.keyspace.episode(name)
    WRITTEN_OVER[what](jam, jam._connection.redis_store.buckets.of(key), name)

    assert_errors_of_ours_or_data(open_jamboree(mongo_url=mongo.url), name, other, what)

    assert len(jam.episode(other).data()) == 3


@pytest.mark.timeout(3600)
def test_a_backup_that_was_written_into_gives_errors_of_ours_or_data(
    open_jamboree: OpenJamboree, mongo: Server
) -> None:
    jam = open_jamboree(mongo_url=mongo.url)
    name, other = record(jam), record(jam, gym.make("CartPole-v1"))
    NoteHandler(jam, "n").save({"a": 1})
    jam.backup.flush()
    database = jam._connection.backup_store.database
    for number in range(CHANGES):
        rng = Random(number)
        collections = [database[name] for name in sorted(database.list_collection_names())]
        with_content = {"crc": {"$exists": True}}
        filled = [one for one in collections if one.find_one(with_content) is not None]
        collection = rng.choice(filled)
        document = rng.choice(list(collection.find(with_content)))
        field = rng.choice([field for field, value in document.items() if type(value) is bytes])
        content = rng.choice([mutate_batch, mutate_bytes])(rng, document[field])
        content = seal_batch(content) if content[:2] == b"JB" else content
        collection.replace_one(
            {"_id": document["_id"]}, document | {field: content, "crc": zlib.crc32(content)}
        )
        jam.redis.delete(*keys_like(jam.redis, f"*{jam._connection.keyspace.namespace}:*"))
        reader = open_jamboree(mongo_url=mongo.url)
        for read in (reader.backup.restore, reader.backup.verify, reader.episode(name).data):
            try:
                read()
            except JamboreeError:
                pass
            except Exception as error:
                place = f"{collection.name} {document['_id']}"
                raise AssertionError(f"after {place} was changed ({number})") from error
        reader.close()
        collection.replace_one({"_id": document["_id"]}, document)
    jam.redis.delete(*keys_like(jam.redis, f"*{jam._connection.keyspace.namespace}:*"))
    reader = open_jamboree(mongo_url=mongo.url)
    reader.backup.restore()
    assert len(reader.episode(other).data()) == len(reader.episode(name).data()) == 3
