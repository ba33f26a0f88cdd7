"""`RecentTransactionsObservation`: an agent sees its last actions and their results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsFloat, TypeVar

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

from jamboree_gym.checked import checked
from jamboree_gym.errors import InvalidArgument
from jamboree_gym.wrappers.recent_columns import columns_of
from jamboree_gym.wrappers.recent_source import Source, SourceReader
from jamboree_gym.wrappers.recent_view import Past, RecentView

__all__ = ["FIELDS", "STALENESS", "RecentTransactionsObservation", "check_arguments"]

ActType = TypeVar("ActType")

FIELDS = ("observations", "actions", "rewards")
STALENESS = "recent_staleness_s"


class RecentTransactionsObservation(gym.Wrapper[Any, ActType, Any, ActType], RecordConstructorArgs):
    """Puts the newest n transactions into the observation, oldest first, newest last.

    A transaction is an observation, the action that answered it, and the reward for it. The current
    observation is not part of the n transactions; it is under a separate key, unchanged. (In
    Gymnasium's `FrameStackObservation` it is one of the n.)

    The observation is a flat `Dict` of arrays, as Stable-Baselines3 needs it:

    | key | space | what |
    |---|---|---|
    | `observation` | the environment's | the current observation; the parts of a Dict under their own keys, of a Tuple as `observation_0`, ...; keys of nested ones joined by `_` |
    | `recent_observations` | `Box` (n · size,) float32 | what it saw; for a Dict or Tuple one for each part, `recent_observations_<key>` |
    | `recent_actions` | `Box` (n · size,) float32 | what it did then; as above |
    | `recent_rewards` | `Box` (n,) float32 | what it got for it |
    | `recent_info_<key>` | `Box` (n,) float32 | a number in its info, 0 if there is none |
    | `recent_annotation_<name>` | `Box` (n,) float32 | an annotation of it (`annotate`), 0 if there is none |
    | `recent_mask` | `MultiBinary` (n,) int8 | 1 for a transaction, 0 if there is none yet; then all other values are 0 |

    All are vectors, because SB3's `check_env` requires it: `reshape(n, -1)` has a row for each
    transaction. An element of `Discrete` or `MultiDiscrete` becomes one-hot columns, as in
    Gymnasium's `flatten` and SB3's preprocessing: its number implies no order, and zeros can mean
    "no transaction". Images (`Box` of uint8 from 0 to 255 with three axes) stay uint8 images,
    stacked along their channels as in SB3's `VecFrameStack`, so that SB3's CNN can use them.

    The wrapper needs no store. `RecentTransactionsObservation(jam.record(env), 3)` records the
    environment's own observations; `jam.record(RecentTransactionsObservation(env, 3))` records
    those that the agent saw.

    Example:
        >>> env = RecentTransactionsObservation(gym.make("CartPole-v1"), 3)
        >>> env.reset(seed=0)[0]["recent_mask"]
        array([0, 0, 0], dtype=int8)
        >>> observation, *_ = env.step(1)
        >>> observation["recent_mask"], observation["recent_actions"]
        (array([0, 0, 1], dtype=int8), array([0., 0., 0., 0., 0., 1.], dtype=float32))

    Args:
        env: An environment; every part of its spaces has a fixed shape.
        n: Number of transactions, at least 1.
        fields: The parts of a transaction: `observations`, `actions`, `rewards`, `info_<key>`,
            `annotation_<name>`; none of them twice.
        source: Where the transactions come from: None = this environment; `jam.episode(id)` =
            another agent's episode, live or not; `jam.episodes(run=...)` = the newest n of any
            actor in that run. A thread reads them again and again; a step uses the last result and
            never waits. `info["recent_staleness_s"]` is the time since that read began, infinite
            before the first one, and grows if the store does not answer. The spaces that `fields`
            needs must be those of `env`.
        across_episodes: Whether transactions of earlier episodes stay after a reset. Episodes that
            a recorder outside records then depend on earlier episodes, and cannot be replayed.
        flatten: Return one `Box` (k,) float32 instead, for policies that accept only vectors: the
            current observation, the fields in their order, the mask. Images become numbers from 0
            to 255.

    Raises:
        InvalidArgument: `n`, a field or `source` is invalid.
        UnsupportedSpace: A part of a space has no fixed shape, or two parts have the same name.
    """  # noqa: E501 - rows of a table

    @checked
    def __init__(
        self,
        env: gym.Env[Any, ActType],
        n: int,
        *,
        fields: Sequence[str] = FIELDS,
        source: Source | None = None,
        across_episodes: bool = False,
        flatten: bool = False,
    ) -> None:
        check_arguments(n, fields, source, across_episodes)
        # A spec holds only the type of its source: making an environment from it is refused.
        kwargs: dict[str, Any] = {} if source is None else {"source": type(source).__name__}
        RecordConstructorArgs.__init__(
            self,
            n=n,
            fields=list(fields),
            across_episodes=across_episodes,
            flatten=flatten,
            **kwargs,
        )
        super().__init__(env)
        columns = columns_of(
            env.observation_space, env.action_space, fields, n=n, images=not flatten
        )
        self._past = Past(columns, n)
        self._view = RecentView(env.observation_space, self._past, flatten=flatten)
        self.observation_space = self._view.space
        self._reader = None if source is None else SourceReader(source, n, self._past)
        self._across_episodes = across_episodes
        self._annotation: dict[str, Any] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; forget its transactions, unless `across_episodes`."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._annotation = {}
        if self._reader is not None:
            self._reader.start()
            return self._with_source(self._reader, observation, info)
        if not self._across_episodes:
            self._past.clear()
        return self._with_past(observation), info

    def step(self, action: ActType) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment; the step becomes the newest transaction.

        Raises:
            InvalidRecord: An action, a reward or an info is not a number, or has another shape than
                declared (with a `source`: in one of its transactions); names it.
        """
        if self._reader is not None:
            observation, reward, terminated, truncated, info = self.env.step(action)
            observation, info = self._with_source(self._reader, observation, info)
            return observation, reward, terminated, truncated, info
        past = self._past
        past.set("action", action)
        observation, reward, terminated, truncated, info = self.env.step(action)
        annotation, self._annotation = self._annotation, {}
        past.set("reward", reward)
        past.set("info", info)
        past.set("annotation", annotation)
        past.commit()
        return self._with_past(observation), reward, terminated, truncated, info

    def _with_past(self, observation: Any) -> Any:
        self._past.set("observation", observation)  # the next transaction begins with it
        return self._view.observation(observation, self._past.arrays())

    def _with_source(
        self, reader: SourceReader, observation: Any, info: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        past, staleness_s = reader.newest()
        return self._view.observation(observation, past), {**info, STALENESS: staleness_s}

    def close(self) -> None:
        """Close the environment, and read no more from `source`."""
        try:
            if self._reader is not None:
                self._reader.close()
        finally:
            super().close()

    def annotate(self, **values: Any) -> None:
        """Annotate the next step, for the fields `annotation_<name>`.

        A recorder inside gets the annotations, too. A recorder outside does not pass them on: to
        show annotations, put this wrapper around the recorder.

        Args:
            **values: By name, as for `RecordEpisodes.annotate`; numbers if they are shown.
        """
        self._annotation.update(values)
        if self.env.has_wrapper_attr("annotate"):
            self.env.get_wrapper_attr("annotate")(**values)


def check_arguments(
    n: int, fields: Sequence[str], source: Source | None, across_episodes: bool
) -> None:
    """Check the arguments of the wrapper.

    Raises:
        InvalidArgument: One is invalid; names it.
    """
    if n < 1:
        raise InvalidArgument(f"n={n!r}: it is the number of transactions, 1 or more")
    if len(set(fields)) < len(fields):
        raise InvalidArgument(f"fields={fields!r}: choose a list of names, each of them once")
    if source is not None and across_episodes:
        raise InvalidArgument("across_episodes is for the environment's own past, not for a source")
