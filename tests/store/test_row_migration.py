"""Rows of version 1, which were Arrow (tests/store/format_2.json.xz), are brought up to date."""

from __future__ import annotations

import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from conftest import Server
from interrupted import run_until
from lengths import quick_and_long
from make_format_2 import FILE, Notes, values_of
from msgspec.structs import replace
from old_stores import fill, migrate, urls_of
from stored import at
from warm import run_warm

from jamboree_gym import Jamboree
from jamboree_gym.encoding.batch_format import decode_batch, decode_head
from jamboree_gym.errors import DecodeError
from jamboree_gym.store.migrations import Outcome, arrow_rows, buckets, rows
from jamboree_gym.store.migrations import migrate as migrate_store
from jamboree_gym.store.mongo import documents

OLD = json.loads(lzma.decompress(FILE.read_bytes()))
EPISODES = OLD["episodes"]
PAGE = Path(__file__).parents[2] / "docs" / "storage.md"


@pytest.fixture
def jam(open_jamboree: Callable[..., Jamboree], own_valkey: Server, mongo: Server) -> Jamboree:
    """On servers that hold nothing of the namespace yet."""
    return open_jamboree(own_valkey.url, mongo_url=mongo.url, namespace="format-2")


@pytest.fixture
def old(jam: Jamboree) -> Jamboree:
    """On the stored bytes, of which only the keys are those of this release."""
    fill_buckets(jam)
    return jam


def fill_buckets(jam: Jamboree) -> None:
    fill(jam, OLD)
    jam.redis.delete("format-2:backup")  # it names servers that are gone
    buckets.migrate_redis(jam._connection.redis_store, Outcome())


def key_of(kind: str) -> str:
    return f"format-2:episode:{{{EPISODES[kind]}}}"


def contents(jam: Jamboree) -> dict[str, Any]:
    """All episodes and schemas as both servers hold them."""
    lists = {key: jam.redis.lrange(at(jam, key), 0, -1) for key in map(key_of, EPISODES)}
    blobs = {key: jam.redis.get(key) for key in sorted(jam.redis.keys("format-2:blob:*"))}
    names = ["logs", "chunks", "blobs", "migrating"]
    return {"lists": lists, "blobs": blobs} | {
        name: list(jam.mongo[name].find().sort("_id", 1)) for name in names
    }


def batches_in(jam: Jamboree) -> Iterator[bytes]:
    """Every batch of an episode, from both servers."""
    found = contents(jam)
    for log in found["lists"].values():
        yield from log[1:]
    for document in found["logs"]:
        if "episode" in document["_id"]:
            yield from document.get("frames", [])
    yield from (document["content"] for document in found["chunks"] if not document["part"])


def read_all(jam: Jamboree) -> dict[str, str]:
    return {kind: values_of(jam, id) for kind, id in EPISODES.items()}


def evict(jam: Jamboree, kind: str, batches: int) -> None:
    """Leave the older batches of an episode to MongoDB."""
    key = key_of(kind)
    head = decode_head(jam.redis.lindex(at(jam, key), 0), where=key)
    held = int.from_bytes(jam.redis.lindex(at(jam, key), 1 + batches)[8:16], "little")
    jam.redis.ltrim(at(jam, key), batches, -1)
    jam.redis.lset(at(jam, key), 0, replace(head, held=held).encode())


# -- before ---------------------------------------------------------------------------------------

READS: dict[str, Callable[[Jamboree], object]] = {
    "data": lambda jam: jam.episode(EPISODES["plain"]).data(),
    "steps": lambda jam: jam.episode(EPISODES["long"]).steps(300, 310),
    "recent": lambda jam: jam.episode(EPISODES["long"]).recent(4),
    "table": lambda jam: jam.episodes().table(),
    "tail": lambda jam: list(jam.episode(EPISODES["plain"]).tail(timeout_s=1)),
}


