"""How far it is with many episodes, or one that takes long."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

__all__ = ["Progress", "reported", "teller"]

Progress = Callable[[int, int], object]
"""Is told how many episodes are done (or frames, of a video), of how many."""

_T = TypeVar("_T")


def reported(
    parts: Iterable[tuple[int, _T]],
    total: int,
    progress: bool | Progress,
    *,
    done_is: str = "read",
) -> Iterator[_T]:
    """The parts, and after each the number that came with it is told.

    Args:
        parts: Pairs of how many are done and what came of it.
        total: How many there are.
        progress: Who is told; True: whoever looks at stderr.
        done_is: What has been done to them, for stderr.
    """
    tell = teller(progress, f"episodes {done_is}")
    for done, part in parts:
        yield part
        if tell is not None:
            tell(done, total)


def teller(progress: bool | Progress, done_are: str) -> Progress | None:
    """Who is told; None where nobody is.

    Args:
        progress: True: whoever looks at stderr.
        done_are: What is done, for stderr: `episodes read`.
    """
    return partial(_on_stderr, done_are) if progress is True else progress or None


def _on_stderr(done_are: str, done: int, total: int) -> None:
    """One line that is written over and over, and left at the end."""
    end = "\n" if done == total else ""
    print(f"\r{done:,} of {total:,} {done_are}", end=end, file=sys.stderr, flush=True)
