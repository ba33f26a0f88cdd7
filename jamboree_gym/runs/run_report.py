"""How a run stands: whether it is alive, how its returns and metrics go, and what is odd."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

import pyarrow as pa
import pyarrow.types as kinds

from jamboree_gym.encoding.summary_codec import StoredSummary
from jamboree_gym.runs.checkpoints import Checkpoint
from jamboree_gym.runs.run_summary import AVERAGED, RunSummary, ended_at
from jamboree_gym.runs.sessions import RunSession
from jamboree_gym.tables.text_table import ago, averaged, number, sparkline, text_table
from jamboree_gym.wording import counted, one_line

__all__ = ["RunReport", "report_of_run"]

HOUR_S = 3600.0
SILENT_S = 60.0  # a running run may be silent for so long, or for three of its usual pauses
USUAL_PAUSES = 3
PAUSES = 20
UNCHECKED_S = 600.0  # a training without a checkpoint for so long is warned of
MAX_RETURNS = 60
MAX_SESSIONS = 5
MAX_METRICS = 40
_NO_METRICS = ("timesteps", "at", "session")


@dataclass(frozen=True, slots=True, eq=False)
class RunReport:
    """How a run stands; as text, a page for a terminal.

    Attributes:
        summary: State, numbers of episodes and steps, steps per second and so on.
        is_stuck: Whether it is running, and nothing has come for longer than is usual for it: for a
            minute, and three times as long as between its metrics.
        silent_s: Seconds since its newest step, metrics, checkpoint or session; None if there is
            nothing.
        sessions: Its sessions, the oldest first.
        returns: Returns of its episodes that reached their end, in the order of their ends; if
            there are more than 60, 60 means of consecutive ones.
        mean_return_before: Mean return of the newest ten episodes that had ended an hour before the
            newest step; None if none had.
        metrics: The newest value of each metric that is a number.
        metrics_before: The value of each metric an hour before the newest ones.
        checkpoint: The newest complete checkpoint; None if there is none.
        warnings: What is odd, a sentence each.
        at: When this was read, epoch seconds.
    """

    summary: RunSummary
    is_stuck: bool
    silent_s: float | None
    sessions: Sequence[RunSession]
    returns: Sequence[float]
    mean_return_before: float | None
    metrics: Mapping[str, float]
    metrics_before: Mapping[str, float]
    checkpoint: Checkpoint | None
    warnings: Sequence[str]
    at: float

    def __str__(self) -> str:
        """A page for a terminal."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        run = self.summary
        state = f"{run.state}, but stuck" if self.is_stuck else run.state
        newest = "nothing yet" if self.silent_s is None else ago(self.at - self.silent_s, self.at)
        yield f"{one_line(run.name)}: {state}; {run.steps_per_s:,.0f} steps/s, newest sign {newest}"
        yield (
            f"{counted(run.episodes, 'episode')}, {counted(run.steps, 'step')} of "
            f"{run.environments}, began {ago(run.began_at, self.at)}"
        )
        yield from (f"warning: {one}" for one in self.warnings)
        if self.returns:
            yield (
                f"returns {sparkline(self.returns, MAX_RETURNS)} of the last {AVERAGED}: "
                f"{number(run.mean_return)}, an hour before: {number(self.mean_return_before)}"
            )
        if run.mean_returns is not None:
            yield f"returns of the last {AVERAGED}: {run.shown_return}"
        if self.sessions:
            yield "sessions"
        yield from (f"  {one}" for one in self.sessions[-MAX_SESSIONS:])
        if self.checkpoint is not None:
            made = ago(self.checkpoint.at, self.at)
            yield (
                f"newest of {counted(run.checkpoints, 'checkpoint')}: {self.checkpoint.number}, "
                f"{made}, after {self.checkpoint.timesteps:,} timesteps"
            )
        if self.metrics:
            yield text_table(self._metric_columns(), rows=len(self.metrics))

    def _metric_columns(self) -> dict[str, list[object]]:
        names = list(self.metrics)[:MAX_METRICS]
        return {
            "metric": list(names),
            "now": [number(self.metrics[name]) for name in names],
            "an hour before": [number(self.metrics_before.get(name)) for name in names],
        }