@pytest.mark.parametrize(
    ("read", "where"),
    quick_and_long(
        product(READS, ["Redis", "MongoDB"]),
        quick=[*((read, "Redis") for read in READS), ("data", "MongoDB")],
    ),
)
def test_a_store_that_is_not_migrated_says_what_to_do(old: Jamboree, read: str, where: str) -> None:
    if where == "MongoDB":
        old.redis.flushall()

    with pytest.raises(DecodeError, match=r"format-2:episode.*version 1.*jamboree-gym migrate"):
        READS[read](old)


def test_what_the_rows_do_not_concern_is_read_before_the_migration(old: Jamboree) -> None:
    assert len(old.episodes()) == len(EPISODES)
    assert [note["n"] for note in notes(old).many(9)] == [0, 1, 2, 3]


def notes(jam: Jamboree) -> Notes:
    handler = Notes(jam)
    handler["topic"] = "weather"
    return handler


# -- after ----------------------------------------------------------------------------------------


def test_every_value_is_what_the_older_release_read(old: Jamboree) -> None:
    evict(old, "long", 2)

    assert f"{len(EPISODES)} logs brought up to date" in migrate(old)

    assert {batch[:4] for batch in batches_in(old)} == {b"JB\x02\x02"}
    assert old.backup.verify()
    assert read_all(old) == OLD["read"]
    assert [note["n"] for note in notes(old).many(9)] == [0, 1, 2, 3]


def test_every_value_is_there_where_mongodb_alone_has_it(old: Jamboree) -> None:
    old.redis.flushall()

    assert f"{len(EPISODES)} logs" in migrate(old)

    assert read_all(old) == OLD["read"]


def test_redis_alone_is_migrated(old: Jamboree) -> None:
    assert f"{len(EPISODES)} logs" in migrate(old, "--redis-only")

    assert read_all(old) == OLD["read"]


def test_a_second_migration_changes_nothing(old: Jamboree) -> None:
    migrate(old)
    before = contents(old)

    assert "0 logs" in migrate(old)

    assert contents(old) == before


def test_no_schema_of_the_older_release_is_left(old: Jamboree) -> None:
    migrate(old)

    blobs = [*old._connection.redis_store.blobs.all().values()]
    blobs += old._connection.backup_store.blobs().values()
    assert {blob[:1] for blob in blobs} == {b"{"}


# -- interrupted ----------------------------------------------------------------------------------


