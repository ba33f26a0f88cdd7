"""Python, and the packages that are wanted: their versions, and which extras are installed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata

from jamboree_gym.diagnosis.finding import Finding, note, ok, problem

__all__ = ["check_packages"]

DISTRIBUTION = "jamboree-gym"
TESTED = ((3, 11), (3, 13))
_EXTRA = re.compile(r"""extra == ['"]([\w-]+)['"]""")
_PLATFORM = re.compile(r"""sys_platform != ['"]win32['"]""")
_BOUND = re.compile(r">=([\w.]+)")
_NAME = re.compile(r"[\w.-]+")
_LEFT_OUT = {"all", "dev", "test", "ui"}


def check_packages() -> Iterator[Finding]:
    """Look at Python, at what the package needs, and at its extras."""
    yield _python()
    try:
        wanted = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield note(
            "packages",
            "jamboree-gym is on the path, not installed",
            "pip install jamboree-gym",
        )
        return
    needed = [one for one in wanted if not _EXTRA.search(one) and _is_for_here(one)]
    yield from _of_core(needed)
    extras: dict[str, list[str]] = {}
    for one in wanted:
        extra = _EXTRA.search(one)
        if extra is not None and extra[1] not in _LEFT_OUT and _is_for_here(one):
            extras.setdefault(extra[1], []).append(one)
    for name, requirements in sorted(extras.items()):
        yield _of_extra(name, requirements)


def _python() -> Finding:
    here = sys.version_info[:2]
    found = f"Python {sys.version.split()[0]}"
    lowest, highest = TESTED
    if here < lowest:
        return problem("python", found, f"use Python {lowest[0]}.{lowest[1]} or newer")
    if here > highest:
        tested = f"3.{lowest[1]} to 3.{highest[1]}"
        return note("python", f"{found} is newer than what is tested", f"Python {tested} is tested")
    return ok("python", found)


def _is_for_here(requirement: str) -> bool:
    """Whether the markers of a requirement let it be installed here."""
    if _PLATFORM.search(requirement) and sys.platform == "win32":
        return False
    older = re.search(r"""python_version < ['"]3\.(\d+)['"]""", requirement)
    return older is None or sys.version_info[1] < int(older[1])


def _of_core(needed: list[str]) -> Iterator[Finding]:
    wrong = [text for text in map(_wrong_with, needed) if text]
    if not wrong:
        yield ok("packages", f"all {len(needed)} that jamboree-gym needs")
    for text in wrong:
        yield problem("packages", text, "pip install --upgrade jamboree-gym")


def _of_extra(name: str, requirements: list[str]) -> Finding:
    check, mend = f"extra {name}", f"pip install --upgrade 'jamboree-gym[{name}]'"
    wrong = [text for text in map(_wrong_with, requirements) if text]
    if not wrong:
        return ok(check, ", ".join(map(_installed, requirements)))
    if all(text.endswith("is not installed") for text in wrong):
        missing = ", ".join(map(_name_of, requirements))
        return note(check, f"not installed: {missing}", f"pip install 'jamboree-gym[{name}]'")
    return problem(check, "; ".join(wrong), mend)


def _name_of(requirement: str) -> str:
    found = _NAME.match(requirement)
    return "" if found is None else found[0]


def _installed(requirement: str) -> str:
    name = _name_of(requirement)
    return f"{name} {metadata.version(name)}"


def _wrong_with(requirement: str) -> str:
    """What is wrong with the installed version; empty if nothing is."""
    name, bound = _name_of(requirement), _BOUND.search(requirement)
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"{name} is not installed"
    if bound is not None and _numbers(installed) < _numbers(bound[1]):
        return f"{name} {installed} is too old: {bound[1]} or newer is needed"
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a release; what comes before it (`0.7.0b3`) counts as the release."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[a-z+]", version)[0]))
