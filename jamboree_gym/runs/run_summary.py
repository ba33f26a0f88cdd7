"""What a table of runs shows of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from jamboree_gym.encoding.summary_codec import StoredSummary
from jamboree_gym.runs.sessions import RunSession
from jamboree_gym.tables.text_table import number
from jamboree_gym.wording import counted, one_line

__all__ = ["EpisodeColumns", "RunState", "RunSummary", "summary_of_run"]

RunState = Literal["running", "stopped", "interrupted"]
"""`running`: a living process records or trains. `interrupted`: what was newest was cut off."""

AVERAGED = 10  # episodes
RATED_S = 60.0


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What is known of a run.

    Attributes:
        name: Its name.
        state: `running`, `stopped`, or `interrupted`: the process of its newest episode or session
            died.
        env_ids: Gymnasium ids of its environments, sorted.
        episodes: Number of episodes, forks left out.
        steps: Number of their steps.
        began_at: When its first episode began, epoch seconds; None without episodes.
        last_step_at: When its newest step was taken, epoch seconds; None without episodes.
        mean_return: Mean return of its newest ten episodes that reached their end; None if none
            did.
        checkpoints: Number of checkpoints.
        tags: Tags of the newest episode.
        steps_per_s: Steps per second of the last minute, as of the read.
        mean_returns: Where a reward is several numbers: the mean of each of their returns, of the
            newest ten episodes that reached their end and have as many as the newest one.
    """

    name: str
    state: RunState
    env_ids: Sequence[str]
    episodes: int
    steps: int
    began_at: float | None
    last_step_at: float | None
    mean_return: float | None
    checkpoints: int
    tags: Mapping[str, Any] = field(default_factory=dict)
    steps_per_s: float = 0.0
    mean_returns: Sequence[float] | None = None

    @property
    def environments(self) -> str:
        """The ids of its environments in one line."""
        return one_line(", ".join(self.env_ids)) or "no environment"

    @property
    def shown_return(self) -> str:
        """The mean return for a table: a number, several in brackets, or a dash."""
        if self.mean_return is None and self.mean_returns is not None:
            return f"({', '.join(map(number, self.mean_returns))})"
        return number(self.mean_return)

    def __str__(self) -> str:
        """The run in one line."""
        has_mean = self.mean_return is not None or self.mean_returns is not None
        mean = f", return of the last 10: {self.shown_return}" if has_mean else ""
        return (
            f"{one_line(self.name)} ({self.state}): {counted(self.episodes, 'episode')}, "
            f"{counted(self.steps, 'step')} of {self.environments}{mean}, "
            f"{counted(self.checkpoints, 'checkpoint')}"
        )


class EpisodeColumns(NamedTuple):
    """What a summary of a run takes from all of its episodes, by their start.

    Attributes:
        env_ids: The different ones.
        status: Of each, as all that follow.
        steps: float64.
        episode_return: float64.
        started_at: float64, epoch seconds.
        elapsed_s: float64.
        has_returns: Where a reward is several numbers.
    """

    env_ids: Collection[str]
    status: npt.NDArray[np.object_]
    steps: npt.NDArray[np.float64]
    episode_return: npt.NDArray[np.float64]
    started_at: npt.NDArray[np.float64]
    elapsed_s: npt.NDArray[np.float64]
    has_returns: npt.NDArray[np.bool_]

    @property
    def ended_at(self) -> npt.NDArray[np.float64]:
        """Time of the newest step of each, epoch seconds."""
        return self.started_at + self.elapsed_s

    @classmethod
    def of(cls, episodes: Sequence[StoredSummary]) -> EpisodeColumns:
        """Those of some summaries."""
        names = ("steps", "episode_return", "started_at", "elapsed_s")
        steps, returns, started_at, elapsed_s = (
            np.array(list(map(attrgetter(name), episodes)), np.float64) for name in names
        )
        return cls(
            {one.env_id for one in episodes},
            np.array([one.status for one in episodes], object),
            steps,
            returns,
            started_at,
            elapsed_s,
            np.array([one.returns is not None for one in episodes], np.bool_),
        )


def summary_of_run(
    name: str,
    episodes: Sequence[StoredSummary],
    sessions: Sequence[RunSession],
    checkpoints: int,
    now: float,
    columns: EpisodeColumns | None = None,
) -> RunSummary:
    """Summarise a run.

    Args:
        name: Its name.
        episodes: Its episodes by their start, with their status as of now.
        sessions: Its sessions, the oldest first.
        checkpoints: Number of its checkpoints.
        now: Epoch seconds.
        columns: Those of the episodes, where the caller has them.
    """
    of = columns or EpisodeColumns.of(episodes)
    ended_at = of.ended_at
    over = np.isin(of.status, ("terminated", "truncated"))
    returns = of.episode_return[_newest(ended_at, over & ~of.has_returns)].tolist()
    several = [episodes[row].returns for row in _newest(ended_at, over & of.has_returns)]
    return RunSummary(
        name,
        _run_state(of, sessions),
        sorted(set(of.env_ids) - {""}),
        len(episodes),
        int(of.steps.sum()),
        float(of.started_at.min()) if len(episodes) else None,
        float(ended_at.max()) if len(episodes) else None,
        sum(returns) / len(returns) if returns else None,
        checkpoints,
        episodes[-1].decoded_tags() if len(episodes) else {},
        _steps_per_s(of, now),
        _mean_returns([one for one in several if one is not None]),
    )


def _newest(ended_at: npt.NDArray[np.float64], wanted: npt.NDArray[np.bool_]) -> list[int]:
    """Rows of the wanted episodes that ended last, the last one first."""
    rows = wanted.nonzero()[0]
    order = (-ended_at[rows]).argsort(kind="stable")
    found: list[int] = rows[order[:AVERAGED]].tolist()
    return found


def _mean_returns(found: Sequence[tuple[float, ...]]) -> tuple[float, ...] | None:
    """The mean of each return, of the episodes with as many as the first."""
    alike = [returns for returns in found if len(returns) == len(found[0])]
    return tuple(sum(each) / len(each) for each in zip(*alike, strict=True)) if alike else None


def _run_state(of: EpisodeColumns, sessions: Sequence[RunSession]) -> RunState:
    """Whether a run is running, and if not, whether its newest episode or session was cut off."""
    if (of.status == "running").any() or any(one.how == "running" for one in sessions):
        return "running"
    status = [(one.ended_at or one.began_at, one.how == "interrupted") for one in sessions]
    if len(ended_at := of.ended_at):
        newest = ended_at == (at := ended_at.max())
        status.append((float(at), bool((of.status[newest] == "interrupted").any())))
    _, is_cut_off = max(status, default=(0.0, False))  # at one time: the one that was cut off
    return "interrupted" if is_cut_off else "stopped"


def ended_at(episode: StoredSummary) -> float:
    """Time of its newest step, epoch seconds."""
    return episode.started_at + episode.elapsed_s


def _steps_per_s(of: EpisodeColumns, now: float) -> float:
    """Steps per second of the last minute, as if each episode had taken its steps evenly."""
    since, ended_at = now - RATED_S, of.ended_at
    rated = (of.elapsed_s > 0) & (ended_at > since)
    began = np.maximum(of.started_at[rated], since)
    steps = of.steps[rated] * (ended_at[rated] - began) / of.elapsed_s[rated]
    first = float(began.min(initial=now))
    return float(steps.sum()) / (now - first) if now > first else 0.0
