"""How often a late thread is waited for: often enough, and not the whole time."""

from __future__ import annotations

import pytest

from jamboree_gym.delivery import pacing as module
from jamboree_gym.delivery.pacing import STEP_ASIDE_S, Schedule


@pytest.fixture
def schedule(monkeypatch: pytest.MonkeyPatch) -> Schedule:
    """A schedule with a pause of 30 ms, at a time that stands still."""
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)
    return Schedule(0.05)


def waits(schedule: Schedule, times: int) -> list[float]:
    """So long after each waiting the thread is late again."""
    intervals = []
    for _ in range(times):
        schedule.late_at = 0.0
        schedule.step_aside()
        intervals.append(schedule.late_at)
    return intervals


def test_a_thread_that_stays_late_is_waited_for_more_and_more_seldom_but_goes_on(
    schedule: Schedule,
) -> None:
    schedule.go_on()

    assert waits(schedule, 8) == [
        *(STEP_ASIDE_S * 2**k for k in range(5)),
        *[schedule.pause_s] * 3,
    ]


def test_every_answer_of_the_server_makes_it_often_again(schedule: Schedule) -> None:
    schedule.go_on()
    waits(schedule, 8)

    schedule.go_on()

    assert waits(schedule, 1) == [STEP_ASIDE_S]


def test_a_thread_that_sleeps_is_late_after_its_pause(schedule: Schedule) -> None:
    schedule.expect_round()
    assert schedule.late_at == schedule.pause_s + STEP_ASIDE_S

    schedule.begin_pause()
    schedule.late_at = 0.0
    schedule.expect_round()  # what is put meanwhile puts nothing off
    assert schedule.late_at == 0.0


def test_a_thread_in_its_pause_is_not_late_because_a_reader_has_delivered(
    schedule: Schedule,
) -> None:
    schedule.begin_pause()
    schedule.go_on()
    assert schedule.late_at == schedule.pause_s + STEP_ASIDE_S

    schedule.end_pause()
    assert schedule.late_at == STEP_ASIDE_S
