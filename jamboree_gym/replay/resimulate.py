"""Proving that an episode happens again: rebuild, reset, play the actions, compare every bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from jamboree_gym.episode import Episode
from jamboree_gym.errors import ReplayError
from jamboree_gym.records import EpisodeData, EpisodeOrigin

__all__ = ["Mismatch", "VerifyReport", "rebuild_env", "verify"]

_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
_OBSERVERS = ("Monitor", "RecordEpisodes")  # wrappers that change nothing of a step


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


@dataclass(frozen=True, slots=True, eq=False)
class VerifyReport:
    """Result of `verify`; true when the episode happened again, bit for bit.

    Attributes:
        episode_id: The episode.
        steps: Number of steps that were compared.
        mismatch: The first difference, None when there is none.
    """

    episode_id: str
    steps: int
    mismatch: Mismatch | None

    def __bool__(self) -> bool:
        """Whether everything is equal."""
        return self.mismatch is None

    def __str__(self) -> str:
        """One line."""
        if self.mismatch is None:
            return f"episode {self.episode_id}: {self.steps} steps are equal, bit for bit"
        return f"episode {self.episode_id} differs: {self.mismatch}"


def verify(episode: Episode) -> VerifyReport:
    """Simulate an episode again from its spec, seed (or RNG state) and actions, and compare.

    The environment is made from the local registry by its id and keyword arguments; nothing that
    the store names is imported.

    Args:
        episode: Any episode whose environment was made by `gymnasium.make`.

    Returns:
        A report that is true when every observation, reward and end is equal, bit for bit.

    Raises:
        ReplayError: The environment cannot be rebuilt here; says why.

    Example:
        >>> bool(verify(jam.episodes(run="first").last()))
        True
    """
    recorded = episode.data()
    env = rebuild_env(episode.provenance)
    try:
        return VerifyReport(episode.id, *_compare(env, recorded, episode.origin))
    finally:
        env.close()


def rebuild_env(provenance: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """Make the environment of an episode again, from the local registry.

    Raises:
        ReplayError: It has no spec, is not registered here, or had a wrapper that is not
            Gymnasium's own.
    """
    spec = provenance["env_spec"]
    if spec is None:
        raise ReplayError(f"the environment cannot be made again: {provenance['spec_error']}")
    kwargs = {name: value for name, value in spec["kwargs"].items() if name != "render_mode"}
    try:
        env = gym.make(
            spec["id"],
            max_episode_steps=spec["max_episode_steps"] or -1,
            disable_env_checker=True,
            **kwargs,
        )
    except (gym.error.Error, ImportError) as error:
        raise ReplayError(
            f"{spec['id']} cannot be made here: {error}. Import the package that registers it."
        ) from error
    for wrapper in spec["additional_wrappers"]:
        env = _wrap(env, wrapper)
    return env


def _wrap(env: gym.Env[Any, Any], wrapper: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """Apply a wrapper of Gymnasium's own, looked up by name; never by a stored entry point."""
    name = wrapper["name"]
    if name in _OBSERVERS:
        return env
    if name not in gym.wrappers.__all__ or wrapper["kwargs"] is None:
        raise ReplayError(f"the episode was recorded through {name}, which cannot be rebuilt yet")
    wrapped: gym.Env[Any, Any] = getattr(gym.wrappers, name)(env, **wrapper["kwargs"])
    return wrapped


def _reset(env: gym.Env[Any, Any], origin: EpisodeOrigin) -> Any:
    options = None if origin.options is None else dict(origin.options)
    if origin.rng_state is not None:
        env.unwrapped.np_random = _generator(origin.rng_state)
        return env.reset(options=options)[0]
    if origin.seed is None:
        raise ReplayError("the episode has neither a seed nor a captured state of its generator")
    return env.reset(seed=origin.seed, options=options)[0]


def _generator(state: Mapping[str, Any]) -> np.random.Generator:
    name = state["bit_generator"]
    if name not in _BIT_GENERATORS:
        raise ReplayError(f"the episode was recorded with the unknown bit generator {name!r}")
    bit_generator = getattr(np.random, name)()
    bit_generator.state = dict(state)
    return np.random.Generator(bit_generator)


def _compare(
    env: gym.Env[Any, Any], recorded: EpisodeData, origin: EpisodeOrigin
) -> tuple[int, Mismatch | None]:
    """Play the recorded actions; number of steps played and the first difference."""
    observations, rewards, ends = [_reset(env, origin)], [], []
    for action in recorded.actions.copy():
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        rewards.append(float(reward))
        ends.append((bool(terminated), bool(truncated)))
        if terminated or truncated:
            break
    return len(rewards), _first_mismatch(recorded, observations, rewards, ends)


def _first_mismatch(
    recorded: EpisodeData,
    observations: list[Any],
    rewards: list[float],
    ends: list[tuple[bool, bool]],
) -> Mismatch | None:
    steps = len(rewards)
    flags = np.array(ends, np.bool_).reshape(steps, 2)
    columns: list[tuple[str, int, Any, Any]] = [
        ("observation", -1, recorded.observations[: steps + 1], observations),
        ("reward", 0, recorded.rewards[:steps], np.array(rewards, np.float64)),
        ("terminated", 0, recorded.terminations[:steps], flags[:, 0]),
        ("truncated", 0, recorded.truncations[:steps], flags[:, 1]),
    ]
    found = [
        Mismatch(first, name, old[position], new[position])
        for name, offset, old, new in columns
        if (position := _first_difference(old, new)) is not None
        for first in [position + offset]
    ]
    if not found and steps != len(recorded):
        found.append(Mismatch(steps, "length", len(recorded), steps))
    return min(found, key=lambda mismatch: mismatch.step, default=None)


def _first_difference(recorded: np.ndarray[Any, Any], simulated: Any) -> int | None:
    """First position whose bits, dtype or shape differ; NaN equals the same NaN."""
    same: Callable[[Any, Any], bool] = lambda a, b: (  # noqa: E731 - used twice, right here
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    )
    if len(simulated) and same(recorded, np.asarray(simulated)):
        return None
    pairs = zip(recorded, simulated, strict=False)
    return next(
        (i for i, (a, b) in enumerate(pairs) if not same(np.asarray(a), np.asarray(b))), None
    )
