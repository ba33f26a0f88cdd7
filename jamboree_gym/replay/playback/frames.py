"""Frames that a replay shows: recorded ones, or those of a second simulation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym

from jamboree_gym.encoding.rows import Rows
from jamboree_gym.errors import ReplayError
from jamboree_gym.handlers.rendered_frames import RENDER_MODE, rendered
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay.rebuilding.beginning import Shown, begin_as_recorded, line_of
from jamboree_gym.replay.rebuilding.fast_forward import play_on
from jamboree_gym.replay.rebuilding.rebuild import rebuild_env

__all__ = ["RecordedFrames", "SimulatedFrames"]


class RecordedFrames:
    """Frames recorded with `record_frames=`; a step without a frame shows the newest one before it.

    The episode is read in parts during the replay; the steps may come in any order.
    """

    def __init__(self, episode: Episode) -> None:
        self._episode = episode
        self._begin()

    def _begin(self) -> None:
        self._step = 0
        self._shown: Any = None
        self._frames: Iterator[tuple[int, Any]] = self._episode.renders()
        self._next = next(self._frames, None)

    def at(self, step: int) -> Any:
        """The newest frame recorded up to this step.

        Raises:
            ReplayError: There is no frame yet.
        """
        if step < self._step:
            self._begin()
        self._step = step
        while self._next is not None and self._next[0] <= step:
            self._shown, self._next = self._next[1], next(self._frames, None)
        if self._shown is None:
            raise ReplayError(
                f"no frame of episode {self._episode.id!r} was recorded up to step {step}: record "
                'with record_frames=, or simulate it again with frames="simulated"'
            )
        return self._shown.copy()

    def close(self) -> None:
        """Do nothing."""


class SimulatedFrames:
    """Frames of the rebuilt environment, which is stepped together with all rows of the replay.

    A frame is shown only while everything that the simulation returned equals the recording,
    exactly.
    """

    def __init__(self, episode: Episode, rows: Rows, vector: Mapping[str, Any] | None) -> None:
        self._episode = episode
        self._rows = rows
        self._vector = vector
        self._env: gym.Env[Any, Any] | None = None
        self._step = 0
        self._failure: ReplayError | None = None

    def at(self, step: int) -> Any:
        """The rendered frame after this step.

        Raises:
            ReplayError: The environment cannot be made or rendered here, or its replay differs from
                the recording.
        """
        if step < self._step:
            self.close()
        env = self._start_env() if self._env is None else self._env
        if self._failure is not None:
            raise self._failure
        if step > self._step:
            rows = self._rows[self._step : step + 1]
            self._compare(env, rows, (rows.observation(0), rows.infos[0]))
            self._step = step
        try:
            return rendered(env)
        except Exception as error:
            raise ReplayError(f"the environment cannot be rendered here: {error}") from error

    def _start_env(self) -> gym.Env[Any, Any]:
        env = rebuild_env(self._episode.provenance, render_mode=RENDER_MODE)
        try:
            shown = begin_as_recorded(env, line_of(self._episode))
        except BaseException:
            env.close()
            raise
        self._env = env
        self._compare(env, self._rows[:1], shown)
        return env

    def _compare(self, env: gym.Env[Any, Any], rows: Rows, shown: Shown) -> None:
        """Play these rows. The environment is at the first row; `shown` is its last result."""
        try:
            _, mismatch = play_on(env, rows, self._vector, shown)
        except ReplayError as error:
            raise self._failed(str(error)) from error
        if mismatch is not None:
            raise self._failed(str(mismatch))

    def _failed(self, reason: str) -> ReplayError:
        self._failure = ReplayError(
            f"episode {self._episode.id!r} cannot be shown any further, because it does not happen "
            f"again: {reason}"
        )
        return self._failure

    def close(self) -> None:
        """Close the environment; the next frame rebuilds it."""
        env, self._env, self._step, self._failure = self._env, None, 0, None
        if env is not None:
            env.close()
