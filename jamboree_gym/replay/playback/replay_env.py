"""An episode as an environment that returns recorded values and needs no simulator."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from jamboree_gym.arrays.layout import ENCODED
from jamboree_gym.arrays.packing import item
from jamboree_gym.checked import checked
from jamboree_gym.environment.spaces import space_from_json
from jamboree_gym.errors import InvalidArgument, ReplayError, ReplayMismatch
from jamboree_gym.handlers.rendered_frames import RENDER_MODE
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay.playback.actions import is_same
from jamboree_gym.replay.playback.frames import RecordedFrames, SimulatedFrames
from jamboree_gym.wording import shortened

__all__ = ["OnMismatch", "ReplayEnv", "ShownFrames"]

OnMismatch = Literal["raise", "warn", "ignore"]
ShownFrames = Literal["recorded", "simulated"]

_BEFORE_RESET = -1
_MAX_SHOWN = 100


class ReplayEnv(gym.Env[Any, Any]):
    """A recorded episode as an environment: `reset` and `step` return the recorded values.

    Values have exactly the recorded types, and the caller may change them. The constructor reads
    the whole episode once; later steps of a running episode are not seen.

    An action must be the recorded one, bit for bit (see `on_mismatch`). `recorded_action` is the
    next recorded action, and `remaining` is the number of steps left:

        >>> env = ReplayEnv(episode)
        >>> observation, info = env.reset()
        >>> while env.remaining:
        ...     observation, reward, *_ = env.step(env.recorded_action)

    `gymnasium.utils.env_checker.check_env` takes random actions, with its own seeds. It passes with
    `on_mismatch="ignore"` if the episode has at least three steps and its observations are in the
    declared space. The environment has no `spec`, so that the checks of a spec are skipped.

    Args:
        episode: The episode.
        on_mismatch: What happens if an action, or the seed or options of a reset, differs from the
            recording: `raise` refuses it, and the replay does not move; `warn` warns of the first
            difference since the reset and continues; `ignore` continues. A reset without seed and
            options is always accepted.
        render_mode: `rgb_array` or None.
        frames: What `render` shows: `recorded` is the newest recorded frame so far
            (`record_frames=`); `simulated` comes from the environment, rebuilt from the local
            registry and stepped with the replay, as long as it equals the recording bit for bit.
            None: recorded if there are any frames, else simulated.

    Attributes:
        episode: The episode.

    Raises:
        EpisodeNotFound: The episode does not exist.
        DecodeError: The episode's bytes, or its spaces, are damaged.
        InvalidArgument: An argument has no valid value.
    """

    metadata = {"render_modes": [RENDER_MODE], "render_fps": 30}  # noqa: RUF012 - as in gym.Env

    @checked
    def __init__(
        self,
        episode: Episode,
        *,
        on_mismatch: OnMismatch = "raise",
        render_mode: str | None = None,
        frames: ShownFrames | None = None,
    ) -> None:
        if render_mode not in (None, RENDER_MODE):
            raise InvalidArgument(f"render_mode={render_mode!r}: give {RENDER_MODE!r}, or None")
        self.episode = episode
        self.render_mode = render_mode
        self._on_mismatch = on_mismatch
        self._rows = rows = episode._rows()
        self._status = episode.status
        self._origin = episode.origin
        self._provenance = episode.provenance
        self.observation_space = self._space("observation_space")
        self.action_space = self._space("action_space")
        self._action_layout = rows.layouts("action")
        is_one_number = rows.rewards.ndim == 1
        self._rewards = rows.rewards.tolist() if is_one_number else list(rows.rewards)
        self._terminations = rows.terminations.tolist()
        self._truncations = rows.truncations.tolist()
        self._last = len(rows) - 1
        self._row = _BEFORE_RESET
        self._has_warned = False
        self._frames = self._chosen_frames(frames) if render_mode is not None else None

    def _space(self, name: str) -> gym.Space[Any]:
        try:
            return space_from_json(self._provenance[name])
        except KeyError as error:
            raise ReplayError(f"the episode's provenance is damaged: it has no {name}") from error

    def _chosen_frames(self, frames: ShownFrames | None) -> RecordedFrames | SimulatedFrames:
        if frames is None:
            has_any = next(self.episode.renders(), None) is not None
            frames = "recorded" if has_any else "simulated"
        if frames == "recorded":
            return RecordedFrames(self.episode)
        return SimulatedFrames(self.episode, self._rows, self._provenance.get("vector"))

    # -- playing it ---------------------------------------------------------------------------

    @property
    def remaining(self) -> int:
        """Number of steps left."""
        return self._last - self._row if self._row > 0 else self._last

    @property
    def recorded_action(self) -> Any:
        """The next recorded action.

        Raises:
            ReplayError: There is no next step.
        """
        return _private_copy(self._action(self._next_row()))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Go to the beginning.

        Args:
            seed: None, or the recorded one.
            options: None, or the recorded ones.

        Returns:
            The recorded first observation and info.

        Raises:
            ReplayMismatch: Seed or options differ, with `on_mismatch="raise"`.
        """
        self._has_warned = False
        if self._on_mismatch != "ignore":
            self._check_beginning(seed, options)
        super().reset(seed=seed)
        self._row = 0
        return self._returned(0)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take the next step.

        Returns:
            The recorded result of the step.

        Raises:
            ReplayMismatch: The action differs from the recorded one, with `on_mismatch="raise"`.
            ReplayError: There is no next step, or the replay was not reset.
        """
        row = self._next_row()
        if self._on_mismatch != "ignore":
            self._check_action(action, row)
        self._row = row
        observation, info = self._returned(row)
        ends = self._terminations[row], self._truncations[row]
        return observation, _private_copy(self._rewards[row]), *ends, info

    def _next_row(self) -> int:
        if self._row == _BEFORE_RESET:
            raise ReplayError("reset the replay before its first step")
        if self._row == self._last:
            raise ReplayError(
                f"episode {self.episode.id!r} {_ENDINGS[self._status]} after {self._row} steps: "
                "there is no more"
            )
        return self._row + 1

    def _returned(self, row: int) -> tuple[Any, dict[str, Any]]:
        info = self._rows.infos[row]
        return _private_copy(self._rows.observation(row)), dict(deepcopy(info)) if info else {}

    def _action(self, row: int) -> Any:
        return item(self._rows.actions, row, self._action_layout(row))

    def _check_beginning(self, seed: int | None, options: Any) -> None:
        origin = self._origin
        if seed is not None and seed != origin.seed:
            self._differs(f"its seed is {origin.seed}, not {seed}")
        recorded = {} if origin.options is None else origin.options
        is_given = options is not None and not _are_same(options, {})
        if is_given and not _are_same(options, recorded):
            self._differs(f"its options are {_short(origin.options)}, not {_short(options)}")

    def _check_action(self, action: Any, row: int) -> None:
        recorded = self._action(row)
        if not is_same(action, recorded, self._action_layout(row)):
            self._differs(
                f"at step {row - 1} its action is {_short(recorded)}, not {_short(action)}"
            )

    def _differs(self, how: str) -> None:
        message = f"episode {self.episode.id!r} was recorded otherwise: {how}"
        if self._on_mismatch == "raise":
            raise ReplayMismatch(f"{message} (on_mismatch='ignore' plays on)")
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(f"{message}; what follows is what was recorded", stacklevel=4)

    # -- showing it ---------------------------------------------------------------------------

    def render(self) -> Any:
        """The frame of this step, uint8 (height, width, 3) with most environments.

        Raises:
            ReplayError: There is no frame: `render_mode` was not set, the replay was not reset, no
                frame has been recorded so far, the environment cannot be rebuilt here, or its
                replay differs; says which, and names the first difference.
        """
        if self._frames is None:
            raise ReplayError("to see frames: ReplayEnv(episode, render_mode='rgb_array')")
        if self._row == _BEFORE_RESET:
            raise ReplayError("reset the replay before its first frame")
        return self._frames.at(self._row)

    def close(self) -> None:
        """Close the environment that renders, if there is one. A second call does nothing."""
        if self._frames is not None:
            self._frames.close()
        super().close()

    def __repr__(self) -> str:
        """The episode's id."""
        return f"<ReplayEnv of {self.episode.id!r}>"


_ENDINGS = {
    "running": "is running, and was read",
    "terminated": "terminated",
    "truncated": "was truncated",
    "abandoned": "was abandoned",
    "interrupted": "was interrupted",
}


def _private_copy(value: Any) -> Any:
    """A copy that shares no memory with the replay."""
    return value.copy() if value.__class__ is np.ndarray else deepcopy(value)


def _are_same(given: Any, recorded: Any) -> bool:
    if not isinstance(given, Mapping) or not isinstance(recorded, Mapping):
        return is_same(given, recorded, ENCODED)
    return given.keys() == recorded.keys() and all(
        is_same(given[name], recorded[name], ENCODED) for name in recorded
    )


def _short(value: Any) -> str:
    return shortened(" ".join(repr(value).split()), _MAX_SHOWN)
