"""Many episodes, one after the other: each as a whole, or in parts where it is long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jamboree_gym.connection import Connection
from jamboree_gym.encoding.rows import Rows
from jamboree_gym.encoding.summary_codec import StoredSummary
from jamboree_gym.reading.bulk_read import read_blocks
from jamboree_gym.reading.filters import Found

__all__ = ["EpisodePart", "episode_parts"]


class EpisodePart(NamedTuple):
    """Some rows of an episode, or all.

    Attributes:
        summary: The episode.
        rows: Its rows from `rows.start` on. Row 0 is the reset; any other first row is the last one
            of the part before.
        is_last: Whether they are its last.
    """

    summary: StoredSummary
    rows: Rows
    is_last: bool

    @property
    def is_first(self) -> bool:
        """Whether they are its first."""
        return self.rows.start == 0

    @property
    def ends(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Of each step whether the episode terminated with it, and whether it was truncated.

        As the environment said, but that an episode which broke off (abandoned, interrupted, or
        still running) is truncated at its last step, as Minari has it: whoever trains from single
        steps finds an end there.
        """
        terminations, truncations = self.rows.terminations[1:], self.rows.truncations[1:].copy()
        if self.is_last and len(truncations):
            truncations[-1] |= not terminations[-1]
        return terminations, truncations


def episode_parts(connection: Connection, found: Found) -> Iterator[tuple[int, EpisodePart]]:
    """The rows that these summaries tell of, in their order; about 8 MB are read at once.

    Yields:
        How many episodes are read to their end now, and the next part.

    Raises:
        EpisodeNotFound: One of them has been deleted meanwhile.
        DecodeError: Bytes of one are damaged; names key and index.
    """
    place = {one.id: position for position, one in enumerate(found)}
    for _, blocks in read_blocks(connection, found):
        parts = [part for block in blocks for part in block.episodes()]
        for id, rows in sorted(parts, key=lambda part: place[part[0]]):
            summary = found[place[id]]
            is_last = rows.start + len(rows) == summary.steps + 1
            yield place[id] + is_last, EpisodePart(summary, rows, is_last)
