#!/usr/bin/env python3
"""Run again what failed in a whole run of the tests: each test alone, on an idle machine.

    .ci/unsteady.py PYTHON REPORT

PYTHON has pytest; REPORT is the JUnit report of the last run of the tests in this checkout.
Exits 0 if at most MOST tests failed, and each of them passes TIMES times in a row now. Such a test
is unsteady: it is named, and has to be mended, but it does not hold up what is right. A fault of
the code that shows itself in a third of the runs gets through here once in 1,000 times.
"""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
MOST = 2
TIMES = 17


def failed_tests(report: Path, checkout: Path) -> list[str]:
    """Ids of the tests that failed in the last run; none if something else went wrong."""
    if not report.exists():
        return []
    cases = ElementTree.parse(report).getroot().iter("testcase")
    if not any(case.find(kind) is not None for case in cases for kind in ("failure", "error")):
        return []
    found = checkout / ".pytest_cache/v/cache/lastfailed"
    return sorted(json.loads(found.read_text())) if found.exists() else []


def passes_alone(python: str, test: str, checkout: Path) -> bool:
    """Whether a test passes each time."""
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    for time in range(TIMES):
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{test}: failed again, alone, at try {time + 1}", done.stdout, sep="\n")
            return False
    return True


def main(python: str, report: Path, checkout: Path = CHECKOUT) -> bool:
    """Whether all that failed is unsteady; prints why, or why not."""
    tests = failed_tests(report, checkout)
    if not tests:
        print("no test failed: something else did")
        return False
    if len(tests) > MOST:
        print(f"{len(tests)} tests failed: too many to be chance")
        return False
    for test in tests:
        if not passes_alone(python, test, checkout):
            return False
        print(f"UNSTEADY, to be mended: {test} failed once, and passed {TIMES} times alone")
    return True


if __name__ == "__main__":
    sys.exit(not main(sys.argv[1], Path(sys.argv[2])))
