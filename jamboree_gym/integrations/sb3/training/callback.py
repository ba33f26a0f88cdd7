"""`JamboreeCallback`: one line in `model.learn(...)`, and the run is known."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

from stable_baselines3.common.callbacks import BaseCallback

from jamboree_gym.checked import checked
from jamboree_gym.connection import HasConnection
from jamboree_gym.errors import InvalidArgument, InvalidRecord
from jamboree_gym.integrations.sb3.training.checkpointing import CheckpointSchedule
from jamboree_gym.integrations.sb3.training.recorded_env import RecordedEnv, recorded_env
from jamboree_gym.integrations.sb3.training.session import TrainingSession

__all__ = ["JamboreeCallback"]

CHECKPOINT_EVERY_S: Final = 60.0
KEPT_CHECKPOINTS: Final = 5


class JamboreeCallback(BaseCallback):
    """Records the training of a model: its settings, its metrics, and checkpoints.

    The model's environment must be recorded: `jam.record(venv, run="...")` anywhere in its VecEnv
    (below or above `VecMonitor`, `VecNormalize`, `VecFrameStack`, ...), or `jam.record(env, ...)`
    in each environment of a `DummyVecEnv`. If there are several recorders, the innermost counts.

    `jam.run(name)` reads back: algorithm, policy, hyperparameters, versions, machine; everything
    that SB3 logs, including results of `EvalCallback`; checkpoints, as SB3's own zip. Each step is
    annotated with `policy_version`, the number of updates of the policy that chose its action, and,
    if the algorithm has them (PPO, A2C, RecurrentPPO, MaskablePPO), `value` and `log_prob`. The
    training gives the same weights, bit for bit, as without the callback.

    A checkpoint is made about every minute and at the end of `learn`. The run keeps the newest five
    and the one at the end of each `learn`. When `learn` begins, two lines say where they are.

    Example:
        >>> env = jam.record(make_vec_env("CartPole-v1", n_envs=4), run="ppo")
        >>> model = PPO("MlpPolicy", env)
        >>> model.learn(50_000, callback=JamboreeCallback(jam))
        >>> jam.run("ppo").info["how"]
        'finished'

    Args:
        jam: The Jamboree that records the environment.
        checkpoint_every: Number of timesteps between two checkpoints, instead of the seconds; None
            = timesteps do not matter.
        checkpoint_every_s: Seconds between two checkpoints; if both are given, whichever comes
            first. "auto" = 60, unless `checkpoint_every` is given; None or 0 = seconds do not
            matter.
        keep_checkpoints: Number of the run's newest checkpoints to keep. Older ones are deleted,
            except the one at the end of each `learn`; None = keep all.
        verbose: 0 = say nothing; 1 = say at the start of `learn` what is kept where, on stdout.
        clock: Gives the time between checkpoints, seconds; it never goes back.

    Raises:
        InvalidArgument: An argument is no such number. From `learn`, before it begins: the
            environment is not recorded, or elsewhere; says how to; or `learn` was given several of
            these callbacks.
        InvalidRecord: From `learn`, at a checkpoint: `model.save()` fails; says why.
    """

    @checked
    def __init__(
        self,
        jam: HasConnection,
        *,
        checkpoint_every: int | None = None,
        checkpoint_every_s: float | Literal["auto"] | None = "auto",
        keep_checkpoints: int | None = KEPT_CHECKPOINTS,
        verbose: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(verbose)
        _check_number("checkpoint_every", checkpoint_every)
        _check_number("keep_checkpoints", keep_checkpoints)
        _check_seconds("checkpoint_every_s", checkpoint_every_s)
        if checkpoint_every_s == "auto":
            checkpoint_every_s = CHECKPOINT_EVERY_S if checkpoint_every is None else None
        self._connection = jam._connection
        self._connection.check_open()
        self._schedule = CheckpointSchedule(checkpoint_every, checkpoint_every_s, clock)
        self._keep_checkpoints = keep_checkpoints
        self._recorded: RecordedEnv | None = None
        self._session: TrainingSession | None = None

    @property
    def run(self) -> str:
        """Name of the run, once `learn` has begun.

        Raises:
            InvalidRecord: It has not.
        """
        return self._of_learn().run

    def _of_learn(self) -> RecordedEnv:
        if self._recorded is None:
            raise InvalidRecord("the run is not known before model.learn(callback=...) has begun")
        return self._recorded

    def _init_callback(self) -> None:
        self._recorded = recorded_env(self.model.get_env())
        if self._recorded.jam is not self._connection:
            raise InvalidArgument(
                "the model's environment is recorded through another Jamboree than this callback "
                "was given: give it that one, JamboreeCallback(jam)"
            )

    def _on_training_start(self) -> None:
        _check_alone(self.locals.get("callback", self))
        self._session = TrainingSession(
            self.model, self._of_learn(), keep_checkpoints=self._keep_checkpoints
        )
        self._schedule.start_over(self.num_timesteps)
        if self.verbose >= 1:
            print(self._announcement())

    def _announcement(self) -> str:
        newest = self._keep_checkpoints
        stay = "all stay" if newest is None else f"the newest {newest} stay"
        jam, algorithm = self._connection, type(self.model).__name__
        return (
            f"Run {self.run!r} is kept on {jam.store.where}, namespace {jam.keyspace.namespace!r}: "
            f"steps, metrics, a checkpoint {self._schedule} ({stay})\n"
            f"After a kill, continue with jam.run({self.run!r}).resume({algorithm}, env)"
        )

    def _on_rollout_start(self) -> None:
        if self._session is not None:
            self._session.annotate_version()

    def _on_step(self) -> bool:
        session = self._session
        if session is not None:
            session.timesteps = self.num_timesteps
            session.annotate_version()
            if self._schedule.is_due(self.num_timesteps):
                session.checkpoints.save()
                self._schedule.start_over(self.num_timesteps)
        return True

    def _on_training_end(self) -> None:
        session = self._session
        if session is not None:
            session.timesteps = self.model.num_timesteps
            try:
                session.checkpoints.save(is_final=True)
            finally:
                session.end("finished")


def _check_alone(root: BaseCallback) -> None:
    count = sum(isinstance(one, JamboreeCallback) for one in _callbacks_in(root, set()))
    if count > 1:
        raise InvalidArgument(
            f"learn was given {count} JamboreeCallbacks, and one keeps all there is: leave out the "
            "others"
        )


def _callbacks_in(value: Any, entered: set[int]) -> Iterator[BaseCallback]:
    """A callback, and those that it calls; as often as each is called."""
    if isinstance(value, list):
        for one in value:
            yield from _callbacks_in(one, entered)
    elif isinstance(value, JamboreeCallback):
        yield value
    elif isinstance(value, BaseCallback) and id(value) not in entered:
        entered.add(id(value))
        yield value
        for one in vars(value).values():
            yield from _callbacks_in(one, entered)


def _check_number(name: str, number: int | None) -> None:
    is_number = isinstance(number, int) and not isinstance(number, bool)
    if number is not None and not (is_number and number >= 1):
        raise InvalidArgument(f"{name}={number!r}: choose a number from 1 up, or None")


def _check_seconds(name: str, seconds: float | str | None) -> None:
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if seconds not in (None, "auto") and not (is_number and 0 <= float(seconds) < math.inf):
        raise InvalidArgument(f'{name}={seconds!r}: choose seconds, "auto", or None or 0 for none')
