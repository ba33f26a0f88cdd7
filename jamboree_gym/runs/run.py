"""`Run`: everything that was trained under one name, from the first session to the newest."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from jamboree_gym.arrays.values import check_text
from jamboree_gym.checked import Count, checked
from jamboree_gym.connection import Connection
from jamboree_gym.encoding.summary_codec import StoredSummary
from jamboree_gym.errors import (
    CheckpointNotFound,
    DecodeError,
    EpisodeInUse,
    InvalidArgument,
    RunNotFound,
)
from jamboree_gym.handlers.flags import flagged_episodes
from jamboree_gym.progress import Progress
from jamboree_gym.reading.episode import Episode
from jamboree_gym.reading.finding.names import check_runs
from jamboree_gym.reading.query import EpisodeQuery, found_by
from jamboree_gym.records import StepData
from jamboree_gym.runs.checkpoints import Checkpoint, CheckpointHandler
from jamboree_gym.runs.deletion import delete_run
from jamboree_gym.runs.metrics import MetricHandler, metric_table
from jamboree_gym.runs.newest_steps import newest_steps
from jamboree_gym.runs.read_runs import read_run_summaries
from jamboree_gym.runs.run_report import RunReport, report_of_run
from jamboree_gym.runs.run_summary import RunState, RunSummary, summary_of_run
from jamboree_gym.runs.run_table import run_columns
from jamboree_gym.runs.sessions import EVERYTHING, RunSession, SessionHandler, sessions_of
from jamboree_gym.tables.text_table import ReadWhenShown, html_table

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["Run"]

Model = TypeVar("Model")


class Run(ReadWhenShown):
    r"""Reads what was recorded under a name; keeps nothing in memory.

    Everything that is read of a run in which nothing was recorded raises `RunNotFound`, which names
    the runs that there are.

    Example:
        >>> run = jam.run("ppo")
        >>> print(*run.history, sep="\n")
        2026-05-01 10:00:00 to 2026-05-01 10:02:11: timesteps 0 to 61440: finished

    Args:
        connection: The store of the run.
        name: The run's name.
        wait: Whether such a run is one that is to come: then it is empty.
    """

    @checked
    def __init__(self, connection: Connection, name: str, *, wait: bool = False) -> None:
        self.name = check_text("name", name, InvalidArgument)
        self._connection = connection
        self._waits = wait
        self._sessions = SessionHandler(connection, name)
        self._metrics = MetricHandler(connection, name)
        self._checkpoints = CheckpointHandler(connection, name)

    @property
    def episodes(self) -> EpisodeQuery:
        """Its episodes, ordered by their start."""
        return EpisodeQuery(self._connection, wait=self._waits).where(run=self.name)

    @property
    def summary(self) -> RunSummary:
        """State, number of episodes and steps, returns and so on, as of now."""
        (summary,) = read_run_summaries(self._connection, [self.name])
        if not summary.episodes:
            self._check_it_is_there()
        return summary

    def report(self) -> RunReport:
        """How it stands: alive or stuck, returns, metrics now and an hour ago, what is odd.

        Reads the summaries of its episodes and all of its metrics.

        Example:
            >>> print(jam.run("ppo").report())
            ppo: running, but stuck; 0 steps/s, newest sign 12 min ago
        """
        _, episodes = found_by(self.episodes, is_complete=False)
        sessions, checkpoints = self.history, self.checkpoints()
        metrics = self.metrics()
        now = self._connection.clock()
        summary = summary_of_run(self.name, episodes, sessions, len(checkpoints), now)
        newest = self._checkpoints.newest()
        return report_of_run(summary, episodes, sessions, metrics, newest, now)

    @property
    def state(self) -> RunState:
        """`running`, `stopped`, or `interrupted`: its newest episode or session was cut off."""
        return self.summary.state

    @checked
    def recent(self, n: Count) -> list[tuple[Episode, StepData]]:
        """The newest n steps of all its episodes, oldest first, as `jam.tail` gives them.

        Example:
            >>> for episode, step in jam.run("ppo").recent(16):
            ...     print(episode.id, step.index, step.action, step.reward)

        Args:
            n: So many steps, or as many as it has.
        """
        _, found = found_by(self.episodes, is_complete=False)
        return newest_steps(self._connection, found, n)

    def flagged(self) -> list[Episode]:
        """Its episodes that are marked with `episode.flag(...)`, the one marked first at the front.

        Example:
            >>> for episode in jam.run("ppo").flagged():
            ...     print(episode.id, *episode.flags())
        """
        self._check_it_is_there()
        return [
            Episode(self._connection, one) for one in flagged_episodes(self._connection, self.name)
        ]

    @property
    def _all_episodes(self) -> EpisodeQuery:
        """The same, also where there are none (any more)."""
        return EpisodeQuery(self._connection, wait=True).where(run=self.name)

    def _check_it_is_there(self) -> None:
        if not self._waits:
            check_runs(self._connection, [self.name])

    @property
    def history(self) -> list[RunSession]:
        """Its sessions, the oldest first: each call of `learn`, and how it ended.

        Empty if no training used a `JamboreeCallback`.
        """
        return self._history(lambda: found_by(self._all_episodes, is_complete=False)[1])

    def _history(self, episodes: Callable[[], Collection[StoredSummary]]) -> list[RunSession]:
        """The same; `episodes` is called if a session has no end."""
        where = f"run {self.name!r}"
        records = self._sessions.many(EVERYTHING)
        history = sessions_of(records, self._connection.dead, episodes, where=where)
        if not history:
            self._check_it_is_there()
        return history

    @property
    def info(self) -> dict[str, Any]:
        """Facts about the training, from the newest session.

        Returns:
            A dict with `algorithm`, `policy`, `hyperparameters` (what is no JSON as text, a
            schedule as its values at the `start` and at the `end`), `versions`, `platform`,
            `git_commit`, `host`, `pid`, `device`, `seed`, `n_envs`, `vec_env` (its wrappers,
            outermost first), `recorded` and `learned` (whether the observations and rewards that
            are recorded, and those that the model learned from, are `raw` or `normalised`),
            `timesteps_asked`; and of the session `session`, `how`, `began_at`, `ended_at`,
            `timesteps`, `resumed_from`.

        Raises:
            RunNotFound: No training used a `JamboreeCallback`.
        """
        history = self.history
        if not history:
            raise RunNotFound(
                f"of run {self.name!r} no training is known: train it with "
                "model.learn(..., callback=JamboreeCallback(jam))"
            )
        newest = history[-1]
        return {
            **newest.info,
            "session": newest.id,
            "how": newest.how,
            "began_at": newest.began_at,
            "ended_at": newest.ended_at,
            "timesteps": newest.timesteps_to,
            "resumed_from": newest.resumed_from,
        }

    def metrics(self) -> pa.Table:
        """All logged metrics, one row for each time of logging, the oldest first.

        Example:
            >>> table = jam.run("ppo").metrics()
            >>> table.select(["timesteps", "rollout/ep_rew_mean"]).to_pandas()

        Returns:
            A `pyarrow.Table` with `timesteps` (int64), `at` (epoch seconds), `session`, and a
            column for each name whose values are numbers or texts: `train/loss`,
            `rollout/ep_rew_mean`, `eval/mean_reward`; null in rows without that value.
        """
        records = self._metrics.many(EVERYTHING)
        if not records:
            self._check_it_is_there()
        return metric_table(records, where=f"run {self.name!r}")

    def checkpoints(self) -> list[Checkpoint]:
        """Its checkpoints, the oldest first. Reads none of their content."""
        found = self._checkpoints.checkpoints()
        if not found:
            self._check_it_is_there()
        return found

    @checked
    def checkpoint(
        self,
        number: int | None = None,
        *,
        policy_version: Count | None = None,
        session: str | None = None,
    ) -> Checkpoint:
        """The newest checkpoint, or the newest one that matches all arguments.

        Without arguments it takes a millisecond, even if there are many checkpoints. It skips a
        checkpoint that is not complete yet. So actors can check for newer weights as often as they
        like.

        Example:
            >>> step = episode.recent(1)
            >>> version = int(step.annotations["policy_version"][0])
            >>> model = jam.run("ppo").checkpoint(policy_version=version).load(PPO)

        Args:
            number: Number of the checkpoint.
            policy_version: The number with which steps are annotated. After a resumption the same
                numbers occur again, with other weights.
            session: Only checkpoints of the session with this id.

        Raises:
            CheckpointNotFound: No checkpoint matches; says which there are.
        """
        asked = {"number": number, "policy_version": policy_version, "session": session}
        asked = {name: value for name, value in asked.items() if value is not None}
        if not asked and (newest := self._checkpoints.newest()) is not None:
            return newest
        found = self.checkpoints()
        for one in reversed(found):
            if all(getattr(one, name) == value for name, value in asked.items()):
                return one
        listed = ", ".join(f"{one.number} ({one.policy_version} updates)" for one in found)
        raise CheckpointNotFound(
            f"run {self.name!r} has no checkpoint{_conditions(asked)}"
            + (f"; it has {listed}: " if listed else " at all: ")
            + "JamboreeCallback(jam, checkpoint_every=...) makes "
            + ("more" if listed else "some")
        )

    @checked
    def resume(
        self,
        algorithm: type[Model],
        env: Any,
        *,
        checkpoint: Checkpoint | None = None,
        refill: bool = True,
        **options: Any,
    ) -> Model:
        """The model of the newest checkpoint, ready to continue training in this process.

        The model has its `num_timesteps` and the statistics of its `VecNormalize`. If it has a
        replay buffer, the buffer holds the newest transitions of the run, also those after the
        checkpoint. If a seed was set, the generators get another seed, so that the model does not
        see its first episodes again. An incomplete checkpoint (its process died while saving) is
        skipped.

        As with `Checkpoint.load`, code from the checkpoint runs.

        Example:
            >>> env = jam.record(make_vec_env("CartPole-v1", 4), run="dqn")
            >>> model = jam.run("dqn").resume(DQN, env)
            >>> model.learn(50_000, reset_num_timesteps=False, callback=JamboreeCallback(jam))

        Args:
            algorithm: The model's class: `PPO`, `DQN`, ...
            env: The environment, recorded into this run and wrapped as before.
            checkpoint: The checkpoint to use; None = the newest.
            refill: Whether to fill a replay buffer.
            **options: More arguments for `algorithm.load`: `device=`, `custom_objects=`.

        Raises:
            CheckpointNotFound: There is no checkpoint.
            InvalidArgument: The env is not recorded into this run, the checkpoint is of another
                algorithm, or a replay buffer cannot hold what was recorded; says what to do.
            BufferMismatch: Likewise, where a wrapper above the recorder may change what the model
                sees (`VecFrameStack`; not `VecNormalize`, `VecTransposeImage`, `VecMonitor`).
            MissingExtra: Stable-Baselines3 is not installed.
        """
        candidates = self.checkpoints()[::-1] if checkpoint is None else [checkpoint]
        if not candidates:
            self.checkpoint()  # raises if there is none
        resumed: Model = _resuming().resume(
            self.name, self.episodes, candidates, algorithm, env, refill, options
        )
        return resumed

    @checked
    def delete(self, *, progress: bool | Progress = False) -> None:
        """Delete the run from Redis and from the backup, with all that was recorded under its name.

        That is its episodes, forks among them, with their frames, snapshots and flags; and its
        checkpoints, metrics and sessions. Forks that are in another run stay, and cannot be
        replayed any more. If the call is interrupted, the next one deletes the rest. Without
        checkpoints and sessions, a run is also gone once its last episode is deleted.

        Example:
            >>> jam.run("first try").delete()

        Args:
            progress: Whether to show on stderr how many episodes have been deleted; or a function
                that is called with that number and the total.

        Raises:
            RunNotFound: There is no such run; names those that there are.
            EpisodeInUse: A living process records or trains it.
        """
        self._connection.check_open()
        check_runs(self._connection, [self.name])
        if self._is_running():
            raise EpisodeInUse(
                f"run {self.name!r} is running: end the process that records it, or delete its "
                "episodes one by one"
            )
        delete_run(self._connection, self.name, progress)

    def _is_running(self) -> bool:
        try:
            return self.state == "running"
        except DecodeError:  # something beside its episodes is damaged: it can be deleted, too
            return bool(self._all_episodes.where(status="running").ids())

    def __eq__(self, other: object) -> bool:
        """Whether it is the run of this name of the same Jamboree."""
        if not isinstance(other, Run):
            return NotImplemented
        return self.name == other.name and self._connection is other._connection

    def __hash__(self) -> int:
        """Of its name."""
        return hash(self.name)

    def __repr__(self) -> str:
        """Its name."""
        return f"<run {self.name!r}>"

    def _as_text(self) -> str:
        return str(self.summary)

    def _as_html(self) -> str:
        return html_table(run_columns([self.summary], self._connection.clock()), rows=1)


def _conditions(asked: dict[str, Any]) -> str:
    parts = [f"{name}={value!r}" for name, value in asked.items()]
    return f" with {', '.join(parts)}" if parts else ""


def _resuming() -> ModuleType:
    from jamboree_gym.integrations.sb3.training import resuming  # it loads torch

    return resuming
