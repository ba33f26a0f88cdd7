"""Where two runs of an episode differ first, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from jamboree_gym.errors import InvalidRecord
from jamboree_gym.layouts import Group, Layout, Leaf, layout_of
from jamboree_gym.packing import Arrays, Misfit, item, pack_any, packer, rows_of, stack
from jamboree_gym.step_schema import schema_at
from jamboree_gym.steps import Rows
from jamboree_gym.values import encode_value

__all__ = ["Mismatch", "SecondRun", "first_mismatch"]


@dataclass(frozen=True, slots=True, eq=False)
class Mismatch:
    """The first place where the second run differs.

    Attributes:
        step: Step whose result differs; -1 for the reset.
        field: `observation`, `reward`, `terminated`, `truncated` or `length`.
        recorded: The value in the store.
        simulated: The value now.
    """

    step: int
    field: str
    recorded: Any
    simulated: Any

    def __str__(self) -> str:
        """One line."""
        where = "at reset" if self.step < 0 else f"at step {self.step}"
        return f"{self.field} {where}: recorded {self.recorded!r}, now {self.simulated!r}"


@dataclass(slots=True, eq=False)
class SecondRun:
    """What the environment returned in the second run, row by row.

    Attributes:
        rows: The recorded rows, of a whole episode.
        vector: What provenance says of the vector environment that they came through, if any: it
            has put every value into an array of its own dtype.
        observations: Packed as the recorded ones.
        rewards: As returned; that of the reset means nothing.
        ends: Terminated and truncated.
        misfit: The observation that has another layout than the recorded one, if any: the last.
    """

    rows: Rows
    vector: Mapping[str, Any] | None = None
    observations: list[Any] = field(default_factory=list)
    rewards: list[Any] = field(default_factory=list)
    ends: list[tuple[bool, bool]] = field(default_factory=list)
    misfit: tuple[int, Any] | None = None

    def add(self, observation: Any, reward: Any, terminated: Any, truncated: Any) -> bool:
        """Keep what a call returned, as it is now; whether to go on."""
        row = len(self.observations)
        if row < len(self.rows):
            try:
                layout = schema_at(self.rows.schemas, self.rows.start + row).observation
                value = observation if self.vector is None else _batched(observation, layout)
                self.observations.append(_packed(value, layout))
            except Misfit:
                self.misfit = row, deepcopy(observation)
                return False
        self.rewards.append(reward)
        self.ends.append((bool(terminated), bool(truncated)))
        return row + 1 < len(self.rows) and not (terminated or truncated)


def _packed(observation: Any, layout: Layout) -> Any:
    try:
        return packer(layout)(observation)
    except (InvalidRecord, Misfit):
        if layout_of(observation, layout) != layout:
            raise Misfit from None
        return pack_any(observation, layout, "observation")


def _batched(observation: Any, layout: Layout) -> Any:
    """As a vector environment has passed it on."""
    if isinstance(layout, Group) and _fits(observation, layout):
        parts = zip(layout.items(observation), layout.parts, strict=True)
        return layout.build(_batched(part, of) for part, of in parts)
    if isinstance(layout, Leaf) and np.shape(observation) == layout.shape:
        return layout.restore(np.asarray(observation).astype(layout.dtype))
    return observation


def _fits(value: Any, layout: Group) -> bool:
    if layout.kind == "dict":
        return isinstance(value, dict) and value.keys() == set(layout.names)
    return isinstance(value, (list, tuple)) and len(value) == len(layout.parts)


def first_mismatch(run: SecondRun) -> Mismatch | None:
    """The first difference between the recorded run and the second one."""
    rows, count = run.rows, len(run.rewards)
    recorded_ends = np.stack([rows.terminations, rows.truncations], axis=1)[:count]
    gained = np.array([float(np.asarray(reward).item()) for reward in run.rewards], np.float64)
    gained[:1] = rows.rewards[:1]
    if run.vector is not None:
        gained = gained.astype(run.vector["reward_dtype"]).astype(np.float64)
    flags = np.array(run.ends, np.bool_).reshape(count, 2)
    found = [
        _observation_mismatch(run),
        _mismatch("reward", rows.rewards[:count], gained),
        _mismatch("terminated", recorded_ends[:, 0], flags[:, 0]),
        _mismatch("truncated", recorded_ends[:, 1], flags[:, 1]),
    ]
    if run.misfit is None and count != len(rows):
        found.append(Mismatch(count - 1, "length", len(rows) - 1, count - 1))
    there = [mismatch for mismatch in found if mismatch is not None]
    return min(there, key=lambda mismatch: mismatch.step, default=None)


def _mismatch(name: str, recorded: npt.NDArray[Any], new: npt.NDArray[Any]) -> Mismatch | None:
    row = _first_row(recorded, new)
    return None if row is None else Mismatch(row - 1, name, recorded[row], new[row])


def _observation_mismatch(run: SecondRun) -> Mismatch | None:
    for first, layout, packed in _spans(run):
        recorded = rows_of(run.rows.observations, slice(first, first + len(packed)))
        new = stack(packed, layout)
        row = min(_differing_rows(recorded, new, layout), default=None)
        if row is not None:
            old, now = run.rows.observation(first + row), item(new, row, layout)
            return Mismatch(first + row - 1, "observation", old, now)
    if run.misfit is not None:
        row, observation = run.misfit
        return Mismatch(row - 1, "observation", run.rows.observation(row), observation)
    return None


def _spans(run: SecondRun) -> Iterator[tuple[int, Layout, Sequence[Any]]]:
    """Rows of one layout: number of the first, the layout, and what was packed."""
    total = len(run.observations)
    starts = [max(0, first - run.rows.start) for first, _ in run.rows.schemas]
    ends = [*starts[1:], total]
    for (_, schema), first, end in zip(run.rows.schemas, starts, ends, strict=True):
        if first < min(end, total):
            yield first, schema.observation, run.observations[first : min(end, total)]


def _differing_rows(recorded: Arrays, new: Arrays, layout: Layout) -> Iterator[int]:
    """Of each column, the first row that differs."""
    if isinstance(layout, Group) and not isinstance(recorded, np.ndarray):
        pairs = zip(layout.items(recorded), layout.items(new), layout.parts, strict=True)
        for old, now, part in pairs:
            yield from _differing_rows(old, now, part)
    elif isinstance(layout, Leaf) and recorded.dtype != object:
        row = _first_row(recorded.astype(layout.dtype, copy=False), new)
        if row is not None:
            yield row
    else:
        for row in range(len(recorded)):
            if encode_value(item(recorded, row, layout)) != encode_value(item(new, row, layout)):
                yield row
                return


def _first_row(recorded: npt.NDArray[Any], new: npt.NDArray[Any]) -> int | None:
    """First row whose bits differ; NaN equals the same NaN."""
    old_bytes, new_bytes = recorded.tobytes(), new.tobytes()
    if old_bytes == new_bytes:
        return None
    size = len(old_bytes) // len(recorded)
    starts = range(0, len(old_bytes), size)
    return next(
        row
        for row, at in enumerate(starts)
        if old_bytes[at : at + size] != new_bytes[at : at + size]
    )
