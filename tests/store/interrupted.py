"""A Ctrl-C at any line of a module, or something that another process does there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

__all__ = ["run_until"]


def _interrupt() -> None:
    raise KeyboardInterrupt


class _Line:
    """Counts the lines of a module that are executed; does something at one of them."""

    def __init__(self, module: ModuleType, line: int, do: Callable[[], object]) -> None:
        self.lines, self._file, self._line, self._do = 0, module.__file__, line, do

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != self._file:
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self._line:
                self._do()
        return self


def run_until(
    line: int, module: ModuleType, call: Callable[[], object], do: Callable[[], object] = _interrupt
) -> int:
    """Call until this line of a module, or do something else there; how many lines it executed."""
    counted = _Line(module, line, do)
    sys.settrace(counted)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return counted.lines
