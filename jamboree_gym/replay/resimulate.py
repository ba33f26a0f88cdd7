"""Proving that an episode happens again: rebuild, reset, play the actions, compare every bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from jamboree_gym.episode import Episode, to_episode_data
from jamboree_gym.errors import EpisodeNotFound, ReplayError, UnsupportedSpace
from jamboree_gym.records import EpisodeData
from jamboree_gym.replay.rebuild import rebuild_env, reset_as_recorded
from jamboree_gym.spaces import join_arrays, plain
from jamboree_gym.steps import Rows

__all__ = ["Mismatch", "VerifyReport", "actions_as_taken", "rebuild_env", "verify"]

_WHOLE = ("terminated", "truncated", "abandoned")


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
    the store names is imported. An episode that follows others, because its reset was neither
    seeded nor within reach, is compared after these have been played.

    Args:
        episode: Any episode whose environment was made by `gymnasium.make`.

    Returns:
        A report that is true when every observation, reward and end is equal, bit for bit.

    Raises:
        ReplayError: The environment cannot be rebuilt or stepped here, or an episode before it is
            missing; says why.

    Example:
        >>> bool(verify(jam.episodes(run="first").last()))
        True
    """
    rows = episode.rows()
    provenance = episode.provenance
    before = _episodes_before(episode)
    env = rebuild_env(provenance)
    try:
        for earlier in reversed(before):
            _play(env, earlier)
        observation = reset_as_recorded(env, episode.origin)
        return VerifyReport(episode.id, *_compare(env, observation, episode.id, rows, provenance))
    finally:
        env.close()


def _episodes_before(episode: Episode) -> list[Episode]:
    """Those that an episode follows, the newest first, back to one that begins by itself.

    Raises:
        ReplayError: One of them is missing or not whole, or they follow each other in a circle.
    """
    before: list[Episode] = []
    seen = {episode.id}
    while (previous := episode.predecessor) is not None:
        if previous.id in seen:
            raise ReplayError(f"episode {previous.id!r} follows itself: its origin is damaged")
        try:
            status = previous.status
        except EpisodeNotFound as error:
            raise ReplayError(
                f"episode {episode.id!r} follows {previous.id!r}, which is not there any more"
            ) from error
        if status not in _WHOLE:
            raise ReplayError(
                f"episode {episode.id!r} follows {previous.id!r}, which is {status}: what came at "
                "its end is not known"
            )
        seen.add(previous.id)
        before.append(previous)
        episode = previous
    return before


def _play(env: gym.Env[Any, Any], episode: Episode) -> None:
    """Do what was done then, without a look at what comes of it."""
    rows = episode.rows()
    try:
        reset_as_recorded(env, episode.origin)
        for action in actions_as_taken(rows):
            env.step(action)
    except Exception as error:
        raise ReplayError(
            f"episode {episode.id!r}, which comes before, cannot be played again: {error}"
        ) from error


def actions_as_taken(rows: Rows) -> Iterator[Any]:
    """The actions of all steps: Python numbers where the agent gave Python numbers.

    NumPy computes differently with the two: `float32 * 0.5` stays `float32`, `float32 *
    float64(0.5)` does not.
    """
    starts = [*(max(1, first - rows.start) for first, _ in rows.action_kinds), len(rows)]
    for (_, kind), first, end in zip(rows.action_kinds, starts, starts[1:], strict=False):
        for action in rows.actions[first:end]:
            yield action.item() if kind == "python" else action


def _compare(
    env: gym.Env[Any, Any],
    observation: Any,
    episode_id: str,
    rows: Rows,
    provenance: Mapping[str, Any],
) -> tuple[int, Mismatch | None]:
    """Play the recorded actions; number of steps played and the first difference."""
    observations, rewards, ends = [_kept(observation)], list[Any](), list[tuple[bool, bool]]()
    for action in actions_as_taken(rows):
        try:
            observation, reward, terminated, truncated, _ = env.step(action)
        except Exception as error:
            raise ReplayError(f"step {len(rewards)} fails in the second run: {error!r}") from error
        observations.append(_kept(observation))
        rewards.append(reward)
        ends.append((bool(terminated), bool(truncated)))
        if terminated or truncated:
            break
    recorded = to_episode_data(episode_id, rows)
    return len(rewards), _first_mismatch(recorded, observations, rewards, ends, provenance)


