"""Finds the packages that contain the servers, without importing them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from jamboree_gym.errors import MissingExtra

__all__ = ["package_dir"]


def package_dir(name: str, *, instead: str) -> Path:
    """Directory of an installed package of the extra `embedded`.

    Args:
        name: The package.
        instead: The argument by which a user can do without it.

    Raises:
        MissingExtra: The package is not installed.
    """
    try:
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).parent if spec and spec.origin else None
    except ImportError as error:
        raise _missing(instead) from error
    if found is None:
        raise _missing(instead)
    return found


def _missing(instead: str) -> MissingExtra:
    return MissingExtra(
        f"embedded servers need: pip install 'jamboree-gym[embedded]'  (or pass {instead})"
    )
