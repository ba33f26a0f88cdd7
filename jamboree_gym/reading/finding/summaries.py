"""Summaries of runs: from the listings, or from a log's head if a listing is damaged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from jamboree_gym.connection import Connection
from jamboree_gym.encoding.summary_codec import (
    StoredSummary,
    decode_stored_summary,
    decode_summaries,
)
from jamboree_gym.errors import DecodeError
from jamboree_gym.reading.finding.filters import Found
from jamboree_gym.store.backups.errors import BackupUnavailable

__all__ = ["mark_interrupted", "read_some_summaries", "read_summaries"]


def read_summaries(
    connection: Connection, runs: Iterable[str], *, is_complete: bool = False
) -> Found:
    """All summaries of these runs; warns of each that is damaged in its listing.

    Args:
        connection: The store.
        runs: Names of the runs.
        is_complete: Whether to raise if a summary cannot be read, instead of leaving it out.

    Raises:
        DecodeError: A summary is damaged in its log as well, and `is_complete` is set.
    """
    found: Found = []
    unreadable: list[DecodeError] = []
    for run, entries in connection.store.listings.summaries_of(runs):
        found += _decoded(connection, run, entries, unreadable)
    if unreadable and is_complete:
        others = len(unreadable) - 1
        raise DecodeError(f"{unreadable[0]}" + (f" ({others} more like it)" if others else ""))
    _warn(connection, unreadable)
    return found


def read_some_summaries(connection: Connection, run: str, ids: Sequence[str]) -> Iterator[Found]:
    """Summaries of some episodes of a run, some thousand at a time; warns as `read_summaries`."""
    for entries in connection.store.listings.some_summaries(run, ids):
        unreadable: list[DecodeError] = []
        yield _decoded(connection, run, entries, unreadable)
        _warn(connection, unreadable)


def mark_interrupted(connection: Connection, found: Found) -> None:
    """Give those that are running, and whose writer has died, their status."""
    running = [one for one in found if one.status == "running"]
    dead = connection.dead({one.writer.hex() for one in running})
    for one in running:
        if one.writer.hex() in dead:
            one.status = "interrupted"


def _decoded(
    connection: Connection, run: str, entries: Mapping[str, bytes], unreadable: list[DecodeError]
) -> Found:
    """The summaries of a listing; adds to `unreadable` what is wrong with the others."""
    found, damaged = decode_summaries(entries)
    listing = connection.keyspace.summaries(run)
    for episode_id, error in damaged.items():
        try:
            found.append(_summary_in_log(connection, episode_id, f"{listing}: {error}"))
        except DecodeError as again:
            unreadable.append(again)
    return found


def _warn(connection: Connection, unreadable: Iterable[DecodeError]) -> None:
    for error in unreadable:
        connection.store.warn_once(f"{error}. Until then it is left out")


def _summary_in_log(connection: Connection, episode_id: str, damage: str) -> StoredSummary:
    key = connection.keyspace.episode(episode_id)
    try:
        head = connection.store.head(key)
        if head is None:
            raise DecodeError(f"{key} is not there")
        summary = decode_stored_summary(head.note, episode_id=episode_id, where=key)
    except (BackupUnavailable, DecodeError) as error:
        raise DecodeError(
            f"{damage}; and it cannot be read from the episode's log: {error}. "
            f"jam.backup.restore([{episode_id!r}]) brings the episode back if the backup holds it, "
            f"jam.episode({episode_id!r}).delete() deletes it there as well"
        ) from error
    connection.store.warn_once(
        f"{damage}; it is read from the head of {key}. jam.backup.restore() puts it right"
    )
    return summary
