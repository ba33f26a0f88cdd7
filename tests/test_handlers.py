"""`DBHandler` as the README uses it, and what its user is told when something is wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from conftest import Server
from lengths import quick_and_long
from processes import NoteHandler, wait_until
from warm import run_warm, start_warm

from jamboree_gym import DBHandler, Jamboree
from jamboree_gym.connection import Connection
from jamboree_gym.delivery.outbox import RecordOutbox
from jamboree_gym.errors import InvalidArgument, InvalidRecord, JamboreeError, UnknownKey

OpenJamboree = Callable[..., Jamboree]


class TradeHandler(DBHandler):
    """As in the README: an entity and its required keys."""

    def __init__(self, jam: Connection | None = None) -> None:
        super().__init__(jam)
        self.entity = "trade"
        self.required = {"episode": str, "step": int, "rate": float, "live": bool}


@pytest.fixture
def notes(open_jamboree: OpenJamboree) -> NoteHandler:
    return NoteHandler(open_jamboree(), "n")


def values(records: list[dict[str, Any]]) -> list[Any]:
    return [record["n"] for record in records]


# -- saving and reading -------------------------------------------------------------------------


def test_a_record_comes_back_with_index_and_timestamp(notes: NoteHandler) -> None:
    before = time.time()
    notes.save({"n": 1, "text": "é", "none": None})
    record = notes.last()
    assert record is not None
    assert before <= record.pop("timestamp") <= time.time()
    assert record == {"n": 1, "text": "é", "none": None, "index": 0}


def test_many_gives_the_newest_oldest_first(notes: NoteHandler) -> None:
    notes.save_many({"n": number} for number in range(600))
    assert values(notes.many(3)) == [597, 598, 599]
    assert values(notes.many(300)) == list(range(300, 600))
    assert values(notes.many(10**9)) == list(range(600))


def test_many_of_none_is_empty(notes: NoteHandler) -> None:
    notes.save({"n": 1})
    assert notes.many(0) == []


def test_a_log_without_records_reads_as_empty(notes: NoteHandler) -> None:
    assert notes.last() is None
    assert notes.many(5) == notes.between(0, 1e12) == notes.pop(3) == []
    assert notes.as_of(1e12) is None
    assert notes.count() == 0
    assert list(notes.tail(timeout_s=0)) == []
    notes.delete()


def test_an_empty_record_is_a_record(notes: NoteHandler) -> None:
    notes.save({})
    assert set(notes.last() or {}) == {"index", "timestamp"}


def test_the_callers_dict_is_left_as_it_was(notes: NoteHandler) -> None:
    array = np.zeros(3)
    record = {"n": 1, "array": array}
    notes.save(record)
    assert record == {"n": 1, "array": array}
    array[:] = 7.0
    assert (notes.last() or {})["array"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "i1", "u8", "?", "c8", "M8[ns]", "U5"])
def test_a_numpy_value_keeps_its_dtype(notes: NoteHandler, dtype: str) -> None:
    array = np.ones((2, 3), dtype)
    notes.save({"array": array, "scalar": array[0, 0]})
    record = notes.last() or {}
    assert record["array"].dtype == np.dtype(dtype)
    assert type(record["scalar"]) is type(array[0, 0])
    np.testing.assert_array_equal(record["array"], array)


def test_nan_and_infinity_are_kept(notes: NoteHandler) -> None:
    notes.save({"n": [float("nan"), float("inf"), -0.0]})
    nan, infinity, zero = (notes.last() or {})["n"]
    assert np.isnan(nan)
    assert infinity == float("inf")
    assert np.signbit(zero)


@pytest.mark.parametrize("mebibytes", quick_and_long([10, 20], quick=[10]))
def test_a_large_record_is_kept(notes: NoteHandler, mebibytes: int) -> None:
    blob = np.random.default_rng(0).bytes(mebibytes << 20)
    notes.save({"blob": blob})
    notes.save({"blob": b"small"})
    assert [record["blob"] == blob for record in notes.many(2)] == [True, False]


def test_any_mapping_can_be_saved(notes: NoteHandler) -> None:
    notes.save(MappingProxyType({"n": 1}))
    assert values(notes.many(1)) == [1]


def test_the_event_can_be_set_afterwards(open_jamboree: OpenJamboree) -> None:
    handler = NoteHandler()
    handler.event = open_jamboree()
    handler["name"] = "n"
    handler.save({"n": 1})
    assert handler.count() == 1


def test_records_are_kept_apart_by_their_keys(open_jamboree: OpenJamboree) -> None:
    handler = NoteHandler(open_jamboree())
    for name in ("a", "b", "a:b", "{a}", "a/b", "", "\n", "ü"):
        handler["name"] = name
        handler.save({"n": name})
        assert values(handler.many(9)) == [name]


def test_nothing_leaks_from_one_handler_into_another(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree()
    first, second = NoteHandler(jam, "a"), NoteHandler(jam)
    first.required["more"] = int
    with pytest.raises(UnknownKey, match="key 'name' is not set"):
        second["name"]
    second["name"] = "b"
    second.save({"n": 1})
    assert second.required == {"name": str}


def test_a_subclass_of_the_readme_saves_under_four_keys(open_jamboree: OpenJamboree) -> None:
    handler = TradeHandler(open_jamboree())
    for name, value in {"episode": "e1", "step": 3, "rate": 0.5, "live": True}.items():
        handler[name] = value
    handler.save({"n": 1})
    assert handler["rate"] == 0.5
    assert values(handler.many(1)) == [1]
    handler["step"] = 4
    assert handler.last() is None
    assert repr(handler) == "<TradeHandler('trade') episode='e1', step=4, rate=0.5, live=True>"


# -- by time ------------------------------------------------------------------------------------


@pytest.fixture
def timed(open_jamboree: OpenJamboree) -> NoteHandler:
    """Ten records, one per second from 100 s on."""
    jam = open_jamboree()
    handler = NoteHandler(jam, "timed")
    clock = iter(range(100, 200))
    outbox = RecordOutbox(
        handler._key, b"writer-a", jam._connection.writer.mark, clock=lambda: float(next(clock))
    )
    jam._connection.adopt(outbox)
    handler.save_many({"n": number} for number in range(10))
    return handler


def test_between_includes_both_ends(timed: NoteHandler) -> None:
    assert values(timed.between(102, 104)) == [2, 3, 4]
    assert values(timed.between(np.float64(102.5), 103.5)) == [3]
    assert timed.between(104, 102) == []
    assert values(timed.between(float("-inf"), float("inf"))) == list(range(10))


@pytest.mark.parametrize(
    ("t", "expected"),
    [(99.9, None), (100, 0), (103.9, 3), (104, 4), (1e9, 9), (np.float32(105), 5)],
)
def test_as_of_never_looks_ahead(timed: NoteHandler, t: float, expected: int | None) -> None:
    found = timed.as_of(t)
    assert (found and found["n"]) == expected


def test_as_of_between_two_batches_finds_the_earlier(timed: NoteHandler) -> None:
    timed.event.flush()
    timed.save({"n": 10})
    assert (timed.as_of(109.5) or {})["n"] == 9
    assert (timed.as_of(110.0) or {})["n"] == 10


@pytest.mark.parametrize("t", [None, "yesterday", datetime(2024, 1, 1), float("nan")])
def test_a_time_that_is_no_number_is_named(timed: NoteHandler, t: Any) -> None:
    for read in (lambda: timed.as_of(t), lambda: timed.between(0, t)):
        with pytest.raises(InvalidArgument, match=r"^(t|t1)=.*: give a time in epoch seconds"):
            read()


def test_timestamps_increase_when_the_clock_stands_still_or_is_set_back(
    open_jamboree: OpenJamboree,
) -> None:
    jam = open_jamboree()
    handler = NoteHandler(jam, "n")
    clock = iter([100.0, 100.0, 50.0, 101.0])
    outbox = RecordOutbox(
        handler._key, b"writer-a", jam._connection.writer.mark, clock=lambda: next(clock)
    )
    jam._connection.adopt(outbox)
    handler.save_many({"n": number} for number in range(4))
    times = [record["timestamp"] for record in handler.many(9)]
    assert times == sorted(set(times))
    assert times[0] == 100.0
    assert times[3] == 101.0
    assert values(handler.between(100.0, 100.5)) == [0, 1, 2]


CLOCK = """
import sys
from processes import NoteHandler
from jamboree_gym import Jamboree
from jamboree_gym.delivery.outbox import RecordOutbox

