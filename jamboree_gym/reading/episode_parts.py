"""Reads many episodes, one after the other; long episodes in parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jamboree_gym.connection import Connection
from jamboree_gym.encoding.rows import Rows
from jamboree_gym.encoding.summary_codec import StoredSummary
from jamboree_gym.reading.bulk_read import read_blocks
from jamboree_gym.reading.finding.filters import Found

__all__ = ["EpisodePart", "episode_parts"]


class EpisodePart(NamedTuple):
    """Some or all rows of an episode.

    Attributes:
        summary: Summary of the episode.
        rows: Its rows from `rows.start` on. Row 0 is the reset. The first row of any later part is
            the last row of the part before.
        is_last: Whether this is the episode's last part.
    """

    summary: StoredSummary
    rows: Rows
    is_last: bool

    @property
    def is_first(self) -> bool:
        """Whether this is the episode's first part."""
        return self.rows.start == 0

    @property
    def ends(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Whether each step terminated or truncated the episode: two bool arrays (n,).

        The values are those of the environment, with one exception: an episode without an end
        (abandoned, interrupted or still running) is truncated at its last step, as in Minari. So
        code that trains on single steps finds an end there.
        """
        terminations, truncations = self.rows.terminations[1:], self.rows.truncations[1:].copy()
        if self.is_last and len(truncations):
            truncations[-1] |= not terminations[-1]
        return terminations, truncations


def episode_parts(connection: Connection, found: Found) -> Iterator[tuple[int, EpisodePart]]:
    """The rows that these summaries count, in order; reads about 8 MB at once.

    Yields:
        Number of episodes that have been read to their end, and the next part.

    Raises:
        EpisodeNotFound: An episode has been deleted meanwhile.
        DecodeError: Bytes of an episode are damaged; names key and index.
    """
    place = {one.id: position for position, one in enumerate(found)}
    for _, blocks in read_blocks(connection, found):
        parts = [part for block in blocks for part in block.episodes()]
        for id, rows in sorted(parts, key=lambda part: place[part[0]]):
            summary = found[place[id]]
            is_last = rows.start + len(rows) == summary.steps + 1
            yield place[id] + is_last, EpisodePart(summary, rows, is_last)
