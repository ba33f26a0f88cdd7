"""The newest batches of a log are read without a script, and are those that the script finds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Server
from processes import NoteHandler

from jamboree_gym import Jamboree
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.redis.link import Call, RedisLink
from jamboree_gym.store.redis.store import RedisStore

OpenJamboree = Callable[..., Jamboree]


@pytest.fixture
def notes(open_jamboree: OpenJamboree) -> NoteHandler:
    return NoteHandler(open_jamboree(write="sync"), "n")


@pytest.fixture
def store(valkey: Server, namespace: str, notes: NoteHandler) -> Iterator[RedisStore]:
    store = RedisStore.from_url(valkey.url, Keyspace(namespace))
    yield store
    store.close()


def batches(store: RedisStore, key: str, n: int) -> Any:
    found = store.last(key, n)
    return found and (found.head.encode(), [batch.blob for batch in found.batches])


def by_script(store: RedisStore, key: str, n: int) -> Any:
    return batches(RedisStore(store.link, store.keyspace), key, n)  # has read nothing yet


def test_the_second_read_of_a_log_runs_no_script(
    notes: NoteHandler, store: RedisStore, sent: list[list[Call]]
) -> None:
    for size in (3, 1, 4, 1, 5):
        notes.save_many({"n": number} for number in range(size))
    expected = by_script(store, notes._key, 6)
    assert store.head(notes._key) is not None  # so that it knows the number of buckets
    sent.clear()

    assert [batches(store, notes._key, 6) for _ in range(2)] == [expected, expected]
    assert [call[0] for calls in sent for call in calls] == ["EVALSHA", "LRANGE", "LINDEX"]


@pytest.mark.parametrize("seed", range(6))
def test_it_finds_what_the_script_finds_however_the_log_changes(
    notes: NoteHandler, store: RedisStore, seed: int
) -> None:
    rng = random.Random(seed)

    def save() -> None:
        notes.save_many({"n": rng.random()} for _ in range(rng.choice([1, 1, 2, 30, 300])))

    changes: list[Callable[[], object]] = [save] * 8
    changes += [lambda: notes.pop(rng.choice([1, 5, 200])), notes.delete]
    for _ in range(40):
        rng.choice(changes)()
        for n in rng.sample([1, 17, 251, 2**52], 2):
            assert batches(store, notes._key, n) == by_script(store, notes._key, n)


def test_what_is_written_between_the_commands_is_not_mixed_up(
    notes: NoteHandler, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes.save_many({"n": number} for number in range(5))
    store.last(notes._key, 3)
    send = RedisLink.send

    def one_by_one(link: RedisLink, sent: Any) -> list[Any]:
        if link is not store.link:
            return send(link, sent)
        answers = list[Any]()
        for call in sent:
            answers += send(link, [call])
            if call[0] == "LRANGE" and len(answers) == 1:
                notes.delete()
                notes.save_many({"n": number} for number in (7, 8, 9, 10, 11))
        return answers

    monkeypatch.setattr(RedisLink, "send", one_by_one)
    found = batches(store, notes._key, 3)
    monkeypatch.undo()

    assert found == by_script(store, notes._key, 3)
