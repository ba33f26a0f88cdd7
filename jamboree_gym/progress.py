"""What is printed of work that takes long: how far it is, and how long it took."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from jamboree_gym.checked import checked

__all__ = ["Progress", "reported", "teller", "timecontext"]

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
        progress: Who is told; True = print to stderr.
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
        progress: Who is told; True = print to stderr.
        done_are: What is done, for stderr: `episodes read`.
    """
    return partial(_on_stderr, done_are) if progress is True else progress or None


def _on_stderr(done_are: str, done: int, total: int) -> None:
    """One line that is written over and over, and left at the end."""
    end = "\n" if done == total else ""
    print(f"\r{done:,} of {total:,} {done_are}", end=end, file=sys.stderr, flush=True)


@checked
@contextmanager
def timecontext(label: str = "it took") -> Iterator[None]:
    """Print how long a block took, in seconds.

    Args:
        label: The text before the number.

    Example:
        >>> with timecontext():
        ...     pass
        it took 0.000 s
    """
    began = time.perf_counter()
    try:
        yield
    finally:
        print(f"{label} {time.perf_counter() - began:.3f} s")
