"""`KnownOutboxes`: which outboxes a process has, as long as somebody refers to them."""

from __future__ import annotations

import math

from jamboree_gym.delivery.opened import SWEEP_FROM, KnownOutboxes
from jamboree_gym.delivery.outbox import RecordOutbox


def outbox(key: str) -> RecordOutbox:
    return RecordOutbox(key, bytes(8), lambda _: math.inf)


def test_outboxes_are_known_as_long_as_somebody_refers_to_them() -> None:
    known, kept = KnownOutboxes(), list[RecordOutbox]()
    for number in range(4 * SWEEP_FROM):
        one = outbox(f"log {number}")
        known.add(one)
        if number % 100 == 0:
            kept.append(one)
    del one

    assert known.all() == kept
    assert all(known.get(one.key) is one and one.key in known for one in kept)
    assert "log 1" not in known
    assert len(known._refs) < 2 * SWEEP_FROM  # most of the others are swept out


def test_all_outboxes_that_are_kept_are_known_however_many_they_are() -> None:
    known, kept = KnownOutboxes(), [outbox(f"log {number}") for number in range(3 * SWEEP_FROM)]
    for one in kept:
        known.add(one)

    assert known.all() == kept


def test_a_newer_outbox_of_a_log_takes_the_place_of_the_older_one_and_may_be_forgotten() -> None:
    known, older, newer = KnownOutboxes(), outbox("log"), outbox("log")
    known.add(older)
    known.add(newer)
    assert known.all() == [newer]

    known.forget("log")
    assert "log" not in known
    assert known.get("log") is None
