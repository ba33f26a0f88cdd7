"""Delivery when things go wrong. The servers are real; so are their deaths."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from conftest import Server, StartRedis
from lengths import quick_and_long
from processes import NoteHandler, threads_here, wait_until
from stored import at

from jamboree_gym import Jamboree
from jamboree_gym.arrays.values import encode_mapping
from jamboree_gym.delivery.backpressure import CHECK_AFTER_BYTES
from jamboree_gym.delivery.outbox import MAX_APPEND_BYTES, MAX_RECORD_BYTES, Outbox, RecordOutbox
from jamboree_gym.delivery.writer import Writer
from jamboree_gym.encoding.batch_format import CODEC_RECORDS
from jamboree_gym.errors import (
    DecodeError,
    InvalidRecord,
    JamboreeClosed,
    JamboreeError,
    StoreFull,
    StoreUnavailable,
    UnsavedRecords,
)
from jamboree_gym.store.log import Append, AppendResult

OpenJamboree = Callable[..., Jamboree]


def save_numbers(handler: NoteHandler, *numbers: int) -> None:
    for number in numbers:
        handler.save({"n": number})


def save_blobs(handler: NoteHandler, size: int, *, count: int) -> None:
    for _ in range(count):
        handler.save({"blob": bytes(size)})


def numbers_in(handler: NoteHandler) -> list[int]:
    records = handler.many(10**6)
    assert [record["index"] for record in records] == list(range(len(records)))
    return [record["n"] for record in records]


# -- Redis is away ----------------------------------------------------------------------------


@pytest.mark.faults
def test_what_is_saved_while_redis_is_away_arrives_in_order_when_it_is_back(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(durable_valkey.url)
    handler = NoteHandler(jam, "n")
    save_numbers(handler, *range(1000))
    jam.flush()
    for outage in range(1, 4):
        durable_valkey.kill()
        save_numbers(handler, *range(outage * 1000, (outage + 1) * 1000))
        durable_valkey.start()
    jam.flush()
    assert numbers_in(handler) == list(range(4000))


@pytest.mark.faults
def test_nothing_is_lost_or_repeated_when_redis_dies_in_the_middle_of_saving(
    durable_valkey: Server, namespace: str
) -> None:
    jam = Jamboree(durable_valkey.url, namespace=namespace, flush_interval_s=0.001)
    saver = Saver(NoteHandler(jam, "n"))
    saver.start()
    for _ in range(3):
        before = saver.saved
        wait_until(lambda before=before: saver.saved > before + 500)
        durable_valkey.kill()
        durable_valkey.start()
    jam.close()
    saver.join()
    with Jamboree(durable_valkey.url, namespace=namespace) as other:
        assert numbers_in(NoteHandler(other, "n")) == list(range(saver.saved))


@pytest.mark.faults
@pytest.mark.parametrize("size", quick_and_long([50_000, 500_000], quick=[50_000]))
def test_saving_blocks_at_max_pending_bytes_and_goes_on_when_redis_is_back(
    durable_valkey: Server, namespace: str, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    limit = 4 << 20
    jam = Jamboree(durable_valkey.url, namespace=namespace, max_pending_bytes=limit)
    NoteHandler(jam, "n").last()
    durable_valkey.kill()
    saver = Saver(NoteHandler(jam, "n"), size=size)
    saver.start()
    wait_until(lambda: "saving blocks" in caplog.text)
    blocked_at = saver.saved
    assert limit < jam._connection.writer.pending_bytes < 3 * limit
    with pytest.raises(UnsavedRecords):
        jam.flush(timeout_s=0.5)
    assert saver.saved == blocked_at
    assert caplog.text.count("saving blocks") == 1
    durable_valkey.start()
    wait_until(lambda: saver.saved > blocked_at + 20)
    jam.close()
    saver.join()
    with Jamboree(durable_valkey.url, namespace=namespace) as other:
        assert numbers_in(NoteHandler(other, "n")) == list(range(saver.saved))


@pytest.mark.faults
def test_what_is_saved_slowly_fills_no_more_than_max_pending_bytes_either(
    own_valkey: Server, namespace: str
) -> None:
    jam = Jamboree(own_valkey.url, namespace=namespace, max_pending_bytes=1 << 20)
    handler = NoteHandler(jam, "n")
    handler.last()
    own_valkey.kill()
    for _ in range(4):
        handler.save({"blob": bytes(100_000)})
        with pytest.raises(UnsavedRecords):
            jam.flush(timeout_s=0.0)  # seals: from here on it is a batch of its own
    wait_until(lambda: jam._connection.writer.backpressure.has_outage)
    saver = Saver(handler, size=100_000)
    saver.start()
    wait_until(lambda: jam._connection.writer.pending_bytes > 1 << 20)
    assert jam._connection.writer.pending_bytes < 2 << 20
    with pytest.raises(UnsavedRecords):
        jam.close(timeout_s=0.1)
    saver.join()


def test_what_waits_is_added_up_as_it_grows_not_at_each_save(
    open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    jam = open_jamboree(flush_interval_s=3600)
    checked: list[int] = []
    monkeypatch.setattr(jam._connection.writer.backpressure, "check", checked.append)

    save_blobs(NoteHandler(jam, "many"), 1 << 8, count=2000)

    assert max(checked) > 600_000  # of 640,000 and more
    assert len(checked) < 100


@pytest.mark.faults
def test_max_pending_bytes_holds_where_it_takes_long_to_add_up_what_waits(
    own_valkey: Server, namespace: str
) -> None:
    limit = 16 << 20
    jam = Jamboree(own_valkey.url, namespace=namespace, max_pending_bytes=limit, when_full="raise")
    own_valkey.kill()
    for number in range(3000):
        save_numbers(NoteHandler(jam, f"n{number}"), number)
    wait_until(lambda: jam._connection.writer.backpressure.has_outage)
    handler = NoteHandler(jam, "large")
    with pytest.raises(StoreUnavailable):
        save_blobs(handler, CHECK_AFTER_BYTES + 1, count=1000)
    assert (jam._connection.writer.unsaved - 3000) * CHECK_AFTER_BYTES <= limit + CHECK_AFTER_BYTES
    with pytest.raises(UnsavedRecords):
        jam.close(timeout_s=0.1)


@pytest.mark.faults
def test_flush_and_close_say_how_many_records_are_unsaved(
    own_valkey: Server, namespace: str
) -> None:
    jam = Jamboree(own_valkey.url, namespace=namespace)
    own_valkey.kill()
    save_numbers(NoteHandler(jam, "a"), *range(30))
    save_numbers(NoteHandler(jam, "b"), *range(12))
    with pytest.raises(UnsavedRecords, match=r"42 records are not in Redis: .* reached") as flushed:
        jam.flush(timeout_s=0.2)
    with pytest.raises(UnsavedRecords, match="42 records") as closed:
        jam.close(timeout_s=0.2)
    assert flushed.value.unsaved == closed.value.unsaved == 42
    assert isinstance(flushed.value.__cause__, StoreUnavailable)
    jam.close()


@pytest.mark.faults
def test_an_outage_is_warned_of_once(
    durable_valkey: Server, open_jamboree: OpenJamboree, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="jamboree_gym")
    jam = open_jamboree(durable_valkey.url)
    handler = NoteHandler(jam, "n")
    for outage in range(1, 3):
        save_numbers(handler, 0)
        jam.flush()
        durable_valkey.kill()
        save_numbers(handler, 1, 2, 3)
        wait_until(lambda outage=outage: caplog.text.count("waits in memory") == outage)
        save_numbers(handler, 4)
        with pytest.raises(UnsavedRecords):
            jam.flush(timeout_s=0.3)
        durable_valkey.start()
        wait_until(lambda outage=outage: caplog.text.count("answers again") == outage)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 2


@pytest.mark.faults
def test_a_save_in_sync_mode_that_was_not_confirmed_arrives_later_and_once(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(durable_valkey.url, write="sync")
    handler = NoteHandler(jam, "n")
    save_numbers(handler, 0)
    durable_valkey.kill()
    for number in (1, 2):
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            save_numbers(handler, number)
    durable_valkey.start()
    wait_until(lambda: jam._connection.writer.unsaved == 0)
    save_numbers(handler, 3)
    assert numbers_in(handler) == [0, 1, 2, 3]


@pytest.mark.faults
def test_a_read_while_redis_is_away_says_so(durable_valkey: Server, namespace: str) -> None:
    with Jamboree(durable_valkey.url, namespace=namespace) as jam:
        handler = NoteHandler(jam, "n")
        durable_valkey.kill()
        with pytest.raises(StoreUnavailable, match=r"Redis at .*redis\.sock cannot be reached"):
            handler.last()


# -- Redis refuses ----------------------------------------------------------------------------


@pytest.fixture
def full_valkey(start_own_redis: StartRedis) -> Server:
    return start_own_redis("valkey9", "--maxmemory", "8mb", "--maxmemory-policy", "noeviction")


def test_a_full_server_is_reported_and_written_to_again_when_it_has_room(
    full_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(full_valkey.url)
    handler = NoteHandler(jam, "n")
    for number in range(100):
        handler.save({"n": number, "blob": bytes(200_000)})
    with pytest.raises(UnsavedRecords, match=r"takes no more writes: .*maxmemory") as caught:
        jam.flush(timeout_s=0.2)
    assert isinstance(caught.value.__cause__, StoreFull)
    jam.redis.config_set("maxmemory", "200mb")
    jam.flush()
    assert numbers_in(handler) == list(range(100))


def test_a_full_server_can_be_popped_from(full_valkey: Server, open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree(full_valkey.url, write="sync")
    handler = NoteHandler(jam, "n")
    handler.save_many({"n": number, "blob": bytes(200_000)} for number in range(10))
    with pytest.raises(StoreFull):
        handler.save_many({"n": number, "blob": bytes(200_000)} for number in range(10, 100))
    jam.redis.config_set("maxmemory", "1mb")
    with pytest.raises(StoreFull):
        handler.last()  # it would have to bring what waits first
    assert NoteHandler(open_jamboree(full_valkey.url), "n").pop()[0]["n"] == 0
    jam.redis.config_set("maxmemory", "200mb")


@pytest.mark.parametrize("write", ["buffered", "sync"])
def test_a_log_that_cannot_be_written_holds_no_other_back_and_surfaces(
    valkey: Server, namespace: str, write: str
) -> None:
    jam = Jamboree(valkey.url, namespace=namespace, write=write)
    foreign, ours = NoteHandler(jam, "foreign"), NoteHandler(jam, "ours")
    jam.redis.set(at(jam, foreign._key), "not a log")
    if write == "sync":
        with pytest.raises(DecodeError, match=r"foreign.* is not a log"):
            foreign.save({"n": 0})
    else:
        foreign.save({"n": 0})
    save_numbers(ours, *range(10))
    with pytest.raises(UnsavedRecords, match=r"1 records are not in Redis: .*foreign") as caught:
        jam.flush()
    assert caught.value.unsaved == 1
    with pytest.raises(DecodeError, match=r"foreign.* is not a log"):
        foreign.save({"n": 1})
    assert numbers_in(ours) == list(range(10))
    jam.close()  # it has been said


def test_logs_that_cannot_be_written_are_said_in_one_flush_and_in_no_later_one(
    open_jamboree: OpenJamboree,
) -> None:
    jam = open_jamboree()
    ours = NoteHandler(jam, "ours")
    for name in ("one", "two", "three"):
        foreign = NoteHandler(jam, name)
        jam.redis.set(at(jam, foreign._key), "not a log")
        foreign.save({"n": 0})
    with pytest.raises(UnsavedRecords, match=r"3 records .*is not a log.* \(and of 2 more logs\)"):
        jam.flush()
    save_numbers(ours, *range(10))
    jam.flush()
    jam.flush()
    assert jam._connection.writer.unsaved == 0
    assert numbers_in(ours) == list(range(10))


def test_a_record_too_large_for_redis_is_refused_at_the_call(open_jamboree: OpenJamboree) -> None:
    outbox = RecordOutbox("k", b"writer-a", open_jamboree()._connection.writer.mark)
    with pytest.raises(InvalidRecord, match="a record of 256 MiB is larger than 256 MiB"):
        outbox.append(bytes(MAX_RECORD_BYTES + 1))
    assert outbox.unsaved == 0


# -- what nobody thought of -------------------------------------------------------------------


class BrokenOutbox(RecordOutbox):
    """An outbox with a mistake in one of its methods."""

    broken = ""

    def _break(self, method: str) -> None:
        if self.broken == method:
            raise ZeroDivisionError(f"a mistake in {method}")

    def seal(self) -> None:
        self._break("seal")
        super().seal()

    def next_append(self, most_bytes: int = MAX_APPEND_BYTES) -> Append | None:
        self._break("next_append")
        return super().next_append(most_bytes)

    def settle(self, result: AppendResult) -> None:
        self._break("settle")
        super().settle(result)


@pytest.fixture
def broken_jam(valkey: Server, namespace: str) -> Iterator[Jamboree]:
    opened = Jamboree(valkey.url, namespace=namespace)
    yield opened
    BrokenOutbox.broken = ""
    opened.close()


@pytest.mark.usefixtures("prompt_writer")
@pytest.mark.parametrize("method", ["next_append", "settle"])
def test_a_mistake_in_the_writer_thread_surfaces_at_a_later_save_and_at_flush(
    broken_jam: Jamboree, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    handler = NoteHandler(broken_jam, "n")
    outbox = BrokenOutbox(handler._key, b"writer-a", broken_jam._connection.writer.mark)
    broken_jam._connection.adopt(outbox)
    BrokenOutbox.broken = method
    handler.save({"n": 0})
    wait_until(lambda: broken_jam._connection.writer.backpressure.is_on)
    with pytest.raises(JamboreeError, match=f"writer failed: .*a mistake in {method}"):
        handler.save({"n": 1})
    with pytest.raises(UnsavedRecords, match=f"1 records are not in Redis: .*mistake in {method}"):
        broken_jam.flush(timeout_s=0.1)
    assert "ZeroDivisionError" in caplog.text
    BrokenOutbox.broken = ""
    broken_jam.flush()
    wait_until(lambda: not broken_jam._connection.writer.backpressure.is_on)
    handler.save({"n": 1})
    assert numbers_in(handler) == [0, 1]


def test_a_log_that_cannot_be_encoded_holds_no_other_back_and_surfaces(
    valkey: Server, namespace: str
) -> None:
    jam = Jamboree(valkey.url, namespace=namespace)
    handler = NoteHandler(jam, "broken")
    outbox = BrokenOutbox(handler._key, b"writer-a", jam._connection.writer.mark)
    outbox.broken = "seal"
    jam._connection.adopt(outbox)
    handler.save({"n": 0})
    save_numbers(NoteHandler(jam, "ours"), 1)
    with pytest.raises(UnsavedRecords, match=r"1 records .* cannot be encoded: .*mistake in seal"):
        jam.flush()
    assert numbers_in(NoteHandler(jam, "ours")) == [1]
    jam.close()  # it has been said


def test_the_base_of_all_outboxes_has_nothing_to_write_beside_batches() -> None:
    class Empty(Outbox):
        pending_bytes = 0

        def seal(self) -> None: ...

        def _continue_at(self, result: AppendResult) -> None: ...

    assert Empty("k", CODEC_RECORDS, b"writer-a", lambda _: None, time.time).next_append() is None


# -- the end ----------------------------------------------------------------------------------


def test_close_twice_is_quiet(valkey: Server, namespace: str) -> None:
    jam = Jamboree(valkey.url, namespace=namespace)
    jam.close()
    jam.close()


@pytest.mark.parametrize("write", ["buffered", "sync"])
def test_after_close_nothing_is_taken(valkey: Server, namespace: str, write: str) -> None:
    jam = Jamboree(valkey.url, namespace=namespace, write=write)
    handler = NoteHandler(jam, "n")
    handler.save({"n": 0})
    assert handler.last() is not None
    jam.close()
    for use in (lambda: handler.save({"n": 1}), handler.last, jam.flush):
        with pytest.raises(JamboreeClosed, match="this Jamboree is closed"):
            use()
    assert jam._connection.writer.unsaved == 0
    with Jamboree(valkey.url, namespace=namespace) as other:
        assert numbers_in(NoteHandler(other, "n")) == [0]


class Saver(threading.Thread):
    """Saves until it is told that the Jamboree is closed."""

    def __init__(self, handler: NoteHandler, *, size: int = 0) -> None:
        super().__init__()
        self.saved = 0
        self._handler = handler
        self._size = size

    def run(self) -> None:
        with suppress(JamboreeClosed):
            while True:
                self._handler.save({"n": self.saved, "blob": bytes(self._size)})
                self.saved += 1


@pytest.mark.parametrize("round_", range(10))
def test_a_save_that_runs_into_close_is_stored_or_refused(
    valkey: Server, namespace: str, round_: int
) -> None:
    jam = Jamboree(valkey.url, namespace=namespace, flush_interval_s=0.001)
    saver = Saver(NoteHandler(jam, "n"))
    saver.start()
    wait_until(lambda: saver.saved > 50 * round_)
    jam.close()
    saver.join()
    with Jamboree(valkey.url, namespace=namespace) as other:
        assert numbers_in(NoteHandler(other, "n")) == list(range(saver.saved))


def test_close_ends_the_thread(valkey: Server, namespace: str) -> None:
    before = threads_here()
    with Jamboree(valkey.url, namespace=namespace) as jam:
        NoteHandler(jam, "n").save({"n": 0})
        assert {thread.name for thread in threads_here() - before} == {"jamboree-writer"}
    assert threads_here() <= before


def test_a_jamboree_without_saves_starts_no_thread(valkey: Server, namespace: str) -> None:
    before = threads_here()
    with Jamboree(valkey.url, namespace=namespace):
        assert threads_here() <= before


# -- several threads, several handlers --------------------------------------------------------


@pytest.mark.parametrize("write", ["buffered", "sync"])
def test_threads_that_save_through_one_handler_lose_nothing(
    open_jamboree: OpenJamboree, write: str
) -> None:
    handler = NoteHandler(open_jamboree(write=write, flush_interval_s=0.001), "n")
    start = threading.Barrier(8)

    def save(name: int) -> None:
        start.wait()
        for number in range(250):
            handler.save({"thread": name, "n": number})

    threads = [threading.Thread(target=save, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = handler.many(10_000)
    assert [record["index"] for record in records] == list(range(2000))
    times = [record["timestamp"] for record in records]
    assert times == sorted(set(times))
    for name in range(8):
        assert [r["n"] for r in records if r["thread"] == name] == list(range(250))


def test_two_handlers_of_one_log_keep_the_order_of_the_saves(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree(flush_interval_s=0.001)
    pair = [NoteHandler(jam, "n"), NoteHandler(jam, "n")]
    for number in range(2000):
        pair[number % 2].save({"n": number})
    assert numbers_in(pair[0]) == list(range(2000))


def test_handlers_opened_by_many_threads_at_once_share_one_outbox(
    open_jamboree: OpenJamboree,
) -> None:
    jam = open_jamboree()
    start = threading.Barrier(8)
    handlers = [NoteHandler(jam, "n") for _ in range(8)]

    def save(handler: NoteHandler) -> None:
        start.wait()
        handler.save({"n": 0})

    threads = [threading.Thread(target=save, args=(handler,)) for handler in handlers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(handler._outbox) for handler in handlers}) == 1


@pytest.mark.parametrize("write", ["buffered", "sync"])
def test_a_read_sees_every_earlier_save_of_the_process(
    open_jamboree: OpenJamboree, write: str
) -> None:
    jam = open_jamboree(write=write, flush_interval_s=60.0)
    writer, reader = NoteHandler(jam, "n"), NoteHandler(jam, "n")
    for number in range(200):
        writer.save({"n": number})
        assert reader.last() is not None
        assert (reader.last() or {})["n"] == number
        assert reader.count() == number + 1


def test_a_log_that_was_read_is_marked_no_more_often_than_the_thread_looks_at_it(
    open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch, as_processes: None
) -> None:
    marks: list[Outbox] = []

    def mark(writer: Writer, outbox: Outbox) -> float:
        marks.append(outbox)
        return writer.mark_all((outbox,))

    monkeypatch.setattr(Writer, "mark", mark)
    jam, other = open_jamboree(flush_interval_s=60.0), open_jamboree()
    handler, elsewhere = NoteHandler(jam, "n"), NoteHandler(other, "n")
    for number in range(3):
        save_numbers(handler, number)
        assert numbers_in(handler)[-1] == number
    assert len(marks) == 1

    save_numbers(handler, 3)
    jam._connection.writer.hurry()
    wait_until(lambda: numbers_in(elsewhere) == [0, 1, 2, 3])
    save_numbers(handler, 4)
    assert len(marks) == 2
    jam.flush()
    assert numbers_in(elsewhere) == [0, 1, 2, 3, 4]


def test_what_a_dropped_handler_has_saved_is_still_delivered(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree(flush_interval_s=60.0)
    NoteHandler(jam, "n").save({"n": 0})
    gc.collect()
    handler = NoteHandler(jam, "n")
    handler.save({"n": 1})
    assert numbers_in(handler) == [0, 1]


def test_a_handler_that_outlives_a_delete_by_another_goes_on_from_zero(
    open_jamboree: OpenJamboree, caplog: pytest.LogCaptureFixture
) -> None:
    jam = open_jamboree()
    first, second = NoteHandler(jam, "n"), NoteHandler(jam, "n")
    save_numbers(first, 0, 1)
    second.delete()
    save_numbers(first, 2)
    save_numbers(second, 3)
    assert numbers_in(first) == numbers_in(second) == [2, 3]
    assert caplog.text == ""


def test_records_go_through_the_writer_once_each(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree()
    outbox = RecordOutbox("k", b"writer-a", jam._connection.writer.mark)
    outbox.append(encode_mapping({"n": 0}))
    assert (outbox.unsaved, outbox.is_settled) == (1, False)
    jam.flush()
    assert (outbox.unsaved, outbox.is_settled, outbox.pending_bytes) == (0, True, 0)
