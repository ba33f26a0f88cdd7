"""A process reads its own newest records back from memory, and only while Redis has the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import Server
from hypothesis import given
from processes import NoteHandler, wait_until
from stored import calls_by_command, scripts_run

from jamboree_gym import Jamboree
from jamboree_gym.arrays.values import encode_mapping
from jamboree_gym.delivery.newest_records import NewestRecords
from jamboree_gym.store.log import AppendResult
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.link import Call

OpenJamboree = Callable[..., Jamboree]


@pytest.fixture
def jam(valkey: Server, namespace: str, open_jamboree: OpenJamboree) -> Jamboree:
    return open_jamboree()


@pytest.fixture
def elsewhere(valkey: Server, namespace: str, open_jamboree: OpenJamboree) -> Jamboree:
    """As if it were in another process: by another address it is no peer of `jam`."""
    return open_jamboree(valkey.url.replace("127.0.0.1", "localhost"))


def values(records: list[dict[str, Any]]) -> list[Any]:
    return [(one["index"], one["n"]) for one in records]


def written(handler: NoteHandler, *numbers: int) -> None:
    for number in numbers:
        handler.save({"n": number})


def test_what_was_saved_since_the_last_read_is_sent_and_nothing_asked_for(
    own_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    notes = NoteHandler(jam := open_jamboree(own_valkey.url), "own")
    written(notes, 0)
    notes.many(3)
    written(notes, 1, 2, 3)

    def scripts_for(record: dict[str, Any]) -> int:
        before = scripts_run(jam)
        notes.save(record)
        assert [one["n"] for one in notes.many(3)][-1] == record["n"]
        return scripts_run(jam) - before

    assert scripts_for({"n": 4}) == 1
    assert scripts_for({"n": "a large one" * 100}) == 2


def test_what_was_read_once_is_not_read_again(
    own_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    notes = NoteHandler(jam := open_jamboree(own_valkey.url), "own")
    written(notes, *range(20))
    notes.many(8)
    written(notes, 20)
    notes.many(8)  # read from Redis, where nothing of this process was kept before
    written(notes, 21)
    before = calls_by_command(jam)["lrange"]

    assert values(notes.many(8)) == [(n, n) for n in range(14, 22)]

    assert calls_by_command(jam)["lrange"] == before


def test_a_log_that_was_begun_here_is_in_memory_from_the_first_read_on(
    own_valkey: Server, open_jamboree: OpenJamboree, sent: list[list[Call]]
) -> None:
    notes = NoteHandler(jam := open_jamboree(own_valkey.url), "own")
    written(notes, *range(20))
    before = calls_by_command(jam)["lrange"]

    assert values(notes.many(8)) == [(n, n) for n in range(12, 20)]
    *_, (last_call,) = sent
    assert last_call[1] == scripts.APPEND.sha
    written(notes, 20)
    sent.clear()
    assert values(notes.many(8)) == [(n, n) for n in range(13, 21)]

    assert [[call[1] for call in calls] for calls in sent] == [[scripts.APPEND.sha]]
    assert calls_by_command(jam)["lrange"] == before


def test_where_there_is_no_backup_a_new_log_asks_redis_only_what_redis_knows(
    own_valkey: Server, open_jamboree: OpenJamboree, sent: list[list[Call]]
) -> None:
    jam = open_jamboree(own_valkey.url)
    written(NoteHandler(jam, "another"), 0)
    jam.flush()
    notes = NoteHandler(jam, "own")
    written(notes, 0)
    sent.clear()

    notes.many(1)

    asked = [calls[0][1] if calls[0][0] == "EVALSHA" else calls[0][0] for calls in sent]
    append, layout, read = scripts.APPEND.sha, scripts.PUT.sha, scripts.READ.sha
    assert asked == [append, layout, "HGETALL", read, append]
    epochs = [call for calls in sent for call in calls if call[1] == scripts.EPOCH.sha]
    assert len(epochs) == 1  # of the bucket in which it is


def test_the_answer_is_made_while_redis_works(
    own_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(own_valkey.url)
    notes, redis = NoteHandler(jam, "own"), open_jamboree(own_valkey.url).redis
    written(notes, 0)
    notes.many(3)
    written(notes, 1, 2, 3)
    newest = notes._open_outbox().newest
    with ThreadPoolExecutor(1) as pool:
        redis.client_pause(10_000, all=False)
        reading = pool.submit(notes.many, 3)
        wait_until(lambda: newest._ahead is not None)
        assert not reading.done()
        redis.client_unpause()
        answer = reading.result()
    assert values(answer) == [(1, 1), (2, 2), (3, 3)]
    answer[0]["n"] = 99  # it is the caller's
    assert values(notes.many(3)) == [(1, 1), (2, 2), (3, 3)]


@pytest.fixture
def notes(jam: Jamboree) -> NoteHandler:
    """A handler whose newest records are in memory."""
    notes = NoteHandler(jam, "own")
    written(notes, 0)
    notes.many(3)  # from now on they are kept
    written(notes, 1, 2, 3, 4)
    assert values(notes.many(3)) == [(2, 2), (3, 3), (4, 4)]
    return notes


def test_a_reader_may_change_what_it_gets(notes: NoteHandler) -> None:
    notes.save({"n": np.arange(3)})
    written(notes, 6)
    _, array, number = notes.many(3)
    array["n"][0], number["n"] = 99, 99
    written(notes, 7)
    array, number, _ = notes.many(3)
    assert (array["n"].tolist(), number["n"]) == ([0, 1, 2], 6)


def test_records_that_others_have_popped_are_gone(notes: NoteHandler, elsewhere: Jamboree) -> None:
    NoteHandler(elsewhere, "own").pop(4)
    written(notes, 5)
    assert values(notes.many(3)) == [(4, 4), (5, 5)]


def test_a_log_that_others_have_written_anew_is_another_one(
    notes: NoteHandler, elsewhere: Jamboree
) -> None:
    other = NoteHandler(elsewhere, "own")
    other.delete()
    written(other, 10, 11, 12, 13, 14)
    elsewhere.flush()
    written(notes, 5)
    assert values(notes.many(3)) == [(3, 13), (4, 14), (5, 5)]


def test_what_another_jamboree_of_the_process_saves_meanwhile_is_seen(
    notes: NoteHandler, open_jamboree: OpenJamboree
) -> None:
    written(notes, 5)
    written(NoteHandler(open_jamboree(), "own"), 6)
    assert sorted(one["n"] for one in notes.many(2)) == [5, 6]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_two_processes_do_a_read_says_what_redis_holds(
    own_valkey: Server, open_jamboree: OpenJamboree, seed: int
) -> None:
    rng = random.Random(seed)
    url = own_valkey.url
    jams = [open_jamboree(url), open_jamboree(url.replace("127.0.0.1", "localhost"))]
    writers = [NoteHandler(jam, "own") for jam in jams]

    def save(i: int) -> None:
        writers[i].save_many({"n": rng.random()} for _ in range(rng.randint(1, 4)))

    def read(i: int) -> None:
        n = rng.choice([1, 3, 30, 2000])
        found = writers[i].many(n)
        unread = NoteHandler(jams[i], "own")  # has saved nothing, and asks Redis
        assert found == unread.many(n)

    acts: list[Callable[[int], object]] = [save, read, save, read, save, read]
    acts += [lambda i: jams[i].flush(), lambda i: writers[i].pop(rng.randint(1, 3))]
    rare: list[Callable[[int], object]] = [
        lambda i: writers[i].delete(),
        lambda i: jams[i].redis.flushall(),
    ]
    for _ in range(150):
        rng.choice(rare if rng.random() < 0.05 else acts)(min(1, int(rng.random() * 1.3)))


# -- the answer that is made while Redis works ----------------------------------------------------


@dataclass
class Sent:
    """Records that are sent together."""

    numbers: Sequence[int]

    @property
    def timestamps(self) -> list[float]:
        return [float(one) for one in self.numbers]

    @property
    def records(self) -> list[bytes]:
        return [encode_mapping({"n": one, "of": [one]}) for one in self.numbers]


@given(st.data())
def test_an_answer_that_was_made_ahead_is_the_one_that_would_be_made_after(
    data: st.DataObject,
) -> None:
    """Whatever Redis says: part of it is stored, others were first, the log is another one."""
    ahead, after = NewestRecords("k"), NewestRecords("k")
    logs, numbers = [("0 a", b"1"), ("0 b", b"1")], count(1)
    held: list[int | None] = []  # what the log holds; None = a record of others
    of_others = st.sampled_from([0, 0, 0, 1])
    for _ in range(data.draw(st.integers(1, 6))):
        n = data.draw(st.integers(1, 8))
        ahead.expect(n)
        after.expect(n)
        held += [None] * data.draw(of_others)
        sizes = data.draw(st.lists(st.integers(1, 3), max_size=3))
        sent = [Sent([next(numbers) for _ in range(size)]) for size in sizes]
        ahead.look_ahead(len(held), sent)
        stored, start = sent[: data.draw(st.integers(0, len(sent)))], len(held)
        held += [number for one in stored for number in one.numbers]
        held += [None] * data.draw(of_others)
        first, log = data.draw(st.sampled_from([0, 0, 2])), data.draw(st.sampled_from(logs))
        result = AppendResult(len(stored), len(held), 0.0, False, False, False, first, log)
        ahead.add(start, stored, result)
        after.add(start, stored, result)
        newest = [*enumerate(held)][max(first, len(held) - n) :]
        for _ in range(2):
            found = ahead.last(n)
            assert found == after.last(n)
            if found is not None:
                assert values(found) == newest
                for one in found:
                    one["n"] = None  # it is the caller's