@contextmanager
def many_parts(jam: Jamboree, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Large batches have several documents in MongoDB."""
    with patch.context() as patched:
        patched.setattr(documents, "MAX_PART_BYTES", 20_000)
        for whole in list(jam.mongo.chunks.find({})):
            jam.mongo.chunks.delete_one({"_id": whole["_id"]})
            born = jam.mongo.logs.find_one({"_id": whole["key"]})["born"]
            parts = documents.chunk_documents(whole["key"], born, whole["content"])
            jam.mongo.chunks.insert_many(list(parts))
        assert jam.mongo.chunks.count_documents({"part": {"$gte": 1}}) > 3
        yield


def migrate_until(jam: Jamboree, line: int) -> int:
    """Migrate until this line; how many were executed."""
    return run_until(
        line, rows, lambda: migrate_store(jam._connection.redis_store, jam._connection.backup_store)
    )


QUICK = range(5, 100, 40)
HUNDREDTHS = quick_and_long(
    [QUICK, *(range(ten, ten + 10) for ten in range(0, 100, 10))], quick=[QUICK]
)


@pytest.mark.parametrize("hundredths", HUNDREDTHS, ids=str)
def test_a_migration_that_was_interrupted_at_any_line_is_completed(
    old: Jamboree, hundredths: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    with many_parts(old, monkeypatch):
        lines = migrate_until(old, 10**9)
        expected = contents(old)
    for hundredth in hundredths:
        old.redis.flushall()
        fill_buckets(old)
        with many_parts(old, monkeypatch):
            line = lines * hundredth // 100 + Random(hundredth).randrange(lines // 100)
            assert migrate_until(old, line + 1) == line + 1

            migrate_until(old, 10**9)

            assert contents(old) == expected, line


@pytest.mark.long  # the test above has such batches, too
def test_a_batch_of_several_documents_is_whole_wherever_it_was_interrupted(
    old: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    mongo = old._connection.backup_store
    key, stops = key_of("long"), 0
    with many_parts(old, monkeypatch):
        born = old.mongo.logs.find_one({"_id": key})["born"]
        before = [one.blob for one in mongo.batches_from(key, born, 0, 2**53)]
        old_parts = list(old.mongo.chunks.find({"key": key}))
        for name in ("replace_one", "delete_many"):
            for stop in range(1, 9):
                old.mongo.chunks.delete_many({"key": key})
                old.mongo.chunks.insert_many(old_parts)
                stops += _interrupted(old, monkeypatch, name, stop)
                rows._restore_copies(mongo)
                now = [one.blob for one in mongo.batches_from(key, born, 0, 2**53)]
                new = [one for one in now if not arrow_rows.is_arrow_batch(one)]
                starts = [decode_batch(one, where="log").start for one in new]
                assert starts == [0, 256, 512][: len(new)]
                assert now[len(new) :] == before[len(new) :]
    assert stops > 9


def _interrupted(jam: Jamboree, patch: pytest.MonkeyPatch, name: str, stop: int) -> bool:
    """Migrate until a method of a collection was called so often; whether it was."""
    from pymongo.collection import Collection

    calls, real = 0, getattr(Collection, name)

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    with patch.context() as patched:
        patched.setattr(Collection, name, counted)
        try:
            migrate_store(jam._connection.redis_store, jam._connection.backup_store)
        except KeyboardInterrupt:
            return True
    return False


KILLED = """
import os, signal, sys
from jamboree_gym.cli import app
from jamboree_gym.store.migrations import rows

lines = 0

def trace(frame, event, argument):
    global lines
    if frame.f_code.co_filename != rows.__file__:
        return None
    lines += event == "line"
    if lines == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return trace

sys.settrace(trace)
app(sys.argv[2:])
"""


@pytest.mark.long  # interrupted at any line, it ends in the same way
@pytest.mark.parametrize("line", range(60, 600, 60))
def test_a_migration_that_was_killed_is_completed(old: Jamboree, line: int) -> None:
    done = run_warm(KILLED, line, "migrate", *urls_of(old))
    assert done.returncode == -9, done.stderr

    migrate(old)

    assert read_all(old) == OLD["read"]
    assert old.backup.verify()


def test_what_is_evicted_meanwhile_shifts_no_batch(
    old: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, is_evicted = rows.upgraded, False

    def evicting(raw: bytes, *arguments: Any, where: str) -> Any:
        nonlocal is_evicted
        if where == key_of("long") and not is_evicted:
            is_evicted = True
            evict(old, "long", 1)
        return real(raw, *arguments, where=where)

    monkeypatch.setattr(rows, "upgraded", evicting)
    migrate(old)

    assert is_evicted
    assert old.backup.verify()
    assert read_all(old) == OLD["read"]


# -- damaged --------------------------------------------------------------------------------------


def damaged(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def test_a_damaged_batch_is_named_and_left_and_the_others_go_on(old: Jamboree) -> None:
    key, chunk = key_of("long"), old.mongo.chunks.find_one({"key": key_of("growing")})
    bad = damaged(old.redis.lindex(at(old, key), 2))
    old.redis.lset(at(old, key), 2, bad)
    old.mongo.chunks.update_one(
        {"_id": chunk["_id"]}, {"$set": {"content": damaged(chunk["content"])}}
    )
    old.mongo.logs.update_one({"_id": key_of("tree")}, {"$set": {"frames_crc": 0}})

    said = migrate(old, status=1)

    assert f"left as it is: {key} at index 256: checksum does not match" in said
    assert re.search(rf"{re.escape(key_of('growing'))} at index {chunk['start']}", said)
    assert re.search(rf"{re.escape(key_of('tree'))} at index 0", said)
    assert old.redis.lindex(at(old, key), 2) == bad
    of_tree = len(old.mongo.logs.find_one({"_id": key_of("tree")})["frames"])
    assert sum(batch[2] == 1 for batch in batches_in(old)) == 2 + of_tree
    read = {kind: OLD["read"][kind] for kind in EPISODES if kind != "long"}
    assert {kind: values_of(old, EPISODES[kind]) for kind in read} == read
    assert len(old.episode(EPISODES["long"]).steps(0, 200)) == 200


def test_a_batch_that_would_not_be_the_same_is_not_replaced(
    old: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = contents(old), arrow_rows.encode_columns

    def encode_wrongly(schema: Any, columns: Any, *rest: Any) -> bytes:
        return real(schema, [columns[0], columns[1], columns[2] * 2, *columns[3:]], *rest)

    monkeypatch.setattr(arrow_rows, "encode_columns", encode_wrongly)

    said = migrate(old, status=1)

    assert key_of("plain") in said
    kept, now = before["lists"][key_of("plain")], contents(old)["lists"][key_of("plain")]
    assert now == kept


def test_mutated_batches_are_converted_or_refused_with_an_error_of_ours(old: Jamboree) -> None:
    seeds = [batch for kind in EPISODES for batch in old.redis.lrange(at(old, key_of(kind)), 1, 1)]
    find, rng, refused = old._connection.redis_store.blobs.get, Random(1), 0
    for _ in range(600):
        raw = bytearray(rng.choice(seeds))
        for _ in range(rng.choice([1, 1, 4])):
            raw[rng.randrange(44, len(raw))] = rng.choice([0, 1, 127, 128, 255])
        raw[40:44] = zlib.crc32(raw[44:], zlib.crc32(raw[:40])).to_bytes(4, "little")
        try:
            assert arrow_rows.upgraded(bytes(raw), find, where="log").batch[2] == 2
        except DecodeError:
            refused += 1
    assert 50 < refused < 550


# -- the page -------------------------------------------------------------------------------------


def read_by_the_page(jam: Jamboree, id: str) -> list[Any]:
    """By `read_rows` of docs/storage.md, which needs `struct` and NumPy alone."""
    code = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)[0]
    functions, names = code.partition("with Jamboree()")[0], dict[str, Any]()
    exec(functions, names)
    key = names["stored_key"](jam.redis, "format-2", id)
    return list(names["read_rows"](jam.redis, key, "format-2"))


@pytest.mark.parametrize("kind", quick_and_long(EPISODES, quick=["plain", "infos"]))
def test_the_reader_of_the_page_reads_every_kind_of_episode(old: Jamboree, kind: str) -> None:
    migrate(old)
    data = old.episode(EPISODES[kind]).data()

    batches = read_by_the_page(old, EPISODES[kind])

    def joined(name: str) -> Any:
        return np.concatenate([columns[name] for _, columns, _, _ in batches])

    assert np.array_equal(joined("reward")[1:], data.rewards)
    assert np.array_equal(joined("terminated")[1:], data.terminations)
    assert np.array_equal(joined("timestamp")[1:], data.timestamps)
    for name, values in columns_of(data).items():
        found = joined(name)[int(name.startswith("action")) :]
        assert found.dtype.newbyteorder("=") == values.dtype
        assert np.array_equal(found, values)
    told = [start + row for start, _, infos, _ in batches for row in infos]
    assert told == [row for row, info in enumerate(data.infos) if info]


def columns_of(data: Any) -> dict[str, Any]:
    """Observations and actions that are arrays of numbers, by the names of the page."""

    def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, part in value.items():
                yield from leaves(part, f"{name}.{key}")
        elif isinstance(value, tuple):
            for place, part in enumerate(value):
                yield from leaves(part, f"{name}.{place}")
        elif value.dtype != object:
            yield name, value

    return dict([*leaves(data.observations, "observation"), *leaves(data.actions, "action")])
