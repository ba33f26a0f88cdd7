"""`timecontext`, as the README's timing loop uses it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from jamboree_gym.checked import checked

__all__ = ["timecontext"]


@checked
@contextmanager
def timecontext(label: str = "it took") -> Iterator[None]:
    """Print how long a block took, in seconds.

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
