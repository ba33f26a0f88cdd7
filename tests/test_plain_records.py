"""The compiled way of a record: it leaves the same bytes as Python's, and all that is odd to it."""

from __future__ import annotations

import math
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jamboree_gym import DBHandler, InvalidRecord, Jamboree
from jamboree_gym.compiled import compiled_core
from jamboree_gym.delivery.outbox import CHECK_EVERY_BYTES
from jamboree_gym.handlers import db_handler
from jamboree_gym.handlers.plain_records import append_plain
from jamboree_gym.journal.entry_log import decode_record
from jamboree_gym.journal.segments import LENGTH_WORD

pytestmark = pytest.mark.compiled

BEGUN = 1e9
FIELDS: dict[str, Any] = {
    "none": None,
    "flag": True,
    "number": -3,
    "large": 2**64 - 1,
    "float": 0.1,
    "nan": math.nan,
    "text": "né\0",
    "bytes": b"\xff" * 300,
}

values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters())  # lone surrogates, too
    | st.binary(max_size=70)
    | st.just([1])
    | st.just(np.float64(1))
)
records = st.dictionaries(st.text(max_size=9), values, max_size=18)


class Clock:
    def __init__(self) -> None:
        self.now = BEGUN

    def __call__(self) -> float:
        self.now += 2**-10
        return self.now


class Trades(DBHandler):
    def __init__(self, jam: Jamboree, episode: str) -> None:
        super().__init__(jam)
        self.entity = "trade"
        self.required = {"episode": str}
        self["episode"] = episode


@pytest.fixture
def trades(open_jamboree: Callable[..., Jamboree]) -> Trades:
    """A handler whose outbox is marked; nothing is delivered meanwhile."""
    jam = open_jamboree(write="buffered", flush_interval_s=3600.0, clock=Clock())
    trades = Trades(jam, "e1")
    trades.save({"first": 1})
    trades._outbox.late_at = math.inf  # type: ignore[union-attr]
    return trades


def outbox_of(trades: Trades) -> Any:
    return trades._outbox


def entries_of(trades: Trades) -> list[tuple[Any, ...]]:
    """What the journal holds of all that is queued, and what its blocks say of their length."""
    found = []
    for *_, place in outbox_of(trades)._queue:
        block, at = place
        size, kind = struct.unpack_from("<II", block.content, at - 8)
        record = decode_record(bytes(block.content[at : at + size]), place)
        found.append((kind, block.words[LENGTH_WORD], *record[:-1]))
    return found


def is_taken(trades: Trades, record: Any) -> bool:
    assert append_plain is not None
    return append_plain(outbox_of(trades), record, trades._reserved)


def state_of(trades: Trades) -> list[Any]:
    outbox = outbox_of(trades)
    log = outbox._keep_record.__self__._records
    sizes = outbox._queued_bytes, outbox._put_count, outbox._t_last
    return [*sizes, outbox._queue[:], log._end, bytes(log._block.content)]


def test_a_record_of_plain_values_takes_the_compiled_way(trades: Trades) -> None:
    before = state_of(trades)

    assert is_taken(trades, FIELDS)

    after = state_of(trades)
    assert after[1] == before[1] + 1
    trades.event.flush()
    read = trades.last()
    assert read is not None
    assert math.isnan(read.pop("nan"))
    assert {name: read[name] for name in FIELDS if name != "nan"} == {
        name: value for name, value in FIELDS.items() if name != "nan"
    }


@pytest.fixture
def ways(open_jamboree: Callable[..., Jamboree]) -> list[Trades]:
    """Two handlers of two Jamborees with equal clocks, that are about to write the same."""
    made = []
    for _ in range(2):
        jam = open_jamboree(write="buffered", flush_interval_s=3600.0, clock=Clock())
        made.append(Trades(jam, "e1"))
        made[-1].save({"first": 1})
        outbox_of(made[-1]).late_at = math.inf
    return made


