"""Sessions of a run: each call of `learn`, from its start to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from jamboree_gym.connection import HasConnection
from jamboree_gym.encoding.summary_codec import StoredSummary
from jamboree_gym.errors import DecodeError
from jamboree_gym.handlers.db_handler import DBHandler

__all__ = ["EVERYTHING", "RunSession", "SessionEnd", "SessionHandler", "sessions_of"]

EVERYTHING: Final = 2**52  # more records than any log can have

SessionEnd = Literal["running", "finished", "raised", "interrupted"]
"""`raised`: an exception came out of `learn`. `interrupted`: its process died."""

_TIME: Final = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True, slots=True)
class RunSession:
    """One call of `learn`, as `Run.history` shows it; as text, one line.

    Attributes:
        id: Unique name of the session.
        how: `running`, `finished` (also if a callback stopped it early), `raised` an exception, or
            `interrupted`: its process died, which shows at most ten seconds later.
        began_at: Start, epoch seconds.
        ended_at: End, epoch seconds; of an interrupted session, the time of its newest recorded
            step; None while it is running.
        timesteps_from: The model's `num_timesteps` at the start.
        timesteps_to: The same at the end; while running or interrupted, at the newest recorded
            step.
        resumed_from: Number of the checkpoint that the model came from; None if it was not resumed.
        info: As `Run.info`.
        writer: Name of the process.
    """

    id: str
    how: SessionEnd
    began_at: float
    ended_at: float | None
    timesteps_from: int
    timesteps_to: int
    resumed_from: int | None
    info: Mapping[str, Any]
    writer: str

    def __repr__(self) -> str:
        """The session in one line."""
        return f"<session {self.id[:8]}: {self}>"

    def __str__(self) -> str:
        """The session in one line."""
        began, ended = (
            "now" if at is None else time.strftime(_TIME, time.localtime(at))
            for at in (self.began_at, self.ended_at)
        )
        resumed = "" if self.resumed_from is None else f", from checkpoint {self.resumed_from}"
        steps = f"timesteps {self.timesteps_from} to {self.timesteps_to}"
        return f"{began} to {ended}: {steps}{resumed}: {self.how}"


class SessionHandler(DBHandler):
    """Stores the beginning and the end of each session of a run.

    Example:
        >>> handler = SessionHandler(jam, "ppo")
        >>> handler.begin("s1", timesteps=0, resumed_from=None, steps={}, info={})
        >>> handler.end("s1", "finished", timesteps=10_000)
    """

    def __init__(self, jam: HasConnection | None = None, run: str = "") -> None:
        super().__init__(jam)
        self.entity = "run-session"
        self.required = {"run": str}
        self["run"] = run

    def begin(
        self,
        session: str,
        *,
        timesteps: int,
        resumed_from: int | None,
        steps: Mapping[str, int],
        info: Mapping[str, Any],
    ) -> None:
        """Record the beginning of a session.

        Args:
            session: A new id.
            timesteps: The model's `num_timesteps`.
            resumed_from: Number of the checkpoint that the model came from.
            steps: Number of recorded steps of each episode that is already running.
            info: Any other facts about the session.
        """
        self.save(
            {
                "event": "began",
                "session": session,
                "writer": self._connection.writer_name,
                "timesteps": timesteps,
                "resumed_from": resumed_from,
                "steps": dict(steps),
                "info": dict(info),
            }
        )

    def end(self, session: str, how: SessionEnd, *, timesteps: int) -> None:
        """Record the end of a session."""
        self.save({"event": "ended", "session": session, "how": how, "timesteps": timesteps})


def sessions_of(
    records: Sequence[Mapping[str, Any]],
    dead: Callable[[set[str]], Collection[str]],
    listing: Callable[[], Collection[StoredSummary]],
    *,
    where: str,
) -> list[RunSession]:
    """The sessions in these records, the oldest first.

    Args:
        records: Records of a `SessionHandler`, oldest first.
        dead: Returns which of some writers hold no lease.
        listing: Returns summaries of the run's episodes; called only if a session has no end.
        where: Name of the log, for errors.

    Raises:
        DecodeError: The records are not of sessions.
    """
    try:
        ends = {str(one["session"]): one for one in records if one["event"] == "ended"}
        began = {str(one["session"]): one for one in records if one["event"] == "began"}
        writers = {str(one["writer"]) for name, one in began.items() if name not in ends}
    except KeyError as error:
        raise _no_sessions(where, error) from error
    gone, episodes = (dead(writers), listing()) if writers else ((), ())
    try:
        return [_session(one, ends.get(name), gone, episodes) for name, one in began.items()]
    except (KeyError, TypeError, ValueError) as error:
        raise _no_sessions(where, error) from error


def _no_sessions(where: str, error: Exception) -> DecodeError:
    return DecodeError(f"{where}: not the sessions of a run: {error!r}")


def _session(
    began: Mapping[str, Any],
    end: Mapping[str, Any] | None,
    dead: Collection[str],
    episodes: Collection[StoredSummary],
) -> RunSession:
    at, first = float(began["timestamp"]), int(began["timesteps"])
    how: SessionEnd
    ended_at: float | None
    if end is not None:
        how, ended_at, reached = end["how"], float(end["timestamp"]), int(end["timesteps"])
    else:
        is_dead = began["writer"] in dead
        steps, newest_at = _recorded(began, episodes)
        how, reached = "interrupted" if is_dead else "running", first + steps
        ended_at = max(at, newest_at) if is_dead else None
    return RunSession(
        began["session"],
        how,
        at,
        ended_at,
        first,
        reached,
        began["resumed_from"],
        began["info"],
        began["writer"],
    )


def _recorded(began: Mapping[str, Any], episodes: Collection[StoredSummary]) -> tuple[int, float]:
    """Number of steps that a session has recorded, and the time of the newest one."""
    before, writer, at = began["steps"], bytes.fromhex(began["writer"]), began["timestamp"]
    own = [
        one
        for one in episodes
        if one.writer == writer and (one.id in before or one.started_at >= at)
    ]
    steps = sum(one.steps - before.get(one.id, 0) for one in own)
    return steps, max((one.started_at + one.elapsed_s for one in own), default=at)
