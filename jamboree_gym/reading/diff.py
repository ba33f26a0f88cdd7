"""Where two episodes part: their first difference, bit for bit, and their summaries beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.difference import Difference, bytes_of, differences
from jamboree_gym.arrays.layout import as_array
from jamboree_gym.arrays.packing import Arrays
from jamboree_gym.arrays.values import encode_value
from jamboree_gym.encoding.rows import Rows
from jamboree_gym.reading.episode import Episode
from jamboree_gym.records import EpisodeSummary

__all__ = ["Divergence", "EpisodeDiff", "diff"]

ROWS_AT_ONCE = 4096
MAX_SHOWN = 40
_SHOWN = ("id", "env_id", "run", "status", "steps", "episode_return", "seed", "parent")


@dataclass(frozen=True, slots=True, eq=False)
class Divergence:
    """The first place where two episodes differ.

    Attributes:
        step: The step; -1 for the reset. Counted from the reset, also of a fork.
        field: `action`, `observation`, `reward`, `terminated`, `truncated`, or `length` where all
            steps that both have are equal.
        leaf: The very number: `observation["camera"][3, 2, 0]`.
        a: What the one has there.
        b: What the other has there.
    """

    step: int
    field: str
    leaf: str
    a: Any
    b: Any

    def __str__(self) -> str:
        """One line."""
        where = "at reset" if self.step < 0 else f"at step {self.step}"
        return f"{self.leaf} {where}: {_shown(self.a)} and {_shown(self.b)}"


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeDiff:
    """How two episodes differ; true when they do.

    A fork is taken as its whole history: the steps of its parent up to the fork, then its own.

    Attributes:
        a: Summary of the one. Steps and return of a fork are its own, from the fork on.
        b: Summary of the other.
        common_steps: So many steps from the reset on are equal.
        divergence: The first difference; None when there is none.
    """

    a: EpisodeSummary
    b: EpisodeSummary
    common_steps: int
    divergence: Divergence | None

    def __bool__(self) -> bool:
        """Whether they differ."""
        return self.divergence is not None

    def __str__(self) -> str:
        """The summaries side by side, and the first difference below them."""
        rows = [
            (name, *(_shown(getattr(one, name)) for one in (self.a, self.b))) for name in _SHOWN
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
        divergence = Divergence(common, "length", "length", *lengths)
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
        return self.episode.rows(start - self.offset, stop - self.offset)

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
    pairs: dict[str, tuple[Arrays, Arrays]] = {
        "action": (a.actions, b.actions),
        "observation": (a.observations, b.observations),
        "reward": (a.rewards, b.rewards),
        "terminated": (a.terminations, b.terminations),
        "truncated": (a.truncations, b.truncations),
    }
    found = {}
    for field, (one, other) in pairs.items():
        if first == 0 and field != "observation":  # of a reset, all else means nothing
            one, other = _without_first(one), _without_first(other)
        row = _first_row(one, other)
        if row is not None:
            found[field] = row + int(first == 0 and field != "observation")
    if not found:
        return None
    field = min(found, key=lambda name: found[name])
    row = found[field]
    values: dict[str, Callable[[Rows], Any]] = {
        "action": lambda rows: rows.action(row),
        "observation": lambda rows: rows.observation(row),
        "reward": lambda rows: float(rows.rewards[row]),
        "terminated": lambda rows: bool(rows.terminations[row]),
        "truncated": lambda rows: bool(rows.truncations[row]),
    }
    one, other = values[field](a), values[field](b)
    first_of_all = next(differences(field, one, other), Difference(field, one, other))
    return Divergence(first + row - 1, field, *first_of_all[:3])


def _without_first(arrays: Arrays) -> Arrays:
    if isinstance(arrays, np.ndarray):
        return arrays[1:]
    if isinstance(arrays, Mapping):
        return {name: _without_first(part) for name, part in arrays.items()}
    return type(arrays)(map(_without_first, arrays))


def _first_row(a: Arrays, b: Arrays) -> int | None:
    """First row whose bits differ; NaN equals the same NaN."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return _first_row_of_arrays(a, b)
    parts = _parts(a, b)
    if parts is None:
        return 0
    rows = [_first_row(*pair) for pair in parts]
    return min((row for row in rows if row is not None), default=None)


def _first_row_of_arrays(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> int | None:
    if _are_alike(a, b):
        differs = bytes_of(a) != bytes_of(b)
        rows = differs.reshape(len(a), -1).any(axis=1) if differs.size else differs
        return int(rows.argmax()) if rows.any() else None
    return next((row for row in range(len(a)) if not _are_same(a[row], b[row])), None)


def _parts(a: Any, b: Any) -> list[tuple[Any, Any]] | None:
    """Pairs of parts of two groups of the same make; None where they are not."""
    if isinstance(a, Mapping) and isinstance(b, Mapping) and a.keys() == b.keys():
        return [(a[key], b[key]) for key in a]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return list(zip(a, b, strict=True))
    return None


def _are_alike(a: Any, b: Any) -> bool:
    """Whether both are arrays of numbers whose elements can be compared one by one."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray) or not a.shape:
        return False
    return a.dtype != object and (a.dtype, a.shape) == (b.dtype, b.shape)


def _are_same(a: Any, b: Any) -> bool:
    """Bit for bit; a Python number is as good as a NumPy scalar."""
    one, other = as_array(a), as_array(b)
    if one is not None and other is not None:
        return (one.dtype, one.shape) == (other.dtype, other.shape) and (
            one.tobytes() == other.tobytes()
        )
    parts = _parts(a, b)
    if parts is not None:
        return all(_are_same(*pair) for pair in parts)
    return encode_value(a) == encode_value(b)


# -- as text ----------------------------------------------------------------------------------


def _shown(value: Any) -> str:
    """In few words; a number of NumPy as the number that it is."""
    text = str(value) if isinstance(value, (str, np.generic)) else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."
