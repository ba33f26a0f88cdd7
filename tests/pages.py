"""Runs the pages of the documentation one after another, in one interpreter."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import gymnasium as gym


def begin(environment: dict[str, str]) -> None:
    """What holds for every page."""
    os.environ.update(environment)


def run_page(script: Path) -> None:
    """Run a page's code as `python script` would, in its folder.

    The next page finds neither its names nor its environment variables nor the environments that it
    registered: also those of jamboree_envs only if it imports that itself.
    """
    variables, registered = dict(os.environ), dict(gym.registry)
    os.chdir(script.parent)
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        os.environ.clear()
        os.environ.update(variables)
        gym.registry.clear()
        gym.registry.update(registered)
        for name in [name for name in sys.modules if name.partition(".")[0] == "jamboree_envs"]:
            del sys.modules[name]
