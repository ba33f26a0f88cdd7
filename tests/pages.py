"""Runs the pages of the documentation one after another, in one interpreter."""

from __future__ import annotations

import os
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gymnasium as gym

from jamboree_gym.cli import main

CLONE = Path(__file__).resolve().parent.parent


class CommandFailed(Exception):
    """A command of a page did not succeed."""


def begin(environment: dict[str, str]) -> None:
    """What holds for every page."""
    os.environ.update(environment)


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """The next page finds neither its environment variables nor the environments it registered.

    Also those of jamboree_envs only if it imports that itself.
    """
    variables, registered = dict(os.environ), dict(gym.registry)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(variables)
        gym.registry.clear()
        gym.registry.update(registered)
        for name in [name for name in sys.modules if name.partition(".")[0] == "jamboree_envs"]:
            del sys.modules[name]


def run_page(script: Path) -> None:
    """Run a page's code as `python script` would, in its folder."""
    os.chdir(script.parent)
    with nothing_left_behind():
        runpy.run_path(str(script), run_name="__main__")


def run_commands(script: Path) -> None:
    """Run each line as a shell does: `jamboree-gym` in this interpreter, the others in the clone.

    Raises:
        CommandFailed: One does not succeed.
    """
    with nothing_left_behind():
        for line in script.read_text().splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["jamboree-gym"]:
                status = _status_of(words)
            else:
                status = subprocess.run(
                    words, cwd=CLONE, stdout=subprocess.DEVNULL, timeout=60
                ).returncode
            if status:
                raise CommandFailed(f"{line}: exit code {status}")


def _status_of(words: list[str]) -> int:
    """The exit code of `jamboree-gym`."""
    arguments, sys.argv = sys.argv, words
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = arguments
    return 0
