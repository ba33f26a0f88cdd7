"""Finds folders with a backup, for who has named one without."""

from __future__ import annotations

import os
from contextlib import suppress
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

__all__ = ["folders_nearby", "namespaces_in"]

MOST_LOOKED_AT = 1000
ALIKE = 0.5


def namespaces_in(folder: Path) -> list[str]:
    """Names of the directories in a folder that hold the backup of a namespace, sorted."""
    return sorted(one.name for one in _directories_in(folder) if _has_segments(one))


def folders_nearby(folder: Path) -> list[Path]:
    """Folders with a backup: around this one, in it, and beside it with a name like its own."""
    beside = {one.name: one for one in _directories_in(folder.parent)}
    alike = get_close_matches(folder.name, beside, len(beside) or 1, ALIKE)
    candidates = [folder.parent, *_directories_in(folder), *(beside[name] for name in alike)]
    return [one for one in candidates if namespaces_in(one)]


def _directories_in(folder: Path) -> list[Path]:
    with suppress(OSError), os.scandir(folder) as entries:
        return [Path(one.path) for one in islice(entries, MOST_LOOKED_AT) if one.is_dir()]
    return []


def _has_segments(directory: Path) -> bool:
    with suppress(OSError):
        return any(directory.glob("*.segment"))
    return False
