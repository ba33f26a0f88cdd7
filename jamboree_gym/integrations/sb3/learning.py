"""Whether a `learn` still goes on: SB3 tells callbacks of its end, not of an exception."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Final

__all__ = ["LearnWatch"]

LOOK_EVERY_S: Final = 0.5
_LEARN: Final = "learn"


class LearnWatch:
    """Looks, in a thread, whether the `learn` that it was made in is on its thread's stack.

    Args:
        on_exception: Called, in that thread, once it is not, unless `end` was called before.
    """

    def __init__(self, on_exception: Callable[[], None]) -> None:
        self._on_exception = on_exception
        self._ended = threading.Event()
        self._learner = threading.get_ident()
        self._frame = _own_learn(sys._getframe())
        if self._frame is not None:
            threading.Thread(target=self._watch, name="jamboree-learn", daemon=True).start()

    def _watch(self) -> None:
        while self._goes_on():
            if self._ended.wait(LOOK_EVERY_S):
                return
        self._on_exception()

    def _goes_on(self) -> bool:
        frame = sys._current_frames().get(self._learner)
        while frame is not None:
            if _identity(frame) == self._frame:
                return True
            frame = frame.f_back
        return False

    def end(self) -> None:
        """It has come to its end."""
        self._ended.set()


def _own_learn(frame: FrameType | None) -> tuple[int, CodeType] | None:
    """The innermost `learn` that is going on; None where somebody else calls the callback."""
    while frame is not None and frame.f_code.co_name != _LEARN:
        frame = frame.f_back
    return None if frame is None else _identity(frame)


def _identity(frame: FrameType) -> tuple[int, CodeType]:
    """Not the frame itself, which would keep all its variables alive."""
    return id(frame), frame.f_code
