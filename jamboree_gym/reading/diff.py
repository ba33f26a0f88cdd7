"""Where two episodes part: their first difference, bit for bit, and their summaries beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jamboree_gym.arrays.difference import UNTYPED, Difference, differences, earliest, first_row
from jamboree_gym.encoding.rows import Rows
from jamboree_gym.reading.episode import Episode
from jamboree_gym.records import EpisodeSummary
from jamboree_gym.wording import one_line, shortened

__all__ = ["Divergence", "EpisodeDiff", "diff"]

ROWS_AT_ONCE = 4096
MAX_SHOWN = 40
_FIELDS = {
    "action": "actions",
    "observation": "observations",
    "reward": "rewards",
    "terminated": "terminations",
    "truncated": "truncations",
}
_SHOWN = ("id", "env_id", "run", "status", "steps", "episode_return", "seed", "parent")


@dataclass(frozen=True, slots=True, eq=False)
class Divergence(Difference):
    """The first place where two episodes differ; also of a fork, steps count from the reset.

    The field is `length` where all steps that both have are equal.
    """

    def __str__(self) -> str:
        """One line."""
        return f"{self.place}: {_shown(self.a)} and {_shown(self.b)}"


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeDiff:
    """How two episodes differ; true when they do.

    A fork is taken as its whole history: the steps of its parent up to the fork, then its own.

    Attributes:
        a: Summary of the one. Steps and return of a fork are its own, from the fork on.
        b: Summary of the other.
        common_steps: How many steps from the reset on are equal.
        divergence: The first difference; None when there is none.
    """

    a: EpisodeSummary
    b: EpisodeSummary
    common_steps: int
    divergence: Divergence | None

    def __repr__(self) -> str:
        """Where they part."""
        where = "no difference" if self.divergence is None else str(self.divergence)
        return f"<EpisodeDiff: {self.common_steps:,} steps are equal, then {where}>"

    def __bool__(self) -> bool:
        """Whether they differ."""
        return self.divergence is not None

    def __str__(self) -> str:
        """The summaries side by side, and the first difference below them."""
        rows = [
            (name, *(_shown(getattr(one, name)) for one in (self.a, self.b)))
            for name in (*_SHOWN, *(["returns"] if self.a.returns or self.b.returns else []))
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        steps = f"{self.common_steps:,} steps"
        if self.divergence is None:
            return "\n".join([*lines, f"all {steps} are equal"])
        return "\n".join([*lines, f"the first {steps} are equal; then {self.divergence}"])


def diff(a: Episode, b: Episode) -> EpisodeDiff:
    """Compare two episodes, bit for bit: actions, observations, rewards and ends."""
    summaries = a.summary, b.summary
    histories = _history(a), _history(b)
    for row, stop, one, other in _windows(*histories):
        if one.is_same_as(other):
            continue
        for first in range(row, stop, ROWS_AT_ONCE):
            last = min(first + ROWS_AT_ONCE, stop)
            divergence = _divergence(one.rows(first, last), other.rows(first, last), first)
            if divergence is not None:
                return EpisodeDiff(*summaries, max(0, divergence.step), divergence)
    lengths = [parts[-1].stop - 1 for parts in histories]
    common = min(lengths)
    if lengths[0] != lengths[1]:
        divergence = Divergence("length", lengths[0], lengths[1], step=common)
        return EpisodeDiff(*summaries, common, divergence)
    return EpisodeDiff(*summaries, common, None)


# -- histories --------------------------------------------------------------------------------


class _Part(NamedTuple):
    """Rows `start` to `stop` (exclusive) of a history, and the episode that they are in.

    Row r of the history is row r - `offset` of the episode.
    """

    episode: Episode
    offset: int
    start: int
    stop: int

    def rows(self, start: int, stop: int) -> Rows:
        return self.episode._rows(start - self.offset, stop - self.offset)

    def is_same_as(self, other: _Part) -> bool:
        return (self.episode.id, self.offset) == (other.episode.id, other.offset)


def _history(episode: Episode) -> list[_Part]:
    """The rows from the reset of the root on; that of a fork's beginning is its parent's."""
    line = episode.lineage
    stops = [child.origin.fork_step or 0 for child in line[1:]] + [len(episode)]
    parts: list[_Part] = []
    offset = 0
    for one, stop in zip(line, stops, strict=True):
        parts.append(_Part(one, offset, offset + bool(parts), offset + stop + 1))
        offset += stop
    return parts


def _windows(a: list[_Part], b: list[_Part]) -> Iterator[tuple[int, int, _Part, _Part]]:
    """Rows that both have, cut so that each piece is of one episode on either side."""
    for one in a:
        for other in b:
            start, stop = max(one.start, other.start), min(one.stop, other.stop)
            if start < stop:
                yield start, stop, one, other


# -- the first difference ---------------------------------------------------------------------


def _divergence(a: Rows, b: Rows, first: int) -> Divergence | None:
    """The first difference between rows of the same numbers; `first` is that of the first."""
    if first == 0:  # of a reset, all but the observation means nothing
        found = list(differences("observation", *_values(a, b, "observation", 0), UNTYPED))
        return Divergence.first_of(found, step=-1) if found else _divergence(a[1:], b[1:], 1)
    row = earliest(
        first_row(getattr(a, column), getattr(b, column), UNTYPED, partial(_values, a, b, field))
        for field, column in _FIELDS.items()
    )
    if row is None:
        return None
    pairs = ((field, _values(a, b, field, row)) for field in _FIELDS)
    found = [one for field, pair in pairs for one in differences(field, *pair, UNTYPED)]
    return Divergence.first_of(found, step=first + row - 1)


def _values(a: Rows, b: Rows, field: str, row: int) -> tuple[Any, Any]:
    if field in ("action", "observation"):
        return getattr(a, field)(row), getattr(b, field)(row)
    pair = getattr(a, _FIELDS[field])[row], getattr(b, _FIELDS[field])[row]
    one, other = (value if isinstance(value, np.ndarray) else value.item() for value in pair)
    return one, other


# -- as text ----------------------------------------------------------------------------------


def _shown(value: Any) -> str:
    """In few words; a number of NumPy as the number that it is."""
    if isinstance(value, np.ndarray) and not value.ndim:
        value = value[()]
    text = one_line(str(value)) if isinstance(value, (str, np.generic)) else repr(value)
    return shortened(text, MAX_SHOWN)
