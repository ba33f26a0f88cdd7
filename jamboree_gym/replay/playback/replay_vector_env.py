"""Several episodes as one vector environment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from jamboree_gym.checked import checked
from jamboree_gym.errors import ReplayError
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay.playback.replay_env import OnMismatch, ReplayEnv, ShownFrames

__all__ = ["ReplayVectorEnv"]


class ReplayVectorEnv(SyncVectorEnv):
    """One `ReplayEnv` for each of several episodes, stepped together.

    Episodes differ in length, and none is played twice: autoreset is DISABLED. After its end an
    episode does not move. It then accepts any action, and returns its last observation with reward
    0.0, no end and no info; so sums over time are those of the episodes. `remaining` says how many
    steps each episode has left, also for an abandoned one, which has no `terminated` or `truncated`
    at its end.

    Example:
        >>> envs = ReplayVectorEnv(jam.episodes(run="first"))
        >>> observations, infos = envs.reset()
        >>> while (left := envs.remaining > 0).any():
        ...     values = critic(observations)[left]
        ...     observations, rewards, *_ = envs.step(envs.recorded_actions)

    Args:
        episodes: A query, or episodes; all must have the same spaces.
        on_mismatch: As in `ReplayEnv`. After a `ReplayMismatch` some episodes have moved: reset.
        render_mode: As in `ReplayEnv`; `render` returns a tuple of frames.
        frames: As in `ReplayEnv`.

    Attributes:
        episodes: The episodes, in the order of the sub-environments.

    Raises:
        EpisodeNotFound: An episode does not exist.
        DecodeError: The bytes of an episode are damaged.
        ReplayError: There is no episode; or two have different spaces (names both), or rewards of
            different shapes.
    """

    @checked
    def __init__(
        self,
        episodes: Iterable[Episode],
        *,
        on_mismatch: OnMismatch = "raise",
        render_mode: str | None = None,
        frames: ShownFrames | None = None,
    ) -> None:
        options: dict[str, Any] = {"on_mismatch": on_mismatch, "frames": frames}
        self._replays = [
            ReplayEnv(episode, render_mode=render_mode, **options) for episode in episodes
        ]
        self.episodes = tuple(replay.episode for replay in self._replays)
        if not self._replays:
            raise ReplayError("there is no episode to replay")
        for name in ("observation_space", "action_space"):
            _check_alike(self._replays, name)
        super().__init__(
            [partial(_StaysAtItsEnd, replay) for replay in self._replays],
            autoreset_mode=AutoresetMode.DISABLED,
        )
        self._rewards = _no_rewards(self._replays)

    @property
    def remaining(self) -> npt.NDArray[np.int64]:
        """Number of steps that each episode has left: int64 (n,)."""
        return np.array([replay.remaining for replay in self._replays], np.int64)

    @property
    def recorded_actions(self) -> Any:
        """The next recorded actions, batched; any action for an episode that is over.

        Raises:
            ReplayError: All episodes are over, or the replay was not reset.
        """
        left = [replay.recorded_action for replay in self._replays if replay.remaining]
        if not left:
            raise ReplayError("all episodes are over: there is no more")
        upcoming = iter(left)
        actions = [next(upcoming) if replay.remaining else left[0] for replay in self._replays]
        return _batched(actions, self.single_action_space)

    def step(self, actions: Any) -> tuple[Any, npt.NDArray[Any], Any, Any, dict[str, Any]]:
        """Take the next step of each episode; episodes that are over do not move.

        Raises:
            ReplayMismatch: An action is not the recorded one, with `on_mismatch="raise"`.
        """
        self._autoreset_envs[:] = False  # else it demands a reset of the episodes that are over
        return super().step(actions)


class _StaysAtItsEnd(gym.Wrapper[Any, Any, Any, Any]):
    """A replay that accepts steps after its end, without moving."""

    env: ReplayEnv
    _observation: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._observation, info = self.env.reset(seed=seed, options=options)
        return self._observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.env.remaining:
            return self._observation, 0.0, False, False, {}
        self._observation, *rest = self.env.step(action)
        return self._observation, *rest


def _check_alike(replays: Sequence[ReplayEnv], name: str) -> None:
    first = replays[0]
    for other in replays[1:]:
        if getattr(other, name) != getattr(first, name):
            raise ReplayError(
                f"episodes {first.episode.id!r} and {other.episode.id!r} cannot be stepped "
                f"together: their {name} is {getattr(first, name)} and {getattr(other, name)}"
            )


def _no_rewards(replays: Sequence[ReplayEnv]) -> npt.NDArray[Any]:
    """Zeros like the rewards of a step: float64 (n,), or (n, ...) where each is several numbers."""
    rewards = [replay._rows.rewards for replay in replays if replay.remaining]
    shapes = {one.shape[1:] for one in rewards}
    if len(shapes) > 1:
        raise ReplayError(
            "episodes cannot be stepped together whose rewards have different shapes: "
            f"{', '.join(map(str, sorted(shapes)))}"
        )
    shape = shapes.pop() if shapes else ()
    return np.zeros((len(replays), *shape), np.result_type(*rewards) if shape else np.float64)


def _batched(actions: Sequence[Any], space: spaces.Space[Any]) -> Any:
    """Actions as one batch, with their own dtypes instead of those of the space."""
    if isinstance(space, spaces.Dict):
        return {
            name: _batched([action[name] for action in actions], part)
            for name, part in space.spaces.items()
        }
    if isinstance(space, spaces.Tuple):
        return tuple(
            _batched([action[position] for action in actions], part)
            for position, part in enumerate(space.spaces)
        )
    if isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)):
        return np.stack(actions)
    return tuple(actions)