with Jamboree(sys.argv[1], namespace=sys.argv[2]) as jam:
    handler = NoteHandler(jam, "n")
    clock = lambda: float(sys.argv[3])
    connection = jam._connection
    outbox = RecordOutbox(
        handler._key, connection.writer_id, connection.writer.mark, clock=clock
    )
    jam._connection.adopt(outbox)
    for number in range(10):
        handler.save({"n": number})
        jam.flush()
"""


def test_timestamps_increase_across_processes_whose_clocks_differ(
    valkey: Server, namespace: str, open_jamboree: OpenJamboree
) -> None:
    for clock in ("2000", "1000", "3000", "-5"):
        assert run_warm(CLOCK, valkey.url, namespace, clock).stderr == ""
    records = NoteHandler(open_jamboree(), "n").many(100)
    times = [record["timestamp"] for record in records]
    assert times == sorted(set(times))
    assert values(records) == list(range(10)) * 4
    assert times[20] == 3000.0


# -- as a queue ---------------------------------------------------------------------------------


def test_pop_takes_the_oldest_first_and_each_once(notes: NoteHandler) -> None:
    notes.save_many({"n": number} for number in range(600))
    assert values(notes.pop()) == [0]
    assert values(notes.pop(300)) == list(range(1, 301))
    assert notes.count() == 299
    assert values(notes.many(10**6)) == list(range(301, 600))
    assert values(notes.pop(10**6)) == list(range(301, 600))
    assert notes.pop() == notes.pop(0) == []


def test_what_is_popped_is_gone_for_every_way_of_reading(notes: NoteHandler) -> None:
    notes.save_many({"n": number} for number in range(4))
    popped = notes.pop(2)
    times = [record["timestamp"] for record in popped]
    assert notes.between(0, times[1]) == []
    assert notes.as_of(times[1]) is None
    assert values(list(notes.tail(timeout_s=0))) == [2, 3]


def test_indices_go_on_after_a_pop(notes: NoteHandler) -> None:
    notes.save_many([{"n": 0}, {"n": 1}])
    notes.pop(2)
    notes.save({"n": 2})
    assert (notes.last() or {})["index"] == 2


def test_consumers_at_once_share_the_records(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree()
    NoteHandler(jam, "n").save_many({"n": number} for number in range(500))
    taken: list[list[int]] = [[] for _ in range(4)]

    def consume(mine: list[int]) -> None:
        handler = NoteHandler(jam, "n")
        while popped := handler.pop(3):
            mine += values(popped)

    threads = [threading.Thread(target=consume, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(mine) for mine in taken)
    assert sorted(number for mine in taken for number in mine) == list(range(500))


def test_delete_removes_everything_and_begins_anew(notes: NoteHandler) -> None:
    notes.save_many([{"n": 0}, {"n": 1}])
    notes.delete()
    assert notes.count() == 0
    notes.save({"n": 2})
    assert [(record["index"], record["n"]) for record in notes.many(9)] == [(0, 2)]


# -- following ----------------------------------------------------------------------------------


def follow(handler: NoteHandler, count: int) -> list[int]:
    tail = handler.tail(timeout_s=60)
    return [next(tail)["n"] for _ in range(count)]


def test_tail_follows_a_thread(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree()

    def save() -> None:
        for number in range(500):
            NoteHandler(jam, "n").save({"n": number})

    thread = threading.Thread(target=save)
    thread.start()
    assert follow(NoteHandler(jam, "n"), 500) == list(range(500))
    thread.join()


WRITE = """
import sys
from processes import NoteHandler
from jamboree_gym import Jamboree

