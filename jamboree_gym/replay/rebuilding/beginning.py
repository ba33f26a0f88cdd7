"""Bringing an environment to where an episode began: by a reset, or by the steps of its parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import gymnasium as gym

from jamboree_gym.encoding.rows import Rows
from jamboree_gym.environment.env_state import put_rng_state
from jamboree_gym.errors import DecodeError, EpisodeNotFound, ReplayError
from jamboree_gym.reading.episode import Episode
from jamboree_gym.records import EpisodeOrigin
from jamboree_gym.replay.rebuilding.rebuild import reset_as_recorded
from jamboree_gym.replay.verification.compare import actions_as_taken

__all__ = ["WHOLE", "Shown", "begin_as_recorded", "begin_child", "begin_root", "line_of"]

Shown = tuple[Any, Mapping[str, Any]]
"""An observation and the info beside it."""

WHOLE = ("terminated", "truncated", "abandoned")
"""Statuses of episodes whose last step is known."""


def line_of(episode: Episode) -> list[Episode]:
    """How an episode came about by forks: the one that began with a reset, ..., itself.

    Raises:
        EpisodeNotFound: There is no such episode.
        ReplayError: One that it came from is missing.
    """
    if episode.parent is None:
        return [episode]
    try:
        return episode.lineage
    except (DecodeError, EpisodeNotFound) as error:
        raise ReplayError(str(error)) from error


def begin_as_recorded(
    env: gym.Env[Any, Any], line: Sequence[Episode], *, trust_entry_point: bool = False
) -> Shown:
    """Bring the environment to where the last episode of a line began.

    Returns:
        The first observation of that episode, and the info beside it.

    Raises:
        ReplayError: What comes before it is missing, or cannot be played again.
    """
    shown = begin_root(env, line[0], trust_entry_point=trust_entry_point)
    for parent, child in pairwise(line):
        origin = child.origin
        shown = _play_on(env, parent, parent.rows(0, (origin.fork_step or 0) + 1)) or shown
        begin_child(env, origin)
    return shown


def begin_root(
    env: gym.Env[Any, Any], episode: Episode, *, trust_entry_point: bool = False
) -> Shown:
    """Reset as recorded, after the episodes that this one follows have been played."""
    for earlier in reversed(_episodes_before(episode)):
        _play(env, earlier, trust_entry_point=trust_entry_point)
    return reset_as_recorded(env, episode.origin, trust_entry_point=trust_entry_point)


def begin_child(env: gym.Env[Any, Any], origin: EpisodeOrigin) -> None:
    """Give the generator the state that it was given when the episode was forked, if any.

    Raises:
        ReplayError: The generator is of another kind.
    """
    if origin.rng_state is not None:
        put_rng_state(env, origin.rng_state)


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
        if status not in WHOLE:
            raise ReplayError(
                f"episode {episode.id!r} follows {previous.id!r}, which is {status}: what came at "
                "its end is not known"
            )
        seen.add(previous.id)
        before.append(previous)
        episode = previous
    return before


def _play(env: gym.Env[Any, Any], episode: Episode, *, trust_entry_point: bool) -> None:
    """Do what was done then, from the beginning to the end."""
    rows, origin = episode.rows(), episode.origin
    try:
        if origin.parent is None:
            reset_as_recorded(env, origin, trust_entry_point=trust_entry_point)
        else:
            begin_as_recorded(env, line_of(episode), trust_entry_point=trust_entry_point)
    except ReplayError as error:
        raise _cannot_be_played(episode, error) from error
    _play_on(env, episode, rows)


def _play_on(env: gym.Env[Any, Any], episode: Episode, rows: Rows) -> Shown | None:
    """Do what was done then, without a look at what comes of it.

    Returns:
        The last observation and info; None where there are no steps.
    """
    shown = None
    try:
        for action in actions_as_taken(rows):
            observation, _, _, _, info = env.step(action)
            shown = observation, info
    except Exception as error:
        raise _cannot_be_played(episode, error) from error
    return shown


def _cannot_be_played(episode: Episode, error: Exception) -> ReplayError:
    return ReplayError(
        f"episode {episode.id!r}, which comes before, cannot be played again: {error}"
    )
