"""Whether a `learn` is still running: SB3 tells callbacks of its end, not of an exception."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

__all__ = ["LearnWatch"]

LOOK_EVERY_S: Final = 0.5
_LEARN: Final = "learn"


class LearnWatch:
    """Looks, in a thread, whether the `learn` that it was made in has ended.

    It keeps the frame of that `learn`, and with it its variables, until it finds that it has ended.
    To search the stack of the learning thread instead is not safe: that thread changes its frames
    meanwhile, and the search was seen to come upon objects that are no frames.

    Args:
        on_exception: Called, in that thread, once it has, unless `end` was called before.
    """

    def __init__(self, on_exception: Callable[[], None]) -> None:
        self._on_exception = on_exception
        self._ended = threading.Event()
        self._frame = _own_learn(sys._getframe())
        if self._frame is not None:
            threading.Thread(target=self._watch, name="jamboree-learn", daemon=True).start()

    def _watch(self) -> None:
        while self._is_running():
            if self._ended.wait(LOOK_EVERY_S):
                return
        if not self._ended.is_set():
            self._frame = None
            self._on_exception()

    def _is_running(self) -> bool:
        frame = self._frame
        return frame is not None and _is_executing(frame)

    def end(self) -> None:
        """It has come to its end."""
        self._ended.set()
        self._frame = None


def _own_learn(frame: FrameType | None) -> FrameType | None:
    """The innermost `learn` that is running; None if something else calls the callback."""
    while frame is not None and frame.f_code.co_name != _LEARN:
        frame = frame.f_back
    return frame


def _is_executing(frame: FrameType) -> bool:
    """Whether the call has not ended: until then its variables belong to its thread.

    The garbage collector finds the code and the variables of a call at the frame only once it has
    ended (`frame_traverse` in CPython's Objects/frameobject.c).
    """
    return not any(found is frame.f_code for found in gc.get_referents(frame))
