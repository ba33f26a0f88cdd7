"""How far a long read is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

__all__ = ["Progress", "reported"]

Progress = Callable[[int, int], object]
"""Is told how many episodes have been read, of how many."""

_T = TypeVar("_T")


def reported(
    parts: Iterable[tuple[int, _T]], total: int, progress: bool | Progress
) -> Iterator[_T]:
    """The parts, and after each the number that came with it is told.

    Args:
        parts: Pairs of how many are read and what was read.
        total: How many there are.
        progress: Who is told; True: whoever looks at stderr.
    """
    tell = _on_stderr if progress is True else progress or None
    for done, part in parts:
        yield part
        if tell is not None:
            tell(done, total)


def _on_stderr(done: int, total: int) -> None:
    """One line that is written over and over, and left at the end."""
    end = "\n" if done == total else ""
    print(f"\r{done:,} of {total:,} episodes read", end=end, file=sys.stderr, flush=True)
