"""One session of a run: what is kept of a call of `learn`, from its beginning to its end."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from jamboree_gym.errors import JamboreeError
from jamboree_gym.integrations.sb3.training.checkpointing import ModelCheckpoints
from jamboree_gym.integrations.sb3.training.described_model import described_model
from jamboree_gym.integrations.sb3.training.learning import LearnWatch
from jamboree_gym.integrations.sb3.training.logger_links import link_run
from jamboree_gym.integrations.sb3.training.metric_writer import MetricWriter
from jamboree_gym.integrations.sb3.training.policy_watch import PolicyWatch
from jamboree_gym.integrations.sb3.training.recorded_env import RecordedEnv
from jamboree_gym.recording.episode_handler import EpisodeHandler
from jamboree_gym.runs.metrics import MetricHandler
from jamboree_gym.runs.sessions import SessionEnd, SessionHandler

__all__ = ["TrainingSession", "resumed_from"]

resumed_from: WeakKeyDictionary[BaseAlgorithm, int] = WeakKeyDictionary()
"""Models that `Run.resume` has made, until they learn: number of the checkpoint they came from."""

_open_sessions: WeakKeyDictionary[BaseAlgorithm, TrainingSession] = WeakKeyDictionary()


class TrainingSession:
    """Begins when it is made, within `learn`; watches model and logger until `end`.

    Args:
        model: The model that learns.
        recorded: Its environment.
        keep_checkpoints: How many of the run's newest checkpoints stay; None = all.

    Attributes:
        timesteps: The model's, after its newest step.
        checkpoints: Of the model.
    """

    def __init__(
        self, model: BaseAlgorithm, recorded: RecordedEnv, *, keep_checkpoints: int | None
    ) -> None:
        jam, run = recorded.jam, recorded.run
        if model in _open_sessions:
            _open_sessions[model].end("raised")  # it is learning again before that was noticed
        self.timesteps = model.num_timesteps
        self._model = model
        self._recorded = recorded
        self._annotator = recorded.annotator
        self._id = jam.new_episode_id()
        self._sessions = SessionHandler(jam, run)
        self.checkpoints = ModelCheckpoints(
            model, jam, run, session=self._id, newest=keep_checkpoints
        )
        self._lock = threading.Lock()
        self._is_over = False
        self._writer = MetricWriter(MetricHandler(jam, run), self._id)
        self._logger = model.logger
        self._policy: PolicyWatch | None = None
        self._sessions.begin(
            self._id,
            timesteps=self.timesteps,
            resumed_from=resumed_from.pop(model, None),
            steps={one["episode"]: _steps(one) for one in recorded.handlers},
            info=_info(model, recorded),
        )
        link_run(jam, run, model.logger, self.timesteps)
        self._logger.output_formats.append(self._writer)
        if isinstance(model, OnPolicyAlgorithm):
            self._policy = PolicyWatch(model.policy, self._annotate)
        _open_sessions[model] = self
        self._learn = LearnWatch(self._end_raised)
        jam.add_close_callback(self._end_raised)

    def _annotate(self, result: Any) -> None:
        self._annotator.annotate_forward(self._model._n_updates, result)

    def annotate_version(self) -> None:
        """Annotate the next step with the version of its policy, unless `forward` does it."""
        if self._policy is None:
            self._annotator.annotate_version(self._model._n_updates)

    def end(self, how: SessionEnd) -> None:
        """It is over; model and logger are as they were. A second call does nothing."""
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
        _open_sessions.pop(self._model, None)
        if self._policy is not None:
            self._policy.remove()
        if self._writer in self._logger.output_formats:
            self._logger.output_formats.remove(self._writer)
        self._annotator.drop_annotations()  # they were said of a step that does not come
        self._learn.end()
        self.checkpoints.end()
        self._recorded.jam.remove_close_callback(self._end_raised)
        self._sessions.end(self._id, how, timesteps=self.timesteps)

    def _end_raised(self) -> None:
        with suppress(JamboreeError):  # what is not saved, flush and close will say
            self.end("raised")


def _info(model: BaseAlgorithm, recorded: RecordedEnv) -> Mapping[str, Any]:
    return {
        **described_model(model),
        "vec_env": list(recorded.wrappers),
        "recorded": recorded.recorded,
        "learned": recorded.learned,
    }


def _steps(handler: EpisodeHandler) -> int:
    """How many steps the current episode has; from memory."""
    steps = handler._steps
    return 0 if steps is None else max(0, steps.rows_put - 1)
