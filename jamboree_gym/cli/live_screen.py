"""A screen of a terminal that is drawn anew every second, until somebody presses q."""

from __future__ import annotations

import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from jamboree_gym.cli.output import encodable
from jamboree_gym.wording import one_line

__all__ = ["Drawing", "show_live"]

_OPEN, _CLOSE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


class Drawing(str):
    """A line that is made here, and may set colours: it is written as it is."""

    __slots__ = ()


def show_live(lines: Callable[[], Sequence[str] | None], *, every_s: float) -> None:
    """Draw lines again and again, until there are none, q is pressed or Ctrl-C comes.

    The terminal is as it was afterwards, however it ends.

    Args:
        lines: Makes the lines; those that do not fit are left out. None ends it.
        every_s: How often.
    """
    with _screen(), _keys() as key_comes:
        while (shown := lines()) is not None:
            _draw(shown)
            if key_comes(every_s):
                return


def _draw(lines: Sequence[str]) -> None:
    width, height = shutil.get_terminal_size()
    shown = [
        line if isinstance(line, Drawing) else encodable(one_line(line))[:width]
        for line in lines[:height]
    ]
    rows = f"{_REST_OF_LINE}\r\n".join(shown)
    sys.stdout.write(f"{_HOME}{rows}{_REST_OF_LINE}{_BELOW}")
    sys.stdout.flush()


@contextmanager
def _screen() -> Iterator[None]:
    """The other screen of the terminal, without a cursor."""
    try:
        sys.stdout.write(_OPEN)
        yield
    finally:
        sys.stdout.write(_CLOSE)
        sys.stdout.flush()


@contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Waits so many seconds, and returns whether q was pressed meanwhile."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield _sleep
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield lambda seconds: _is_pressed(terminal, seconds)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _is_pressed(terminal: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
        typed = os.read(terminal, 64)
        if not typed or b"q" in typed.lower():  # nothing: the terminal has gone
            return True
    return False
