"""The compiled core, where there was a C compiler at the installation.

The source is in `native/`. Python does the same work without it, with the same bytes: always, if
the variable `JAMBOREE_PURE=1` is set when a program starts.

Imports: nothing.
Imported by: `arrays`, `delivery`, `encoding`, `environment`, `handlers`, `reading`, `recording`.
"""

from __future__ import annotations

import os
from types import ModuleType

try:
    from jamboree_gym.compiled import _compiled
except ImportError:  # there was no compiler
    _compiled = None  # type: ignore[assignment]

__all__ = ["compiled_core"]


def compiled_core() -> ModuleType | None:
    """The module `_compiled`; None if Python does all."""
    is_pure = os.environ.get("JAMBOREE_PURE", "0") not in ("", "0")
    return None if is_pure else _compiled
