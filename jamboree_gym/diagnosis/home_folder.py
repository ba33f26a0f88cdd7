"""The home folder: journals, and the data of the embedded servers."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from jamboree_gym.diagnosis.finding import Finding, note, ok, problem
from jamboree_gym.errors import JamboreeError
from jamboree_gym.journal.journal import file_system_of, is_on_another_machine
from jamboree_gym.servers.home import Home

__all__ = ["check_home"]

CHECK = "home"
MIN_FREE_BYTES = 1 << 30  # less is a problem: a journal and the servers' logs grow
LITTLE_BYTES = 5 << 30
GIB = 1 << 30
_IN_MEMORY = ("tmpfs", "ramfs")
_ELSEWHERE = "name a folder on a disk of this machine: --home or JAMBOREE_HOME"


def check_home(home: Path | None, *, is_embedded: bool) -> Iterator[Finding]:
    """Look at the home folder; makes none."""
    try:
        found = Home.at(home)
        is_there = found.check()
    except JamboreeError as error:
        yield problem(CHECK, str(error).splitlines()[0], _ELSEWHERE)
        return
    place = found.path
    if not is_there:
        yield note(CHECK, f"there is none at {place}", "the first recording makes it")
    while not place.is_dir():
        place = place.parent
    yield _access(place, found.path, is_there=is_there)
    yield from _file_system(place, is_embedded=is_embedded)
    yield _space(place)


def _access(place: Path, home: Path, *, is_there: bool) -> Finding:
    if not os.access(place, os.W_OK | os.X_OK):
        return problem(
            "home access", f"{place} cannot be written to", f"chmod u+rwx {place}, or --home"
        )
    mode = stat.S_IMODE(place.stat().st_mode)
    if is_there and mode & 0o077:
        return note(
            "home access", f"{home} is open to other users ({mode:04o})", f"chmod 700 {home}"
        )
    return ok("home access", f"{home} can be written to")


def _file_system(place: Path, *, is_embedded: bool) -> Iterator[Finding]:
    kind = file_system_of(place)
    check = "home disk"
    if is_on_another_machine(kind):
        yield problem(check, f"{place} is another machine's ({kind}): no journal there", _ELSEWHERE)
    elif kind in _IN_MEMORY and is_embedded:
        yield note(check, f"{place} is in memory ({kind}): a restart loses all of it", _ELSEWHERE)
    elif kind:
        yield ok(check, f"{place} is on {kind}")


def _space(place: Path) -> Finding:
    free = shutil.disk_usage(place).free
    found = f"{free / GIB:,.1f} GiB are free at {place}"
    check = "home space"
    if free < MIN_FREE_BYTES:
        return problem(check, found, f"free some, or {_ELSEWHERE}")
    return note(check, found, "watch it") if free < LITTLE_BYTES else ok(check, found)
