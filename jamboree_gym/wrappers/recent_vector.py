"""`RecentTransactionsObservation` for vector environments: each sub-environment shows its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from jamboree_gym.checked import checked
from jamboree_gym.environment.outcomes import flags_of
from jamboree_gym.recording.annotations import shares_of
from jamboree_gym.wrappers.recent import FIELDS, STALENESS, check_arguments
from jamboree_gym.wrappers.recent_columns import columns_of
from jamboree_gym.wrappers.recent_source import Source, SourceReader
from jamboree_gym.wrappers.recent_view import Past, RecentView
from jamboree_gym.wrappers.record_vector import RESET_MASK, autoreset_mode, leaves_autoresets
from jamboree_gym.wrappers.vector_infos import split_infos

__all__ = ["RecentTransactionsObservation"]


class RecentTransactionsObservation(VectorWrapper):
    """Puts the newest n transactions of each sub-environment into its observation.

    In every autoreset mode, each sub-environment shows the same as with a
    `jamboree_gym.wrappers.RecentTransactionsObservation` around it: the step that NEXT_STEP
    autoreset ignores is no transaction, and `infos["final_obs"]` has transactions, too.

    Example:
        >>> envs = gym.make_vec("CartPole-v1", num_envs=4)
        >>> envs = RecentTransactionsObservation(envs, 3)
        >>> observations, infos = envs.reset(seed=0)
        >>> observations["recent_actions"].shape, observations["recent_mask"].shape
        ((4, 6), (4, 3))

    Args:
        env: A vector environment; every part of its spaces has a fixed shape.
        n: Number of transactions, at least 1.
        fields: `observations`, `actions`, `rewards`, `info_<key>`, `annotation_<name>`; none twice.
        source: An episode or a query; then all sub-environments show the same, and
            `infos["recent_staleness_s"]` has its age for each.
        across_episodes: Whether transactions of earlier episodes stay after a reset.
        flatten: One `Box` (num_envs, k) float32 instead of a `Dict`.

    Raises:
        InvalidArgument: `n`, a field or `source` is invalid, or the environment does not declare
            its autoreset mode.
        UnsupportedSpace: A part of a space has no fixed shape, or two parts have the same name.
    """

    @checked
    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        n: int,
        *,
        fields: Sequence[str] = FIELDS,
        source: Source | None = None,
        across_episodes: bool = False,
        flatten: bool = False,
    ) -> None:
        self._reader: SourceReader | None = None  # `close` reads it, also after a failed __init__
        check_arguments(n, fields, source, across_episodes)
        super().__init__(env)
        self._mode = autoreset_mode(env)
        self._leaves_autoresets = leaves_autoresets(env.unwrapped)
        self._across_episodes = across_episodes
        observation_space, action_space = env.single_observation_space, env.single_action_space
        self._pasts = [
            Past(columns_of(observation_space, action_space, fields, n=n, images=not flatten), n)
            for _ in range(self.num_envs)
        ]
        if source is not None:
            self._reader = SourceReader(source, n, self._pasts[0])
        self._borrowed: dict[str, Any] = {}
        self._annotations: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._view = RecentView(observation_space, self._pasts[0], flatten=flatten)
        self.single_observation_space = self._view.space
        self.observation_space = batch_space(self._view.space, self.num_envs)
        self._awaits_autoreset = [False] * self.num_envs

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the sub-environments, or those of `options["reset_mask"]`; these forget."""
        mask = np.ones(self.num_envs, bool)
        if options is not None and RESET_MASK in options:
            mask = np.array(options[RESET_MASK])  # SyncVectorEnv takes it out
        # Gymnasium's own vector environments take a list, their base class declares an int.
        batch, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        for i in np.flatnonzero(mask).tolist():
            self._forget(i)
            self._annotations[i] = {}
            self._awaits_autoreset[i] = self._awaits_autoreset[i] and self._leaves_autoresets
        if self._reader is not None:
            self._reader.start()
            infos = self._with_source(self._reader, infos)
        return self._batch([self._seen(i, now) for i, now in self._each(batch)]), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step the sub-environments; the step becomes the newest transaction of each.

        Raises:
            InvalidRecord: An action, a reward, a flag or an info is not as declared (with a
                `source`: in one of its transactions); names it.
        """
        self._set_each("action", iterate(self.action_space, actions))
        batch, rewards, terminations, truncations, infos = self.env.step(actions)
        ends = self._ends(terminations, truncations)
        awaited, split = self._awaits_autoreset, split_infos(infos, self.num_envs)
        if self._reader is not None:
            infos = self._with_source(self._reader, infos)
        finals: dict[int, Any] = {}
        observations = []
        for i, now in self._each(batch):
            if awaited[i]:
                self._forget(i)
            else:
                is_over = ends[i] and self._mode is AutoresetMode.SAME_STEP
                final_info = split[i].get("final_info") or {}
                self._commit(i, rewards[i], final_info if is_over else split[i])
                if is_over and "final_obs" in split[i]:
                    finals[i] = self._seen(i, split[i]["final_obs"])
                if is_over:
                    self._forget(i)
            observations.append(self._seen(i, now))
        self._annotations = [{} for _ in range(self.num_envs)]
        self._awaits_autoreset = (ends & (self._mode is AutoresetMode.NEXT_STEP)).tolist()
        infos = _with_finals(infos, finals)
        return self._batch(observations), rewards, terminations, truncations, infos

    def _ends(self, terminations: Any, truncations: Any) -> npt.NDArray[np.bool_]:
        ends = np.zeros(self.num_envs, np.bool_)
        for name, values in (("terminated", terminations), ("truncated", truncations)):
            flags, refused = flags_of(name, values, self.num_envs)
            for error in refused.values():
                raise error
            ends |= flags
        return ends

    def _set_each(self, role: str, values: Iterable[Any]) -> None:
        if self._reader is None:
            for past, value in zip(self._pasts, values, strict=True):
                past.set(role, value)

    def _with_source(self, reader: SourceReader, infos: dict[str, Any]) -> dict[str, Any]:
        """Use the last result of the reader; return the infos with its age."""
        self._borrowed, staleness_s = reader.newest()
        ages, all_of_them = np.full(self.num_envs, staleness_s), np.ones(self.num_envs, np.bool_)
        return {**infos, STALENESS: ages, f"_{STALENESS}": all_of_them}

    def _commit(self, i: int, reward: Any, info: Mapping[str, Any]) -> None:
        """Complete the transaction of a sub-environment."""
        if self._reader is None:
            past = self._pasts[i]
            past.set("reward", reward)
            past.set("info", info)
            past.set("annotation", self._annotations[i])
            past.commit()

    def _forget(self, i: int) -> None:
        if self._reader is None and not self._across_episodes:
            self._pasts[i].clear()

    def _seen(self, i: int, now: Any) -> Any:
        """The observation of a sub-environment, which also begins its next transaction."""
        if self._reader is not None:
            return self._view.observation(now, self._borrowed)
        self._pasts[i].set("observation", now)
        return self._view.observation(now, self._pasts[i].arrays())

    def _each(self, batch: Any) -> Any:
        """The number and the observation of each sub-environment."""
        return enumerate(iterate(self.env.observation_space, batch))

    def _batch(self, observations: Sequence[Any]) -> Any:
        space = self.single_observation_space
        empty: Any = create_empty_array(space, self.num_envs)
        return concatenate(space, observations, empty)

    def annotate(self, **values: Any) -> None:
        """Annotate the next step, for the fields `annotation_<name>`.

        A recorder inside gets the annotations, too.

        Args:
            **values: By name; a scalar for all alike, else an array (num_envs, ...), a list, or a
                dict of such.

        Raises:
            InvalidRecord: A value has another length; names it.
        """
        for name, value in values.items():
            shares = shares_of(value, self.num_envs, name)
            for annotation, share in zip(self._annotations, shares, strict=True):
                annotation[name] = share
        inner: Any = self.env
        while isinstance(inner, VectorWrapper) and not hasattr(type(inner), "annotate"):
            inner = inner.env
        if hasattr(type(inner), "annotate"):
            inner.annotate(**values)

    def close(self, **kwargs: Any) -> None:
        """Close the environment, and read no more from `source`."""
        try:
            if self._reader is not None:
                self._reader.close()
        finally:
            super().close(**kwargs)


def _with_finals(infos: dict[str, Any], finals: Mapping[int, Any]) -> dict[str, Any]:
    """The infos, with these last observations in place of the environment's own."""
    if not finals:
        return infos
    final_obs = np.array(infos["final_obs"], dtype=object)
    for i, observation in finals.items():
        final_obs[i] = observation
    return {**infos, "final_obs": final_obs}
