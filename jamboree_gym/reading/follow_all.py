"""Following every episode that grows, in one or in all runs, with a read for many at once."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Literal, NamedTuple, TypeVar

from jamboree_gym.connection import Connection
from jamboree_gym.encoding.summary_codec import decode_episode_note
from jamboree_gym.errors import EpisodeNotFound
from jamboree_gym.handlers.follow import ROWS_PER_LOOK, StepCursor, Tail, is_behind
from jamboree_gym.reading.episode import Episode
from jamboree_gym.reading.filters import EpisodeFilter
from jamboree_gym.reading.summaries import read_summaries
from jamboree_gym.records import EpisodeOrigin, EpisodeSummary, StepData, Transitions
from jamboree_gym.store.log import LogSlice

__all__ = ["AllTail", "EpisodesTail", "Growth", "GrowthTail"]

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Followed:
    """An episode that is followed, and how far it has been read."""

    episode: Episode
    cursor: StepCursor


class News(NamedTuple):
    """What was read of an episode.

    Attributes:
        steps: Its new steps.
        cursor: How far it has been read now.
        progress: Whether there is more already, or never will be.
        origin: Where the episode came from.
    """

    steps: Transitions | None
    cursor: StepCursor
    progress: Literal["behind", "read", "over"]
    origin: EpisodeOrigin


class EpisodesTail(Tail[T]):
    """Follows the episodes that match a filter: those that go on, and those that begin later.

    The feed tells which of them grew. Where more was written than it keeps, or a connection was
    lost, the listings of the runs tell instead. The ids of those that are over stay in memory,
    about a hundred bytes each, so that none is read again.

    Args:
        connection: Where they are.
        wanted: What they must be. With `since`, also those that began after it and have ended.

    Attributes:
        logs_per_look: So many episodes are read in a round trip.
        rows_per_look: At least so many rows of each, if it has them.
        follows_interrupted: Whether those that were interrupted before the beginning count as
            going on.
    """

    logs_per_look: ClassVar[int] = 16
    rows_per_look: ClassVar[int] = ROWS_PER_LOOK
    follows_interrupted: ClassVar[bool] = False

    def __init__(self, connection: Connection, wanted: EpisodeFilter) -> None:
        self._connection = connection
        self._wanted = wanted
        self._position: str | None = None  # None: the listings have to be read
        self._losses = 0
        self._followed: dict[str, _Followed] = {}
        self._grown: dict[str, None] = {}
        self._over: set[str] = set()  # ended and read, or not wanted
        self._cut: set[str] | None = None  # interrupted before all this; None: not looked yet

    @abstractmethod
    def _taken(self, episode: Episode, news: News) -> Iterable[T]:
        """What is made of the rows of an episode that were read."""

    def look(self, wait_s: float) -> list[T]:
        """What came: of each episode in order.

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
        self._connection.settle_all()
        self._take_stock()

    def _take_stock(self) -> None:
        """Find the episodes in the listings of their runs."""
        store = self._connection.store
        losses, position = store.losses, store.feed.position()
        runs = store.listings.runs() if self._wanted.run is None else [self._wanted.run]
        unknown = [
            one.decoded()
            for one in read_summaries(self._connection, runs)
            if one.id not in self._over and one.id not in self._followed
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
                if is_past and not self.follows_interrupted:
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

    def _read(self) -> list[T]:
        names = list(islice(self._grown, self.logs_per_look))
        followed = [self._followed.get(name) or self._follow(name) for name in names]
        cursors = [one.cursor for one in followed]
        slices = self._connection.store.read_many(
            [cursor.where for cursor in cursors],
            [
                ("range", cursor.next_row, cursor.next_row + self.rows_per_look)
                for cursor in cursors
            ],
        )
        read = [self._read_one(*pair) for pair in zip(followed, slices, strict=True)]
        came: list[T] = []
        for one, news in zip(followed, read, strict=True):
            if news is not None:
                came += self._taken(one.episode, news)
        for name, one, news in zip(names, followed, read, strict=True):
            del self._grown[name]
            if news is not None:
                one.cursor = news.cursor
            if news is None or news.progress == "over":
                del self._followed[name]
                self._over.add(name)
            elif news.progress == "behind":
                self._grown[name] = None  # once the others have had their turn
        return came

    def _read_one(self, one: _Followed, found: LogSlice | None) -> News | None:
        """What is new of an episode; None if there is nothing, and nothing more to come."""
        cursor, name = one.cursor, one.episode.id
        if found is None:  # deleted
            return None
        summary, origin = decode_episode_note(found.head.note, episode_id=name, where=cursor.where)
        if not cursor.next_row and not self._wanted.accepts(summary):
            return None
        try:
            steps, cursor = cursor.read(found)
        except EpisodeNotFound as error:
            log.warning("%s", error)
            return None
        if is_behind(cursor, found):
            return News(steps, cursor, "behind", origin)
        return News(steps, cursor, "read" if summary.status == "running" else "over", origin)


class AllTail(EpisodesTail[tuple[Episode, StepData]]):
    """Gives pairs, step by step: the episode, and its next step."""

    def _taken(self, episode: Episode, news: News) -> list[tuple[Episode, StepData]]:
        return [(episode, step) for step in news.steps or ()]


class Growth(NamedTuple):
    """What an episode grew by.

    Attributes:
        episode_id: The episode.
        origin: Where it came from.
        steps: The transitions that came, as arrays; None where only its end did.
        is_over: Whether these are its last.
    """

    episode_id: str
    origin: EpisodeOrigin
    steps: Transitions | None
    is_over: bool


class GrowthTail(EpisodesTail[Growth]):
    """Gives what came of each episode as arrays, for those who want all of it and quickly."""

    logs_per_look = 256
    rows_per_look = 4096
    follows_interrupted = True

    @property
    def past(self) -> Collection[str]:
        """Ids of those that are not followed any more, or never were."""
        return self._over

    def _taken(self, episode: Episode, news: News) -> list[Growth]:
        return [Growth(episode.id, news.origin, news.steps, news.progress == "over")]
