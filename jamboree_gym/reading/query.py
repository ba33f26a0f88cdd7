"""Finding episodes by what their summaries say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import pyarrow as pa

from jamboree_gym.connection import Connection
from jamboree_gym.delivery.stays_here import StaysHere
from jamboree_gym.errors import EpisodeNotFound
from jamboree_gym.progress import Progress, reported
from jamboree_gym.reading.episode import Episode
from jamboree_gym.reading.filters import (
    EpisodeFilter,
    EpisodeTest,
    Found,
    Stage,
    by_start,
    order_of,
)
from jamboree_gym.reading.parquet import pieces_of, write_parts
from jamboree_gym.reading.summaries import read_summaries
from jamboree_gym.records import EpisodeSummary
from jamboree_gym.tables.arrow_table import Piece, join, no_piece
from jamboree_gym.tables.columns import table_to_frame
from jamboree_gym.tables.summary_table import to_summary_table
from jamboree_gym.tables.table_file import write_arrow

if TYPE_CHECKING:
    import vaex.dataframe

__all__ = ["EpisodeQuery", "found_by"]


class EpisodeQuery(StaysHere):
    """Episodes that are asked for, the one that began first at the front.

    Each of `where`, `order_by` and slicing gives a new query, and they are carried out in the order
    in which they are written. A query reads nothing until it is used, and asks Redis anew each
    time it is.

    A summary that is damaged in its listing is read from the episode's log, with a warning. Where
    it is damaged there as well, the episode is left out with a warning that says what to do;
    `table`, `frame` and everything else that reads the steps of all raises `DecodeError` instead.

    Example:
        >>> best = jam.episodes(run="first").where(min_steps=100).order_by("-episode_return")[:10]
        >>> best.summary_table().to_pandas()

    Args:
        connection: Where the episodes are.
    """

    instead = "ask again there, with `jam.episodes(...)`; or take its `summaries()`"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._run: str | None = None  # the one run that need be read
        self._stages: tuple[Stage, ...] = ()
        self._is_cut = False
        self._asked = ""

    def where(
        self,
        test: EpisodeTest | None = None,
        /,
        *,
        run: str | None = None,
        env_id: str | None = None,
        status: str | None = None,
        parent: str | None = None,
        tags: Mapping[str, Any] | None = None,
        min_return: float | None = None,
        max_return: float | None = None,
        min_steps: int | None = None,
        max_steps: int | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> EpisodeQuery:
        """Only those of which all of this is true; bounds are included.

        Args:
            test: Of an `EpisodeSummary`, whether its episode is wanted: for all that has no name
                below. `lambda episode: episode.seed == 3 or episode.elapsed_s > 60`.
            run: Only of this run.
            env_id: Only of this environment.
            status: Only with this status: `running`, `terminated`, `truncated`, `abandoned`,
                `interrupted`.
            parent: Only those that were forked from the episode with this id.
            tags: Only with these tags, at these values; instead of a value, a function that says
                whether a value will do: `{"branch": "main", "lr": lambda lr: lr >= 1e-4}`.
            min_return: Lowest return.
            max_return: Highest return.
            min_steps: Lowest number of steps.
            max_steps: Highest number of steps.
            since: Earliest start, epoch seconds.
            until: Latest start, epoch seconds.

        Raises:
            InvalidRecord: There is no such status.
        """
        asked = EpisodeFilter(
            test=test,
            run=run,
            env_id=env_id,
            status=status,
            parent=parent,
            tags=tags or {},
            min_return=min_return,
            max_return=max_return,
            min_steps=min_steps,
            max_steps=max_steps,
            since=since,
            until=until,
        )
        query = self._then(asked.among, f"where({asked})")
        if not self._is_cut and self._run is None:
            query._run = run
        return query

    def order_by(self, name: str) -> EpisodeQuery:
        """In another order.

        Args:
            name: A field of `EpisodeSummary`, or `tags.<name>`; with a minus in front from the
                highest down: `"-episode_return"`. Where there is no value (or NaN), the episode
                comes last; equal ones stay in the order they were in.

        Raises:
            InvalidRecord: There is no such field. When the query is used: values of a tag have no
                order among them.
        """
        return self._then(order_of(name), f"order_by({name!r})")

    @overload
    def __getitem__(self, position: int) -> Episode: ...

    @overload
    def __getitem__(self, position: slice) -> EpisodeQuery: ...

    def __getitem__(self, position: int | slice) -> Episode | EpisodeQuery:
        """One episode by its position, or a query for a slice of them.

        Raises:
            EpisodeNotFound: There are not so many.
        """
        if isinstance(position, slice):
            query = self._then(lambda found: found[position], f"[{_shown(position)}]")
            query._is_cut = True
            return query
        ids = self.ids()
        try:
            return Episode(self._connection, ids[position])
        except IndexError:
            raise EpisodeNotFound(
                f"{len(ids) or 'no'} episodes match, so there is none at {position}: {self!r}"
            ) from None

    def _then(self, stage: Stage, shown: str) -> EpisodeQuery:
        query = EpisodeQuery(self._connection)
        query._run, query._is_cut = self._run, self._is_cut
        query._stages = (*self._stages, stage)
        query._asked = f"{self._asked}.{shown}" if shown[0] != "[" else self._asked + shown
        return query

    # -- what is found ----------------------------------------------------------------------

    def _found(self, *, is_complete: bool = False) -> Found:
        self._connection.settle_all()
        store = self._connection.store
        runs = store.listings.runs() if self._run is None else [self._run]
        found = read_summaries(self._connection, runs, is_complete=is_complete)
        running = [one for one in found if one.status == "running"]
        dead = self._connection.dead({one.writer.hex() for one in running})
        for one in running:
            if one.writer.hex() in dead:
                one.status = "interrupted"
        found = by_start(found)
        for stage in self._stages:
            found = stage(found)
        return found

    def summaries(self) -> list[EpisodeSummary]:
        """Summaries of the episodes."""
        return [one.decoded() for one in self._found()]

    def summary_table(self) -> pa.Table:
        """The summaries as an Arrow table, a row for each episode.

        Returns:
            A `pyarrow.Table` with the columns `episode_id`, `env_id`, `run`, `status` (string),
            `steps` (int64), `episode_return`, `started_at`, `elapsed_s` (float64), `seed`,
            `vector_index` and `parent` (null where there is none), and `tag_<name>` for every tag
            whose values are numbers, bools or texts; null where an episode lacks it.
        """
        return to_summary_table(self._found())

    # -- their steps ------------------------------------------------------------------------

    def table(self, *, progress: bool | Progress = False) -> pa.Table:
        """All steps of all episodes as one Arrow table, oldest first in the order of the episodes.

        Of a running episode, the steps that its summary tells of.

        Args:
            progress: Whether to show on stderr how many episodes have been read; or a function
                that is called with that number and the number of all.

        Returns:
            A `pyarrow.Table` with the column `episode_id` and those of `Episode.table`. A column
            that an episode does not have is null there. Numbers of two types become the type that
            holds all of them exactly. An info, or a value without fixed shape, is a column only
            if the values of all episodes fit into it.

        Raises:
            ColumnConflict: No one column holds the observations, actions or annotations of two
                episodes; names both.
            EpisodeNotFound: An episode has been deleted meanwhile.
            DecodeError: Bytes of one are damaged; names key and index.
        """
        return join(list(self._pieces(progress))).table.combine_chunks()

    def frame(self, *, progress: bool | Progress = False) -> vaex.dataframe.DataFrame:
        """The same as a vaex DataFrame.

        Raises:
            MissingExtra: vaex is not installed (it has no build for this Python).
        """
        return table_to_frame(self.table(progress=progress))

    def to_arrow(self, path: str | Path, *, progress: bool | Progress = False) -> None:
        """Write the same into an Arrow file, however large: no more than some MB are in memory.

        `vaex.open(path)` and `pyarrow.memory_map` read it without loading it. Whoever looks at
        `path` meanwhile finds what was there before, or nothing.

        Example:
            >>> jam.episodes(run="first").to_arrow("first.arrow", progress=True)
            >>> frame = vaex.open("first.arrow")

        Args:
            path: Where to; what is there is replaced at the end.
            progress: As in `table`.
        """
        write_arrow(self._pieces(progress), Path(path))

    def to_parquet(self, folder: str | Path, *, progress: bool | Progress = False) -> None:
        """Write the same into Parquet files of a folder: no more than some MB are in memory.

        Only episodes that are over are written, each into one file with all of its steps. Called
        again, also after it was killed, it adds those that are not there yet; it takes none away.
        Every file is whole from the moment it is there. pyarrow, pandas, Polars, DuckDB and
        `datasets` read the folder, or `folder/*.parquet`, as one table.

        Example:
            >>> jam.episodes(run="first").to_parquet("first", progress=True)
            >>> pandas.read_parquet("first")

        Args:
            folder: Where to; it is made.
            progress: Whether to show on stderr how many episodes have been written; or a function
                that is called with that number and the number of all.

        Raises:
            ColumnConflict: As in `table`. Files that are there by then stay.
            ExportError: Another process is writing there, or files of something else are there.
            EpisodeNotFound: An episode has been deleted meanwhile.
            DecodeError: Bytes of one are damaged; names key and index.
        """
        write_parts(self._connection, self._found(is_complete=True), Path(folder), progress)

    def _pieces(self, progress: bool | Progress) -> Iterator[Piece]:
        """The table, piece by piece."""
        found = self._found(is_complete=True)
        if not found:
            yield no_piece()
        yield from reported(pieces_of(self._connection, found), len(found), progress)

    def ids(self) -> list[str]:
        """Their ids."""
        return [one.id for one in self._found()]

    def __iter__(self) -> Iterator[Episode]:
        """The episodes."""
        return map(self.episode, self.ids())

    def __len__(self) -> int:
        """How many there are."""
        return len(self._found())

    def episode(self, id: str) -> Episode:
        """One episode by its id, whether it matches or not."""
        return Episode(self._connection, id)

    def first(self) -> Episode:
        """The one at the front.

        Raises:
            EpisodeNotFound: There is none.
        """
        return self[0]

    def last(self) -> Episode:
        """The one at the end.

        Raises:
            EpisodeNotFound: There is none.
        """
        return self[-1]

    def __repr__(self) -> str:
        """What is asked for."""
        return f"<episodes{self._asked}>"


def found_by(query: EpisodeQuery, *, is_complete: bool = True) -> tuple[Connection, Found]:
    """What a query finds now, and where: for those who read the episodes themselves.

    Args:
        query: What is asked for.
        is_complete: Whether an episode whose summary cannot be read may not be left out.

    Raises:
        DecodeError: There is such a one.
    """
    return query._connection, query._found(is_complete=is_complete)


def _shown(cut: slice) -> str:
    parts = (cut.start, cut.stop) if cut.step is None else (cut.start, cut.stop, cut.step)
    return ":".join("" if part is None else str(part) for part in parts)
