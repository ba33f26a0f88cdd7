"""A Ctrl-C at any line of a module."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

__all__ = ["run_until"]


class _Line:
    """Counts the lines of a module that are executed; raises at one of them."""

    def __init__(self, module: ModuleType, stop_at: int) -> None:
        self.lines, self._file, self._stop_at = 0, module.__file__, stop_at

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != self._file:
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self._stop_at:
                raise KeyboardInterrupt
        return self


def run_until(line: int, module: ModuleType, call: Callable[[], object]) -> int:
    """Call until this line of a module; how many of its lines were executed."""
    counted = _Line(module, line)
    sys.settrace(counted)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return counted.lines
