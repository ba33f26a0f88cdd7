"""A second run of an episode, and where it differs from the recorded one first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.difference import (
    EXACT,
    Difference,
    Said,
    Tolerance,
    differences,
    earliest,
    first_row,
    shown,
)
from jamboree_gym.arrays.layout import Group, Layout, Leaf, layout_of
from jamboree_gym.arrays.packing import (
    Arrays,
    Misfit,
    Pack,
    as_objects,
    held_exactly,
    item,
    pack_any,
    packer,
    rows_of,
    stack,
)
from jamboree_gym.arrays.step_schema import schema_at
from jamboree_gym.arrays.values import renewed
from jamboree_gym.encoding.rows import Rows
from jamboree_gym.environment.outcomes import reward_of
from jamboree_gym.environment.provenance import hides_truncations
from jamboree_gym.errors import InvalidRecord, ReplayError
from jamboree_gym.replay.verification.compared_infos import WatchedInfos

__all__ = ["Mismatch", "SecondRun", "recorded_actions", "first_mismatch"]


@dataclass(frozen=True, slots=True, eq=False)
class Mismatch(Difference):
    """The first place where the second run differs."""

    @property
    def recorded(self) -> Any:
        """The value in the store."""
        return self.a

    @property
    def simulated(self) -> Any:
        """The value now."""
        return self.b

    def __str__(self) -> str:
        """One line."""
        recorded, simulated = shown(self.recorded), shown(self.simulated)
        if recorded == simulated:
            recorded = f"{recorded} ({type(self.recorded).__name__})"
            simulated = f"{simulated} ({type(self.simulated).__name__}, other bits)"
        text = f"{self.place}: recorded {recorded}, now {simulated}"
        return f"{text}, and {self.others:,} more there" if self.others else text


def recorded_actions(rows: Rows) -> Iterator[Any]:
    """The actions of all steps: Python numbers where the agent gave Python numbers.

    NumPy computes differently with the two: `float32 * 0.5` stays `float32`, `float32 *
    float64(0.5)` does not.
    """
    layout = rows.schemas[0][1].action
    if len(rows.schemas) == 1 and isinstance(layout, Leaf) and rows.actions.dtype == layout.dtype:
        actions = rows.actions[1:]  # all at once: a tenth of the time
        return iter(actions.tolist() if layout.kind == "python" else actions)
    return (renewed(rows.action(row)) for row in range(1, len(rows)))


class SecondRun:
    """Plays the recorded actions again, and collects the results row by row.

    Args:
        rows: The recorded rows of a whole episode.
        vector: The provenance of the vector environment that recorded them, if any: it has put
            every value into an array of its dtype.
        infos: The infos to compare, if any.

    Attributes:
        observations: The observations, packed like the recorded ones.
        rewards: The rewards of the steps: floats, or arrays.
        end: Terminated and truncated, as the last call returned them.
        misfit: The next observation, if it has another layout than the recorded one.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        vector: Mapping[str, Any] | None = None,
        infos: WatchedInfos | None = None,
    ) -> None:
        self.rows = rows
        self.vector = vector
        self.infos = infos
        self.observations: list[Any] = []
        self.rewards: list[Any] = []
        self.end = (False, False)
        self.misfit: list[Any] = []

    def __len__(self) -> int:
        """Number of rows that can be compared."""
        return len(self.observations)

    def play(
        self, env: gym.Env[Any, Any], observation: Any, info: Mapping[str, Any]
    ) -> tuple[Any, Mapping[str, Any]]:
        """Take the recorded actions while there is something to compare; return the last result.

        The environment was just reset, or is where the first row is: it returned this there.

        Raises:
            ReplayError: A step fails; says which.
        """
        observations, rewards, step = self.observations, self.rewards, env.step
        add_info = None if self.infos is None else self.infos.add
        packs = chain.from_iterable(map(self._packs, _spans(self.rows)))
        try:
            observations.append(self._packed(next(packs), observation))
            if add_info is not None:
                add_info(info)
            for action, pack in zip(recorded_actions(self.rows), packs, strict=True):
                observation, reward, terminated, truncated, info = step(action)
                try:
                    observations.append(pack(observation))
                except (InvalidRecord, Misfit):
                    observations.append(self._packed(pack, observation))
                rewards.append(reward if reward.__class__ is float else _kept(reward))
                if add_info is not None:
                    add_info(info)
                if terminated or truncated:
                    self.end = bool(terminated), bool(truncated)
                    break
        except Misfit:
            self.misfit.append(deepcopy(observation))
        except ReplayError:
            raise
        except Exception as error:
            step_number = self.rows.start + len(rewards)
            raise ReplayError(f"step {step_number} fails in the second run: {error!r}") from error
        return observation, info

    def _packs(self, span: tuple[int, int, Layout]) -> Iterator[Pack]:
        """How to pack the observations of these rows."""
        first, stop, layout = span
        if self.vector is None:
            return repeat(packer(layout), stop - first)
        return repeat(lambda value: _pack_slowly(_batched(value, layout), layout), stop - first)

    def _packed(self, pack: Pack, observation: Any) -> Any:
        """The next observation, which may need converting first."""
        try:
            return pack(observation)
        except (InvalidRecord, Misfit):
            layout = schema_at(self.rows.schemas, self.rows.start + len(self)).observation
            return _pack_slowly(observation, layout)


