"""The quickest way of a step into the journal: compiled, where there was a C compiler.

The source is `native/plain_step.c`. It writes the row of a step without info and annotation, as
`RowWriter.add_common_step` does, byte for byte, and leaves all other steps to Python. With the
variable `JAMBOREE_PURE=1`, Python writes all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias

from jamboree_gym.delivery.row_writer import RowWriter

try:
    from jamboree_gym.recording._plain_step import writer_of
except ImportError:  # there was no compiler
    writer_of = None  # type: ignore[assignment]

__all__ = ["add_plain_step"]

AddPlainStep: TypeAlias = Callable[[RowWriter, object], bool]
"""Takes what `env.step` returned; whether its row is written. If not, nothing is."""


def _chosen() -> AddPlainStep | None:
    is_pure = os.environ.get("JAMBOREE_PURE", "0") not in ("", "0")
    return None if writer_of is None or is_pure else writer_of(RowWriter)


add_plain_step = _chosen()
"""None if Python writes all steps."""
