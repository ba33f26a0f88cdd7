"""Following every episode that grows, in one or in all runs, with a read for many at once."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from jamboree_gym.connection import Connection
from jamboree_gym.episode import Episode
from jamboree_gym.errors import EpisodeNotFound
from jamboree_gym.listing import EpisodeFilter
from jamboree_gym.notes import decode_episode_note, decode_summary
from jamboree_gym.records import EpisodeSummary, StepData
from jamboree_gym.store.log import LogSlice
from jamboree_gym.tail import ROWS_PER_LOOK, StepCursor, Tail, is_behind

__all__ = ["AllTail"]

LOGS_PER_LOOK = 16

log = logging.getLogger("jamboree_gym")


@dataclass(slots=True, eq=False)
class _Followed:
    """An episode that is followed, and how far it has been read."""

    episode: Episode
    cursor: StepCursor


class AllTail(Tail[tuple[Episode, StepData]]):
    """Follows the episodes that match a filter: those that go on, and those that begin later.

    The feed tells which of them grew. Where more was written than it keeps, or a connection was
    lost, the listings of the runs tell instead. The ids of those that are over stay in memory,
    about a hundred bytes each, so that none is read again.

    Args:
        connection: Where they are.
        wanted: What they must be. With `since`, also those that began after it and have ended.
    """

    def __init__(self, connection: Connection, wanted: EpisodeFilter) -> None:
        self._connection = connection
        self._wanted = wanted
        self._position: str | None = None  # None: the listings have to be read
        self._losses = 0
        self._followed: dict[str, _Followed] = {}
        self._grown: dict[str, None] = {}
        self._over: set[str] = set()  # ended and read, or not wanted
        self._cut: set[str] | None = None  # interrupted before all this; None: not looked yet

    def look(self, wait_s: float) -> list[tuple[Episode, StepData]]:
        """The steps that came: of each episode in order.

        Raises:
            DecodeError: Stored bytes are damaged.
            StoreUnavailable: Redis is away.
        """
        self._connection.check_open()
        if self._cut is None:
            self.begin()
        elif self._position is None or self._losses != self._connection.store.losses:
            self._take_stock()
        if not self._grown:
            self._hear(wait_s)
        return self._read()

    # -- which episodes ---------------------------------------------------------------------

    def begin(self) -> None:
        """Find the episodes that go on; the first look does it where this has not been called.

        Raises:
            UnsavedRecords: What this process has recorded so far cannot be brought to Redis.
            StoreUnavailable: Redis is away.
        """
        self._connection.flush()
        self._take_stock()

    def _take_stock(self) -> None:
        """Find the episodes in the listings of their runs."""
        store = self._connection.store
        losses, position = store.losses, store.feed.position()
        runs = store.runs() if self._wanted.run is None else [self._wanted.run]
        unknown = [
            decode_summary(content, episode_id=name, where=f"summary of {name}")
            for run in runs
            for name, content in store.summaries(run).items()
            if name not in self._over and name not in self._followed
        ]
        shown = sorted(self._connection.as_of_now(unknown), key=lambda s: (s.started_at, s.id))
        self._sort_out(shown)
        self._grown |= dict.fromkeys(self._followed)
        self._position, self._losses = position, losses

    def _sort_out(self, summaries: Iterable[EpisodeSummary]) -> None:
        """Follow what goes on; at the first time, no more than that, unless `since` asks for it."""
        is_first, cut = self._cut is None, self._cut or set()
        for summary in summaries:
            is_past = is_first and self._wanted.since is None
            if not self._wanted.accepts(summary):
                self._over.add(summary.id)
            elif summary.status == "running":
                self._follow(summary.id)
            elif summary.status == "interrupted":  # goes on if its process was only stopped
                if is_past:
                    cut.add(summary.id)
                elif summary.id not in cut:
                    self._follow(summary.id)
            elif is_past:
                self._over.add(summary.id)
            else:
                self._follow(summary.id)
        self._cut = cut

    def _follow(self, name: str) -> _Followed:
        episode = Episode(self._connection, name)
        self._followed[name] = _Followed(episode, episode.cursor())
        return self._followed[name]

    def _hear(self, wait_s: float) -> None:
        """Ask the feed what grew."""
        if self._position is None:
            return
        grown = self._connection.store.feed.after(self._position, wait_s=wait_s)
        self._position = grown.position if grown.is_complete else None
        for name, run in grown.episodes:
            if name not in self._over and self._wanted.run in (None, run):
                self._grown[name] = None

    # -- their steps ------------------------------------------------------------------------

    def _read(self) -> list[tuple[Episode, StepData]]:
        names = list(islice(self._grown, LOGS_PER_LOOK))
        followed = [self._followed.get(name) or self._follow(name) for name in names]
        cursors = [one.cursor for one in followed]
        slices = self._connection.store.read_many(
            [cursor.where for cursor in cursors],
            [("range", cursor.next_row, cursor.next_row + ROWS_PER_LOOK) for cursor in cursors],
        )
        read = [self._read_one(*pair) for pair in zip(followed, slices, strict=True)]
        for name, one, (_, cursor, progress) in zip(names, followed, read, strict=True):
            one.cursor = cursor
            del self._grown[name]
            if progress == "behind":
                self._grown[name] = None  # once the others have had their turn
            elif progress == "over":
                del self._followed[name]
                self._over.add(name)
        return [
            (one.episode, step)
            for one, (steps, _, _) in zip(followed, read, strict=True)
            for step in steps
        ]

    def _read_one(
        self, one: _Followed, found: LogSlice | None
    ) -> tuple[list[StepData], StepCursor, Literal["behind", "read", "over"]]:
        """New steps of an episode, the cursor after them, and whether there is more to come."""
        cursor, name = one.cursor, one.episode.id
        if found is None:  # deleted
            return [], cursor, "over"
        summary, _ = decode_episode_note(found.head.note, episode_id=name, where=cursor.where)
        if not cursor.next_row and not self._wanted.accepts(summary):
            return [], cursor, "over"
        try:
            steps, cursor = cursor.read(found)
        except EpisodeNotFound as error:
            log.warning("%s", error)
            return [], cursor, "over"
        if is_behind(cursor, found):
            return steps, cursor, "behind"
        return steps, cursor, "read" if summary.status == "running" else "over"
