"""Whole episodes in the layout that imitation learning takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.packing import Arrays
from jamboree_gym.checked import checked
from jamboree_gym.integrations.sb3.buffers.conversion import check_one_number
from jamboree_gym.progress import Progress, reported
from jamboree_gym.reading.bulk_read import trips, whole_episodes
from jamboree_gym.reading.query import EpisodeQuery, found_by
from jamboree_gym.reading.row_arrays import to_episode_data

__all__ = ["Trajectory", "to_trajectories"]

_T = TypeVar("_T")
_AT_ONCE = 500


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """An episode of T steps; names and layout are those of `TrajectoryWithRew` of `imitation`.

    Attributes:
        obs: (T + 1, ...), the reset's first; a dict of such for dict observations.
        acts: (T, ...), as they were recorded: not scaled.
        infos: T dicts, what each step returned.
        terminal: Whether the environment ended it: terminated or truncated, as in `imitation`.
        rews: float64 (T,).
    """

    obs: Arrays
    acts: Arrays
    infos: Sequence[Mapping[str, Any]]
    terminal: bool
    rews: npt.NDArray[np.float64]

    def __len__(self) -> int:
        """Number of steps, T."""
        return len(self.rews)


@overload
def to_trajectories(
    query: EpisodeQuery, make: None = None, *, progress: bool | Progress = False
) -> Iterator[Trajectory]: ...


@overload
def to_trajectories(
    query: EpisodeQuery, make: Callable[..., _T], *, progress: bool | Progress = False
) -> Iterator[_T]: ...


@checked
def to_trajectories(
    query: EpisodeQuery,
    make: Callable[..., Any] | None = None,
    *,
    progress: bool | Progress = False,
) -> Iterator[Any]:
    """The episodes of a query one by one, in its order, each as a trajectory.

    What is not over yet comes as far as it is. Episodes without a step are left out, because
    `imitation` refuses them. Some MB are in memory at a time.

    Example:
        >>> best = jam.episodes(run="expert").order_by("-episode_return")[:20]
        >>> trajectories = list(to_trajectories(best))
        >>> from imitation.data.types import TrajectoryWithRew
        >>> for trajectory in to_trajectories(best, TrajectoryWithRew): ...

    Args:
        query: The episodes.
        make: Gets `obs`, `acts`, `infos`, `terminal` and `rews` by name, and gives what is yielded;
            None = `Trajectory`.
        progress: Whether to show on stderr how many episodes have been read; or a function that is
            called with that number and the number of all.

    Raises:
        EpisodeNotFound: One of them has been deleted meanwhile.
        DecodeError: Bytes of one are damaged; names key and index.
    """
    return _trajectories(query, make or Trajectory, progress)


def _trajectories(
    query: EpisodeQuery, make: Callable[..., Any], progress: bool | Progress
) -> Iterator[Any]:
    connection, found = found_by(query)

    def parts() -> Iterator[tuple[int, list[partial[Any]]]]:
        done = 0
        for trip, _ in trips(connection, found, max_episodes=_AT_ONCE):
            wholes = whole_episodes(connection, [one.id for one in trip])
            done += len(trip)
            yield done, [partial(_trajectory, whole, make) for whole in wholes]

    for trip in reported(parts(), len(found), progress):
        for trajectory in (one() for one in trip):
            if trajectory is not None:
                yield trajectory


def _trajectory(whole: Callable[[], Any], make: Callable[..., Any]) -> Any:
    episode = whole()
    data = to_episode_data(episode.id, episode.rows)
    if not len(data):
        return None
    check_one_number(data.rewards)
    return make(
        obs=data.observations,
        acts=data.actions,
        infos=data.infos[1:],
        terminal=bool(data.terminations[-1] or data.truncations[-1]),
        rews=data.rewards,
    )
