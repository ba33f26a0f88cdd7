"""Simulates an episode again, one step at a time, and compares each step with the recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import gymnasium as gym

from jamboree_gym.checked import Count, checked
from jamboree_gym.encoding.rows import Rows
from jamboree_gym.errors import InvalidArgument, ReplayError, ReplayMismatch
from jamboree_gym.handlers.rendered_frames import RENDER_MODE, rendered
from jamboree_gym.reading.episode import Episode
from jamboree_gym.records import StepData
from jamboree_gym.replay.rebuilding.beginning import begin_as_recorded, line_of
from jamboree_gym.replay.rebuilding.fast_forward import play_on
from jamboree_gym.replay.rebuilding.rebuild import MakeAgain, rebuild_env
from jamboree_gym.replay.verification.compare import Mismatch

__all__ = ["ReplayedStep", "replay_steps"]

TEXT_MODE: Final = "ansi"
_STEPS_PER_READ: Final = 256


@dataclass(frozen=True, slots=True, eq=False)
class ReplayedStep:
    """A step that was simulated again; true if it returned what was recorded, bit for bit.

    Attributes:
        step: What was recorded.
        mismatch: The first difference, None if there is none.
        frame: What the environment renders after the step: a text, or a picture. None without
            `render`.
    """

    step: StepData
    mismatch: Mismatch | None = None
    frame: Any = None

    def __bool__(self) -> bool:
        """Whether the simulation equals the recording."""
        return self.mismatch is None


Rebuild: TypeAlias = Callable[..., gym.Env[Any, Any]]
"""`rebuild_env` with the arguments that a caller has given."""


@checked
def replay_steps(
    episode: Episode,
    *,
    start: Count = 0,
    render: bool = False,
    trust_entry_point: bool = False,
    make: MakeAgain | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Iterator[ReplayedStep]:
    """Simulate an episode again, and yield each step with the result of its comparison.

    The environment is rebuilt and its results are compared as by `verify`, bit for bit. The first
    step that differs is the last one that is yielded: what follows it is another episode.

    Args:
        episode: An episode that `verify` accepts. If it is running, its steps so far.
        start: The first step that is yielded. Those before it are played and compared, too.
        render: Whether the environment renders each step: as text if it can, else as a picture.
        trust_entry_point: As in `verify`, which explains the risk.
        make: As in `verify`.
        env_kwargs: As in `verify`.

    Raises:
        InvalidArgument: There is no such step.
        ReplayMismatch: The reset or a step before `start` differs; names the first difference.
        ReplayError: The episode cannot be simulated or rendered here; says why.

    Example:
        >>> for one in replay_steps(episode):
        ...     print(one.step, "equal" if one else one.mismatch)
    """
    rows, total = episode._rows(), len(episode)
    if start > total:
        raise InvalidArgument(f"start={start}: the episode has {total} steps")
    rebuild = partial(
        rebuild_env, trust_entry_point=trust_entry_point, make=make, env_kwargs=env_kwargs
    )
    return _replayed(
        episode, rows, start, rebuild, render=render, trust_entry_point=trust_entry_point
    )


def _replayed(
    episode: Episode,
    rows: Rows,
    start: int,
    rebuild: Rebuild,
    *,
    render: bool,
    trust_entry_point: bool,
) -> Iterator[ReplayedStep]:
    vector = episode.provenance.get("vector")
    env = _made(episode.provenance, rebuild, render=render)
    try:
        shown = begin_as_recorded(env, line_of(episode), trust_entry_point=trust_entry_point)
        shown, mismatch = play_on(env, rows[: start + 1], vector, shown)
        if mismatch is not None:
            raise ReplayMismatch(f"episode {episode.id} does not happen again: {mismatch}")
        for step in _steps(episode, start, len(rows) - 1):
            shown, mismatch = play_on(env, rows[step.index : step.index + 2], vector, shown)
            yield ReplayedStep(step, mismatch, _frame(env) if render else None)
            if mismatch is not None:
                return
    finally:
        env.close()


def _steps(episode: Episode, start: int, stop: int) -> Iterator[StepData]:
    """Read in parts, so that images are not in memory all at once."""
    for first in range(start, stop, _STEPS_PER_READ):
        yield from episode.steps(first, min(first + _STEPS_PER_READ, stop))


def _made(provenance: Mapping[str, Any], rebuild: Rebuild, *, render: bool) -> gym.Env[Any, Any]:
    if not render:
        return rebuild(provenance)
    try:
        return rebuild(provenance, render_mode=TEXT_MODE)
    except ReplayError:  # it renders no text; if it is something else, it is said now
        return rebuild(provenance, render_mode=RENDER_MODE)


def _frame(env: gym.Env[Any, Any]) -> Any:
    try:
        return rendered(env)
    except Exception as error:
        raise ReplayError(f"the environment cannot be rendered here: {error!r}") from error
