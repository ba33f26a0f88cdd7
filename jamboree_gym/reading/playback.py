"""Yields steps at the speed at which they were recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from jamboree_gym.records import StepData

__all__ = ["paced"]


def paced(
    steps: Iterable[StepData],
    began_at: float,
    speed: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[StepData]:
    """Yield each step when it is due, counted from the request for the first one.

    The due time is computed from the beginning, not from the step before. So small delays do not
    add up, and a slow consumer receives steps without delay until it has caught up.

    Args:
        steps: The steps, oldest first.
        began_at: When the episode began, epoch seconds.
        speed: Factor on the recorded speed; 2 = twice as fast.
        clock: Returns the current time, seconds.
        sleep: Waits for a number of seconds.
    """
    began = clock()
    for step in steps:
        wait_s = began + (step.timestamp - began_at) / speed - clock()
        if wait_s > 0:
            sleep(wait_s)
        yield step
