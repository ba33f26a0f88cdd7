"""The pytest option --slice=K/N: of the tests marked `long`, only a part, another one for each K.

CI takes K from the commit, so that N commits in a row run all of them.
Each module that has long tests gives at least one to every slice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import pytest


class Slice(NamedTuple):
    """One part of several.

    Attributes:
        index: Which one, from 0.
        parts: Of how many.
    """

    index: int
    parts: int

    @classmethod
    def parse(cls, text: str) -> Slice:
        """Read `K/N`, where K is 1 to N."""
        number, _, parts = text.partition("/")
        if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
            raise pytest.UsageError(f"--slice={text}: give a part of several, such as 3/8")
        return cls(int(number) - 1, int(parts))

    def of(self, names: Sequence[str]) -> set[str]:
        """This slice of the names of one module: every N-th, and never none."""
        ordered = sorted(names)
        first = self.index % min(self.parts, len(ordered))
        return set(ordered[first :: self.parts])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slice", metavar="K/N", help="of the long tests, only part K of N")


def pytest_configure(config: pytest.Config) -> None:
    if text := config.getoption("--slice"):
        Slice.parse(text)  # what is wrong is said at once


@pytest.hookimpl(trylast=True)  # after -m and -k have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not (text := config.getoption("--slice")):
        return
    part = Slice.parse(text)
    by_module = defaultdict(list)
    for item in items:
        if item.get_closest_marker("long"):
            by_module[item.nodeid.split("::")[0]].append(item.nodeid)
    long = {name for names in by_module.values() for name in names}
    chosen = {name for names in by_module.values() for name in part.of(names)}
    left_out = [item for item in items if item.nodeid in long - chosen]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.nodeid not in long - chosen]
