"""The pytest option --on-a-cluster=PROGRAM: the Redis that most tests share is a cluster then.

Only the tests that use it run. Not those that are about one server: they are marked `one_server`.
On Redis 7.0 not those of `write="fsync"` either: it has no WAITAOF.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--on-a-cluster",
        choices=("valkey9", "redis8", "redis7"),
        help="run the tests that share a Redis on a cluster of this program",
    )


@pytest.hookimpl(trylast=True)  # after -m and -k have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not (program := config.getoption("--on-a-cluster")):
        return
    left_out = [item for item in items if not _can_be_on_a_cluster(item, program)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if _can_be_on_a_cluster(item, program)]


def _can_be_on_a_cluster(item: pytest.Item, program: str) -> bool:
    uses_it = "valkey" in getattr(item, "fixturenames", ())
    if not uses_it or item.get_closest_marker("one_server"):
        return False
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    is_of_fsync = any(isinstance(value, str) and value == "fsync" for value in parameters)
    return program != "redis7" or not is_of_fsync
