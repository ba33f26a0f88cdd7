"""Which of many episodes may be deleted, and which stay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from heapq import nlargest

from jamboree_gym.reading.finding.filters import several_returns
from jamboree_gym.records import EpisodeSummary

__all__ = ["prunable"]


def prunable(
    found: Sequence[EpisodeSummary],
    every: Iterable[EpisodeSummary],
    *,
    keep_best: int = 0,
    keep_last: int = 0,
) -> list[EpisodeSummary]:
    """Which episodes may be deleted.

    One that is running stays, and so does one that a fork that stays was made of: without it, the
    fork could not be replayed.

    Args:
        found: Those that are meant.
        every: All that there are, forks included.
        keep_best: How many with the highest return stay, of each run. NaN is not the highest.
        keep_last: How many that began last stay, of each run.

    Raises:
        InvalidArgument: `keep_best` is given, and an episode has several returns.
    """
    if keep_best:
        _check_returns(found, f"keep_best={keep_best}")
    staying = {one.id for one in found if one.status == "running"}
    by_run: dict[str, list[EpisodeSummary]] = {}
    for one in found:
        by_run.setdefault(one.run, []).append(one)
    for of_run in by_run.values():
        staying |= {one.id for one in nlargest(keep_best, of_run, key=_return)}
        staying |= {one.id for one in nlargest(keep_last, of_run, key=_began)}
    going = {one.id for one in found} - staying
    known = {one.id: one for one in every}
    for one in known.values():
        if one.id not in going:
            going -= _ancestors(one, known)
    return [one for one in found if one.id in going]


def _check_returns(found: Sequence[EpisodeSummary], what: str) -> None:
    several = [one for one in found if one.returns is not None and one.steps]
    if several and all(math.isnan(one.episode_return) for one in several):  # not weighted
        raise several_returns(several[0], what)


def _return(summary: EpisodeSummary) -> float:
    value = summary.episode_return
    return -math.inf if math.isnan(value) else value


def _began(summary: EpisodeSummary) -> float:
    return summary.started_at


def _ancestors(summary: EpisodeSummary, known: dict[str, EpisodeSummary]) -> set[str]:
    found: set[str] = set()
    parent = summary.parent
    while parent is not None and parent not in found:
        found.add(parent)
        above = known.get(parent)
        parent = None if above is None else above.parent
    return found