def test_both_ways_leave_the_same_in_journal_and_queue(ways: list[Trades]) -> None:
    compiled, python = ways
    now = BEGUN
    for trades in ways:
        outbox_of(trades)._clock = lambda: now
        outbox_of(trades)._t_last = now

    @given(records)
    def compare(record: dict[str, Any]) -> None:
        nonlocal now
        now += 1
        ends = []
        for trades, way in ((compiled, append_plain), (python, None)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(db_handler, "append_plain", way)
                try:
                    trades.save(record)
                    ends.append("saved")
                except InvalidRecord as error:
                    ends.append(str(error))
        assert ends[0] == ends[1]
        queues = [outbox_of(trades)._queue[1:] for trades in ways]
        mine, others = ([(*one[:2], one[2][1]) for one in queue] for queue in queues)
        assert mine == others
        for name in ("_queued_bytes", "_put_count", "_t_last"):
            assert getattr(outbox_of(compiled), name) == getattr(outbox_of(python), name)

    compare()
    mine, others = map(entries_of, ways)
    assert mine[1:] == others[1:]
    assert len(mine) > 10


@pytest.mark.parametrize(
    "record",
    [
        {"index": 1},
        {"timestamp": 1.0},
        {"episode": "e2"},
        {"a": [1]},
        {"a": {}},
        {"a": 2**64},
        {"a": np.float64(1)},
        {"a": "\ud800"},
        {1: 1},
        {type("Name", (str,), {})("a"): 1},
        OrderedDict(a=1),
        [("a", 1)],
        None,
    ],
    ids=repr,
)
def test_what_is_odd_is_left_to_python(trades: Trades, record: Any) -> None:
    before = state_of(trades)

    assert not is_taken(trades, record)

    assert state_of(trades) == before


CONDITIONS: dict[str, Callable[[Any], Any]] = {
    "the log cannot be written": lambda outbox: setattr(outbox, "error", InvalidRecord("no")),
    "the writer does not know of it": lambda outbox: setattr(outbox, "_marked", False),
    "the writer is late": lambda outbox: setattr(outbox, "late_at", BEGUN),
    "the clock was set back": lambda outbox: setattr(outbox, "_t_last", 2 * BEGUN),
    "the clock gives no float": lambda outbox: setattr(outbox, "_clock", lambda: 10**10),
    "another thread seals it": lambda outbox: outbox._lock.acquire(),
    "another thread writes": lambda outbox: outbox._keep_record.__self__._records._lock.acquire(),
    "there is no journal": lambda outbox: setattr(outbox, "_keep_record", lambda *_: None),
    "much waits": lambda outbox: setattr(outbox, "_queued_bytes", 1 << 20),
    "the block is full": lambda outbox: setattr(
        outbox._keep_record.__self__._records,
        "_end",
        outbox._keep_record.__self__._records._block.size - 32,
    ),
}


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
def test_what_has_to_be_looked_at_is_left_to_python(
    trades: Trades, condition: Callable[[Any], Any]
) -> None:
    outbox, records = outbox_of(trades), outbox_of(trades)._keep_record.__self__._records
    names = ("error", "_marked", "late_at", "_t_last", "_clock", "_keep_record", "_queued_bytes")
    known, end = {name: getattr(outbox, name) for name in names}, records._end
    assert is_taken(trades, {"a": 1})
    known |= {name: getattr(outbox, name) for name in ("_t_last", "_queued_bytes")}
    end, queue = records._end, outbox._queue[:]

    condition(outbox)
    assert not is_taken(trades, {"a": 1})
    assert outbox._queue == queue

    for lock in (outbox._lock, records._lock):
        if lock.locked():
            lock.release()
    records._end = end
    for name, value in known.items():
        setattr(outbox, name, value)
    assert is_taken(trades, {"a": 1})


def test_where_much_waits_python_looks_at_it_now_and_then(trades: Trades) -> None:
    outbox = outbox_of(trades)
    outbox.checked_bytes = 1 << 20
    outbox._queued_bytes = outbox.checked_bytes + CHECK_EVERY_BYTES - 2500

    assert [is_taken(trades, {"a": bytes(1000)}) for _ in range(3)] == [True, True, False]


def test_the_error_of_a_clock_is_raised(trades: Trades) -> None:
    def broken() -> float:
        raise ZeroDivisionError

    outbox_of(trades)._clock, clock = broken, outbox_of(trades)._clock
    with pytest.raises(ZeroDivisionError):
        is_taken(trades, {"a": 1})
    outbox_of(trades)._clock = clock


def test_a_clock_that_saves_is_no_harm(trades: Trades) -> None:
    outbox = outbox_of(trades)
    clock = outbox._clock

    def nested() -> float:
        outbox._clock = clock
        trades.save({"a": 1})
        return clock()

    outbox._clock = nested
    trades.save({"a": 2})

    trades.event.flush()
    assert [record["a"] for record in trades.many(2)] == [1, 2]


def test_the_compiled_core_refuses_what_is_no_outbox() -> None:
    core = compiled_core()
    assert core is not None
    assert append_plain is not None
    for wrong in ((object(), {}, frozenset()), ({},), ()):
        with pytest.raises(TypeError, match="append_plain takes"):
            append_plain(*wrong)
    with pytest.raises(AttributeError):
        core.record_writer_of(int, int, int, int, int, print, 1, 1)
    with pytest.raises(TypeError):
        core.record_writer_of(1)
