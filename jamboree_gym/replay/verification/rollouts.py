"""Plays an environment without a store, and finds where two plays differ first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym

from jamboree_gym.arrays.difference import Difference, Said, differences
from jamboree_gym.arrays.values import decode_value, encode_value
from jamboree_gym.environment.provenance import rng_state_of
from jamboree_gym.errors import InvalidRecord, ReplayError
from jamboree_gym.records import EpisodeOrigin
from jamboree_gym.replay.rebuilding.rebuild import reset_as_recorded

__all__ = ["Play", "Rollout", "first_difference", "play"]

WHERE = "a play"


@dataclass(slots=True, eq=False)
class Rollout:
    """One episode as it was returned.

    Attributes:
        seed: Seed of its reset; None = unseeded.
        rng_state: State of the generator before an unseeded reset; None if there is no generator.
        actions: The actions.
        rows: What the reset and each step returned, encoded.
    """

    seed: int | None
    rng_state: Mapping[str, Any] | None = None
    actions: list[Any] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Play:
    """What to play.

    Attributes:
        make: Makes a new environment.
        steps: Most steps of an episode.
    """

    make: Callable[[], gym.Env[Any, Any]]
    steps: int


def play(
    what: Play,
    like: Sequence[Rollout],
    *,
    prepare: Callable[[gym.Env[Any, Any]], None] | None = None,
) -> list[Rollout]:
    """Play episodes one after the other in a new environment.

    Args:
        what: The environment.
        like: The episodes: seed or state of the generator, and actions. Actions that are missing
            are drawn from the action space.
        prepare: Called with the environment before the first reset.

    Raises:
        ReplayError: It cannot be made, reset or stepped; says why.
    """
    env = _made(what)
    try:
        if prepare is not None:
            prepare(env)
        return [_played(env, one, what.steps) for one in like]
    finally:
        env.close()


def _made(what: Play) -> gym.Env[Any, Any]:
    try:
        return what.make()
    except Exception as error:
        raise ReplayError(f"the environment cannot be made: {error}") from error


def _played(env: gym.Env[Any, Any], like: Rollout, steps: int) -> Rollout:
    state = like.rng_state
    if like.seed is None and state is None and not like.actions:
        state = rng_state_of(env)
    found = Rollout(like.seed, state)
    if like.seed is None and state is None:
        shown = env.reset()
    else:
        origin = EpisodeOrigin(like.seed, state, None, "")
        shown = reset_as_recorded(env, origin)
    observation, info = shown
    found.rows.append(_encoded({"observation": observation, "info": info}))
    if not like.actions:
        env.action_space.seed(like.seed if like.seed is not None else 0)
    for number in range(len(like.actions) or steps):
        action = like.actions[number] if like.actions else env.action_space.sample()
        found.actions.append(action)
        try:
            observation, reward, terminated, truncated, info = env.step(action)
        except Exception as error:
            raise ReplayError(f"step {number} fails: {error!r}") from error
        row = {"observation": observation, "reward": reward, "terminated": terminated}
        found.rows.append(_encoded({**row, "truncated": truncated, "info": info}))
        if terminated or truncated:
            break
    return found


def _encoded(row: dict[str, Any]) -> bytes:
    """A row as it is now; infos that cannot be stored are left out."""
    try:
        return encode_value(row)
    except InvalidRecord:
        info = row["info"]
        kept = {name: one for name, one in info.items() if _can_be_stored(name, one)}
        return encode_value({**row, "info": kept})


def _can_be_stored(name: Any, value: Any) -> bool:
    try:
        encode_value({name: value})
    except InvalidRecord:
        return False
    return True


def first_difference(a: Sequence[Rollout], b: Sequence[Rollout]) -> tuple[int, Difference] | None:
    """The number of the first episode that differs, and where; None if all is equal."""
    for number, (one, other) in enumerate(zip(a, b, strict=True)):
        found = _difference(one.rows, other.rows)
        if found is not None:
            return number, found
    return None


def _difference(a: Sequence[bytes], b: Sequence[bytes]) -> Difference | None:
    for row, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            found = list(_between(decode_value(one, where=WHERE), decode_value(other, where=WHERE)))
            if found:
                return Difference.first_of(found, step=row - 1)
    if len(a) != len(b):
        one_length, other_length = (Said(f"{len(rows) - 1} steps") for rows in (a, b))
        return Difference("length", one_length, other_length, step=min(len(a), len(b)) - 2)
    return None


def _between(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    for name, value in a.items():
        yield from differences(name, value, b[name])
