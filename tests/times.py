"""What the tests of a run cost: the slowest, the sum of each file, the total.

    python tests/times.py build/tests.xml

Reads a JUnit report, which `make test` writes. The time of a test includes that of its fixtures.
"""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path


def read(report: Path) -> dict[str, float]:
    """Seconds by test, `file::name`."""
    cases = ElementTree.parse(report).getroot().iter("testcase")
    seconds: Counter[str] = Counter()
    for case in cases:
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        seconds[name] += float(case.get("time", 0))
    return seconds


def table(title: str, seconds: dict[str, float], rows: int) -> str:
    """The largest, one on a line."""
    shown = sorted(seconds.items(), key=lambda row: -row[1])[:rows]
    return "\n".join([title, *(f"{taken:8.1f}  {name}" for name, taken in shown)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="a JUnit report, as pytest --junitxml writes it")
    parser.add_argument("--slowest", type=int, default=40, help="how many tests (40)")
    chosen = parser.parse_args()
    tests = read(chosen.report)
    files: Counter[str] = Counter()
    for name, taken in tests.items():
        files[name.split("::")[0]] += taken
    print(table(f"The {chosen.slowest} slowest tests, in seconds", tests, chosen.slowest))
    print(table("Seconds by file", files, len(files)))
    print(f"{sum(tests.values()):8.1f}  test-seconds in total, of {len(tests)} tests")


if __name__ == "__main__":
    main()
