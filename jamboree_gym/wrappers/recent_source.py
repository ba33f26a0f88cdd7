"""Reads the newest transactions of other episodes, in a separate thread."""

from __future__ import annotations

import heapq
import logging
import math
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Final

from jamboree_gym.errors import InvalidRecord, JamboreeClosed, JamboreeError, RunNotFound
from jamboree_gym.reading.episode import Episode
from jamboree_gym.reading.query import EpisodeQuery
from jamboree_gym.records import EpisodeSummary, StepData
from jamboree_gym.wrappers.recent_columns import Array
from jamboree_gym.wrappers.recent_view import Past

__all__ = ["Source", "SourceReader", "newest_of"]

Source = Episode | EpisodeQuery

PAUSE_S: Final = 0.05
"""Pause between two reads, seconds."""
PAUSE_PER_READ: Final = 4
"""The pause is at least this many times as long as the read: reads of a long run are rare."""
CLOSE_TIMEOUT_S: Final = 5.0

log = logging.getLogger(__name__)


class SourceReader:
    """Reads the newest n transactions of a source again and again, in a separate thread.

    If the store fails, it is asked again; until then the last result stays, and gets older. `past`,
    which keeps what is shown of them, is the thread's own.
    """

    def __init__(self, source: Source, n: int, past: Past) -> None:
        self._source, self._n, self._past = source, n, past
        self._shown: tuple[Mapping[str, Array], float] = (past.arrays(), -math.inf)
        self._error: Exception | None = None
        self._has_warned = False  # of a run that is not there (yet)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread if it does not run; a forked process has to start it again."""
        if self._stop.is_set() or (self._thread is not None and self._thread.is_alive()):
            return
        self._thread = threading.Thread(target=self._run, name="jamboree-recent", daemon=True)
        self._thread.start()

    def newest(self) -> tuple[dict[str, Array], float]:
        """What was read last, as copies, and how old it is; asks nothing of the store.

        The age is the seconds since that read began, infinite before the first.

        Raises:
            InvalidRecord: What was read does not fit the declared spaces; names the column.
        """
        if self._error is not None:
            raise self._error
        arrays, read_at = self._shown
        copies = {name: array.copy() for name, array in arrays.items()}
        return copies, time.monotonic() - read_at

    def close(self) -> None:
        """Read no more. A second call does nothing."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(CLOSE_TIMEOUT_S)
            if self._thread.is_alive():
                log.warning("a read of recent transactions has not ended: the store hangs")

    # -- the reading thread's side ----------------------------------------------------------

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stop.wait(pause_s):
            began = time.monotonic()
            try:
                self._show(newest_of(self._source, self._n), began)
            except JamboreeClosed:
                return  # for good
            except Exception as error:  # noqa: BLE001 - whatever stops the thread is raised
                if isinstance(error, InvalidRecord) or not isinstance(error, JamboreeError):
                    self._error = error  # `newest` raises it
                    return
                is_news = isinstance(error, RunNotFound) and not self._has_warned
                log.log(
                    logging.WARNING if is_news else logging.DEBUG,
                    "no recent transactions: %s",
                    error,
                )
                self._has_warned |= is_news
            pause_s = max(PAUSE_S, PAUSE_PER_READ * (time.monotonic() - began))

    def _show(self, steps: Iterable[StepData], read_at: float) -> None:
        past = self._past
        past.clear()
        for step in steps:
            for role in ("observation", "action", "reward", "info", "annotation"):
                past.set(role, getattr(step, role))
            past.commit()
        self._shown = past.arrays(), read_at


def newest_of(source: Source, n: int) -> list[StepData]:
    """The newest n transactions of an episode, or of all episodes of a query, oldest first.

    Raises:
        JamboreeError: They cannot be read.
    """
    if isinstance(source, Episode):
        return list(source.recent(n))
    newest: list[StepData] = []
    for summary in sorted(source.summaries(), key=_newest_at, reverse=True):
        if len(newest) == n and _newest_at(summary) < newest[0].timestamp:
            break  # all that follow are older still
        steps = source.episode(summary.id).recent(n)
        newest = heapq.nlargest(n, [*newest, *steps], key=lambda step: step.timestamp)[::-1]
    return newest


def _newest_at(summary: EpisodeSummary) -> float:
    """Time of the newest step, epoch seconds."""
    return summary.started_at + summary.elapsed_s
