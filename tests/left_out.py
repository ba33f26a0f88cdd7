"""What this machine cannot run is deselected, never skipped, and the run says so in one line.

In CI nothing may be left out but what -m leaves out: there a run that lacks something ends at once.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Need:
    """What the tests with a marker need.

    Attributes:
        marker: The marker's name.
        tests: What they are called, after their number.
        missing: What is missing, and how to get it.
        is_met: Whether it is here.
    """

    marker: str
    tests: str
    missing: str
    is_met: Callable[[], bool]


def is_installed(module: str) -> bool:
    """Whether a module can be found, without importing it."""
    return importlib.util.find_spec(module) is not None


CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """Where a Chromium is."""
    return next(filter(None, map(shutil.which, CHROMIUMS)), None)


NEEDS = (
    Need(
        "array_api",
        "tests of wrappers between arrays and tensors",
        "pip install array-api-compat",
        lambda: is_installed("array_api_compat"),
    ),
    Need(
        "browser",
        "tests of the page in a browser",
        "no chromium on PATH, or no playwright: apt-get install chromium",
        lambda: chromium() is not None and is_installed("playwright"),
    ),
    Need(
        "compiled",
        "tests of the compiled core",
        "JAMBOREE_PURE is set, or no compiler at the installation: apt-get install gcc python3-dev",
        lambda: (
            "JAMBOREE_PURE" not in os.environ and is_installed("jamboree_gym.compiled._compiled")
        ),
    ),
    Need(
        "redis7",
        "tests of Redis 7's own dialect",
        "no redis-server on PATH: apt-get install redis-server",
        lambda: shutil.which("redis-server") is not None,
    ),
    Need(
        "nx27017",
        "tests of the MongoDB server nx-27017",
        "pip install nx-27017, which needs pymongo 4.18",
        lambda: is_installed("nx_27017"),
    ),
    Need("torch", "tests that need torch", "pip install torch", lambda: is_installed("torch")),
    Need(
        "vaex",
        "tests that need vaex",
        "pip install vaex-core, on Python 3.12 or older",
        lambda: is_installed("vaex"),
    ),
)

# How many tests each marker left out, here or in the workers of xdist, which all collect the same.
LEFT_OUT = pytest.StashKey[dict[str, int]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "redis7: needs redis-server; left out where there is none")
    config.stash[LEFT_OUT] = {}
    if not os.environ.get("CI"):
        return
    for need in NEEDS:
        if not need.is_met() and f"not {need.marker}" not in config.getoption("markexpr"):
            raise pytest.UsageError(
                f"CI leaves no test out, and the {need.tests} cannot run: {need.missing}"
            )


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test that is given a kind of server by parameters needs no marker."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    if any(isinstance(value, str) and value == "redis7" for value in parameters):
        item.add_marker("redis7")


@pytest.hookimpl(trylast=True)  # after -m and -k have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unmet = [need.marker for need in NEEDS if not need.is_met()]
    lacking = {
        item: marker for item in items for marker in unmet if item.get_closest_marker(marker)
    }
    if not lacking:
        return
    config.hook.pytest_deselected(items=list(lacking))
    items[:] = [item for item in items if item not in lacking]
    config.stash[LEFT_OUT] = dict(Counter(lacking.values()))
    if hasattr(config, "workeroutput"):  # a worker of pytest-xdist, which writes nothing itself
        config.workeroutput["left_out"] = config.stash[LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist has ended."""
    left_out = getattr(node, "workeroutput", {}).get("left_out", {})
    node.config.stash[LEFT_OUT].update(left_out)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    count = config.stash[LEFT_OUT]
    parts = [
        f"{count[need.marker]} {need.tests} ({need.missing})"
        for need in NEEDS
        if need.marker in count
    ]
    if parts:
        terminalreporter.write_line(f"left out: {'; '.join(parts)}", yellow=True)
