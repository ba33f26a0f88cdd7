"""Proving that an episode happens again: rebuild, reset, play the actions, compare every bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from jamboree_gym.episode import Episode
from jamboree_gym.errors import ReplayError
from jamboree_gym.replay.beginning import actions_as_taken, begin_as_recorded, line_of
from jamboree_gym.replay.compare import Mismatch, SecondRun, first_mismatch
from jamboree_gym.replay.rebuild import rebuild_env
from jamboree_gym.steps import Rows

__all__ = ["Mismatch", "VerifyReport", "actions_as_taken", "rebuild_env", "verify"]


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
    seeded nor within reach, is compared after these have been played; a fork, after the steps of
    its parents that led there.

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
    line = line_of(episode)
    env = rebuild_env(provenance)
    try:
        observation, _ = begin_as_recorded(env, line)
        return VerifyReport(episode.id, *_compare(env, observation, rows, provenance))
    finally:
        env.close()


def _compare(
    env: gym.Env[Any, Any], observation: Any, rows: Rows, provenance: Mapping[str, Any]
) -> tuple[int, Mismatch | None]:
    """Play the recorded actions; number of steps played and the first difference."""
    run = SecondRun(rows, provenance.get("vector"))
    goes_on = run.add(observation, 0.0, False, False)
    for step, action in enumerate(actions_as_taken(rows) if goes_on else ()):
        try:
            observation, reward, terminated, truncated, _ = env.step(action)
        except Exception as error:
            raise ReplayError(f"step {step} fails in the second run: {error!r}") from error
        if not run.add(observation, reward, terminated, truncated):
            break
    return max(0, len(run.rewards) - 1), first_mismatch(run)
