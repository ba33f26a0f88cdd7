"""Brings an environment into the state after some recorded steps, and proves that it is there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, TypeAlias, cast

import gymnasium as gym

from jamboree_gym.encoding.rows import Rows
from jamboree_gym.environment.env_state import prime, put_state, reads_unchecked, state_gap
from jamboree_gym.environment.provenance import conditions_now
from jamboree_gym.errors import DecodeError, ReplayArgument, ReplayError
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay.rebuilding.beginning import Shown, begin_child, begin_root, line_of
from jamboree_gym.replay.rebuilding.rebuild import reset_as_recorded
from jamboree_gym.replay.verification.compare import Mismatch, SecondRun, first_mismatch

__all__ = ["LiveEnv", "MakeEnv", "check_step", "fast_forward", "play_on"]

MakeEnv: TypeAlias = Callable[[Mapping[str, Any]], gym.Env[Any, Any]]
"""Makes an environment from its provenance."""

SNAPSHOTS_TRIED: Final = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class LiveEnv:
    """A live environment in the middle of an episode, with its last observation and info."""

    env: gym.Env[Any, Any]
    observation: Any
    info: Mapping[str, Any]


def check_step(episode: Episode, step: int) -> None:
    """Check that an episode can be forked after this many steps.

    Raises:
        ReplayArgument: The episode has fewer steps, or has ended there.
    """
    summary = episode.summary
    has_ended = summary.status in ("terminated", "truncated")
    last = summary.steps - int(has_ended)
    if not 0 <= step <= last:
        end = f" and is {summary.status}, so nothing comes after its end" if has_ended else ""
        raise ReplayArgument(
            f"step={step}: episode {episode.id!r} has {summary.steps:,} steps{end}. "
            f"Fork it after 0 to {last} steps."
        )


def fast_forward(
    episode: Episode,
    step: int,
    make_env: MakeEnv,
    *,
    trust_entry_point: bool = False,
    trust_snapshots: bool = False,
) -> LiveEnv:
    """Rebuild the environment of an episode, and bring it into the state after some steps.

    It starts from the newest snapshot before that step, or from the reset if no snapshot can be
    used. The steps that it plays are compared with the recording, bit for bit.

    Args:
        episode: The episode.
        step: Number of steps; 0 = the beginning.
        make_env: Makes the environment.
        trust_entry_point: Reset even with options that name modules.
        trust_snapshots: Use even snapshots that an environment reads unchecked.

    Raises:
        ReplayError: The environment cannot be made, or its replay differs; names the first
            difference.
    """
    line = line_of(episode)
    steps = [child.origin.fork_step or 0 for child in line[1:]] + [step]
    env = make_env(episode.provenance)
    try:
        shown = None
        if state_gap(env) is None and (trust_snapshots or not reads_unchecked(env)):
            shown = _from_snapshot(env, line, steps, trust_entry_point=trust_entry_point)
        if shown is None:
            shown = begin_root(env, line[0], trust_entry_point=trust_entry_point)
            shown = _play_line(env, line, steps, shown, start=0)
        return LiveEnv(env, *shown)
    except BaseException:
        env.close()
        raise


def _from_snapshot(
    env: gym.Env[Any, Any],
    line: Sequence[Episode],
    steps: Sequence[int],
    *,
    trust_entry_point: bool,
) -> Shown | None:
    """Start from the newest snapshot on the way; None if no snapshot can be used.

    At least one step is played after it. That step proves that the snapshot was complete, and
    observation and info then come from the environment itself.
    """
    for position, start, state in islice(_snapshots(line, steps), SNAPSHOTS_TRIED):
        episode = line[position]
        try:
            reset_as_recorded(env, line[0].origin, trust_entry_point=trust_entry_point)
            prime(env, episode._rows(start, start + 1).action(0) if start else None)
            put_state(env, state)
            return _play_line(env, line[position:], steps[position:], None, start=start)
        except ReplayError as error:
            log.warning("snapshot %d of episode %s is of no use: %s", start, episode.id, error)
    return None


def _snapshots(line: Sequence[Episode], steps: Sequence[int]) -> Iterator[tuple[int, int, bytes]]:
    """Snapshots on the way, newest first, as (number of the episode in the line, step, state)."""
    for position in reversed(range(len(line))):
        episode, before = line[position], steps[position]
        if not _has_same_versions(episode.provenance):
            return
        try:
            while (found := episode.snapshots().newest(before=before)) is not None:
                yield position, *found
                before = found[0]
        except DecodeError as error:
            log.warning("a snapshot of episode %s is of no use: %s", episode.id, error)


def _has_same_versions(provenance: Mapping[str, Any]) -> bool:
    versions = provenance.get("versions")
    return isinstance(versions, Mapping) and conditions_now(versions) == versions


def _play_line(
    env: gym.Env[Any, Any],
    line: Sequence[Episode],
    steps: Sequence[int],
    shown: Shown | None,
    *,
    start: int,
) -> Shown:
    """Play the steps of each episode of a line (parent, child, ...) that lead to the next one.

    The environment is in the state after `start` steps of the first episode; `shown` is its last
    result, if it is known. `steps` are those in each episode before the next one begins.

    Raises:
        ReplayError: A result differs from the recording; names the first difference.
    """
    for episode, stop in zip(line, steps, strict=True):
        if episode is not line[0]:
            begin_child(env, episode.origin)
            start = 0
        rows = episode._rows(start, stop + 1)
        at = shown or (rows.observation(0), dict(rows.infos[0]))
        shown, mismatch = play_on(env, rows, episode.provenance.get("vector"), at)
        if mismatch is not None:
            raise ReplayError(
                f"episode {episode.id!r} does not happen again, so it cannot be forked: {mismatch}"
            )
    return cast(Shown, shown)  # a line is never empty


def play_on(
    env: gym.Env[Any, Any], rows: Rows, vector: Mapping[str, Any] | None, shown: Shown
) -> tuple[Shown, Mismatch | None]:
    """Take the actions of the rows after the first one, which the environment is at, and compare.

    `vector` is the provenance of the vector environment of the recording, None if there was none;
    `shown` the last result. Returns the next last result, and the first difference.
    """
    run = SecondRun(rows, vector=vector)
    shown = run.play(env, *shown)
    mismatch = first_mismatch(run)
    if mismatch is not None:
        mismatch = replace(mismatch, step=mismatch.step + rows.start)
    return shown, mismatch
