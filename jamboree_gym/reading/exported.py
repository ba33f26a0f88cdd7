"""What an export has written before, and what it still has to."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from jamboree_gym.reading.filters import Found

__all__ = ["not_there_yet"]

log = logging.getLogger(__name__)


def not_there_yet(found: Found, lengths: Mapping[str, int], where: object) -> Found:
    """Those that are not written; a warning names those that have grown since they were.

    Args:
        found: Episodes that are over.
        lengths: Number of steps of each that is written, by its id.
        where: Where they are written.
    """
    grown = [one.id for one in found if one.steps > lengths.get(one.id, one.steps)]
    if grown:
        log.warning(
            "%d episodes in %s lack their newest steps, as they went on after they were written "
            "(interrupted: their process was only stopped): %s. Another place gets all of them",
            len(grown),
            where,
            ", ".join(grown),
        )
    return [one for one in found if one.id not in lengths]
