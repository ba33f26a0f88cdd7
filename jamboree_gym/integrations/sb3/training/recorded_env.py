"""Where in a model's environment the recorder is, and what it sees there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from jamboree_gym.connection import Connection
from jamboree_gym.environment.provenance import class_name
from jamboree_gym.errors import InvalidArgument
from jamboree_gym.integrations.sb3.training.policy_watch import (
    AnnotateEach,
    AnnotateTogether,
    Annotator,
)
from jamboree_gym.integrations.sb3.vec_record import VecRecordEpisodes, vec_env_chain
from jamboree_gym.recording.episode_handler import EpisodeHandler
from jamboree_gym.wrappers import RecordEpisodes

__all__ = ["RecordedEnv", "recorded_env"]

Form = Literal["raw", "normalised"]


@dataclass(frozen=True, slots=True, eq=False)
class RecordedEnv:
    """A VecEnv that is recorded.

    Attributes:
        jam: Where to.
        run: Name of the run.
        handlers: The handlers that write, one for each environment.
        annotator: Takes the annotations of the next step.
        wrappers: Classes of the VecEnv, outermost first.
        above: What is between the model and the recorder, of all environments.
        recorded: Whether `observations` and `rewards` are recorded `raw` or `normalised`.
        learned: Whether they are when the model gets them.
    """

    jam: Connection
    run: str
    handlers: Sequence[EpisodeHandler]
    annotator: Annotator
    wrappers: Sequence[str]
    above: Sequence[VecEnv | gym.Env[Any, Any]]
    recorded: dict[str, Form]
    learned: dict[str, Form]


def recorded_env(venv: VecEnv | None) -> RecordedEnv:
    """The recorder of an environment; the innermost one, if there are several.

    Args:
        venv: A VecEnv with a `VecRecordEpisodes` anywhere in it, or a `DummyVecEnv` of
            environments with a `RecordEpisodes` each.

    Raises:
        InvalidArgument: It is not recorded; says how to.
    """
    chain = [] if venv is None else list(vec_env_chain(venv))
    own = [one for one in chain if isinstance(one, VecRecordEpisodes)]
    above: list[VecEnv | gym.Env[Any, Any]]
    annotator: Annotator
    if own:
        recorder = own[-1]
        handlers, annotator = recorder.handlers, AnnotateTogether(recorder._recorder)
        place = chain.index(recorder)
        above, below = [*chain[:place]], chain[place + 1 :]
    else:
        singles = _single_recorders(chain)
        handlers, below = [one.handler for one in singles], []
        annotator = AnnotateEach(handlers)
        above = [*chain[:-1], *_above_singles(chain[-1], singles)]
    jam, run = handlers[0]._connection, own[-1].run if own else singles[0].run
    if not own and {(one.handler._connection, one.run) for one in singles} != {(jam, run)}:
        raise InvalidArgument("the environments of this VecEnv are recorded into different runs")
    wrappers = [class_name(type(one)) for one in chain]
    return RecordedEnv(jam, run, handlers, annotator, wrappers, above, _form(below), _form(chain))


def _single_recorders(chain: Sequence[VecEnv]) -> list[RecordEpisodes[Any, Any]]:
    envs = chain[-1].envs if chain and isinstance(chain[-1], DummyVecEnv) else []
    found = [_single_recorder(env) for env in envs]
    recorders = [one for one in found if one is not None]
    if not recorders or len(recorders) != len(found):
        raise InvalidArgument(
            "the model's environment is not recorded in this process, so its steps are not kept:\n"
            'model.set_env(jam.record(model.get_env(), run="...")) before model.learn(...)'
        )
    return recorders


def _single_recorder(env: gym.Env[Any, Any]) -> RecordEpisodes[Any, Any] | None:
    """The innermost."""
    found = None
    while isinstance(env, gym.Wrapper):
        found = env if isinstance(env, RecordEpisodes) else found
        env = env.env
    return found


def _above_singles(
    venv: VecEnv, recorders: Sequence[RecordEpisodes[Any, Any]]
) -> Iterator[gym.Env[Any, Any]]:
    """The wrappers around these recorders."""
    envs = venv.envs if isinstance(venv, DummyVecEnv) else []
    for env, recorder in zip(envs, recorders, strict=True):
        while isinstance(env, gym.Wrapper) and env is not recorder:
            yield env
            env = env.env


def _form(chain: Iterable[VecEnv]) -> dict[str, Form]:
    """What comes out of such wrappers."""
    normalisers = [one for one in chain if isinstance(one, VecNormalize)]
    return {
        "observations": "normalised" if any(one.norm_obs for one in normalisers) else "raw",
        "rewards": "normalised" if any(one.norm_reward for one in normalisers) else "raw",
    }
