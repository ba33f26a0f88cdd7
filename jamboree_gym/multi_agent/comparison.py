"""Compares what an agent sees in a second run with its recorded episode, some rows at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jamboree_gym.arrays.difference import Tolerance
from jamboree_gym.errors import ReplayError
from jamboree_gym.multi_agent.looks import Look
from jamboree_gym.reading.episode import Episode
from jamboree_gym.records import EpisodeSummary
from jamboree_gym.replay.verification.compare import Mismatch, SecondRun, first_mismatch
from jamboree_gym.replay.verification.compared_infos import WatchedInfos

__all__ = ["AgentComparison"]

MAX_WAITING = 128  # looks in memory, for an agent that sees pictures


class AgentComparison:
    """One episode of an agent, against what the agent sees in a second run.

    Args:
        episode: The recorded episode.
        summary: Its summary.
        tolerance: How far apart floats may be.
        infos: Whether infos are compared.

    Attributes:
        compared: Number of steps that were compared.
        mismatch: The first difference that was found, None if there is none so far.
        turn: The turn of this difference.
    """

    def __init__(
        self,
        episode: Episode,
        summary: EpisodeSummary,
        tolerance: Tolerance,
        *,
        infos: bool,
    ) -> None:
        self.episode = episode
        self.summary = summary
        self.mismatch: Mismatch | None = None
        self.turn = 0
        self._tolerance = tolerance
        self._infos = infos
        self._rows = summary.steps + 1
        self._first = 0  # number of the row of the oldest look that waits
        self._looks: list[Look] = []
        self._turns: list[int] = []

    @property
    def seen(self) -> int:
        """Number of looks so far."""
        return self._first + len(self._looks)

    @property
    def is_short(self) -> bool:
        """Whether there are more rows than looks."""
        return self.seen < self._rows

    @property
    def compared(self) -> int:
        """Number of steps that were compared, or wait to be."""
        return max(0, min(self.seen, self._rows) - 1)

    def add(self, turn: int, look: Look) -> None:
        """What the agent sees next."""
        if self.mismatch is not None:
            return
        if not self.is_short:
            if self.summary.status in ("terminated", "truncated"):
                self._differs(
                    Mismatch("length", self._rows - 1, self.seen, step=self.seen - 1), turn
                )
            return  # else it was recorded no further
        self._looks.append(look.copied())
        self._turns.append(turn)
        if len(self._looks) > MAX_WAITING:
            self._compare()

    def finish(self, turn: int, *, is_whole: bool) -> None:
        """There are no more looks; the turn is the last one of the joint episode if it is whole."""
        if self.mismatch is None and self._looks:
            self._compare()
        if is_whole and self.mismatch is None and self.is_short:
            found = Mismatch("length", self._rows - 1, self.seen - 1, step=max(0, self.seen - 1))
            self._differs(found, turn)

    def _compare(self) -> None:
        """Compare the looks that wait; the last of them is the first of the next comparison."""
        first, looks = self._first, self._looks
        rows = self.episode._rows(first, first + len(looks))
        infos = WatchedInfos(True, rows.infos) if self._infos else None
        run = SecondRun(rows, infos=infos)
        script: Any = _Script(looks[1:])
        run.play(script, looks[0].observation, looks[0].info)
        mismatch = first_mismatch(run, self._tolerance)
        if mismatch is not None:
            turn = self._turns[min(mismatch.step + 1, len(looks) - 1)]
            self._differs(replace(mismatch, step=mismatch.step + first), turn)
        self._first += len(looks) - 1
        del self._looks[:-1], self._turns[:-1]

    def _differs(self, mismatch: Mismatch, turn: int) -> None:
        self.mismatch, self.turn = mismatch, turn


class _Script:
    """Returns the looks of an agent one after the other, as the steps of an environment."""

    def __init__(self, looks: list[Look]) -> None:
        self._looks = iter(looks)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, Any]:
        """The next look; the action was taken before."""
        look = next(self._looks, None)
        if look is None:
            raise ReplayError("there is no more")
        return look.observation, look.reward, look.terminated, look.truncated, look.info
