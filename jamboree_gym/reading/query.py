"""Finds episodes by the values in their summaries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import pyarrow as pa

from jamboree_gym.checked import Count, EpochSeconds, checked
from jamboree_gym.connection import Connection
from jamboree_gym.errors import EpisodeNotFound, InvalidArgument
from jamboree_gym.handlers.turns import AGENT_TAG
from jamboree_gym.progress import Progress, reported
from jamboree_gym.reading.episode import Episode
from jamboree_gym.reading.finding.filters import (
    ANY_PARENT,
    AnyParent,
    EpisodeFilter,
    EpisodeTest,
    Found,
    Stage,
    Weighing,
    check_one_return,
)
from jamboree_gym.reading.finding.names import RunNames, check_runs, id_of
from jamboree_gym.reading.finding.ordering import by_start, order_of
from jamboree_gym.reading.finding.summaries import mark_interrupted, read_summaries
from jamboree_gym.reading.parquet import pieces_of, write_parts
from jamboree_gym.reading.part_folder import check_free, writing_to
from jamboree_gym.records import EpisodeSummary
from jamboree_gym.tables.arrow_table import TablePart, empty_part, join
from jamboree_gym.tables.columns import table_to_frame
from jamboree_gym.tables.expressions import Condition
from jamboree_gym.tables.summary_table import to_summary_table
from jamboree_gym.tables.table_file import write_arrow
from jamboree_gym.tables.text_table import (
    MAX_ROWS,
    ReadWhenShown,
    episode_columns,
    html_table,
    text_table,
)
from jamboree_gym.wording import shortened, there_are

if TYPE_CHECKING:
    import vaex.dataframe

__all__ = ["EpisodeQuery", "found_by"]

MAX_TEST = 80  # characters of an expression, where a query is shown


class EpisodeQuery(ReadWhenShown):
    """A lazy selection of episodes, ordered by their start.

    Each of `where`, `order_by` and slicing returns a new query. They are applied in the order in
    which they are written. A query reads nothing until it is used, and it reads Redis again each
    time. Forks of an episode of the same run are experiments, not data of the run: a query finds
    them only with `forks=True`, or by their parent.

    If a summary is damaged in its listing, the query reads it from the episode's log, and warns. If
    it is damaged there, too, the query leaves the episode out; the warning says what to do.
    `table`, `frame` and everything else that reads the steps of all episodes raises `DecodeError`
    instead.

    Example:
        >>> best = jam.episodes(run="first").where(min_steps=100).order_by("-episode_return")[:10]
        >>> best.summary_table().to_pandas()

    Args:
        connection: The store of the episodes.
        wait: Whether a run that nothing was recorded in is one that is to come, not a misspelt one.
        forks: Whether forks of an episode of the same run are found, too.
    """

    _in_messages = "a query of episodes: jam.episodes(run='name')"

    @checked
    def __init__(self, connection: Connection, *, wait: bool = False, forks: bool = False) -> None:
        self._connection = connection
        self._waits = wait
        self._has_forks = forks
        self._runs: tuple[str, ...] | None = None  # the only runs to read; None = all
        self._named: tuple[str, ...] = ()  # all runs that a condition names
        self._stages: tuple[Stage, ...] = ()
        self._is_cut = False
        options = [name for name, is_set in (("wait", wait), ("forks", forks)) if is_set]
        self._asked = f"({', '.join(f'{name}=True' for name in options)})" if options else ""

    @checked
    def where(
        self,
        test: EpisodeTest | str | None = None,
        /,
        *,
        run: RunNames | None = None,
        env_id: str | None = None,
        status: str | None = None,
        parent: Episode | str | AnyParent | None = ANY_PARENT,
        agent: Any = None,
        tags: Mapping[str, Any] | None = None,
        min_return: float | None = None,
        max_return: float | None = None,
        min_steps: Count | None = None,
        max_steps: Count | None = None,
        since: EpochSeconds | None = None,
        until: EpochSeconds | None = None,
    ) -> EpisodeQuery:
        """Keep only episodes that match all conditions; bounds are included.

        Args:
            test: Any other condition, as an expression over the columns of `summary_table`:
                `"episode_return < -300 and tag_lr > 1e-4"`; it is never run as code. Or a function
                that returns whether an episode is wanted, given its `EpisodeSummary`:
                `lambda episode: episode.seed == 3 or episode.elapsed_s > 60`.
            run: Only of this run, or of these.
            env_id: Only of this environment.
            status: Only with this status: `running`, `terminated`, `truncated`, `abandoned`,
                `interrupted`.
            parent: Only forks of this episode, or of the one with this id; None = no forks at all.
            agent: Only of this agent, in environments of several (the tag `agent`).
            tags: Only with these tags and values. A function in place of a value returns whether a
                value is accepted: `{"branch": "main", "lr": lambda lr: lr >= 1e-4}`.
            min_return: Lowest return.
            max_return: Highest return.
            min_steps: Lowest number of steps.
            max_steps: Highest number of steps.
            since: Earliest start, epoch seconds.
            until: Latest start, epoch seconds.

        Raises:
            InvalidArgument: There is no such status. When the query is used: an episode has several
                returns, and a condition is on one (see `weighted`). Then, too, `RunNotFound` is
                raised for a run in which nothing was recorded; `jam.episodes(wait=True)` does not.
            InvalidExpression: The expression cannot be understood; or, when the query is used, a
                column is not there.
        """
        if parent is not None and not isinstance(parent, AnyParent):
            parent = id_of(self._connection, parent)
        if agent is not None:
            tags = {**(tags or {}), AGENT_TAG: agent}
        condition = Condition(test) if isinstance(test, str) else None
        asked = EpisodeFilter(
            test=None if isinstance(test, str) else test,
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
        query = self
        if condition is None or str(asked):
            query = query._then(asked.strictly_among, f"where({asked})")
        if condition is not None and isinstance(test, str):
            query = query._then(partial(_matching, condition), f"where({_short(test)!r})")
        query._named += asked.runs or ()
        query._has_forks |= isinstance(parent, str)
        if not self._is_cut and self._runs is None:
            query._runs = asked.runs
        return query

    @checked
    def order_by(self, name: str) -> EpisodeQuery:
        """Sort the episodes.

        Args:
            name: A field of `EpisodeSummary`, `tags.<name>`, or, where a reward is several numbers,
                `return_<n>`. A leading minus means descending order: `"-episode_return"`. Episodes
                without a value (or with NaN) come last. Episodes with equal values keep their
                order.

        Raises:
            InvalidArgument: There is no such field. Raised when the query is used: the values of a
                tag cannot be ordered, or an episode has several returns and the order is by one.
        """
        return self._then(order_of(name), f"order_by({name!r})")

    @checked
    def weighted(self, weights: Sequence[float]) -> EpisodeQuery:
        """Where a reward is several numbers, make `episode_return` a weighted sum of the returns.

        What is asked of the query after that (`where`, `order_by`, `summaries`) takes this sum for
        the return: `weighted([1, 1])` is the plain sum, `weighted([0, 1])` the second component.
        Episodes whose reward is one number keep their return.

        Example:
            >>> jam.episodes(run="mo").weighted([0.7, 0.3]).order_by("-episode_return").first()

        Args:
            weights: A weight for each component of a reward. A component of weight 0 is left out,
                even if it is NaN.

        Raises:
            InvalidArgument: When the query is used: an episode has another number of returns.
        """
        known = tuple(map(float, weights))
        return self._then(Weighing(known), f"weighted({list(known)})")

    @overload
    def __getitem__(self, position: int) -> Episode: ...

    @overload
    def __getitem__(self, position: slice) -> EpisodeQuery: ...

    @checked
    def __getitem__(self, position: int | slice) -> Episode | EpisodeQuery:
        """One episode by its position, or a query for a slice of the episodes.

        Raises:
            EpisodeNotFound: The query has fewer episodes.
            InvalidArgument: The slice has a step of 0.
        """
        if isinstance(position, slice):
            if position.step == 0:
                raise InvalidArgument("a slice of a query has a step of 0: choose another, or none")
            query = self._then(itemgetter(position), f"[{_shown(position)}]")
            query._is_cut = True
            return query
        ids = self.ids()
        try:
            return Episode(self._connection, ids[position])
        except IndexError:
            raise EpisodeNotFound(
                f"{there_are(len(ids), 'episode')}, so there is none at {position}: {self!r}"
            ) from None

    def _then(self, stage: Stage, shown: str) -> EpisodeQuery:
        query = EpisodeQuery(self._connection, wait=self._waits, forks=self._has_forks)
        query._runs, query._named, query._is_cut = self._runs, self._named, self._is_cut
        query._stages = (*self._stages, stage)
        query._asked = f"{self._asked}.{shown}" if shown[0] != "[" else self._asked + shown
        return query

    # -- what is found ----------------------------------------------------------------------

    def _found(self, *, is_complete: bool = False) -> Found:
        self._connection.settle_all()
        store = self._connection.store
        runs = store.listings.runs() if self._runs is None else dict.fromkeys(self._runs)
        found = read_summaries(self._connection, runs, is_complete=is_complete)
        if self._named and not self._waits:
            check_runs(self._connection, set(self._named) - {one.run for one in found})
        if not self._has_forks:
            found = [one for one in found if one.parent is None or not one.is_experiment]
        mark_interrupted(self._connection, found)
        found = by_start(found)
        for stage in self._stages:
            found = stage(found)
        return found

    def summaries(self) -> list[EpisodeSummary]:
        """Summaries of the episodes, in their order."""
        return [one.decoded() for one in self._found()]

    def summary_table(self) -> pa.Table:
        """The summaries as an Arrow table, one row per episode.

        Returns:
            A `pyarrow.Table` with the columns `episode_id`, `env_id`, `run`, `status` (string),
            `steps` (int64), `episode_return`, `started_at`, `elapsed_s` (float64), `seed`,
            `vector_index` and `parent` (null if there is none), and `tag_<name>` for every tag
            whose values are numbers, bools or texts; null if an episode lacks it. Where a reward is
            several numbers, also `return_0`, `return_1`, ... (float64).
        """
        return to_summary_table(self._found())

    # -- their steps ------------------------------------------------------------------------

    @checked
    def table(self, *, progress: bool | Progress = False) -> pa.Table:
        """All steps of all episodes as one Arrow table, in the order of the episodes.

        For a running episode, the table has the steps that its summary counts.

        Args:
            progress: Whether to show on stderr how many episodes have been read; or a function that
                is called with that number and the total.

        Returns:
            A `pyarrow.Table` with the column `episode_id` and those of `Episode.table`. If an
            episode lacks a column, its rows are null there. Numbers of two types become the type
            that holds all of them exactly. An info, or a value without fixed shape, is a column
            only if one column can hold the values of all episodes.

        Raises:
            ColumnConflict: No single column can hold the observations, actions or annotations of
                two episodes; names both.
            EpisodeNotFound: An episode has been deleted meanwhile.
            DecodeError: Bytes of an episode are damaged; names key and index.
        """
        return join(list(self._table_parts(progress))).table.combine_chunks()

    @checked
    def frame(self, *, progress: bool | Progress = False) -> vaex.dataframe.DataFrame:
        """As `table`, as a vaex DataFrame.

        Raises:
            MissingExtra: vaex is not installed (it has no build for this Python).
        """
        return table_to_frame(self.table(progress=progress))

    @checked
    def to_arrow(
        self, path: str | Path, *, overwrite: bool = False, progress: bool | Progress = False
    ) -> Path:
        """Write the rows of `table` into an Arrow file of any size, with a few MB in memory.

        `vaex.open(path)` and `pyarrow.memory_map` read the file without loading it. Until it is
        complete, other programs find at `path` what was there before, or nothing.

        Example:
            >>> jam.episodes(run="first").to_arrow("first.arrow", progress=True)
            >>> frame = vaex.open("first.arrow")

        Args:
            path: The file.
            overwrite: Whether an existing file is replaced, once the new one is complete.
            progress: As in `table`.

        Returns:
            The path of the file.

        Raises:
            ExportError: The file is there already, or cannot be written; nothing was written.
        """
        check_free(Path(path), overwrite=overwrite)
        with writing_to(path):
            write_arrow(self._table_parts(progress), Path(path))
        return Path(path)

    @checked
    def to_parquet(self, folder: str | Path, *, progress: bool | Progress = False) -> Path:
        """Write the rows of `table` into Parquet files in a folder, with a few MB in memory.

        Writes only episodes that are over. Each goes into one file, with all of its steps. If you
        call it again, also after a kill, it adds the missing episodes and removes none. A file
        becomes visible when it is complete. pyarrow, pandas, Polars, DuckDB and `datasets` read the
        folder, or `folder/*.parquet`, as one table.

        Example:
            >>> jam.episodes(run="first").to_parquet("first", progress=True)
            >>> pandas.read_parquet("first")

        Args:
            folder: The folder; made if it is missing.
            progress: Whether to show on stderr how many episodes have been written; or a function
                that is called with that number and the total.

        Returns:
            The path of the folder.

        Raises:
            ColumnConflict: As in `table`. Files that exist by then stay.
            ExportError: Another process is writing there, or the folder has other files.
            EpisodeNotFound: An episode has been deleted meanwhile.
            DecodeError: Bytes of an episode are damaged; names key and index.
        """
        write_parts(self._connection, self._found(is_complete=True), Path(folder), progress)
        return Path(folder)

    def _table_parts(self, progress: bool | Progress) -> Iterator[TablePart]:
        """Yield the rows of `table` in parts."""
        found = self._found(is_complete=True)
        if not found:
            yield empty_part()
        yield from reported(pieces_of(self._connection, found), len(found), progress)

    def ids(self) -> list[str]:
        """Ids of the episodes, in their order."""
        return [one.id for one in self._found()]

    def __iter__(self) -> Iterator[Episode]:
        """Iterate over the episodes."""
        return (Episode(self._connection, id) for id in self.ids())

    def __contains__(self, episode: object) -> bool:
        """Whether it finds this episode, or the one with this id."""
        return (episode.id if isinstance(episode, Episode) else episode) in self.ids()

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._found())

    @checked
    def episode(self, id: Episode | str) -> Episode:
        """One episode by its id or the beginning of that, even if it does not match."""
        return Episode(self._connection, id_of(self._connection, id))

    def first(self) -> Episode:
        """The first episode.

        Raises:
            EpisodeNotFound: No episode matches.
        """
        return self[0]

    def last(self) -> Episode:
        """The last episode.

        Raises:
            EpisodeNotFound: No episode matches.
        """
        return self[-1]

    def __repr__(self) -> str:
        """The conditions of the query."""
        return f"<episodes{self._asked}>"

    def _as_text(self) -> str:
        found = self._found()
        if not found:
            return f"no episodes: {self!r}"
        return text_table(_columns(found, self._connection.clock()), rows=len(found))

    def _as_html(self) -> str:
        found = self._found()
        return html_table(_columns(found, self._connection.clock()), rows=len(found))


def found_by(query: EpisodeQuery, *, is_complete: bool = True) -> tuple[Connection, Found]:
    """The summaries that a query finds now, and the connection, for code that reads the steps.

    Args:
        query: The query.
        is_complete: Whether to raise if a summary cannot be read, instead of leaving it out.

    Raises:
        DecodeError: A summary cannot be read.
    """
    return query._connection, query._found(is_complete=is_complete)


def _matching(condition: Condition, found: Found) -> Found:
    if not found:
        return found
    if "episode_return" in condition.names:
        check_one_return(found, "the condition on episode_return")
    return [found[row] for row in condition.rows(to_summary_table(found)).nonzero()[0]]


def _columns(found: Found, now: float) -> dict[str, list[object]]:
    """What a table for people shows of the first episodes."""
    shown = [one.decoded() for one in found[:MAX_ROWS]]
    columns = episode_columns(shown, now)
    if len(set(columns["run"])) == 1:
        del columns["run"]
    if any(one.parent is not None for one in shown):
        columns["from step"] = [
            None if one.parent is None else f"{one.fork_step} of {one.parent}" for one in shown
        ]
    return columns


def _short(test: str) -> str:
    return shortened(test, MAX_TEST)


def _shown(cut: slice) -> str:
    parts = (cut.start, cut.stop) if cut.step is None else (cut.start, cut.stop, cut.step)
    return ":".join("" if part is None else str(part) for part in parts)
