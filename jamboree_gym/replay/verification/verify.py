"""`verify`: whether episodes happen again, one or many, here or in several processes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict, Unpack, overload

import gymnasium as gym

from jamboree_gym.arrays.difference import Tolerance
from jamboree_gym.checked import checked
from jamboree_gym.connection import Connection
from jamboree_gym.errors import DecodeError, EpisodeNotFound, ReplayError
from jamboree_gym.progress import Progress, reported
from jamboree_gym.reading.bulk_read import Listed, trips, whole_episodes
from jamboree_gym.reading.episode import Episode
from jamboree_gym.reading.query import EpisodeQuery, found_by
from jamboree_gym.records import EpisodeSummary
from jamboree_gym.replay.rebuilding.rebuild import MakeAgain
from jamboree_gym.replay.rebuilding.wrapping import BuiltWrapper
from jamboree_gym.replay.verification.report import VerifyReport, VerifyReports
from jamboree_gym.replay.verification.resimulate import Check, Checked, Resimulator, Watch
from jamboree_gym.replay.verification.workers import Numbered, checked_in_processes

__all__ = ["check_of", "verify", "verify_one"]

MAX_CHUNK = 100  # episodes that a worker reads in one round trip
ALONE_AT_ONCE = 1000  # without workers, of which none has to wait for the last one
CHUNKS_A_WORKER = 4  # or more, if there are enough episodes: then no worker waits for long


class VerifyOptions(TypedDict, total=False):
    """The options of `verify`, which explains them."""

    workers: int
    rtol: float
    atol: float
    infos: bool | Collection[str]
    wrappers: Sequence[BuiltWrapper]
    trust_entry_point: bool
    make: MakeAgain | None
    env_kwargs: Mapping[str, Any] | None
    progress: bool | Progress


@overload
def verify(episodes: Episode, **options: Unpack[VerifyOptions]) -> VerifyReport: ...


@overload
def verify(
    episodes: EpisodeQuery | Iterable[Episode], **options: Unpack[VerifyOptions]
) -> VerifyReports: ...


@checked
def verify(
    episodes: Episode | EpisodeQuery | Iterable[Episode],
    *,
    workers: int = 1,
    rtol: float = 0.0,
    atol: float = 0.0,
    infos: bool | Collection[str] = (),
    wrappers: Sequence[BuiltWrapper] = (),
    trust_entry_point: bool = False,
    make: MakeAgain | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    progress: bool | Progress = False,
) -> VerifyReport | VerifyReports:
    """Simulate episodes again from their spec, seed (or RNG state) and actions, and compare.

    The environment is made from the local registry by its id and keyword arguments; nothing that
    the store names is imported. An episode that follows others, because its reset was neither
    seeded nor within reach, is compared after these have been played.

    Args:
        episodes: An episode, or many: `jam.episodes(...)`, or any iterable of episodes of one
            `Jamboree`. Their environments were made by `gymnasium.make`.
        workers: Number of processes, which are started for this call. A script that asks for more
            than one needs `if __name__ == "__main__":`. Environments that are registered here are
            known there; one whose spec cannot be pickled is simulated in this process.
        rtol: Allowed difference of floats (observations, rewards, infos), relative to the recorded
            ones. Everything else must be equal.
        atol: Allowed absolute difference of floats. If both are 0, every bit must be equal.
        infos: Keys of infos to compare too, with a dot for those of nested dicts
            (`"state.lives"`); True: all recorded infos.
        wrappers: Wrapper classes that may be built, beside the known ones: those of Gymnasium, this
            package, Minigrid, SB3 and others that only compute, where their module is loaded.
            They are built with the stored arguments, which anyone who writes to the store can
            choose; or with yours: `functools.partial(Crop, size=8)`.
        trust_entry_point: Import and call what the store names for environments and wrappers that
            are unknown here, and pass on arguments that name modules, which an environment may
            import. **Anyone who can write to the store can then run any code in this process.**
            Use it only for stores that nobody else writes to.
        make: Makes the environment with all its wrappers, for what cannot be rebuilt:
            `lambda: gym.make("Own-v0", client=client)`. Nothing stored is used to make it.
        env_kwargs: Arguments of `gymnasium.make` that replace stored ones: `{"client": client}`.
        progress: Whether to show on stderr how many episodes have been verified; or a function
            that is called with that number and the number of all.

    Returns:
        A report that is true when every observation, reward and end is equal. Of many episodes
        `VerifyReports`, where one that cannot be simulated again is among the failed, with its
        error.

    Raises:
        ReplayError: The one episode cannot be rebuilt or stepped here, or an episode before it is
            missing; says why. Of many: the worker processes cannot be started.
        StoreUnavailable: Redis does not answer.

    Example:
        >>> bool(verify(jam.episodes(run="first").last()))
        True
        >>> reports = verify(jam.episodes(run="first"), workers=4, progress=True)
        >>> print(reports)
        128 of 128 episodes are equal; 2,816 steps compared
    """
    check = check_of(
        rtol,
        atol,
        infos,
        wrappers,
        trust_entry_point=trust_entry_point,
        make=make,
        env_kwargs=env_kwargs,
    )
    if workers < 1:
        raise ReplayError(f"workers={workers}: choose 1 or more")
    if isinstance(episodes, Episode):
        return verify_one(episodes, check)
    if isinstance(episodes, EpisodeQuery):
        return _verify_many(*found_by(episodes), check, workers, progress)
    listed = list(episodes)
    connections = {episode._connection for episode in listed}
    if len(connections) > 1:
        raise ReplayError("the episodes are of several Jamborees: verify those of each by itself")
    summaries = [_summary(episode) for episode in listed]
    return _verify_many(next(iter(connections), None), summaries, check, workers, progress)


def check_of(
    rtol: float = 0.0,
    atol: float = 0.0,
    infos: bool | Collection[str] = (),
    wrappers: Sequence[BuiltWrapper] = (),
    *,
    trust_entry_point: bool = False,
    make: MakeAgain | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Check:
    """The checked arguments of `verify`.

    Raises:
        ReplayError: An argument is invalid; names it.
    """
    if not (rtol >= 0 and atol >= 0):
        raise ReplayError(f"rtol={rtol}, atol={atol}: choose 0 or more")
    if not isinstance(infos, bool):
        infos = tuple(infos) or False
    not_wrappers = [one for one in wrappers if not _is_wrapper(one)]
    if not_wrappers:
        raise ReplayError(f"wrappers: {not_wrappers[0]!r} is no subclass of gymnasium.Wrapper")
    return Check(Tolerance(rtol, atol), infos, tuple(wrappers), trust_entry_point, make, env_kwargs)


def _is_wrapper(one: Any) -> bool:
    known = one.func if isinstance(one, partial) else one
    return isinstance(known, type) and issubclass(known, gym.Wrapper)


def verify_one(
    episode: Episode, check: Check, *, render_mode: str | None = None, watch: Watch | None = None
) -> VerifyReport:
    """Verify one episode; `watch` sees each step."""
    connection = episode._connection
    with Resimulator(connection, check, render_mode=render_mode, watch=watch) as resimulator:
        (decode,) = whole_episodes(connection, [episode.id])
        report, unseen = resimulator.verified(decode())
    if unseen:
        raise ReplayError(f"the episode has no info {unseen[0]!r}, neither recorded nor now")
    return report


def _summary(episode: Episode) -> EpisodeSummary:
    """The summary of an episode; an empty one if it cannot be read, which its report says later."""
    try:
        return episode.summary
    except (DecodeError, EpisodeNotFound):
        return EpisodeSummary(episode.id, "", "", "running", 0, 0.0, 0.0, 0.0, None)


def _verify_many(
    connection: Connection | None,
    summaries: Sequence[Listed],
    check: Check,
    workers: int,
    progress: bool | Progress,
) -> VerifyReports:
    total = len(summaries)
    if connection is None or not total:
        return VerifyReports(())
    size = max(1, min(MAX_CHUNK, total // (workers * CHUNKS_A_WORKER)))
    numbers = iter(range(total))
    chunks = [
        [(next(numbers), one.id) for one in trip]
        for trip, _ in trips(
            connection, summaries, max_episodes=size if workers > 1 else ALONE_AT_ONCE
        )
    ]
    if workers == 1 or total == 1:
        checked = _checked_here(connection, check, chunks)
    else:
        checked = checked_in_processes(connection, check, chunks, workers)
    found: dict[int, Checked] = {}
    for number, one in reported(enumerate(checked, 1), total, progress, done_is="verified"):
        found[number] = one
    return _reports([found[number] for number in range(total)])


def _checked_here(
    connection: Connection, check: Check, chunks: Iterable[Sequence[Numbered]]
) -> Iterator[tuple[int, Checked]]:
    with Resimulator(connection, check) as resimulator:
        for chunk in chunks:
            numbers, ids = zip(*chunk, strict=True)
            for number, verify_it in zip(numbers, resimulator.read(ids), strict=True):
                checked = verify_it()
                assert checked is not None  # nothing is elsewhere
                yield number, checked


def _reports(checked: Sequence[Checked]) -> VerifyReports:
    """The reports; an info is unseen where no episode that was compared has it."""
    compared = [set(one.unseen) for one in checked if one.report.error is None]
    unseen = set.intersection(*compared) if compared else set()
    return VerifyReports([one.report for one in checked], sorted(unseen, key=str))