def _pack_slowly(observation: Any, layout: Layout) -> Any:
    if layout_of(observation, layout) != layout:
        raise Misfit
    return pack_any(observation, layout, "observation")


def _batched(observation: Any, layout: Layout) -> Any:
    """As a vector environment has passed it on."""
    if isinstance(layout, Group) and layout.fits(observation):
        parts = zip(layout.items(observation), layout.parts, strict=True)
        return layout.build(_batched(part, of) for part, of in parts)
    if isinstance(layout, Leaf) and np.shape(observation) == layout.shape:
        return layout.restore(np.asarray(observation).astype(layout.dtype))
    return observation


# -- the first difference ---------------------------------------------------------------------


def first_mismatch(run: SecondRun, tolerance: Tolerance = EXACT) -> Mismatch | None:
    """The first difference between the recorded run and the second one."""
    if _is_plainly_equal(run):
        return None
    numbers = _numbers(run)
    firsts = [first_row(*pair, tolerance) for pair in numbers.values()]
    firsts += _observation_rows(run, tolerance)
    if run.infos is not None:
        firsts.append(next(run.infos.differing_rows(tolerance), None))
    row = earliest(firsts)
    if row is None:
        return _mismatch_at_its_end(run)
    found = [*_observation_differences(run, row, tolerance)]
    for name, (recorded, simulated) in numbers.items():
        found += differences(name, recorded[row], simulated[row], tolerance)
    if run.infos is not None:
        found += run.infos.differences(row, tolerance)
    return Mismatch.first_of(found, step=row - 1)


def _is_plainly_equal(run: SecondRun) -> bool:
    """Whether all is equal, bit for bit; quick, and not sure of a no."""
    rows, (_, schema) = run.rows, run.rows.schemas[0]
    layout = schema.observation
    if len(rows.schemas) > 1 or not isinstance(layout, Leaf) or not layout.is_array:
        return False
    if len(run) != len(rows) or run.vector is not None or run.infos is not None:
        return False
    if rows.rewards.ndim > 1 or not {float}.issuperset(map(type, run.rewards)):
        return False
    ends = [bytes(len(rows) - 1) + bytes([is_end]) for is_end in run.end]
    return (
        rows.observations.dtype == layout.dtype
        and b"".join(run.observations) == rows.observations.tobytes()
        and np.array(run.rewards, np.float64).tobytes() == rows.rewards[1:].tobytes()
        and [rows.terminations.tobytes(), rows.truncations.tobytes()] == ends
    )


