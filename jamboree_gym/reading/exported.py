"""Compares the episodes to export with those that an earlier export has written."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from jamboree_gym.reading.filters import Found

__all__ = ["not_there_yet"]

log = logging.getLogger(__name__)


def not_there_yet(found: Found, lengths: Mapping[str, int], where: object) -> Found:
    """Episodes that are not written yet; warns of written ones that have grown since.

    Args:
        found: Episodes that are over.
        lengths: Number of steps of each written episode, by its id.
        where: The place of the export.
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
