"""Says which package, in which version, is missing if an environment is not registered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jamboree_gym.environment.provenance import BASE_VERSIONS, conditions_now
from jamboree_gym.errors import ReplayError

__all__ = ["missing_registration"]

# Shows only valid names as names: the store may hold any text.
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9.+!_-]+")


def missing_registration(name: str, provenance: Mapping[str, Any]) -> ReplayError:
    """The error for an environment that is not registered here. Imports nothing."""
    package = _package(provenance)
    if package is None:
        return ReplayError(
            f"{name!r} is not registered here. Import the package that registers it."
        )
    found = _distribution(package, provenance)
    if found is None:
        advice = f"it came from the module {package}. Register it first: import {package}"
    else:
        distribution, version = found
        advice = f"it was recorded with {distribution} {version}. "
        is_here = conditions_now([distribution])[distribution] is not None
        advice += f"Import it first (import {package})" if is_here else "That is missing here"
        advice += "" if is_here else f": pip install {distribution}, then import {package}"
    return ReplayError(f"{name!r} is not registered here: {advice}")


def _package(provenance: Mapping[str, Any]) -> str | None:
    """The outermost package of the environment's class."""
    spec = provenance.get("env_spec")
    entry_point = spec.get("entry_point") if isinstance(spec, Mapping) else None
    module = str(entry_point).partition(":")[0]
    if entry_point is None or not _MODULE.fullmatch(module) or module == "__main__":
        return None
    return module.partition(".")[0]


def _distribution(package: str, provenance: Mapping[str, Any]) -> tuple[str, str] | None:
    """The distribution of the package, and its version when the episode was recorded."""
    versions = provenance.get("versions")
    names = dict(versions) if isinstance(versions, Mapping) else {}
    known = {
        name: version
        for name, version in names.items()
        if name not in BASE_VERSIONS
        and _DISTRIBUTION.fullmatch(name)
        and _VERSION.fullmatch(str(version))
    }
    alike = [name for name in known if re.sub(r"[-.]+", "_", name).lower() == package.lower()]
    chosen = alike or (list(known) if len(known) == 1 else [])
    return (chosen[0], str(known[chosen[0]])) if chosen else None
