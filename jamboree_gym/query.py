"""Finding episodes by what their summaries say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

from jamboree_gym.connection import Connection
from jamboree_gym.episode import Episode
from jamboree_gym.errors import EpisodeNotFound, InvalidRecord
from jamboree_gym.notes import decode_summary
from jamboree_gym.records import EpisodeStatus, EpisodeSummary

__all__ = ["EpisodeFilter", "EpisodeQuery"]


@dataclass(frozen=True, slots=True)
class EpisodeFilter:
    """What an episode must be to be found; None asks for nothing.

    Attributes:
        run: Its run.
        env_id: Gymnasium id of its environment.
        status: How it ended, or `running`, or `interrupted` if its writer died.
        tags: Tags it must have, with these values.
        min_return: Lowest return.
        since: Earliest start, epoch seconds.
    """

    run: str | None = None
    env_id: str | None = None
    status: str | None = None
    tags: Mapping[str, Any] = field(default_factory=dict)
    min_return: float | None = None
    since: float | None = None

    def accepts(self, summary: EpisodeSummary) -> bool:
        """Whether an episode is one of those asked for."""
        return (
            (self.env_id is None or summary.env_id == self.env_id)
            and (self.status is None or summary.status == self.status)
            and (self.min_return is None or summary.episode_return >= self.min_return)
            and (self.since is None or summary.started_at >= self.since)
            and all(
                name in summary.tags and _is_equal(summary.tags[name], value)
                for name, value in self.tags.items()
            )
        )


def _is_equal(tag: Any, wanted: Any) -> bool:
    """Equality that also knows arrays."""
    if isinstance(tag, np.ndarray) or isinstance(wanted, np.ndarray):
        return np.array_equal(tag, wanted)
    return bool(tag == wanted)


class EpisodeQuery:
    """Episodes that match a filter; asks Redis anew each time it is used.

    Args:
        connection: Where the episodes are.
        wanted: The filter.
        limit: At most so many, the oldest first.

    Raises:
        InvalidRecord: There is no such status, or the limit is negative.
    """

    def __init__(
        self, connection: Connection, wanted: EpisodeFilter, *, limit: int | None = None
    ) -> None:
        self._connection = connection
        self._wanted = wanted
        self._limit = limit
        if wanted.status is not None and wanted.status not in get_args(EpisodeStatus):
            raise InvalidRecord(
                f"status={wanted.status!r}: an episode is {', '.join(get_args(EpisodeStatus))}"
            )
        if limit is not None and limit < 0:
            raise InvalidRecord(f"limit={limit}: it is 0 or more")

    def summaries(self) -> list[EpisodeSummary]:
        """Summaries of the episodes, the one that began first at the front."""
        self._connection.flush()
        store = self._connection.store
        runs = store.runs() if self._wanted.run is None else [self._wanted.run]
        found = [
            decode_summary(content, episode_id=name, where=f"summary of {name}")
            for run in runs
            for name, content in store.summaries(run).items()
        ]
        found = self._connection.as_of_now(found)
        accepted = [summary for summary in found if self._wanted.accepts(summary)]
        accepted.sort(key=lambda summary: (summary.started_at, summary.id))
        return accepted[: self._limit]

    def ids(self) -> list[str]:
        """Their ids."""
        return [summary.id for summary in self.summaries()]

    def __iter__(self) -> Iterator[Episode]:
        """The episodes, the one that began first at the front."""
        return map(self.episode, self.ids())

    def __len__(self) -> int:
        """How many there are."""
        return len(self.summaries())

    def episode(self, id: str) -> Episode:
        """One episode by its id, whether it matches or not."""
        return Episode(self._connection, id)

    def first(self) -> Episode:
        """The one that began first.

        Raises:
            EpisodeNotFound: There is none.
        """
        return self._one(0)

    def last(self) -> Episode:
        """The one that began last.

        Raises:
            EpisodeNotFound: There is none.
        """
        return self._one(-1)

    def _one(self, position: int) -> Episode:
        ids = self.ids()
        if not ids:
            raise EpisodeNotFound(f"no episode matches {self._wanted}")
        return self.episode(ids[position])
