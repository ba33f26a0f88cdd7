"""`StepOutbox` without a server: what is put, sealed, sent and settled, and by which thread."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jamboree_gym.arrays.layout import Leaf
from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.delivery import step_outbox
from jamboree_gym.delivery.outbox import MAX_BATCH_BYTES, MAX_BATCHES_PER_APPEND
from jamboree_gym.delivery.row_writer import CHECK_EVERY_BYTES, ROWS_PER_BATCH
from jamboree_gym.delivery.step_outbox import StepOutbox, seal_together
from jamboree_gym.encoding.batch_format import decode_batch
from jamboree_gym.encoding.bulk_decoder import decode_batches
from jamboree_gym.encoding.column_batch import decode_tail
from jamboree_gym.encoding.summary_codec import Beginning, decode_episode_note
from jamboree_gym.errors import EpisodeInUse, EpisodeNotFound, InvalidRecord, JamboreeClosed
from jamboree_gym.journal.journal import Journal, JournalOwner
from jamboree_gym.records import EpisodeOrigin, EpisodeStatus, EpisodeSummary
from jamboree_gym.store.log import AppendResult

SCHEMA = StepSchema(
    Leaf(np.dtype(np.float32), (2,), "array"), Leaf(np.dtype(np.int64), (), "python")
)
OBSERVATION = np.zeros(2, np.float32)
SUMMARY = EpisodeSummary("e", "Env-v0", "run", "running", 0, 0.0, 100.0, 0.0, None)
ORIGIN = EpisodeOrigin(1, None, None, "0" * 16)
LANE = Journal(None, JournalOwner("0" * 16, "", 0, "ns")).lane()


def outbox(mark: Callable[[Any], float] = lambda _: math.inf, **options: Any) -> StepOutbox:
    begun = Beginning.of(options.pop("summary", SUMMARY), options.pop("origin", ORIGIN))
    options = {"begun": begun, "schema": SCHEMA, "keep": 11, **options}
    options.setdefault("lane", Journal(None, JournalOwner("0" * 16, "", 0, "ns")).lane())
    return StepOutbox("log", bytes(8), mark, **options)


def begun(**options: Any) -> StepOutbox:
    box = outbox(**options)
    box.add_reset(OBSERVATION, None)
    return box


def step(box: StepOutbox, action: Any, observation: Any, *rest: Any) -> bool:
    box.set_action(action)
    return box.add_step(observation, *rest)


def put(box: StepOutbox, number: int, reward: float = 1.0) -> bool:
    return step(box, 0, np.full(2, number, np.float32), reward, False, False, None)


def accepted(box: StepOutbox) -> list[bytes]:
    """The batches of the next append, as if the server had taken them."""
    append = box.next_append()
    if append is None:
        return []
    box.settle(AppendResult(len(append.batches), append.after, 0.0))
    return list(append.batches)


def all_numbers(batches: list[bytes]) -> list[float]:
    numbers: list[float] = []
    for blob in batches:
        batch = decode_batch(blob, where="log")
        assert batch.start == len(numbers)
        numbers += (
            decode_batches([batch], lambda _: SCHEMA, where="log").observations[:, 0].tolist()
        )
    return numbers


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads that interrupt each other all the time."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("keep", [1, 300])
def test_rows_put_while_another_thread_seals_are_sent_once_and_in_order(keep: int) -> None:
    box = begun(keep=keep)
    batches: list[bytes] = []
    stopped = threading.Event()

    def deliver() -> None:
        while not stopped.is_set():
            box.seal()
            batches.extend(accepted(box))

    thread = threading.Thread(target=deliver)
    thread.start()
    for number in range(1, 20_001):
        put(box, number)
    stopped.set()
    thread.join()
    box.end("terminated")
    box.seal()
    while sent := accepted(box):
        batches += sent

    assert all_numbers(batches) == list(range(20_001))
    assert (box.unsaved, box.summary.steps, box.summary.status) == (0, 20_000, "terminated")


@pytest.mark.usefixtures("hasty_threads")
def test_recent_sees_the_newest_rows_while_another_thread_seals() -> None:
    box = begun(keep=11)
    stopped = threading.Event()

    def deliver() -> None:
        while not stopped.is_set():
            box.seal()
            accepted(box)

    thread = threading.Thread(target=deliver)
    thread.start()
    for number in range(1, 5_001):
        put(box, number)
        rows = box.recent(5)
        assert rows is not None
        assert rows.observations[-1, 0] == number
        assert len(rows) == min(number, 5) + 1
    stopped.set()
    thread.join()


def test_it_is_marked_once_until_it_is_sealed() -> None:
    marks: list[StepOutbox] = []

    def mark(box: StepOutbox) -> float:
        marks.append(box)
        return math.inf

    box = begun(mark=mark)
    put(box, 1)
    assert marks == [box]

    box.seal()
    put(box, 2)
    assert marks == [box, box]


def test_a_closed_writer_is_told_to_every_put() -> None:
    def refuse(_: Any) -> float:
        raise JamboreeClosed("closed")

    box = outbox(mark=refuse)
    with pytest.raises(JamboreeClosed):
        box.add_reset(OBSERVATION, None)
    for number in range(3):
        with pytest.raises(JamboreeClosed):
            put(box, number)


def test_an_end_is_unsaved_until_it_is_settled() -> None:
    box = begun()
    box.seal()
    accepted(box)
    assert box.unsaved == 0

    box.end("abandoned")
    assert box.unsaved == 1

    box.seal()
    accepted(box)
    assert box.unsaved == 0
    assert box.summary.status == "abandoned"


def test_only_the_first_end_counts() -> None:
    box = begun()
    box.end("terminated")
    box.end("abandoned")

    assert box.status == "terminated"


@pytest.mark.parametrize(
    ("ends", "status"), [((True, True), "terminated"), ((False, True), "truncated")]
)
def test_a_last_row_that_is_sealed_before_the_end_is_announced_ends_the_episode(
    ends: tuple[bool, bool], status: EpisodeStatus
) -> None:
    box = begun()
    step(box, 0, OBSERVATION, 1.0, *ends, None)
    box.seal()
    assert box.summary.status == status
    box.seal()
    assert box.summary.status == status
    box.end(status)
    box.seal()
    assert (box.summary.status, box.summary.steps) == (status, 1)


def test_the_summary_is_never_ahead_of_the_rows() -> None:
    box = begun()
    count = MAX_BATCHES_PER_APPEND * ROWS_PER_BATCH + 10
    for number in range(1, count):
        put(box, number)
    box.end("terminated")
    box.seal()

    told = []
    while append := box.next_append():
        summary, _ = decode_episode_note(append.note, episode_id="e", where="log")
        last = decode_batch(append.batches[-1], where="log")
        told.append((summary.steps, summary.status))
        assert summary.steps == last.stop - 1
        box.settle(AppendResult(len(append.batches), last.stop, 0.0))

    assert len(told) > 1
    assert {status for _, status in told[:-1]} == {"running"}
    assert told[-1] == (count - 1, "terminated")


def test_a_note_that_is_stored_is_not_sent_again() -> None:
    box = begun()
    box.seal()
    accepted(box)
    box.seal()

    assert box.next_append() is None


@pytest.mark.parametrize("stored", [1, 2])
def test_after_the_backup_was_asked_the_summary_is_sent_again(stored: int) -> None:
    box = begun()
    box.seal()
    put(box, 1)
    box.end("terminated")
    box.seal()
    append = box.next_append()
    assert len(append.batches) == 2
    box.was_asked_for("epoch", stored)

    again = box.next_append()
    assert (again.batches, again.note) == (append.batches[stored:], append.note)


@pytest.mark.parametrize("was_lost", [False, True])
def test_only_after_a_lost_answer_a_try_without_room_is_repeated_as_it_was(was_lost: bool) -> None:
    box = begun()
    box.seal()
    append = box.next_append()
    if was_lost:
        append = box.next_append()
    box.was_not_taken(append)
    put(box, 1)
    box.seal()

    again = box.next_append()
    assert again.is_repeated == was_lost
    assert (again.batches == append.batches) == was_lost


def test_the_return_does_not_depend_on_when_rows_were_sealed() -> None:
    rewards = [0.1, 0.2, 0.3, 1e16, -1e16, 0.7] * 10
    often, once = begun(), begun()
    for number, reward in enumerate(rewards):
        put(often, number, reward)
        often.seal()
        put(once, number, reward)
    once.seal()

    assert often.summary.episode_return == once.summary.episode_return


def recorded(number: int) -> StepOutbox:
    """One of several episodes: some end, one is put in parts, two have infos, one changes."""
    seconds = iter(range(1000))
    clock = lambda: 101.0 + next(seconds)  # noqa: E731
    box = outbox(lane=LANE, clock=clock, summary=replace(SUMMARY, id=f"e{number}"))
    box.add_reset(np.full(2, number, np.float32), b"info" if number == 3 else None)
    if number == 4:
        box.seal()
    for length in range(number * 5):
        ends = length + 1 == number * 5
        action = np.int64(1) if number == 2 and length == 4 else 1
        observation = np.full(2, length, np.float32)
        flags = ends and number == 1, ends and number == 5
        info = b"step %d" % length if number == 7 and length % 3 else None
        step(box, action, observation, 0.1 * length, *flags, info)
    if number == 6:
        box.end("abandoned")
    return box


def test_episodes_sealed_together_are_sealed_as_each_by_itself() -> None:
    together, alone = ([recorded(number) for number in range(8)] for _ in range(2))
    for box in seal_together(together):
        box.seal()
    for box in alone:
        box.seal()

    for one, other in zip(together, alone, strict=True):
        assert (one.summary, one.unsaved) == (other.summary, other.unsaved)
        assert one.next_append() == other.next_append()
        assert one._marked is other._marked is False  # the next row announces itself
    assert [box.summary.status for box in together if box.summary.status != "running"] == [
        *("terminated", "truncated", "abandoned")
    ]


def test_most_episodes_are_sealed_together() -> None:
    boxes = [recorded(number) for number in range(8)]

    assert [box.id for box in seal_together(boxes)] == ["e2"]  # a change


@pytest.mark.parametrize(
    "what_comes", [lambda box: put(box, 1), lambda box: box.end("truncated")], ids=["row", "end"]
)
def test_what_comes_while_episodes_are_sealed_together_is_announced(
    monkeypatch: pytest.MonkeyPatch, what_comes: Callable[[StepOutbox], object]
) -> None:
    marks: list[Any] = []
    box = begun(mark=lambda one: marks.append(one) or math.inf)
    span = step_outbox.Span

    def what_comes_meanwhile(*rows: Any) -> Any:
        what_comes(box)
        return span(*rows)

    monkeypatch.setattr(step_outbox, "Span", what_comes_meanwhile)
    assert seal_together([box]) == []

    assert marks == [box, box]


def test_rows_on_both_sides_of_the_end_of_a_block_are_one_batch() -> None:
    box = begun()
    step(box, 1, OBSERVATION, 0.5, False, False, None)
    box._open_extent(box.rows_put, 0)  # as where the block is full
    step(box, 1, OBSERVATION, 0.25, False, False, None)

    assert seal_together([box]) == []
    assert box.summary.episode_return == 0.75
    assert [decode_batch(blob, where="log").count for blob in accepted(box)] == [3]


def test_infos_on_both_sides_of_the_end_of_a_block_are_sealed_as_they_are() -> None:
    boxes = [begun(), begun()]
    for box in boxes:
        step(box, 1, OBSERVATION, 0.5, False, False, b"one")
    boxes[0]._open_extent(boxes[0].rows_put, 0)  # as where the block is full
    for box in boxes:
        step(box, 1, OBSERVATION, 0.25, True, False, b"two")

    left = seal_together(boxes)
    for box in left:
        box.seal()

    assert left == boxes[:1]
    for box in boxes:
        batches = [decode_batch(blob, where="log") for blob in accepted(box)]
        tails = [decode_tail(one.body, box.schema, one.count) for one in batches]
        infos = zip(batches, tails, strict=True)
        assert [(batch.start + at, info) for batch, tail in infos for at, info in tail.infos] == [
            *((1, b"one"), (2, b"two"))
        ]


def test_episodes_that_cannot_be_sealed_together_are_sealed_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError

    boxes = [recorded(number) for number in (0, 1)]
    with monkeypatch.context() as patch:
        patch.setattr(step_outbox, "encode_step_batches", fail)
        left = seal_together(boxes)
    for box in left:
        box.seal()

    assert left == boxes
    assert [len(accepted(box)) for box in boxes] == [1, 1]


def test_the_first_action_gives_the_reset_its_layout() -> None:
    box = begun()
    step(box, np.zeros(3, np.float32), OBSERVATION, 0.0, False, False, None)
    box.seal()

    assert len(accepted(box)) == 1


def test_a_reset_that_is_sealed_already_keeps_its_layout() -> None:
    box = begun()
    box.seal()
    step(box, np.zeros(3, np.float32), OBSERVATION, 0.0, False, False, None)
    box.seal()

    batches = accepted(box)
    assert [decode_batch(blob, where="log").count for blob in batches] == [1, 1]


def test_recent_leaves_rows_of_another_layout_to_the_store() -> None:
    box = begun()
    put(box, 1)
    step(box, 0, np.zeros(2, np.float64), 1.0, False, False, None)
    put_back = step(box, 0, np.zeros(2, np.float64), 1.0, False, False, None)

    assert box.recent(3) is None
    assert box.recent(1) is not None
    assert put_back is False


def test_recent_is_in_memory_when_only_the_kind_of_the_action_changes() -> None:
    box = begun()
    for action in (1, np.int64(2), 0):
        step(box, action, OBSERVATION, 1.0, False, False, None)

    rows = box.recent(3)

    assert rows is not None
    assert rows.actions[1:].tolist() == [1, 2, 0]


@pytest.mark.parametrize("n", [0, -1, -100])
def test_recent_of_no_steps_has_none(n: int) -> None:
    box = begun()
    put(box, 1)

    rows = box.recent(n)

    assert rows is not None
    assert len(rows) == 1


def test_layouts_that_are_sealed_are_forgotten() -> None:
    box = begun()
    for number in range(1_000):
        step(box, number % 2 or np.int64(0), OBSERVATION, 1.0, False, False, None)
    box.seal()

    assert len(box._schemas) <= 11 + ROWS_PER_BATCH
    assert sum(decode_batch(blob, where="log").count for blob in accepted(box)) == 1_001


def test_what_waits_is_counted_with_its_infos() -> None:
    box = begun()
    before = box.pending_bytes
    step(box, 0, OBSERVATION, 1.0, False, False, bytes(1_000_000))
    assert box.pending_bytes - before > 1_000_000

    box.seal()
    accepted(box)
    assert box.pending_bytes == 0


def test_large_rows_are_a_reason_to_look_at_what_waits_every_time() -> None:
    large = StepSchema(Leaf(np.dtype(np.uint8), (CHECK_EVERY_BYTES,), "array"), SCHEMA.action)
    box = outbox(schema=large)
    observation = np.zeros(CHECK_EVERY_BYTES, np.uint8)
    box.add_reset(observation, None)

    assert all(step(box, 0, observation, 0.0, False, False, None) for _ in range(3))
    assert step(begun(), 0, OBSERVATION, 0.0, False, False, bytes(CHECK_EVERY_BYTES))


def test_small_rows_are_a_reason_now_and_then() -> None:
    box = begun()

    assert [put(box, number) for number in range(1, 2 * ROWS_PER_BATCH)].count(True) == 2


def test_large_rows_make_small_batches() -> None:
    shape = (MAX_BATCH_BYTES // 4,)
    box = outbox(schema=StepSchema(Leaf(np.dtype(np.uint8), shape, "array"), SCHEMA.action))
    observation = np.zeros(shape, np.uint8)
    box.add_reset(observation, None)
    for _ in range(5):
        step(box, 0, observation, 0.0, False, False, None)
    box.seal()

    assert max(map(len, accepted(box))) < MAX_BATCH_BYTES * 1.1


@pytest.mark.parametrize(
    ("count", "error", "words"),
    [(9, EpisodeInUse, "another writer"), (0, EpisodeNotFound, "no longer in Redis")],
)
def test_a_log_that_is_not_as_it_was_left_is_refused(
    count: int, error: type[Exception], words: str
) -> None:
    box = begun()
    box.seal()
    accepted(box)
    put(box, 1)
    box.seal()
    box.next_append()
    box.settle(AppendResult(0, count, 0.0))

    assert isinstance(box.error, error)
    assert words in str(box.error)


def taken(box: StepOutbox, born: bytes = b"100.0") -> list[bytes]:
    """The batches of the next append, as a server takes them into the log with that birth."""
    append = box.next_append()
    if append is None:
        return []
    stored = len(append.batches)
    box.settle(AppendResult(stored, append.after, 0.0, log=("epoch", born)))
    return list(append.batches)


def grown(rows: int) -> tuple[StepOutbox, list[bytes]]:
    """An episode of so many rows, each taken as a batch of its own; and these."""
    box, batches = begun(), list[bytes]()
    for number in range(1, rows + 1):
        box.seal()
        batches += taken(box)
        put(box, number)
    box.seal()
    return box, batches


@pytest.mark.parametrize("count", [1, 3])
def test_batches_that_the_server_has_lost_are_sent_again_as_they_were(count: int) -> None:
    box, batches = grown(4)
    box.next_append()
    box.settle(AppendResult(0, count, 0.0, log=("epoch", b"100.0")))

    assert box.unsaved == 5 - count
    sent = taken(box)
    assert sent[: 4 - count] == batches[count:]
    assert all_numbers([*batches[:count], *sent]) == [0, 1, 2, 3, 4]
    assert box.is_settled


def test_a_young_episode_that_the_server_has_lost_is_sent_again_whole() -> None:
    box, batches = grown(4)
    box.next_append()
    box.settle(AppendResult(0, 0, -math.inf))

    append = box.next_append()
    assert append.batches[:4] == batches
    assert append.is_repeated  # it may have been deleted
    box.was_asked_for("epoch")
    assert not box.next_append().is_repeated
    assert all_numbers(taken(box)) == [0, 1, 2, 3, 4]
    assert box.is_settled


@pytest.mark.parametrize("how", ["another log", "another boundary", "too long ago", "too large"])
def test_what_is_not_held_or_of_another_log_is_not_sent_again(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "too long ago":
        monkeypatch.setattr(step_outbox, "SENT_AGAIN_S", -1.0)
    if how == "too large":
        monkeypatch.setattr(step_outbox, "MAX_SENT_AGAIN_BYTES", 0)
    box, _ = grown(4)
    if how == "another boundary":
        put(box, 5)
        put(box, 6)
        box.seal()
        taken(box)
        put(box, 7)
        box.seal()
    count = 6 if how == "another boundary" else 3
    box.next_append()
    born = b"200.0" if how == "another log" else b"100.0"
    box.settle(AppendResult(0, count, 0.0, log=("epoch", born)))

    assert isinstance(box.error, EpisodeNotFound)
    assert box.next_append() is None


def test_a_refused_outbox_counts_what_it_loses_but_does_not_hold_it() -> None:
    box = begun(keep=1)
    box.seal()
    box.refuse(EpisodeInUse("another writer"))
    for number in range(5_000):
        put(box, number)
        box.seal()

    assert box.unsaved == 5_001
    assert box.pending_bytes == 0
    assert sum(extent.count for extent in box._extents) < 4_500
    assert box.next_append() is None


def test_an_origin_that_cannot_be_kept_is_refused_at_once() -> None:
    with pytest.raises(InvalidRecord):
        outbox(origin=EpisodeOrigin(1, None, {"rule": len}, "0" * 16))
