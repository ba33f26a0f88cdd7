"""Follows all growing episodes of one or all runs; one round trip reads many episodes."""

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
from jamboree_gym.reading.finding.filters import EpisodeFilter
from jamboree_gym.reading.finding.names import check_runs
from jamboree_gym.reading.finding.summaries import read_summaries
from jamboree_gym.records import EpisodeOrigin, EpisodeSummary, StepData, Transitions
from jamboree_gym.store.log import LogSlice

__all__ = ["AllTail", "EpisodesTail", "NewSteps", "NewStepsTail"]

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Followed:
    """An episode that is followed, and the position up to which it has been read."""

    episode: Episode
    cursor: StepCursor


class EpisodeRead(NamedTuple):
    """The result of reading an episode once.

    Attributes:
        steps: Its new steps.
        cursor: Position after them.
        progress: `behind` if more rows wait, `read` if more may come later, `over` at the end.
        origin: Origin of the episode.
    """

    steps: Transitions | None
    cursor: StepCursor
    progress: Literal["behind", "read", "over"]
    origin: EpisodeOrigin


class EpisodesTail(Tail[T]):
    """Follows the running episodes that match a filter, and those that begin later.

    Redis' feed announces which episodes grew. If more was written than the feed keeps, or a
    connection was lost, the listings of the runs are read instead. The ids of finished episodes
    stay in memory, about a hundred bytes each, so that none is read again.

    Args:
        connection: The store of the episodes.
        wanted: Conditions on the episodes. With `since`, episodes that began after it and have
            ended are included.
        wait: Whether to wait for a run in which nothing was recorded yet.
        forks: Whether to follow forks of an episode of the same run, too.

    Attributes:
        logs_per_look: Number of episodes per round trip.
        rows_per_look: Rows to read of each episode, if it has that many.
        follows_interrupted: Whether to follow episodes that were interrupted before the beginning.
    """

    logs_per_look: ClassVar[int] = 16
    rows_per_look: ClassVar[int] = ROWS_PER_LOOK
    follows_interrupted: ClassVar[bool] = False

    def __init__(
        self,
        connection: Connection,
        wanted: EpisodeFilter,
        *,
        wait: bool = True,
        forks: bool = False,
    ) -> None:
        self._connection = connection
        self._wanted = wanted
        self._wanted_runs = wanted.runs
        self._waits = wait
        self._has_forks = forks
        self._position: str | None = None  # None: the listings must be read
        self._losses = 0
        self._followed: dict[str, _Followed] = {}
        self._grown: dict[str, None] = {}
        self._over: set[str] = set()  # ended and read, or not wanted
        self._interrupted_before: set[str] | None = None  # None: not known yet

    @abstractmethod
    def _items(self, episode: Episode, result: EpisodeRead) -> Iterable[T]:
        """Convert the rows that were read of an episode into items."""

    def look(self, wait_s: float) -> list[T]:
        """The new items; those of one episode are in order.

        Raises:
            DecodeError: Stored bytes are damaged.
            StoreUnavailable: Redis is away.
        """
        self._connection.check_open()
        if self._interrupted_before is None:
            self.begin()
        elif self._position is None or self._losses != self._connection.store.losses:
            self._read_listings()
        if not self._grown:
            self._read_feed(wait_s)
        return self._read()

    # -- which episodes ---------------------------------------------------------------------

    def begin(self) -> None:
        """Find the running episodes; the first look does this if nobody has called it before.

        Raises:
            UnsavedRecords: Records of this process cannot be delivered to Redis.
            StoreUnavailable: Redis is away.
            RunNotFound: Nothing was recorded in one of the runs, and it does not wait for that.
        """
        self._connection.settle_all()
        if not self._waits:
            check_runs(self._connection, self._wanted_runs or ())
        self._read_listings()

    def _read_listings(self) -> None:
        """Find the episodes in the listings of their runs."""
        store = self._connection.store
        losses, position = store.losses, store.feed.position()
        runs = store.listings.runs() if self._wanted_runs is None else self._wanted_runs
        unknown = [
            one.decoded()
            for one in read_summaries(self._connection, runs)
            if one.id not in self._over and one.id not in self._followed
        ]
        shown = sorted(self._connection.as_of_now(unknown), key=lambda s: (s.started_at, s.id))
        self._follow_or_skip(shown)
        self._grown |= dict.fromkeys(self._followed)
        self._position, self._losses = position, losses

    def _follow_or_skip(self, summaries: Iterable[EpisodeSummary]) -> None:
        """Follow the running episodes; the first time, finished ones only if `since` is set."""
        is_first, interrupted = self._interrupted_before is None, self._interrupted_before or set()
        for summary in summaries:
            is_past = is_first and self._wanted.since is None
            if not self._accepts(summary):
                self._over.add(summary.id)
            elif summary.status == "running":
                self._follow(summary.id)
            elif summary.status == "interrupted":  # it continues if its process was only stopped
                if is_past and not self.follows_interrupted:
                    interrupted.add(summary.id)
                elif summary.id not in interrupted:
                    self._follow(summary.id)
            elif is_past:
                self._over.add(summary.id)
            else:
                self._follow(summary.id)
        self._interrupted_before = interrupted

    def _accepts(self, summary: EpisodeSummary) -> bool:
        return (self._has_forks or not summary.is_experiment) and self._wanted.accepts(summary)

    def _follow(self, name: str) -> _Followed:
        episode = Episode(self._connection, name)
        self._followed[name] = _Followed(episode, episode._cursor())
        return self._followed[name]

    def _read_feed(self, wait_s: float) -> None:
        """Read from the feed which episodes grew."""
        if self._position is None:
            return
        grown = self._connection.store.feed.after(self._position, wait_s=wait_s)
        self._position = grown.position if grown.is_complete else None
        for name, run in grown.episodes:
            is_wanted = self._wanted_runs is None or run in self._wanted_runs
            if is_wanted and name not in self._over:
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
        for one, result in zip(followed, read, strict=True):
            if result is not None:
                came += self._items(one.episode, result)
        for name, one, result in zip(names, followed, read, strict=True):
            del self._grown[name]
            if result is not None:
                one.cursor = result.cursor
            if result is None or result.progress == "over":
                del self._followed[name]
                self._over.add(name)
            elif result.progress == "behind":
                self._grown[name] = None  # after the others had their turn
        return came

    def _read_one(self, one: _Followed, found: LogSlice | None) -> EpisodeRead | None:
        """Read what is new of an episode; None if there is nothing and never will be."""
        cursor, name = one.cursor, one.episode.id
        if found is None:  # the episode was deleted
            return None
        summary, origin = decode_episode_note(found.head.note, episode_id=name, where=cursor.where)
        if not cursor.next_row and not self._accepts(summary):
            return None
        try:
            steps, cursor = cursor.read(found)
        except EpisodeNotFound as error:
            log.warning("%s", error)
            return None
        if is_behind(cursor, found):
            return EpisodeRead(steps, cursor, "behind", origin)
        return EpisodeRead(steps, cursor, "read" if summary.status == "running" else "over", origin)


class AllTail(EpisodesTail[tuple[Episode, StepData]]):
    """Yields (episode, step) for every step."""

    def _items(self, episode: Episode, result: EpisodeRead) -> list[tuple[Episode, StepData]]:
        return [(episode, step) for step in result.steps or ()]


class NewSteps(NamedTuple):
    """New steps of an episode.

    Attributes:
        episode_id: Id of the episode.
        origin: Origin of the episode.
        steps: The new transitions as arrays; None if the episode only ended.
        is_over: Whether these are its last steps.
    """

    episode_id: str
    origin: EpisodeOrigin
    steps: Transitions | None
    is_over: bool


class NewStepsTail(EpisodesTail[NewSteps]):
    """Yields new steps as arrays, for readers that need all episodes, and fast."""

    logs_per_look = 256
    rows_per_look = 4096
    follows_interrupted = True

    @property
    def not_followed(self) -> Collection[str]:
        """Ids of episodes that are not followed: they are over, or were never wanted."""
        return self._over

    def _items(self, episode: Episode, result: EpisodeRead) -> list[NewSteps]:
        return [NewSteps(episode.id, result.origin, result.steps, result.progress == "over")]
