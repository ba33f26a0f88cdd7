"""The pytest option --on-a-cluster=PROGRAM: the Redis that most tests share is a cluster then.

Only the tests that use it run. Not those that are about one server: they are marked `one_server`.
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
    if not config.getoption("--on-a-cluster"):
        return
    left_out = [item for item in items if not _can_be_on_a_cluster(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if _can_be_on_a_cluster(item)]


def _can_be_on_a_cluster(item: pytest.Item) -> bool:
    uses_it = "valkey" in getattr(item, "fixturenames", ())
    return uses_it and item.get_closest_marker("one_server") is None