def _mismatch_at_its_end(run: SecondRun) -> Mismatch | None:
    """Where all rows that can be compared are equal: whether there is another one."""
    row = len(run)
    if run.misfit:
        recorded = run.rows.observation(row)
        found = list(differences("observation", recorded, run.misfit[0]))
        if not found:
            then, now = (Said(type(value).__name__) for value in (recorded, run.misfit[0]))
            found = [Difference("observation", then, now)]
        return Mismatch.first_of(found, step=row - 1)
    if row == len(run.rows):
        return None
    return Mismatch("length", len(run.rows) - 1, row - 1, step=row - 1)


def _numbers(run: SecondRun) -> dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Rewards and ends, recorded and simulated."""
    rows, count = run.rows, len(run)
    gained = _gained(rows.rewards[:count], run)
    ends = np.zeros((2, count), np.bool_)
    terminated, truncated = run.end
    if hides_truncations(run.vector):
        truncated = truncated and not terminated
    ends[:, -1:] = np.array([terminated, truncated]).reshape(2, 1)
    return {
        "reward": (rows.rewards[:count], gained),
        "terminated": (rows.terminations[:count], ends[0]),
        "truncated": (rows.truncations[:count], ends[1]),
    }


def _kept(reward: Any) -> Any:
    """A reward as it is kept; a copy, because an environment may use its memory again."""
    value = reward_of(reward)
    return value.copy() if isinstance(value, np.ndarray) else value


def _gained(recorded: npt.NDArray[Any], run: SecondRun) -> npt.NDArray[Any]:
    """The simulated rewards, as recorded ones are kept: that of the first row means nothing."""
    count, shape = len(recorded), recorded.shape[1:]
    rewards = run.rewards[: max(0, count - 1)]
    if recorded.ndim == 1 and all(reward.__class__ is float for reward in rewards):
        gained = np.array([*recorded[: min(1, count)], *rewards], np.float64)
        if run.vector is None:
            return gained
        return gained.astype(run.vector["reward_dtype"]).astype(np.float64)
    if any(np.shape(reward) != shape for reward in rewards):
        return as_objects([*recorded[:1], *rewards])
    gained = np.array([*recorded[:1], *rewards])
    if run.vector is not None:
        return gained.astype(recorded.dtype)
    held = held_exactly(gained, recorded.dtype)
    return gained if held is None else held


def _observation_differences(
    run: SecondRun, row: int, tolerance: Tolerance
) -> Iterator[Difference]:
    layout = next(of for first, stop, of in _spans(run.rows) if first <= row < stop)
    simulated = item(stack([run.observations[row]], layout), 0, layout)
    return differences("observation", run.rows.observation(row), simulated, tolerance)


def _observation_rows(run: SecondRun, tolerance: Tolerance) -> Iterator[int]:
    """Of each layout, the first row whose observation differs."""
    for first, stop, layout in _spans(run.rows):
        packed = run.observations[first:stop]
        if packed:
            recorded = rows_of(run.rows.observations, slice(first, first + len(packed)))
            simulated = stack(packed, layout)
            values = partial(_values, recorded, simulated, layout)
            row = first_row(recorded, simulated, tolerance, values)
            if row is not None:
                yield first + row


def _spans(rows: Rows) -> Iterator[tuple[int, int, Layout]]:
    """Rows of one layout: the first, the one after the last, and the layout."""
    starts = [max(0, first - rows.start) for first, _ in rows.schemas]
    for first, stop, (_, schema) in zip(
        starts, [*starts[1:], len(rows)], rows.schemas, strict=True
    ):
        if first < stop:
            yield first, stop, schema.observation


def _values(recorded: Arrays, simulated: Arrays, layout: Layout, row: int) -> tuple[Any, Any]:
    return item(recorded, row, layout), item(simulated, row, layout)
