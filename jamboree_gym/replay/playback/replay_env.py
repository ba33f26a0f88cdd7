"""An episode as an environment: it gives what was recorded, and needs no simulator."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np

from jamboree_gym.arrays.layout import ENCODED
from jamboree_gym.arrays.packing import item
from jamboree_gym.environment.spaces import space_from_json
from jamboree_gym.errors import ReplayError, ReplayMismatch
from jamboree_gym.handlers.rendered_frames import RENDER_MODE
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay.playback.actions import is_same
from jamboree_gym.replay.playback.frames import Frames, RecordedFrames, SimulatedFrames

__all__ = ["OnMismatch", "ReplayEnv", "ShownFrames"]

OnMismatch = Literal["raise", "warn", "ignore"]
ShownFrames = Literal["recorded", "simulated"]

_BEFORE_RESET = -1
_MAX_SHOWN = 100


class ReplayEnv(gym.Env[Any, Any]):
    """A recorded episode as an environment: `reset` and `step` return what they returned then.

    Values have the very types that they had, and are the caller's own. The whole episode is read
    once, when this is made; what a running one gets later is not seen.

    An action has to be the recorded one, bit for bit (`on_mismatch`). `recorded_action` is the one
    that comes next, and `remaining` says how many there are:

        >>> env = ReplayEnv(episode)
        >>> observation, info = env.reset()
        >>> while env.remaining:
        ...     observation, reward, *_ = env.step(env.recorded_action)

    `gymnasium.utils.env_checker.check_env` passes with `on_mismatch="ignore"`, as it takes random
    actions with seeds of its own, if the episode has three steps or more and its observations are
    in the declared space. It has no `spec`, so that the checks of one are left out.

    Args:
        episode: The episode.
        on_mismatch: What becomes of an action that is not the recorded one, and of a seed or
            options of a reset that are not: `raise` refuses it, and the replay stays where it was;
            `warn` warns of the first since the reset and plays on; `ignore` plays on. A reset
            without them begins in any case.
        render_mode: `rgb_array` or None.
        frames: What `render` shows: `recorded` is the newest frame that was recorded so far
            (`record_frames=`); `simulated` is rendered by the environment, made again from the
            local registry and stepped beside the replay, while it equals the recording bit for
            bit. None: recorded if there are any, else simulated.

    Attributes:
        episode: The episode.

    Raises:
        EpisodeNotFound: There is no such episode.
        DecodeError: Its bytes, or its spaces, are damaged.
        ReplayError: An argument is none of these.
    """

    metadata = {"render_modes": [RENDER_MODE], "render_fps": 30}  # noqa: RUF012 - as in gym.Env

    def __init__(
        self,
        episode: Episode,
        *,
        on_mismatch: OnMismatch = "raise",
        render_mode: str | None = None,
        frames: ShownFrames | None = None,
    ) -> None:
        _check_choice("on_mismatch", on_mismatch, get_args(OnMismatch))
        _check_choice("render_mode", render_mode, (None, RENDER_MODE))
        _check_choice("frames", frames, (None, *get_args(ShownFrames)))
        self.episode = episode
        self.render_mode = render_mode
        self._on_mismatch = on_mismatch
        self._rows = rows = episode.rows()
        self._status = episode.status
        self._origin = episode.origin
        self._provenance = episode.provenance
        self.observation_space = self._space("observation_space")
        self.action_space = self._space("action_space")
        self._action_layout = rows.layouts("action")
        self._rewards = rows.rewards.tolist()
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

    def _chosen_frames(self, frames: ShownFrames | None) -> Frames:
        if frames is None:
            has_any = next(self.episode.renders(), None) is not None
            frames = "recorded" if has_any else "simulated"
        if frames == "recorded":
            return RecordedFrames(self.episode)
        return SimulatedFrames(self.episode, self._rows, self._provenance.get("vector"))

    # -- playing it ---------------------------------------------------------------------------

    @property
    def remaining(self) -> int:
        """How many steps are left."""
        return self._last - self._row if self._row > 0 else self._last

    @property
    def recorded_action(self) -> Any:
        """The action that was taken next.

        Raises:
            ReplayError: There is none.
        """
        return _own(self._action(self._next_row()))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Go to the beginning.

        Args:
            seed: None, or the recorded one.
            options: Likewise.

        Returns:
            The recorded first observation and info.

        Raises:
            ReplayMismatch: They are others, with `on_mismatch="raise"`.
        """
        self._has_warned = False
        if self._on_mismatch != "ignore":
            self._check_beginning(seed, options)
        super().reset(seed=seed)
        self._row = 0
        return self._returned(0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take the next step.

        Returns:
            What it returned when it was recorded.

        Raises:
            ReplayMismatch: It is not the recorded action, with `on_mismatch="raise"`.
            ReplayError: There is no next step, or no reset came before.
        """
        row = self._next_row()
        if self._on_mismatch != "ignore":
            self._check_action(action, row)
        self._row = row
        observation, info = self._returned(row)
        ends = self._terminations[row], self._truncations[row]
        return observation, self._rewards[row], *ends, info

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
        return _own(self._rows.observation(row)), dict(deepcopy(info)) if info else {}

    def _action(self, row: int) -> Any:
        return item(self._rows.actions, row, self._action_layout(row))

    def _check_beginning(self, seed: int | None, options: Any) -> None:
        origin = self._origin
        if seed is not None and seed != origin.seed:
            self._differs(f"its seed is {origin.seed}, not {seed}")
        recorded = {} if origin.options is None else origin.options
        is_given = options is not None and not _are_same(options, {})
        if is_given and not _are_same(options, recorded):
            self._differs(f"its options are {_shown(origin.options)}, not {_shown(options)}")

    def _check_action(self, action: Any, row: int) -> None:
        recorded = self._action(row)
        if not is_same(action, recorded, self._action_layout(row)):
            self._differs(
                f"at step {row - 1} its action is {_shown(recorded)}, not {_shown(action)}"
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
            ReplayError: There is none: this was made without `render_mode`, no reset came before,
                nothing was recorded so far, the environment cannot be made again here, or it does
                not do the same again; says which, and where it differs first.
        """
        if self._frames is None:
            raise ReplayError("to see frames: ReplayEnv(episode, render_mode='rgb_array')")
        if self._row == _BEFORE_RESET:
            raise ReplayError("reset the replay before its first frame")
        return self._frames.at(self._row)

    def close(self) -> None:
        """Close the environment that renders, if there is one. It may be called twice."""
        if self._frames is not None:
            self._frames.close()
        super().close()

    def __repr__(self) -> str:
        """The episode."""
        return f"<ReplayEnv of {self.episode.id!r}>"


_ENDINGS = {
    "running": "is running, and was read",
    "terminated": "terminated",
    "truncated": "was truncated",
    "abandoned": "was abandoned",
    "interrupted": "was interrupted",
}


def _check_choice(name: str, given: Any, choices: tuple[Any, ...]) -> None:
    if given not in choices:
        raise ReplayError(f"{name}={given!r}: choose one of {', '.join(map(repr, choices))}")


def _own(value: Any) -> Any:
    """A copy that shares nothing with what is kept here."""
    return value.copy() if value.__class__ is np.ndarray else deepcopy(value)


def _are_same(given: Any, recorded: Any) -> bool:
    if not isinstance(given, Mapping) or not isinstance(recorded, Mapping):
        return is_same(given, recorded, ENCODED)
    return given.keys() == recorded.keys() and all(
        is_same(given[name], recorded[name], ENCODED) for name in recorded
    )


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."
