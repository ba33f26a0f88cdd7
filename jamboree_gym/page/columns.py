"""The numbers of an episode as the bytes that the page draws from: one answer, then no question.

An answer is the length of a header (4 bytes), the header (JSON, filled with spaces to a multiple of
4 bytes), and the columns one behind the other: float32, all little-endian.

Row k of a column is step k: what the agent saw before it, what it did, what that returned. The row
after the newest step has the newest observation, and NaN for the rest.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jamboree_gym.arrays.trees import leaves_of
from jamboree_gym.errors import InvalidArgument
from jamboree_gym.reading.episode import Episode
from jamboree_gym.records import Transitions, brief
from jamboree_gym.tables.columns import Column, to_columns

__all__ = ["MAX_BYTES", "columns_of", "picture_leaves", "rows_of"]

STEPS_AT_ONCE: Final = 1024  # so that images are not in memory all at once
MAX_BYTES: Final = 5_000_000
MAX_COLUMNS: Final = 128
MAX_ROWS: Final = 500
_LEFT_OUT: Final = ("index",)
_GROUPS: Final = ("action", "observation", "annotation", "info")

Numbers = npt.NDArray[np.float32]


def columns_of(
    episode: Episode, start: int = 0, stop: int | None = None, most_bytes: int = MAX_BYTES
) -> bytes:
    """Steps from `start` to `stop` (exclusive; None = the newest) as an answer.

    If all of them would take more than `most_bytes`, each row stands for several steps: the header
    says for how many (`every`), and each column is there twice, the lowest and the highest value.

    Raises:
        EpisodeNotFound: There is no such episode.
        DecodeError: Its bytes are damaged; names key and index.
    """
    total = len(episode)
    stop = total if stop is None else min(stop, total)
    if not 0 <= start <= total:
        raise InvalidArgument(f"start={start}: the episode has {total} steps")
    collected = _Collected(start, max(start, stop), episode.summary.started_at, most_bytes)
    for first in range(start, max(start, stop), STEPS_AT_ONCE):
        collected.add(episode.steps(first, min(first + STEPS_AT_ONCE, stop)))
    if start == stop and start == 0:
        collected.add_reset(episode)
    return collected.answer(total)


class _Collected:
    """Columns that grow by parts of an episode; all of them fit into `most_bytes`.

    A column is an array (1, rows); if a row stands for several steps, (2, rows): lowest, highest.
    """

    def __init__(self, start: int, stop: int, began_at: float, most_bytes: int) -> None:
        self._start = start
        self._count = stop - start + 1
        self._began_at = began_at
        self._most_bytes = most_bytes
        self._every = 1
        self._columns: dict[str, Numbers] = {}
        self._kinds: dict[str, str] = {}

    def add(self, steps: Transitions) -> None:
        if not len(steps):
            return
        place = int(steps.indices[0]) - self._start
        for name, column in to_columns(steps).items():
            if name not in _LEFT_OUT:
                self._put(name, column, place)
        self._put_newest(steps.next_observations, place + len(steps))

    def add_reset(self, episode: Episode) -> None:
        """The observation of an episode without a step."""
        self._put_newest(episode.data().observations, 0)

    def _put_newest(self, observations: Any, place: int) -> None:
        """The observation after the newest step that is there."""
        for path, values in leaves_of(observations, "observation"):
            if values.dtype == object or values.dtype.kind not in "biuf":
                continue
            name = "_".join(map(str, path))
            flat = np.asarray(values[-1:]).reshape(1, -1)
            names = [name] if values.ndim == 1 else [f"{name}_{i}" for i in range(flat.shape[1])]
            if len(names) <= 64:
                for one, number in zip(names, flat[0], strict=True):
                    self._put(one, np.asarray([number]), place)

    def _put(self, name: str, column: Column, place: int) -> None:
        values = _as_floats(column)
        if values is None or (name not in self._columns and len(self._columns) >= MAX_COLUMNS):
            return
        if name == "timestamp":
            values = values - self._began_at
        if name not in self._columns:
            self._make_room()
            shape = (1 if self._every == 1 else 2, math.ceil(self._count / self._every))
            self._columns[name] = np.full(shape, np.nan, np.float32)
            self._kinds[name] = _kind(column)
        with np.errstate(over="ignore"):  # beyond float32 it is infinite
            _set(self._columns[name], values.astype(np.float32), place, self._every)

    def _make_room(self) -> None:
        """For one more column: let a row stand for more steps, until all of them fit."""
        columns = len(self._columns) + 1
        while True:
            of_step = 4 * columns * (1 if self._every == 1 else 2)
            if self._count * of_step <= self._every * self._most_bytes or self._every > self._count:
                return
            self._every *= 2
            self._columns = {name: _halved(column) for name, column in self._columns.items()}

    def answer(self, total: int) -> bytes:
        header = {
            "start": self._start,
            "rows": self._count,
            "total": total,
            "every": self._every,
            "columns": [
                {"name": name, "group": _group(name), "kind": self._kinds[name]}
                for name in self._columns
            ],
        }
        return _packed(header, list(self._columns.values()))


def _as_floats(column: Column) -> npt.NDArray[np.float64] | None:
    """A column of numbers, NaN where a value is missing; None for another column."""
    if isinstance(column, pa.Array):
        if pa.types.is_string(column.type):
            return None
        missing = column.is_null().to_numpy(zero_copy_only=False)
        filled = column.fill_null(False if pa.types.is_boolean(column.type) else 0)
        values: npt.NDArray[np.float64] = filled.to_numpy(zero_copy_only=False).astype(np.float64)
        values[missing] = np.nan
        return values
    if column.ndim != 1 or column.dtype.kind not in "biuf":
        return None
    return np.asarray(column, np.float64)


def _kind(column: Column) -> str:
    """`number`, or `choice` where the values are whole numbers."""
    if isinstance(column, pa.Array):
        whole = pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)
    else:
        whole = column.dtype.kind in "biu"
    return "choice" if whole else "number"


def _group(name: str) -> str:
    return next((group for group in _GROUPS if name.split("_")[0] == group), "step")


def _set(column: Numbers, values: Numbers, place: int, every: int) -> None:
    """Put the values of some steps, from `place` on, into a column of `_Collected`."""
    if every == 1:
        column[0, place : place + len(values)] = values
        return
    rows = np.arange(place, place + len(values)) // every
    firsts = np.flatnonzero(np.diff(rows, prepend=-1))
    for bound, least in zip(column, (np.fmin, np.fmax), strict=True):
        bound[rows[firsts]] = least(bound[rows[firsts]], least.reduceat(values, firsts))


def _halved(column: Numbers) -> Numbers:
    """The column with half as many rows: lowest and highest of each two."""
    padded = np.pad(column, ((0, 0), (0, column.shape[1] % 2)), constant_values=np.nan)
    pairs = padded.reshape(len(column), -1, 2)
    return np.stack((np.fmin.reduce(pairs[0], axis=1), np.fmax.reduce(pairs[-1], axis=1)))


def _packed(header: Mapping[str, Any], columns: Sequence[Numbers]) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    body = [np.ascontiguousarray(one, "<f4").tobytes() for one in columns]
    return b"".join((struct.pack("<I", len(text)), text, *body))


# -- as a table -----------------------------------------------------------------------------


def rows_of(episode: Episode, start: int, stop: int) -> list[dict[str, Any]]:
    """Steps as a table shows them, in words.

    Raises:
        InvalidArgument: There are too many.
    """
    if not 0 <= stop - start <= MAX_ROWS or start < 0:
        raise InvalidArgument(f"steps {start} to {stop}: at most {MAX_ROWS} at once")
    return [
        {
            "step": step.index,
            "action": brief(step.action),
            "reward": step.reward if isinstance(step.reward, float) else brief(step.reward),
            "observation": brief(step.observation),
            "terminated": step.terminated,
            "truncated": step.truncated,
            "info": brief(step.info) if step.info else "",
            "annotation": brief(step.annotation) if step.annotation else "",
            "timestamp": step.timestamp,
        }
        for step in episode.steps(start, stop)
    ]


def picture_leaves(episode: Episode) -> list[str]:
    """Names of the parts of an observation that are pictures."""
    steps = episode.steps(0, 1)
    observations = steps.observations if len(steps) else episode.data().observations
    return [
        "_".join(map(str, path))
        for path, values in leaves_of(observations, "observation")
        if is_picture(values[0] if len(values) else values)
    ]


def is_picture(value: Any) -> bool:
    """Whether an array is a picture: bytes, two sides of at least 8, maybe with channels."""
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
        return False
    sides = sorted(value.shape, reverse=True)
    return value.ndim in (2, 3) and sides[1] >= 8
