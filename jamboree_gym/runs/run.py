"""`Run`: what was trained under a name, from the first session to the newest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from jamboree_gym.arrays.values import check_text
from jamboree_gym.connection import Connection
from jamboree_gym.delivery.stays_here import StaysHere
from jamboree_gym.errors import CheckpointNotFound, InvalidArgument, RunNotFound
from jamboree_gym.reading.query import EpisodeQuery, found_by
from jamboree_gym.runs.checkpoints import Checkpoint, CheckpointHandler
from jamboree_gym.runs.metrics import MetricHandler, metric_table
from jamboree_gym.runs.sessions import EVERYTHING, RunSession, SessionHandler, sessions_of

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["Run"]

Model = TypeVar("Model")


class Run(StaysHere):
    r"""Reads what a `JamboreeCallback` has kept of a run; holds nothing itself.

    Example:
        >>> run = jam.run("ppo")
        >>> print(*run.history, sep="\n")
        2026-05-01 10:00:00 to 2026-05-01 10:02:11: timesteps 0 to 61440: finished

    Args:
        connection: Where it is stored.
        name: The run's name.
    """

    instead = "take its `name`, and `jam.run(name)` of a Jamboree there"

    def __init__(self, connection: Connection, name: str) -> None:
        if not isinstance(name, str):
            raise InvalidArgument(f"a run has a name, not {name!r} of type {type(name).__name__}")
        self.name = check_text("name", name, InvalidArgument)
        self._connection = connection
        self._sessions = SessionHandler(connection, name)
        self._metrics = MetricHandler(connection, name)
        self._checkpoints = CheckpointHandler(connection, name)

    @property
    def episodes(self) -> EpisodeQuery:
        """Its episodes, the one that began first at the front."""
        return EpisodeQuery(self._connection).where(run=self.name)

    @property
    def history(self) -> list[RunSession]:
        """Its sessions, the oldest first: each call of `learn`, and how it ended.

        Empty where nothing was trained with a `JamboreeCallback`.
        """
        records = self._sessions.many(EVERYTHING)
        return sessions_of(
            records,
            self._connection.dead,
            lambda: found_by(self.episodes, is_complete=False)[1],
            where=f"run {self.name!r}",
        )

    @property
    def info(self) -> dict[str, Any]:
        """What was trained, as of the newest session.

        Returns:
            A dict with `algorithm`, `policy`, `hyperparameters` (what is no JSON as text, a
            schedule as its values at the `start` and at the `end`), `versions`, `platform`,
            `git_commit`, `host`, `pid`, `device`, `seed`, `n_envs`, `vec_env` (its wrappers,
            outermost first), `recorded` and `learned` (whether the observations and rewards that
            are recorded, and those that the model learned from, are `raw` or `normalised`),
            `timesteps_asked`; and of the session `session`, `how`, `began_at`, `ended_at`,
            `timesteps`, `resumed_from`.

        Raises:
            RunNotFound: Nothing was trained with a `JamboreeCallback`.
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
        """All that was logged, a row for each time that something was, the oldest first.

        Example:
            >>> table = jam.run("ppo").metrics()
            >>> table.select(["timesteps", "rollout/ep_rew_mean"]).to_pandas()

        Returns:
            A `pyarrow.Table` with `timesteps` (int64), `at` (epoch seconds), `session`, and a
            column for each name whose values are numbers or texts: `train/loss`,
            `rollout/ep_rew_mean`, `eval/mean_reward`; null where it was not logged.
        """
        return metric_table(self._metrics.many(EVERYTHING), where=f"run {self.name!r}")

    def checkpoints(self) -> list[Checkpoint]:
        """What is known of its checkpoints, the oldest first. None of their content is read."""
        return self._checkpoints.checkpoints()

    def checkpoint(
        self,
        number: int | None = None,
        *,
        policy_version: int | None = None,
        session: str | None = None,
    ) -> Checkpoint:
        """The newest checkpoint, or the newest of which all of this is true.

        Without arguments it takes a millisecond, however many there are, and passes over one that
        is not whole yet: so actors can look as often as they like for newer weights.

        Example:
            >>> step = episode.recent(1)
            >>> version = int(step.annotations["policy_version"][0])
            >>> model = jam.run("ppo").checkpoint(policy_version=version).load(PPO)

        Args:
            number: Its number.
            policy_version: The one that steps are annotated with in which it acted. After a
                resumption numbers come again, with other weights.
            session: Only of the session with this id.

        Raises:
            CheckpointNotFound: There is none; says which there are.
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
            f"run {self.name!r} has no checkpoint{_shown(asked)}"
            + (f"; it has {listed}: " if listed else " at all: ")
            + "JamboreeCallback(jam, checkpoint_every=...) makes "
            + ("more" if listed else "some")
        )

    def resume(
        self,
        algorithm: type[Model],
        env: Any,
        *,
        checkpoint: Checkpoint | None = None,
        refill: bool = True,
        **options: Any,
    ) -> Model:
        """The model of the newest checkpoint, to go on with in this process.

        With its `num_timesteps`, the statistics of its `VecNormalize`, and, if it has a replay
        buffer, the newest of the run's transitions in it, also those after the checkpoint. Where a
        seed was set, the generators get another one, so that it does not see its first episodes
        again. A checkpoint that is not whole (its process died saving it) is passed over.

        As with `Checkpoint.load`, code that is in the checkpoint runs.

        Example:
            >>> env = jam.record(make_vec_env("CartPole-v1", 4), run="dqn")
            >>> model = jam.run("dqn").resume(DQN, env)
            >>> model.learn(50_000, reset_num_timesteps=False, callback=JamboreeCallback(jam))

        Args:
            algorithm: The class that was trained: `PPO`, `DQN`, ...
            env: Recorded into this run, and wrapped as it was.
            checkpoint: Another one than the newest.
            refill: Whether to fill a replay buffer.
            **options: More for `algorithm.load`: `device=`, `custom_objects=`.

        Raises:
            CheckpointNotFound: There is none.
            InvalidArgument: The env is not recorded into this run, or what was recorded is not what
                a replay buffer holds; says what to do.
            BufferMismatch: Likewise, where a wrapper above the recorder may change what the model
                sees (`VecFrameStack`; not `VecNormalize`, `VecTransposeImage`, `VecMonitor`).
            MissingExtra: Stable-Baselines3 is not installed.
        """
        candidates = self.checkpoints()[::-1] if checkpoint is None else [checkpoint]
        if not candidates:
            self.checkpoint()  # raises
        resumed: Model = _resuming().resume(
            self.name, self.episodes, candidates, algorithm, env, refill, options
        )
        return resumed

    def __repr__(self) -> str:
        """Its name."""
        return f"<run {self.name!r}>"


def _shown(asked: dict[str, Any]) -> str:
    parts = [f"{name}={value!r}" for name, value in asked.items()]
    return f" with {', '.join(parts)}" if parts else ""


def _resuming() -> ModuleType:
    from jamboree_gym.integrations.sb3.training import resuming  # it loads torch

    return resuming