def _kept(observation: Any) -> Any:
    """As it is now: the environment may return the same buffer again."""
    return observation.copy() if isinstance(observation, np.ndarray) else observation


def _stacked(observations: Sequence[Any]) -> np.ndarray[Any, Any]:
    """One array, made as the recorded ones are made."""
    try:
        return np.stack(observations) if _are_alike(observations) else _joined(observations)
    except UnsupportedSpace as error:
        raise ReplayError(f"the second run cannot be compared: {error}") from error


def _are_alike(observations: Sequence[Any]) -> bool:
    first = observations[0]
    return isinstance(first, np.ndarray) and all(
        isinstance(value, np.ndarray) and value.dtype == first.dtype and value.shape == first.shape
        for value in observations
    )


def _joined(observations: Sequence[Any]) -> np.ndarray[Any, Any]:
    return join_arrays([np.asarray(plain(value, "observation"))[None] for value in observations])


def _first_mismatch(
    recorded: EpisodeData,
    observations: Sequence[Any],
    rewards: Sequence[Any],
    ends: Sequence[tuple[bool, bool]],
    provenance: Mapping[str, Any],
) -> Mismatch | None:
    steps = len(rewards)
    seen = _stacked(observations)
    kept = recorded.observations[: steps + 1]
    flags = np.array(ends, np.bool_).reshape(steps, 2)
    gained = np.array([float(np.asarray(reward).item()) for reward in rewards], np.float64)
    columns: list[tuple[str, int, Any, Any, Any]] = [
        ("observation", -1, kept, seen, _batched(seen, kept.dtype, provenance)),
        ("reward", 0, recorded.rewards[:steps], gained, _batched_rewards(gained, provenance)),
        ("terminated", 0, recorded.terminations[:steps], flags[:, 0], flags[:, 0]),
        ("truncated", 0, recorded.truncations[:steps], flags[:, 1], flags[:, 1]),
    ]
    found = [
        Mismatch(position + offset, name, old[position], new[position])
        for name, offset, old, new, batched in columns
        if (position := _first_difference(old, new, batched)) is not None
    ]
    if steps != len(recorded):
        found.append(Mismatch(steps, "length", len(recorded), steps))
    return min(found, key=lambda mismatch: mismatch.step, default=None)


def _batched(
    observations: np.ndarray[Any, Any], recorded: np.dtype[Any], provenance: Mapping[str, Any]
) -> np.ndarray[Any, Any]:
    """As a vector environment passes them on: through an array of the space's dtype."""
    dtype = provenance["observation_space"].get("dtype")
    if (
        provenance.get("vector") is None
        or dtype is None
        or object in (observations.dtype, recorded)
    ):
        return observations
    return observations.astype(dtype).astype(recorded)


def _batched_rewards(
    rewards: np.ndarray[Any, Any], provenance: Mapping[str, Any]
) -> np.ndarray[Any, Any]:
    vector = provenance.get("vector")
    if vector is None:
        return rewards
    return rewards.astype(vector["reward_dtype"]).astype(rewards.dtype)


def _first_difference(
    recorded: np.ndarray[Any, Any],
    simulated: np.ndarray[Any, Any],
    batched: np.ndarray[Any, Any],
) -> int | None:
    """First position whose bits, dtype or shape are neither those of the one nor of the other.

    NaN equals the same NaN.
    """
    if recorded.dtype != object and (_same(recorded, simulated) or _same(recorded, batched)):
        return None
    rows = zip(recorded, simulated, batched, strict=True)
    return next(
        (i for i, (old, *new) in enumerate(rows) if not any(_same_row(old, one) for one in new)),
        None,
    )


def _same_row(a: Any, b: Any) -> bool:
    return _same(np.asarray(a), np.asarray(b))


def _same(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
