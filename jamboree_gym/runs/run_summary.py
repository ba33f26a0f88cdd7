"""What a table of runs shows of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any, Literal

from jamboree_gym.encoding.summary_codec import StoredSummary
from jamboree_gym.runs.sessions import RunSession
from jamboree_gym.tables.text_table import number
from jamboree_gym.wording import counted, one_line

__all__ = ["RunState", "RunSummary", "run_state", "summary_of_run"]

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


def summary_of_run(
    name: str,
    episodes: Sequence[StoredSummary],
    sessions: Sequence[RunSession],
    checkpoints: int,
    now: float,
) -> RunSummary:
    """Summarise a run.

    Args:
        name: Its name.
        episodes: Its episodes by their start, with their status as of now.
        sessions: Its sessions, the oldest first.
        checkpoints: Number of its checkpoints.
        now: Epoch seconds.
    """
    over = [one for one in episodes if one.status in ("terminated", "truncated")]
    newest = nlargest(AVERAGED, [one for one in over if one.returns is None], key=ended_at)
    returns = [one.episode_return for one in newest]
    return RunSummary(
        name,
        run_state(episodes, sessions),
        sorted({one.env_id for one in episodes} - {""}),
        len(episodes),
        sum(one.steps for one in episodes),
        min((one.started_at for one in episodes), default=None),
        max(map(ended_at, episodes), default=None),
        sum(returns) / len(returns) if returns else None,
        checkpoints,
        episodes[-1].decoded_tags() if episodes else {},
        steps_per_s(episodes, now),
        _mean_returns([one for one in over if one.returns is not None]),
    )


def _mean_returns(several: Sequence[StoredSummary]) -> tuple[float, ...] | None:
    """The mean of each return, of episodes with several."""
    newest = nlargest(AVERAGED, several, key=ended_at)
    found = [one.returns for one in newest if one.returns is not None]
    alike = [returns for returns in found if len(returns) == len(found[0])]
    return tuple(sum(each) / len(each) for each in zip(*alike, strict=True)) if alike else None


def run_state(episodes: Sequence[StoredSummary], sessions: Sequence[RunSession]) -> RunState:
    """Whether a run is running, and if not, whether its newest episode or session was cut off."""
    status = [(ended_at(one), one.status == "interrupted") for one in episodes]
    status += [(one.ended_at or one.began_at, one.how == "interrupted") for one in sessions]
    if any(one.status == "running" for one in episodes) or any(
        one.how == "running" for one in sessions
    ):
        return "running"
    _, is_cut_off = max(status, default=(0.0, False))  # at one time: the one that was cut off
    return "interrupted" if is_cut_off else "stopped"


def ended_at(episode: StoredSummary) -> float:
    """Time of its newest step, epoch seconds."""
    return episode.started_at + episode.elapsed_s


def steps_per_s(episodes: Iterable[StoredSummary], now: float) -> float:
    """Steps per second of the last minute, as if each episode had taken its steps evenly."""
    since = now - RATED_S
    rated = [one for one in episodes if one.elapsed_s > 0 and ended_at(one) > since]
    steps = sum(
        one.steps * (ended_at(one) - max(one.started_at, since)) / one.elapsed_s for one in rated
    )
    began = min((max(one.started_at, since) for one in rated), default=now)
    return steps / (now - began) if now > began else 0.0
