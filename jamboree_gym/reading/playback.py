"""Steps at the pace at which they were recorded."""

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
    """Each step when it is due, counted from when the first one is asked for.

    What is due is worked out from the beginning, not from the step before, so that waiting a little
    too long each time does not add up, and whoever was slow catches up.

    Args:
        steps: The steps, oldest first.
        began_at: When the episode began, epoch seconds.
        speed: How many times as quick.
        clock: Tells the time now, seconds.
        sleep: Waits for so many seconds.
    """
    began = clock()
    for step in steps:
        wait_s = began + (step.timestamp - began_at) / speed - clock()
        if wait_s > 0:
            sleep(wait_s)
        yield step
