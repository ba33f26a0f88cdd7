"""The newest steps of many episodes."""

from __future__ import annotations

from collections.abc import Sequence

from jamboree_gym.connection import Connection
from jamboree_gym.encoding.summary_codec import StoredSummary
from jamboree_gym.reading.episode import Episode, recent_of
from jamboree_gym.records import StepData

__all__ = ["newest_steps"]

EPISODES_AT_ONCE = 16


def newest_steps(
    connection: Connection, found: Sequence[StoredSummary], n: int
) -> list[tuple[Episode, StepData]]:
    """The newest n steps of these episodes, oldest first.

    An episode whose newest step is older than the n newest found so far has none of them, so the
    episodes that moved last are read first.
    """
    if n <= 0:
        return []
    waiting = sorted(found, key=lambda one: one.started_at + one.elapsed_s, reverse=True)
    newest: list[tuple[Episode, StepData]] = []
    while waiting:
        last_at = waiting[0].started_at + waiting[0].elapsed_s
        if len(newest) == n and newest[0][1].timestamp > last_at:
            break
        episodes = [Episode(connection, one.id) for one in waiting[:EPISODES_AT_ONCE]]
        del waiting[:EPISODES_AT_ONCE]
        for episode, steps in zip(episodes, recent_of(episodes, n), strict=True):
            newest += [(episode, step) for step in steps]
        newest = sorted(newest, key=lambda pair: pair[1].timestamp)[-n:]
    return newest
