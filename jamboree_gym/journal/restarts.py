"""Tells whether the machine was restarted since a journal was written.

A killed process leaves its journal whole, because the kernel has the pages. A power cut or a crash
of the kernel leaves of each page what was on the disk: nothing, or what was there before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jamboree_gym.arrays.values import decode_value
from jamboree_gym.encoding.row_part import RowPart
from jamboree_gym.errors import DecodeError

__all__ = ["boot_id", "parts_in_order"]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The id of this start of the machine, new after each; empty where the system has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def parts_in_order(parts: Sequence[RowPart]) -> Iterator[RowPart]:
    """Rows of an episode, up to the first whose time is not later than that before.

    A row of a page that was not written has no time, or one of long ago. The row before such a row
    may lie on both pages: it is left out, too.
    """
    last = 0.0
    for part in parts:
        times = np.concatenate([[last], part.timestamps])
        late = np.flatnonzero(~(np.diff(times) > 0))
        damaged = [at for at, info in part.infos if not _is_value(info)]
        whole = min([*late[:1].tolist(), *damaged[:1], part.count])
        if whole < part.count:
            if whole > 1:
                yield part[: whole - 1]
            return
        yield part
        last = float(times[-1])


def _is_value(content: bytes) -> bool:
    try:
        decode_value(content, where="a journal")
    except DecodeError:
        return False
    return True
