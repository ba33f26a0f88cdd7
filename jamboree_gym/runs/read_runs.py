"""Reads the summaries of many runs in as few round trips as those of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jamboree_gym.connection import Connection
from jamboree_gym.encoding.summary_codec import StoredSummary
from jamboree_gym.handlers.read_together import count_together, read_together
from jamboree_gym.reading.finding.filters import Found
from jamboree_gym.reading.finding.ordering import by_start
from jamboree_gym.reading.finding.summaries import read_summaries
from jamboree_gym.runs.checkpoints import CheckpointHandler
from jamboree_gym.runs.run_summary import RunSummary, summary_of_run
from jamboree_gym.runs.sessions import SessionHandler, sessions_of

__all__ = ["read_run_summaries"]

Records = Sequence[Mapping[str, Any]]


def read_run_summaries(connection: Connection, names: Sequence[str]) -> list[RunSummary]:
    """Summaries of these runs; that of a run in which nothing was recorded is empty.

    A round trip reads the listings of 32 runs. Sessions, checkpoints and the leases of writers take
    one or two round trips each, however many runs there are.

    Raises:
        DecodeError: A log of a run is damaged; names it.
    """
    connection.settle_all()
    episodes: dict[str, Found] = {name: [] for name in names}
    for one in read_summaries(connection, names):
        if not one.is_experiment and one.run in episodes:
            episodes[one.run].append(one)
    handlers = [CheckpointHandler(connection, name) for name in names]
    sessions = read_together([SessionHandler(connection, name) for name in names])
    deleted = read_together([one.deletions for one in handlers])
    counts = count_together(handlers)
    dead = _mark_interrupted(connection, episodes, sessions)
    now = connection.clock()
    return [
        _summary(name, by_start(episodes[name]), began, count - len(_numbers(gone)), dead, now)
        for name, began, count, gone in zip(names, sessions, counts, deleted, strict=True)
    ]


def _mark_interrupted(
    connection: Connection, episodes: Mapping[str, Found], sessions: Sequence[Records]
) -> set[str]:
    """Mark the episodes whose writers died; the dead writers, also those of sessions."""
    running = [one for found in episodes.values() for one in found if one.status == "running"]
    began = (one for records in sessions for one in records)
    writers = {one.writer.hex() for one in running}
    dead = connection.dead(writers | {str(one["writer"]) for one in began if "writer" in one})
    for one in running:
        if one.writer.hex() in dead:
            one.status = "interrupted"
    return dead


def _numbers(deleted: Records) -> set[int]:
    """Numbers of the deleted checkpoints; two processes may have deleted the same one."""
    return {one["number"] for one in deleted}


def _summary(
    name: str,
    episodes: list[StoredSummary],
    sessions: Records,
    checkpoints: int,
    dead: set[str],
    now: float,
) -> RunSummary:
    known = sessions_of(sessions, dead.intersection, lambda: episodes, where=f"run {name!r}")
    return summary_of_run(name, episodes, known, checkpoints, now)
