"""`runs` and `run`: what is in a store, and how a run stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jamboree_gym.cli.commands import JsonOption, StoreOptions
from jamboree_gym.cli.completion import complete_run
from jamboree_gym.cli.output import as_plain, print_json, print_lines, print_list

if TYPE_CHECKING:
    from jamboree_gym.runs.run_report import RunReport
    from jamboree_gym.runs.run_summary import RunSummary

__all__ = ["RUN_COLUMNS", "run", "runs"]

RUN_COLUMNS = ("name", "state", "episodes", "steps", "last_step_at", "mean_return", "checkpoints")


def runs(store: StoreOptions, json: JsonOption = False) -> None:
    """List the runs, the one that was written last at the end.

    Example: jamboree-gym runs
    """
    with store.open() as jam:
        print_list(jam.runs().summaries(), json=json, columns=RUN_COLUMNS, table=_table)


def run(
    store: StoreOptions,
    name: Annotated[
        str, typer.Argument(metavar="RUN", help="Its name.", autocompletion=complete_run)
    ],
    json: JsonOption = False,
) -> None:
    """Show how a run stands: alive or stuck, returns, metrics now and an hour before, warnings.

    Example: jamboree-gym run ppo
    """
    with store.open() as jam:
        report = jam.run(name).report()
    if json:
        print_json(_object(report))
    else:
        print_lines(str(report))


def _object(report: RunReport) -> dict[str, object]:
    """The report as one object, with the fields of the summary at its top."""
    plain: dict[str, object] = as_plain(report)
    summary = plain.pop("summary")
    assert isinstance(summary, dict)
    return {**summary, **plain}


def _table(found: Sequence[RunSummary]) -> Mapping[str, Sequence[object]]:
    import time

    from jamboree_gym.tables.text_table import ago, number

    now = time.time()
    return {
        "run": [one.name for one in found],
        "state": [one.state for one in found],
        "episodes": [one.episodes for one in found],
        "steps": [one.steps for one in found],
        "steps/s": [number(one.steps_per_s) for one in found],
        "last step": [ago(one.last_step_at, now) for one in found],
        "return of last 10": [one.shown_return for one in found],
        "checkpoints": [one.checkpoints for one in found],
        "environment": [", ".join(one.env_ids) for one in found],
    }
