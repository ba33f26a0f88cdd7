"""Which writers are dead: an episode that has not ended and whose writer is dead is interrupted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from jamboree_gym.delivery.opened import writers_here
from jamboree_gym.records import EpisodeSummary
from jamboree_gym.store.redis.plain_keys import Leases

__all__ = ["as_of_now", "dead_writers"]


def dead_writers(leases: Leases, writers: Collection[str]) -> set[str]:
    """Which of these writers hold no lease; one of this process is never among them."""
    elsewhere = set(writers) - writers_here
    return elsewhere - leases.living(elsewhere) if elsewhere else set()


def as_of_now(leases: Leases, summaries: Sequence[EpisodeSummary]) -> list[EpisodeSummary]:
    """The same summaries, `interrupted` where an episode has not ended and its writer is dead.

    Asks for all writers in one round trip, and for none that is of this process.
    """
    writers = {summary.writer for summary in summaries if summary.status == "running"}
    dead = dead_writers(leases, writers)
    if not dead:
        return list(summaries)
    return [
        replace(summary, status="interrupted")
        if summary.status == "running" and summary.writer in dead
        else summary
        for summary in summaries
    ]
