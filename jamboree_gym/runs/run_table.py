"""What a table for people shows of runs."""

from __future__ import annotations

from collections.abc import Sequence

from jamboree_gym.runs.run_summary import RunSummary
from jamboree_gym.tables.text_table import ago

__all__ = ["run_columns"]


def run_columns(runs: Sequence[RunSummary], now: float) -> dict[str, list[object]]:
    """The cells of each column, a row for each run.

    Args:
        runs: The runs.
        now: Epoch seconds.
    """
    return {
        "run": [one.name for one in runs],
        "state": [one.state for one in runs],
        "episodes": [one.episodes for one in runs],
        "steps": [one.steps for one in runs],
        "last step": [ago(one.last_step_at, now) for one in runs],
        "return of last 10": [one.shown_return for one in runs],
        "checkpoints": [one.checkpoints for one in runs],
        "environment": [", ".join(one.env_ids) for one in runs],
    }
