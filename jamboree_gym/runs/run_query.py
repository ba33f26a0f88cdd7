"""`jam.runs()`: what is in a store, run by run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import pyarrow as pa

from jamboree_gym.checked import checked
from jamboree_gym.connection import Connection
from jamboree_gym.errors import RunNotFound
from jamboree_gym.runs.read_runs import read_run_summaries
from jamboree_gym.runs.run import Run
from jamboree_gym.runs.run_summary import RunSummary
from jamboree_gym.runs.run_table import run_columns
from jamboree_gym.tables.columns import scalar_columns
from jamboree_gym.tables.text_table import MAX_ROWS, ReadWhenShown, html_table, text_table
from jamboree_gym.wording import there_are

__all__ = ["RunQuery"]


class RunQuery(ReadWhenShown):
    """All runs of a store, the one written last at the end.

    Reads nothing until it is used, and reads again each time. `len`, `names` and iterating ask for
    the names alone, in two round trips. A table takes about ten, and one more for every 32 runs; it
    reads the summaries of all their episodes. `print` shows the newest 20 runs, the newest first.

    Example:
        >>> print(jam.runs())
        run     state    episodes  steps  last step  return of last 10  checkpoints  environment
        lander  stopped       112  24310  3 min ago             -118.2            2  LunarLander-v3

    Args:
        connection: The store.
    """

    @checked
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def names(self) -> list[str]:
        """Names of the runs."""
        self._connection.settle_all()
        return self._connection.store.listings.runs()

    def summaries(self) -> list[RunSummary]:
        """What is known of each run."""
        return read_run_summaries(self._connection, self.names())

    def table(self) -> pa.Table:
        """The summaries as an Arrow table, one row per run.

        Returns:
            A `pyarrow.Table` with the columns `run`, `state` (string), `env_ids` (list of strings),
            `episodes`, `steps` (int64), `began_at`, `last_step_at` (epoch seconds), `mean_return`
            (float64, of the newest ten episodes that are over), `mean_returns` (list of float64,
            where a reward is several numbers), `checkpoints` (int64), and `tag_<name>` for each tag
            whose values are numbers, bools or texts.
        """
        found = self.summaries()
        tags = scalar_columns("tag", [one.tags for one in found])
        return pa.table(
            {
                "run": pa.array([one.name for one in found], pa.string()),
                "state": pa.array([one.state for one in found], pa.string()),
                "env_ids": pa.array([list(one.env_ids) for one in found], pa.list_(pa.string())),
                "episodes": pa.array([one.episodes for one in found], pa.int64()),
                "steps": pa.array([one.steps for one in found], pa.int64()),
                "began_at": pa.array([one.began_at for one in found], pa.float64()),
                "last_step_at": pa.array([one.last_step_at for one in found], pa.float64()),
                "mean_return": pa.array([one.mean_return for one in found], pa.float64()),
                "mean_returns": pa.array(
                    [None if one.mean_returns is None else [*one.mean_returns] for one in found],
                    pa.list_(pa.float64()),
                ),
                "checkpoints": pa.array([one.checkpoints for one in found], pa.int64()),
                **{name: pa.array(column) for name, column in tags.items() if column is not None},
            }
        )

    def __iter__(self) -> Iterator[Run]:
        """Iterate over the runs."""
        return (Run(self._connection, name) for name in self.names())

    def __contains__(self, run: object) -> bool:
        """Whether there is this run, or one of this name."""
        return (run.name if isinstance(run, Run) else run) in self.names()

    def __len__(self) -> int:
        """Number of runs."""
        return len(self.names())

    @overload
    def __getitem__(self, position: int) -> Run: ...

    @overload
    def __getitem__(self, position: slice) -> list[Run]: ...

    @checked
    def __getitem__(self, position: int | slice) -> Run | list[Run]:
        """One run by its position, or a list of them; `jam.run(name)` finds one by its name.

        Raises:
            RunNotFound: There are fewer runs.
        """
        names = self.names()
        try:
            chosen = names[position]
        except IndexError:
            raise RunNotFound(
                f"{there_are(len(names), 'run')}, so there is none at {position}"
            ) from None
        if isinstance(chosen, str):
            return Run(self._connection, chosen)
        return [Run(self._connection, name) for name in chosen]

    def __repr__(self) -> str:
        """Nothing is read for it."""
        return "<runs: print them, or ask for .table()>"

    def _as_text(self) -> str:
        names = self.names()
        if not names:
            return f"no runs yet on {self._connection.store.where}"
        return text_table(self._columns(names), rows=len(names))

    def _as_html(self) -> str:
        names = self.names()
        return html_table(self._columns(names), rows=len(names))

    def _columns(self, names: Sequence[str]) -> dict[str, list[object]]:
        """What is shown of the newest runs, the newest first."""
        now = self._connection.clock()
        shown = read_run_summaries(self._connection, names[: -MAX_ROWS - 1 : -1])
        return run_columns(shown, now)
