"""`top`: the runs, live."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jamboree_gym.cli.commands import JsonOption, StoreOptions
from jamboree_gym.cli.live_screen import show_live
from jamboree_gym.cli.output import print_json, print_list
from jamboree_gym.errors import StoreUnavailable

if TYPE_CHECKING:
    from jamboree_gym.jamboree import Jamboree
    from jamboree_gym.runs.run_summary import RunSummary

__all__ = ["TOP_COLUMNS", "top"]

TOP_COLUMNS = ("name", "state", "steps_per_s", "steps", "episodes", "mean_return", "last_step_at")
EVERY_S = 1.0
SHOWN = 200


def top(
    store: StoreOptions,
    every_s: Annotated[
        float, typer.Option("--every-s", min=0.1, help="How often a terminal is drawn, seconds.")
    ] = EVERY_S,
    json: JsonOption = False,
) -> None:
    """Show the runs live: steps a second, returns, how far the backup is behind. q ends it.

    What is running stands at the top. Without a terminal it prints one table and ends.

    Example: jamboree-gym top
    """
    with store.open() as jam:
        if json:
            found = _found(jam)
            rate = sum(one.steps_per_s for one in found)
            print_json({"runs": found, "steps_per_s": rate, "backup": jam.backup.status()})
        elif sys.stdout.isatty():
            show_live(lambda: _lines(jam), every_s=every_s)
        else:
            print_list(_found(jam), json=False, columns=TOP_COLUMNS, table=_table)


def _found(jam: Jamboree) -> list[RunSummary]:
    """What is running first, then what was written last."""
    found = jam.runs().summaries()
    found.sort(key=lambda one: (one.state != "running", -(one.last_step_at or 0.0)))
    return found


def _lines(jam: Jamboree) -> list[str]:
    from jamboree_gym.tables.text_table import text_table

    clock = time.strftime("%H:%M:%S")
    try:
        found, backup = _found(jam), jam.backup.status()
    except StoreUnavailable as error:  # it may come back
        return [f"{clock}  {error}", "trying again; q ends it"]
    running = sum(one.state == "running" for one in found)
    rate = sum(one.steps_per_s for one in found)
    lag = "never complete" if backup.lag_s is None else f"{backup.lag_s:,.1f} s behind"
    head = (
        f"{clock}  {running:,} of {len(found):,} runs alive, {rate:,.0f} steps/s; backup {lag}, "
        f"{backup.pending_records:,} records wait; q ends it"
    )
    shown = found[:SHOWN]
    table = text_table(_table(shown), rows=len(shown)).splitlines() if shown else []
    return [head, "", *(table or ["nothing has been recorded yet"])]


def _table(found: Sequence[RunSummary]) -> Mapping[str, Sequence[object]]:
    from jamboree_gym.tables.text_table import ago, number

    now = time.time()
    return {
        "run": [one.name for one in found],
        "state": [one.state for one in found],
        "steps/s": [number(one.steps_per_s) for one in found],
        "steps": [one.steps for one in found],
        "episodes": [one.episodes for one in found],
        "return of last 10": [one.shown_return for one in found],
        "last step": [ago(one.last_step_at, now) for one in found],
    }
