"""Brings an environment to the beginning of an episode: by a reset, or by its parents' steps."""

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
from jamboree_gym.replay.verification.compare import recorded_actions

__all__ = ["WHOLE", "Shown", "begin_as_recorded", "begin_child", "begin_root", "line_of"]

Shown = tuple[Any, Mapping[str, Any]]
"""An observation and its info."""

WHOLE = ("terminated", "truncated", "abandoned")
"""Statuses of episodes whose last step is known."""


def line_of(episode: Episode) -> list[Episode]:
    """The ancestors of a forked episode: first the one that began with a reset, last itself.

    Raises:
        EpisodeNotFound: The episode does not exist.
        ReplayError: An ancestor is missing.
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
    """Bring the environment to the beginning of the last episode of a line; return what it shows.

    Raises:
        ReplayError: An earlier episode is missing, or cannot be played again.
    """
    shown = begin_root(env, line[0], trust_entry_point=trust_entry_point)
    for parent, child in pairwise(line):
        origin = child.origin
        shown = _play_on(env, parent, parent._rows(0, (origin.fork_step or 0) + 1)) or shown
        begin_child(env, origin)
    return shown


def begin_root(
    env: gym.Env[Any, Any], episode: Episode, *, trust_entry_point: bool = False
) -> Shown:
    """Reset as recorded, after playing the episodes that this one follows."""
    for earlier in reversed(_episodes_before(episode)):
        _play(env, earlier, trust_entry_point=trust_entry_point)
    return reset_as_recorded(env, episode.origin, trust_entry_point=trust_entry_point)


def begin_child(env: gym.Env[Any, Any], origin: EpisodeOrigin) -> None:
    """Set the generator to the state that it got when the episode was forked, if any.

    A generator of another kind is a `ReplayError`.
    """
    if origin.rng_state is not None:
        put_rng_state(env, origin.rng_state)


def _episodes_before(episode: Episode) -> list[Episode]:
    """The episodes that an episode follows, newest first, back to one that depends on none.

    A `ReplayError` says that one is missing or incomplete, or that they follow each other in a
    circle.
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
    rows, origin = episode._rows(), episode.origin
    try:
        if origin.parent is None:
            reset_as_recorded(env, origin, trust_entry_point=trust_entry_point)
        else:
            begin_as_recorded(env, line_of(episode), trust_entry_point=trust_entry_point)
    except ReplayError as error:
        raise _cannot_be_played(episode, error) from error
    _play_on(env, episode, rows)


def _play_on(env: gym.Env[Any, Any], episode: Episode, rows: Rows) -> Shown | None:
    """Take the recorded actions without comparing; return what came last, None without steps."""
    shown = None
    try:
        for action in recorded_actions(rows):
            observation, _, _, _, info = env.step(action)
            shown = observation, info
    except Exception as error:
        raise _cannot_be_played(episode, error) from error
    return shown


def _cannot_be_played(episode: Episode, error: Exception) -> ReplayError:
    return ReplayError(
        f"episode {episode.id!r}, which comes before, cannot be played again: {error}"
    )
