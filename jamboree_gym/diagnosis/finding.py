"""What one check has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "note", "ok", "problem"]

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found.

    Attributes:
        check: What was looked at: `python`, `home`, `redis memory`, ...
        level: `ok`, `note` (it works, but is good to know), or `problem` (it does not work, or data
            may be lost).
        found: What was found, in a line.
        mend: What to do about it, in a line; empty if there is nothing to do.
    """

    check: str
    level: Level
    found: str
    mend: str = ""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", found)


def note(check: str, found: str, mend: str = "") -> Finding:
    """It works, but it is good to know."""
    return Finding(check, "note", found, mend)


def problem(check: str, found: str, mend: str) -> Finding:
    """It does not work, or data may be lost."""
    return Finding(check, "problem", found, mend)