def report_of_run(
    summary: RunSummary,
    episodes: Sequence[StoredSummary],
    sessions: Sequence[RunSession],
    metrics: pa.Table,
    checkpoint: Checkpoint | None,
    now: float,
) -> RunReport:
    """Report on a run.

    Args:
        summary: Its summary.
        episodes: Its episodes.
        sessions: Its sessions, the oldest first.
        metrics: As `metric_table` makes them.
        checkpoint: The newest one.
        now: Epoch seconds.
    """
    over = [one for one in episodes if one.status in ("terminated", "truncated")]
    over.sort(key=ended_at)
    own = [one for one in over if one.returns is None]  # with one return
    logged_at = metrics["at"].to_pylist()
    signs = [summary.last_step_at, *logged_at[-1:], *(one.began_at for one in sessions[-1:])]
    signs += [checkpoint.at] if checkpoint is not None else []
    newest = max((one for one in signs if one is not None), default=None)
    silent_s = None if newest is None else max(0.0, now - newest)
    is_stuck = (
        summary.state == "running" and silent_s is not None and silent_s > _longest_pause(logged_at)
    )
    before = (ended_at(over[-1]) if over else 0.0) - HOUR_S
    report = RunReport(
        summary,
        is_stuck,
        silent_s,
        sessions,
        averaged([one.episode_return for one in own], MAX_RETURNS),
        _mean([one.episode_return for one in own if ended_at(one) <= before][-AVERAGED:]),
        _values(metrics, math.inf),
        _values(metrics, (logged_at[-1] if logged_at else 0.0) - HOUR_S),
        checkpoint,
        (),
        now,
    )
    return replace(report, warnings=tuple(_warnings(report, over)))


def _longest_pause(logged_at: Sequence[float]) -> float:
    """For how long a run may be silent, seconds."""
    pauses = [later - earlier for earlier, later in pairwise(logged_at[-PAUSES:])]
    return max(SILENT_S, USUAL_PAUSES * median(pauses)) if pauses else SILENT_S


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _values(metrics: pa.Table, until: float) -> dict[str, float]:
    """The newest value of each metric that is a number, of those logged until then."""
    rows = sum(at <= until for at in metrics["at"].to_pylist())
    found: dict[str, float] = {}
    for name in metrics.column_names:
        kind = metrics.schema.field(name).type
        if name in _NO_METRICS or not (kinds.is_floating(kind) or kinds.is_integer(kind)):
            continue
        known = metrics[name].slice(0, rows).drop_null()
        if len(known):
            found[name] = float(known[-1].as_py())
    return found


def _warnings(report: RunReport, over: Sequence[StoredSummary]) -> Iterator[str]:
    run, newest = report.summary, report.sessions[-1:]
    if report.is_stuck:
        yield (
            f"no step, metrics or checkpoint for {report.silent_s:,.0f} s: is its process stopped, "
            "or does it wait for something?"
        )
    if run.state == "interrupted":
        yield "its process died before it came to its end"
    if any(one.how == "raised" for one in newest):
        yield "its newest session ended with an exception"
    odd = sum(not all(map(math.isfinite, one.returns or [one.episode_return])) for one in over)
    if odd:
        yield f"the return of {counted(odd, 'episode')} is no finite number"
    for name, value in report.metrics.items():
        if not math.isfinite(value):
            yield f"{one_line(name)} is {value}"
    for session in newest:
        since = session.began_at if report.checkpoint is None else report.checkpoint.at
        if session.how == "running" and report.at - since > UNCHECKED_S:
            yield f"no checkpoint for {(report.at - since) / 60:,.0f} min"
