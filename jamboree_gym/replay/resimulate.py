"""Proving that an episode happens again: rebuild, reset, play the actions, compare every bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from jamboree_gym.episode import Episode
from jamboree_gym.errors import EpisodeNotFound, ReplayError
from jamboree_gym.replay.compare import Mismatch, SecondRun, first_mismatch
from jamboree_gym.replay.rebuild import rebuild_env, reset_as_recorded
from jamboree_gym.steps import Rows

__all__ = ["Mismatch", "VerifyReport", "actions_as_taken", "begin_again", "rebuild_env", "verify"]

_WHOLE = ("terminated", "truncated", "abandoned")


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
    env, observation = begin_again(episode)
    try:
        return VerifyReport(episode.id, *_compare(env, observation, rows, episode.provenance))
    finally:
        env.close()


def begin_again(
    episode: Episode, *, render_mode: str | None = None
) -> tuple[gym.Env[Any, Any], Any]:
    """Make the environment of an episode again, and reset it as it was; after those it follows.

    Returns:
        The environment, to be closed by the caller, and the first observation.

    Raises:
        ReplayError: As `verify`.
    """
    before = _episodes_before(episode)
    env = rebuild_env(episode.provenance, render_mode=render_mode)
    try:
        for earlier in reversed(before):
            _play(env, earlier)
        return env, reset_as_recorded(env, episode.origin)
    except BaseException:
        env.close()
        raise


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
    return (rows.action(row) for row in range(1, len(rows)))


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