with Jamboree(sys.argv[1], namespace=sys.argv[2]) as jam:
    handler = NoteHandler(jam, "n")
    for number in range(10_000):
        handler.save({"n": number})
"""


def test_tail_follows_another_process(
    valkey: Server, namespace: str, open_jamboree: OpenJamboree
) -> None:
    process = start_warm(WRITE, valkey.url, namespace)
    assert follow(NoteHandler(open_jamboree(), "n"), 10_000) == list(range(10_000))
    assert process.communicate()[1] == ""


def test_tail_ends_when_nothing_comes(notes: NoteHandler) -> None:
    notes.save({"n": 0})
    assert values(list(notes.tail(timeout_s=0.05))) == [0]


def test_tail_goes_on_after_a_delete_and_after_a_pop(notes: NoteHandler) -> None:
    tail = notes.tail(timeout_s=60)
    notes.save_many([{"n": 0}, {"n": 1}])
    assert [next(tail)["n"], next(tail)["n"]] == [0, 1]
    notes.save_many([{"n": 2}, {"n": 3}])
    notes.pop(3)
    assert next(tail)["n"] == 3
    notes.delete()
    notes.save({"n": 4})
    assert next(tail)["n"] == 4


# -- bad input ----------------------------------------------------------------------------------


def test_a_handler_without_a_jamboree_says_how_to_set_one() -> None:
    handler = NoteHandler(name="n")
    for use in (lambda: handler.save({"n": 1}), handler.last, handler.count):
        with pytest.raises(UnknownKey, match=r"NoteHandler has no Jamboree: set handler\.event"):
            use()


def test_an_event_that_is_no_jamboree_is_named() -> None:
    with pytest.raises(InvalidArgument, match=r"handler\.event must be a Jamboree, not str"):
        NoteHandler().event = "redis://"  # type: ignore[assignment]


def test_a_handler_without_an_entity_says_so(open_jamboree: OpenJamboree) -> None:
    with pytest.raises(UnknownKey, match=r"DBHandler has no entity: set self\.entity"):
        DBHandler(open_jamboree()).save({"n": 1})


def test_a_missing_required_key_is_named(open_jamboree: OpenJamboree) -> None:
    handler = NoteHandler(open_jamboree())
    for use in (lambda: handler.save({"n": 1}), handler.last, handler.pop, handler.delete):
        with pytest.raises(UnknownKey, match=r"key 'name' is not set: handler\['name'\] = "):
            use()


def test_a_key_of_the_wrong_type_is_named(open_jamboree: OpenJamboree) -> None:
    handler = NoteHandler(open_jamboree())
    with pytest.raises(InvalidArgument, match="key 'name' must be str, got 5 of type int"):
        handler["name"] = 5


@pytest.mark.parametrize("key", ["nmae", "timestamp", 5, None])
def test_a_key_that_is_not_declared_is_named(notes: NoteHandler, key: Any) -> None:
    with pytest.raises(UnknownKey, match=f"has no key {key!r}; its required keys are 'name'"):
        notes[key] = "x"
    with pytest.raises(UnknownKey, match="has no key"):
        notes[key]


@pytest.mark.parametrize("name", ["index", "timestamp", "name"])
def test_a_field_name_that_is_taken_is_named(notes: NoteHandler, name: str) -> None:
    with pytest.raises(
        InvalidRecord, match=rf"NoteHandler.*save: the field name '{name}' is taken"
    ):
        notes.save({"n": 1, name: 1})
    assert notes.count() == 0


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"a": object()}, "'a': cannot store <object"),
        ({"a": {"b": [0, {1, 2}, lambda: 0]}}, r"'a'\.b\[2\]: cannot store <function"),
        ({"a": np.array([object()])}, r"'a'\[0\]: cannot store <object"),
        ({1: "a"}, "a field name is a string, not 1"),
        ([("a", 1)], "a record is a dict, not list"),
        ([{"a": 1}], "a record is a dict, not list"),
        ("abc", "a record is a dict, not str"),
        (None, "a record is a dict, not NoneType"),
        (5, "a record is a dict, not int"),
    ],
)
def test_what_cannot_be_saved_is_named_and_leaves_nothing(
    notes: NoteHandler, record: Any, message: str
) -> None:
    with pytest.raises(InvalidRecord, match=message):
        notes.save(record)
    assert notes.count() == 0


def test_save_many_saves_all_or_none(notes: NoteHandler) -> None:
    with pytest.raises(InvalidRecord, match="'n': cannot store"):
        notes.save_many([{"n": 1}, {"n": object()}])
    assert notes.count() == 0
    notes.save_many([])
    assert notes.count() == 0


def test_every_error_is_a_jamboree_error(notes: NoteHandler) -> None:
    with pytest.raises(JamboreeError):
        notes.save({"n": object()})
    with pytest.raises(JamboreeError):
        notes["other"]


def test_a_buffered_save_arrives_without_a_flush(open_jamboree: OpenJamboree) -> None:
    reader = NoteHandler(open_jamboree(), "n")
    NoteHandler(open_jamboree(), "n").save({"n": 1})
    wait_until(lambda: reader.count() == 1)
