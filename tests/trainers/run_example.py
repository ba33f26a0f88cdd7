"""Runs an example as a user does, and opens the store that it recorded into."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 280.0  # of a machine that is very busy


def run_example(name: str, *arguments: object, redis_url: str, folder: Path) -> str:
    """Run `examples/trainers/<name>.py` in a folder; what it prints."""
    return run_script(
        ROOT / "examples/trainers" / f"{name}.py", *arguments, redis_url=redis_url, folder=folder
    )


def run_script(script: Path, *arguments: object, redis_url: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"JAMBOREE_REDIS_URL": redis_url, "JAMBOREE_BACKUP": "0"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    if done.returncode:
        pytest.fail(f"{script.name} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
