"""Deletes a run: its episodes, checkpoints, metrics and sessions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from jamboree_gym.connection import Connection
from jamboree_gym.errors import DecodeError, EpisodeNotFound
from jamboree_gym.handlers.db_handler import DBHandler
from jamboree_gym.handlers.flags import FlaggedHandler
from jamboree_gym.progress import Progress, reported
from jamboree_gym.reading.episode import Episode
from jamboree_gym.runs.checkpoints import CheckpointHandler
from jamboree_gym.runs.metrics import MetricHandler
from jamboree_gym.runs.sessions import SessionHandler

__all__ = ["delete_run"]


def delete_run(connection: Connection, run: str, progress: bool | Progress) -> None:
    """Delete all that was recorded under a name, and the name.

    If it is interrupted, the next call deletes the rest: what says where something lies goes last.
    """
    connection.settle_all()
    ids = list(connection.store.listings.summaries(run))  # also those that cannot be read
    for _ in reported(_delete_episodes(connection, ids), len(ids), progress, done_is="deleted"):
        pass
    checkpoints = CheckpointHandler(connection, run)
    with suppress(DecodeError):  # damaged records do not say where their contents lie
        for content in checkpoints.contents():
            _delete(content)
    for handler in (
        checkpoints,
        checkpoints.deletions,
        MetricHandler(connection, run),
        FlaggedHandler(connection, run),
        SessionHandler(connection, run),
    ):
        _delete(handler)
    if not connection.store.listings.summaries(run):
        connection.redis_store.listings.unlist_run(run)


def _delete_episodes(connection: Connection, ids: Sequence[str]) -> Iterator[tuple[int, str]]:
    for done, id in enumerate(ids, 1):
        with suppress(EpisodeNotFound):  # another process has just deleted it
            Episode(connection, id).delete()
        yield done, id


def _delete(handler: DBHandler) -> None:
    """Delete a log, if there is one: without one, the backup need not be asked."""
    with suppress(DecodeError):  # what is damaged can be deleted
        if not handler.count():
            return
    handler.delete()
