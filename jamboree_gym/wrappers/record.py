"""`RecordEpisodes`: every reset and step of an environment goes into an episode's log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, SupportsFloat, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from jamboree_gym.codec import digest
from jamboree_gym.connection import Connection
from jamboree_gym.episode_handler import EpisodeHandler, new_episode_id
from jamboree_gym.errors import InvalidRecord, UnsupportedSpace
from jamboree_gym.infos import InfoEncoder
from jamboree_gym.provenance import describe
from jamboree_gym.records import EpisodeOrigin, EpisodeSummary
from jamboree_gym.spaces import plain

__all__ = ["RecordEpisodes"]

ObsType = TypeVar("ObsType")
ActType = TypeVar("ActType")

_SCALARS = (int, float, np.generic)  # what an environment cannot change under our hands


class RecordEpisodes(gym.Wrapper[ObsType, ActType, ObsType, ActType]):
    """Records every episode of an environment; changes nothing of what it does or returns.

    An episode that is reset before its end, or closed, is `abandoned`. The seed of a reset is kept,
    or, where none was given, the state of the environment's random generator just before it, so
    that unseeded episodes can be replayed too.

    Example:
        >>> env = RecordEpisodes(gym.make("CartPole-v1"), jam, run="first")
        >>> observation, info = env.reset(seed=1)
        >>> observation, reward, terminated, truncated, info = env.step(0)
        >>> len(jam.episode(env.episode_id))
        1

    Args:
        env: An environment with Box, Discrete, MultiBinary or MultiDiscrete spaces.
        jam: Where to record. It stays open when the environment is closed.
        run: Name of the run that the episodes belong to; None = the Jamboree's own.
        tags: Whatever episodes shall be found by: `{"lr": 3e-4, "branch": "main"}`.
        handler_class: `EpisodeHandler` or a subclass.
        record_infos: Whether infos are kept.

    Raises:
        UnsupportedSpace: A space cannot be recorded; names it.
        InvalidRecord: A tag cannot be kept; names it.

    Attributes:
        handler: The handler that writes; it stands on the current episode.
    """

    def __init__(
        self,
        env: gym.Env[ObsType, ActType],
        jam: Connection,
        *,
        run: str | None = None,
        tags: Mapping[str, Any] | None = None,
        handler_class: type[EpisodeHandler] = EpisodeHandler,
        record_infos: bool = True,
    ) -> None:
        super().__init__(env)
        if run is not None and not isinstance(run, str):
            raise InvalidRecord(f"run is a name, not {run!r} of type {type(run).__name__}")
        self.handler = handler_class()
        self.handler.event = jam
        self.handler.use_spaces(env.observation_space, env.action_space)
        self.run = jam.run if run is None else run
        self._tags = deepcopy(jam.check_tags(tags or {}))
        self._record_infos = record_infos
        self._env_id = env.spec.id if env.spec is not None else ""
        content = describe(env)
        self._provenance = digest(content)
        self._blobs = {self._provenance: content}
        self._infos = InfoEncoder()
        self._recording = False

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override] # as in gym.Wrapper itself
        """That of the environment: it is made again without its recorder."""
        return self.env.spec

    @property
    def episode_id(self) -> str:
        """Id of the current episode."""
        episode_id: str = self.handler["episode"]
        return episode_id

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObsType, dict[str, Any]]:
        """Reset the environment and begin a new episode."""
        rng_state = None if seed is not None else self._rng_state()
        kept_options = None if options is None else self._infos.copy(options)
        result = self.env.reset(seed=seed, options=options)
        started_at = time.time()
        self._abandon()
        info = result[1] if self._record_infos else {}
        self.handler.begin(
            result[0],
            info,
            summary=self._summary(seed, started_at),
            origin=EpisodeOrigin(seed, rng_state, kept_options, self._provenance),
            blobs=self._blobs,
        )
        self._recording = True
        return result

    def _summary(self, seed: int | None, started_at: float) -> EpisodeSummary:
        return EpisodeSummary(
            id=new_episode_id(),
            env_id=self._env_id,
            run=self.run,
            status="running",
            steps=0,
            episode_return=0.0,
            started_at=started_at,
            elapsed_s=0.0,
            seed=seed,
            tags=self._tags,
        )

    def _rng_state(self) -> Mapping[str, Any] | None:
        """State of the environment's generator; None where it has none.

        One that does not exist yet is made now, as the environment would do it a moment later.
        """
        env = self.env.unwrapped
        generator = getattr(env, "_np_random", None)
        if generator is None and type(env).np_random is gym.Env.np_random:
            generator = env.np_random
        if not isinstance(generator, np.random.Generator):
            return None
        state: Mapping[str, Any] = generator.bit_generator.state
        return state

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment and record what it returned."""
        if not self._recording:
            return self.env.step(action)
        taken = action if isinstance(action, _SCALARS) else _copied(action)
        result = self.env.step(action)
        observation, reward, terminated, truncated, info = result
        if not self._record_infos:
            info = {}
        if terminated or truncated:
            self._recording = False
        try:
            self.handler.step(taken, observation, reward, terminated, truncated, info)
        except (InvalidRecord, UnsupportedSpace):
            self._recording = False  # there would be a gap: nothing after it is recorded
            self.handler.end("abandoned")
            raise
        return result

    def close(self) -> None:
        """Close the environment; an episode that has not ended is abandoned."""
        try:
            self._abandon()
        finally:
            super().close()

    def _abandon(self) -> None:
        if self._recording:
            self._recording = False
            self.handler.end("abandoned")


def _copied(action: Any) -> Any:
    """An action of our own, as it was before the environment got it."""
    return action.copy() if action.__class__ is np.ndarray else np.array(plain(action, "action"))
