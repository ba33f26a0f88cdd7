#!/usr/bin/env python3
"""Do the tests leave anything behind? Python alone is enough to run this.

    .ci/leftovers.py before FILE    notes what is there
    .ci/leftovers.py after FILE     prints what is new since then, and exits 1 if anything is

Looked at: the files of the checkout, processes that look like servers or tests of ours, and the
folders for temporary files. What is about to end or to go has GRACE_S to do so. Nobody else may use
the machine meanwhile: what others have open would be taken for left behind.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
GRACE_S = 30.0

# In the checkout, what the tools keep for the next time; `make clean` and .gitignore name the same.
KEPT_FILES = re.compile(
    r"(^|/)(\.venv[^/]*|__pycache__|\.(pytest|mypy|ruff)_cache|\.hypothesis|build|dist|[^/]*\.egg-info)/|\.so$"
)
# The last three runs of pytest, a lock for each build of uv, torch's cache: one for each user.
KEPT_FOLDERS = ["pytest-of-*", "uv-*.lock", "torchinductor_*"]

SERVERS = re.compile(
    r"valkey-server|redis-server|\bsecantus\b|jamboree_gym|jamboree-gym|/pytest-of-|/jg-"
)


def files() -> dict[str, str]:
    """Paths in the checkout that are not as git has them, ignored or not, and how they differ."""
    command = [
        "git",
        "status",
        "--porcelain",
        "-z",
        "--untracked-files=all",
        "--ignored",
        "--no-renames",
    ]
    said = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True).stdout
    lines = filter(None, os.fsdecode(said).split("\0"))
    return {line[3:]: line[:2] for line in lines if not KEPT_FILES.search(line[3:])}


def processes() -> dict[str, str]:
    """Servers and processes of tests: a name that no later process gets, and the command line."""
    if Path("/proc/self/stat").exists():
        every = _processes_of_linux()
    else:
        said = subprocess.run(
            ["ps", "-axww", "-o", "pid=,lstart=,command="],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        split = (line.split(maxsplit=6) for line in said.splitlines())
        every = {" ".join(fields[:6]): fields[6] for fields in split if len(fields) == 7}
    return {
        name: command
        for name, command in every.items()
        if SERVERS.search(command) and Path(__file__).name not in command
    }


def _processes_of_linux() -> dict[str, str]:
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
            started = (folder / "stat").read_text().rpartition(")")[2].split()[19]
        except OSError:  # it has ended
            continue
        found[f"{folder.name} {started}"] = command.decode(errors="replace").strip()
    return found


def folders() -> dict[str, str]:
    """What of ours is in the folders for temporary files."""
    found = {}
    for parent in {tempfile.gettempdir(), "/tmp", "/dev/shm"}:
        for entry in Path(parent).glob("*"):
            try:
                ours = entry.lstat().st_uid == os.getuid()
            except OSError:  # it was just removed
                continue
            if ours and not any(fnmatch.fnmatch(entry.name, kept) for kept in KEPT_FOLDERS):
                found[str(entry)] = ""
    return found


LOOKS = {"files": files, "processes": processes, "folders": folders}


def new(before: dict[str, dict[str, str]]) -> list[str]:
    """What is there now and was not, a line for each."""
    return [
        f"left in {kind}: {name} {said}".rstrip()
        for kind, look in LOOKS.items()
        for name, said in sorted(look().items())
        if name not in before[kind]
    ]


def main(step: str, file: Path) -> int:
    """Do one of the two steps."""
    if step == "before":
        before = {kind: look() for kind, look in LOOKS.items()}
        before["folders"][str(file.absolute())] = ""
        file.write_text(json.dumps(before))
        return 0
    before = json.loads(file.read_text())
    deadline = time.monotonic() + GRACE_S
    while (left := new(before)) and time.monotonic() < deadline:
        time.sleep(0.5)
    print(*left or ["nothing is left behind"], sep="\n")
    return bool(left)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("before", "after"):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
