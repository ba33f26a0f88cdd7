"""Continues a run: loads the model of a checkpoint, and fills the replay buffer again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)

from jamboree_gym.errors import BufferMismatch, CheckpointNotFound, DecodeError, InvalidArgument
from jamboree_gym.integrations.sb3.buffers.live_replay import JamboreeReplayBuffer
from jamboree_gym.integrations.sb3.buffers.replay_buffers import fill_replay_buffer
from jamboree_gym.integrations.sb3.training.recorded_env import RecordedEnv, recorded_env
from jamboree_gym.integrations.sb3.training.session import resumed_from
from jamboree_gym.integrations.sb3.vec_record import VecRecordEpisodes
from jamboree_gym.reading.query import EpisodeQuery
from jamboree_gym.runs.checkpoints import Checkpoint
from jamboree_gym.wrappers import RecordEpisodes

__all__ = ["resume"]

_SEEDS: Final = 2**32
_WITHOUT_REFILL: Final = "pass refill=False to continue with an empty buffer"
# A buffer holds the same with them as without, or, as with `VecTransposeImage`, it is filled so.
_TRANSPARENT: Final = frozenset(
    {
        *(VecCheckNan, VecMonitor, VecNormalize, VecRecordEpisodes, VecTransposeImage),
        *(VecVideoRecorder, Monitor, RecordEpisodes, gym.wrappers.OrderEnforcing),
        *(gym.wrappers.PassiveEnvChecker, gym.wrappers.RecordEpisodeStatistics),
        *(gym.wrappers.RecordVideo, gym.wrappers.TimeLimit),
    }
)

log = logging.getLogger(__name__)


def resume(
    run: str,
    episodes: EpisodeQuery,
    candidates: Sequence[Checkpoint],
    algorithm: type[Any],
    env: Any,
    refill: bool,
    options: Mapping[str, Any],
) -> BaseAlgorithm:
    """As `Run.resume`, of the first of these checkpoints that is whole.

    Args:
        run: Name of the run.
        episodes: Those of the run.
        candidates: Its checkpoints, the one to take at the front.
        algorithm: As in `Run.resume`, like all that follow.
        env: Likewise.
        refill: Likewise.
        options: Likewise.
    """
    model, checkpoint = _first_whole(candidates, algorithm, env, options)
    recorded = recorded_env(model.get_env())
    if recorded.run != run:
        raise InvalidArgument(
            f"the env is recorded into run {recorded.run!r}, so run {run!r} would not continue: "
            f"jam.record(env, run={run!r})"
        )
    if model.seed is not None:
        model.set_random_seed((model.seed + checkpoint.timesteps) % _SEEDS)
    if refill and isinstance(model, OffPolicyAlgorithm) and model.replay_buffer is not None:
        _check_is_raw(recorded)
        count = _refilled(model.replay_buffer, episodes, recorded)
        log.info("%d transitions of run %r are in the replay buffer again", count, run)
    resumed_from[model] = checkpoint.number
    return model


def _first_whole(
    candidates: Sequence[Checkpoint], algorithm: type[Any], env: Any, options: Mapping[str, Any]
) -> tuple[BaseAlgorithm, Checkpoint]:
    for position, one in enumerate(candidates):
        try:
            return one.load(algorithm, env, **options), one
        except (CheckpointNotFound, DecodeError) as error:
            if position + 1 == len(candidates):
                raise
            log.warning("checkpoint %d is passed over: %s", one.number, error)
    raise CheckpointNotFound("no checkpoint to continue from")


def _check_is_raw(recorded: RecordedEnv) -> None:
    if "normalised" in recorded.recorded.values():
        raise InvalidArgument(
            "the run was recorded above VecNormalize, and a replay buffer holds raw values: record "
            f"below it, or {_WITHOUT_REFILL}"
        )


def _refilled(buffer: ReplayBuffer, episodes: EpisodeQuery, recorded: RecordedEnv) -> int:
    if isinstance(buffer, JamboreeReplayBuffer):
        return fill_replay_buffer(buffer, episodes)
    changing = {type(one).__name__ for one in recorded.above if type(one) not in _TRANSPARENT}
    if changing:
        raise BufferMismatch(
            f"{', '.join(sorted(changing))} may change what the model sees of what is recorded "
            f"below: record above, where the model sees it, or {_WITHOUT_REFILL}"
        )
    try:
        return fill_replay_buffer(buffer, episodes)
    except BufferMismatch as error:
        raise BufferMismatch(f"{error}; or {_WITHOUT_REFILL}") from error
