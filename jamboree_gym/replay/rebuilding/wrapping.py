"""Wraps an environment as recorded: decides which classes may be built, and with which arguments.

The store contains the names of classes. A class is used only if it is already loaded and on a list,
or if the caller passes it.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import gymnasium as gym
from gymnasium import wrappers as of_gymnasium
from gymnasium.envs.registration import load_env_creator

from jamboree_gym.environment.arguments import arguments_from_json, unkept
from jamboree_gym.environment.provenance import spec_of
from jamboree_gym.environment.references import resolved
from jamboree_gym.errors import DecodeError, ReplayError
from jamboree_gym.replay.rebuilding.known_wrappers import buildable, load_if_known, module_to_import
from jamboree_gym.replay.rebuilding.named_modules import check_arguments
from jamboree_gym.wrappers import RecentTransactionsObservation
from jamboree_gym.wrappers.recent_columns import ANNOTATION

__all__ = [
    "OBSERVERS",
    "BuiltWrapper",
    "Layers",
    "Limit",
    "damaged",
    "ignored_infos",
    "layers_of",
    "wrap_again",
]

BuiltWrapper: TypeAlias = type[gym.Wrapper[Any, Any, Any, Any]] | partial[Any]
"""A wrapper class that may be built; with `functools.partial`, also its arguments."""

# Wrappers that change only infos, not what a step takes or returns: a replay leaves them out.
_STATISTICS = (
    "gymnasium.wrappers.common:RecordEpisodeStatistics",
    "gymnasium.wrappers.vector.common:RecordEpisodeStatistics",
    "stable_baselines3.common.monitor:Monitor",
    "stable_baselines3.common.vec_env.vec_monitor:VecMonitor",
)
OBSERVERS = (
    *_STATISTICS,
    "gymnasium.wrappers.vector.dict_info_to_list:DictInfoToList",
    "gymnasium.wrappers.vector.rendering:HumanRendering",
    "gymnasium.wrappers.vector.rendering:RecordVideo",
    "gymnasium.wrappers.rendering:HumanRendering",
    "gymnasium.wrappers.rendering:RecordVideo",
    "gymnasium.wrappers.rendering:RenderCollection",
    "jamboree_gym.integrations.sb3:VecRecordEpisodes",
    "jamboree_gym.integrations.sb3.vec_record:VecRecordEpisodes",
    "jamboree_gym.wrappers.record:RecordEpisodes",
    "jamboree_gym.wrappers.record_vector:RecordEpisodes",
    "stable_baselines3.common.vec_env.vec_check_nan:VecCheckNan",
    "stable_baselines3.common.vec_env.vec_video_recorder:VecVideoRecorder",
)
# Wrappers that a spec omits, by class.
_TIME_LIMIT = "gymnasium.wrappers.common.TimeLimit"
_NOT_IN_SPEC = (
    "gymnasium.wrappers.common.OrderEnforcing",
    "gymnasium.wrappers.common.PassiveEnvChecker",
)


class Limit(NamedTuple):
    """A `TimeLimit`: a spec stores only the outermost one, without its position.

    `below` is the number of wrappers in the spec that are inside it, `steps` the limit.
    """

    below: int
    steps: Any


class Layers(NamedTuple):
    """The wrappers of an environment in its spec, innermost first, and the time limits among them.

    `limits` is None if only the spec is known.
    """

    wrappers: list[Any]
    limits: list[Limit] | None


def layers_of(provenance: Mapping[str, Any]) -> Layers:
    """The layers of an environment, according to its provenance."""
    wrappers = list(provenance["env_spec"]["additional_wrappers"])
    limits, below = [], 0
    for one in reversed(provenance["wrappers"]):
        if one["class"] == _TIME_LIMIT:
            limits.append(Limit(below, one["kwargs"]["max_episode_steps"]))
        elif one["class"] not in _NOT_IN_SPEC:
            below += 1
    return Layers(wrappers, limits if limits and below == len(wrappers) else None)


def wrap_again(
    env: gym.Env[Any, Any],
    layers: Layers,
    trusted: Sequence[BuiltWrapper],
    *,
    trust_entry_point: bool,
) -> gym.Env[Any, Any]:
    """Wrap an environment that was just made, and has the wrappers that its registration adds.

    `trusted` and `trust_entry_point` are the arguments of `rebuild_env`.

    Raises:
        ReplayError: A wrapper must not be built, or cannot be.
    """
    own_wrappers, own_limits = _registered_layers(env)
    limits = deque((layers.limits or [])[own_limits:])
    for number, wrapper in enumerate(layers.wrappers):
        while limits and limits[0].below <= number:
            env = _limited(env, limits.popleft())
        if number >= own_wrappers:
            env = _wrap(env, wrapper, trusted, trust_entry_point=trust_entry_point)
    for limit in limits:
        env = _limited(env, limit)
    return env


def _registered_layers(env: gym.Env[Any, Any]) -> tuple[int, int]:
    """Number of wrappers, and of time limits, that a registered environment adds by itself."""
    spec, limits = spec_of(env), 0
    wrappers = 0 if spec is None else len(spec.additional_wrappers)
    while isinstance(env, gym.Wrapper):
        limits += type(env) is of_gymnasium.TimeLimit
        env = env.env
    return wrappers, limits


def _limited(env: gym.Env[Any, Any], limit: Limit) -> gym.Env[Any, Any]:
    if not isinstance(limit.steps, int) or limit.steps < 1:
        raise ReplayError(f"the episode's provenance is damaged: a limit of {limit.steps!r} steps")
    return of_gymnasium.TimeLimit(env, limit.steps)


def _wrap(
    env: gym.Env[Any, Any],
    wrapper: Any,
    trusted: Sequence[BuiltWrapper],
    *,
    trust_entry_point: bool,
) -> gym.Env[Any, Any]:
    """Rebuild a wrapper; its entry point must be exactly the name of a class that may be built."""
    try:
        name, entry_point, kwargs = wrapper["name"], wrapper["entry_point"], wrapper["kwargs"]
        load_if_known(entry_point)
        known = {_entry_point_of(one): one for one in (*buildable(), *trusted)}.get(entry_point)
        missing = unkept(wrapper)
        if kwargs is not None:
            kwargs = arguments_from_json(wrapper)
    except (AttributeError, DecodeError, KeyError, TypeError, ValueError) as error:
        raise damaged(error) from error
    if known is None and entry_point in OBSERVERS:
        return env
    try:
        if known is None and trust_entry_point:
            known = load_env_creator(entry_point)
        if missing is not None and not isinstance(known, partial):
            raise ReplayError(
                f"the wrapper {name} cannot be rebuilt: {missing}\n"
                f"say it: wrappers=[functools.partial({name}, ...)], or verify(..., make=lambda: "
                "...) with all that makes the environment (in a shell: --make module:function)"
            )
        module = None if known is not None else module_to_import(entry_point)
        if module is not None:
            raise ReplayError(
                f"the episode was recorded through {entry_point}, which is not loaded here, and "
                f"nothing that is stored is imported\nload it first: import {module}"
            )
        if known is None:
            raise ReplayError(
                f"the episode was recorded through {entry_point}, which cannot be rebuilt: hand "
                f"its class to it (wrappers=[{name}])\n"
                "or say how to make all of it: verify(..., make=lambda: ...) (in a shell: --make "
                "module:function)"
            )
        if known is RecentTransactionsObservation:
            _check_shows_only_the_episode(kwargs)
        arguments = resolved(
            _arguments(known, kwargs), f"the wrapper {name}", trust=trust_entry_point
        )
        if not trust_entry_point:
            check_arguments(arguments, f"the wrapper {name}")
        wrapped: gym.Env[Any, Any] = known(env, **arguments)
    except ReplayError:
        raise
    except Exception as error:
        raise ReplayError(f"the wrapper {name} cannot be rebuilt: {error}") from error
    return wrapped


def _entry_point_of(wrapper: Any) -> str:
    """The entry point in Gymnasium's notation."""
    known = wrapper.func if isinstance(wrapper, partial) else wrapper
    return f"{known.__module__}:{known.__name__}"


