"""The quickest way of a step into the journal, if the compiled core is there.

It writes the row of a plain step, as `RowBuffer.add_step` does, byte for byte, and leaves all other
steps to Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from jamboree_gym.compiled import compiled_core
from jamboree_gym.delivery.row_writer import RowWriter
from jamboree_gym.journal.row_block import RowLane
from jamboree_gym.records import EpisodeStatus

__all__ = ["add_plain_step"]

AddPlainStep: TypeAlias = Callable[[RowWriter, object, Any, object], EpisodeStatus | None]
"""Takes what `env.step` returned, the compiled template for infos that are not empty, None if there
is none, and the annotation or None. If the step's row is written, status of the episode then."""


def _chosen() -> AddPlainStep | None:
    core = compiled_core()
    return None if core is None else core.writer_of(RowWriter, RowLane)


add_plain_step = _chosen()
"""None if Python writes all steps."""