def _arguments(wrapper: Any, kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments for a wrapper: the stored ones, unless the caller has passed others."""
    if isinstance(wrapper, partial):
        return {}
    if kwargs is not None:
        return dict(kwargs)
    _, *others = inspect.signature(wrapper).parameters
    if others:
        raise ReplayError(
            f"the wrapper {wrapper.__name__} does not tell what {others[0]} was: say it "
            f"(wrappers=[functools.partial({wrapper.__name__}, {others[0]}=...)])"
        )
    return {}


def _check_shows_only_the_episode(kwargs: Mapping[str, Any]) -> None:
    if kwargs.get("across_episodes"):
        raise ReplayError(
            "the observations hold transactions of earlier episodes (across_episodes=True): record "
            "inside RecentTransactionsObservation, and the environment itself can be replayed"
        )
    annotations = [field for field in kwargs.get("fields", ()) if str(field).startswith(ANNOTATION)]
    if annotations:
        raise ReplayError(
            f"the observations hold annotations ({annotations[0]}), and no agent plays "
            "in a replay: record inside RecentTransactionsObservation"
        )


def ignored_infos(provenance: Mapping[str, Any]) -> set[Any]:
    """Infos that a replay lacks: statistics, which contain the elapsed time of an episode."""
    try:
        spec, vector = provenance["env_spec"], provenance.get("vector")
        if spec is None:  # made without `gymnasium.make`, and handed over to be made again
            by_hand = provenance["wrappers"]
            wrappers = [(_as_entry_point(one["class"]), one["kwargs"]) for one in by_hand]
        else:
            wrappers = [(one["entry_point"], one["kwargs"]) for one in spec["additional_wrappers"]]
        outside = [] if vector is None else vector["wrappers"]
        wrappers += [(_as_entry_point(name), None) for name in outside]
        found = [
            (kwargs or {}).get("stats_key", "episode")
            for name, kwargs in wrappers
            if name in _STATISTICS
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise damaged(error) from error
    return set(found)


def _as_entry_point(name: str) -> str:
    return ":".join(name.rsplit(".", 1))


def damaged(error: Exception) -> ReplayError:
    """The error for a provenance that this package cannot have written."""
    return ReplayError(f"the episode's provenance is damaged: {error!r}")
