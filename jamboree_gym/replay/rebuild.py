"""Making the environment of an episode again, from what is registered and installed here.

The store only names things. A name is looked up in Gymnasium's registry or compared with that of a
class that is loaded anyway; it is never imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator

from jamboree_gym.errors import ReplayError
from jamboree_gym.infos import holds_unrecorded
from jamboree_gym.records import EpisodeOrigin
from jamboree_gym.wrappers import RecentTransactionsObservation
from jamboree_gym.wrappers.recent_columns import ANNOTATION

__all__ = ["rebuild_env", "reset_as_recorded"]

_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
# Wrappers that change nothing of what a step takes or returns, but their infos: left out.
_OBSERVERS = (
    "gymnasium.wrappers.vector.common:RecordEpisodeStatistics",
    "gymnasium.wrappers.vector.dict_info_to_list:DictInfoToList",
    "gymnasium.wrappers.vector.rendering:HumanRendering",
    "gymnasium.wrappers.vector.rendering:RecordVideo",
    "gymnasium.wrappers.common:RecordEpisodeStatistics",
    "gymnasium.wrappers.rendering:HumanRendering",
    "gymnasium.wrappers.rendering:RecordVideo",
    "gymnasium.wrappers.rendering:RenderCollection",
    "jamboree_gym.integrations.sb3:VecRecordEpisodes",
    "jamboree_gym.wrappers.record:RecordEpisodes",
    "jamboree_gym.wrappers.record_vector:RecordEpisodes",
    "stable_baselines3.common.monitor:Monitor",
    "stable_baselines3.common.vec_env.vec_check_nan:VecCheckNan",
    "stable_baselines3.common.vec_env.vec_monitor:VecMonitor",
    "stable_baselines3.common.vec_env.vec_video_recorder:VecVideoRecorder",
)


def rebuild_env(
    provenance: Mapping[str, Any], *, render_mode: str | None = None
) -> gym.Env[Any, Any]:
    """Make the environment of an episode again, from the local registry.

    Args:
        provenance: Of the episode.
        render_mode: Asked for instead of the recorded one; a second run needs no window.

    Raises:
        ReplayError: It has no spec, is not registered here, cannot be constructed, does not know
            the render mode, had a wrapper that is not Gymnasium's own, or was part of a vector
            environment that cannot be taken apart.
    """
    _check_stands_alone(provenance)
    try:
        spec, reason = provenance["env_spec"], provenance["spec_error"]
        if spec is None:
            raise ReplayError(f"the environment cannot be made again: {reason}")
        name, wrappers = str(spec["id"]), list(spec["additional_wrappers"])
        options = {"max_episode_steps": spec["max_episode_steps"] or -1, **spec["kwargs"]}
    except (AttributeError, KeyError, TypeError) as error:
        raise ReplayError(f"the episode's provenance is damaged: {error!r}") from error
    options.pop("render_mode", None)
    if render_mode is not None:
        _check_render_mode(name, render_mode)
        options["render_mode"] = render_mode
    env = _make(name, options)
    applied = env.spec.additional_wrappers if env.spec is not None else ()
    for wrapper in wrappers[len(applied) :]:  # a registered environment may bring some itself
        env = _wrap(env, wrapper)
    return env


def _check_stands_alone(provenance: Mapping[str, Any]) -> None:
    """Make sure that one sub-environment does the same without the vector environment around it."""
    vector = provenance.get("vector")
    if vector is None:
        return
    try:
        kind, independent, wrappers = vector["class"], vector["independent"], vector["wrappers"]
        changing = [name for name in wrappers if ":".join(name.rsplit(".", 1)) not in _OBSERVERS]
    except (AttributeError, KeyError, TypeError) as error:
        raise ReplayError(f"the episode's provenance is damaged: {error!r}") from error
    if not independent:
        raise ReplayError(
            f"the episode was recorded in a {kind}: its sub-environments may share one random "
            "generator, so that none of them can be simulated again without the others"
        )
    if changing:
        raise ReplayError(
            f"the episode was recorded above {changing[0]}, which cannot be rebuilt for one "
            "sub-environment: record below it"
        )


def _make(name: str, options: Mapping[str, Any]) -> gym.Env[Any, Any]:
    if ":" in name:  # gym.make would import what stands before it
        raise ReplayError(f"{name!r} names a module to import; nothing that is stored is imported")
    if name not in gym.registry:
        raise ReplayError(f"{name!r} is not registered here. Import the package that registers it.")
    try:
        return gym.make(name, disable_env_checker=True, **options)
    except Exception as error:
        raise ReplayError(f"{name} cannot be made here: {error}") from error


def _check_render_mode(name: str, render_mode: str) -> None:
    """Make sure that an environment has it; one that cannot be loaded says so when it is made."""
    try:
        creator: Any = gym.registry[name].entry_point
        creator = load_env_creator(creator) if isinstance(creator, str) else creator
        known = list(creator.metadata["render_modes"])
    except Exception:  # noqa: BLE001 - not known before it is made
        return
    if render_mode not in known:
        raise ReplayError(f"{name} does not render {render_mode!r}: its render modes are {known}")


def _wrap(env: gym.Env[Any, Any], wrapper: Any) -> gym.Env[Any, Any]:
    """Apply one of Gymnasium's wrappers or ours; its entry point has to be the very name of it."""
    try:
        name, entry_point, kwargs = wrapper["name"], wrapper["entry_point"], wrapper["kwargs"]
    except (KeyError, TypeError) as error:
        raise ReplayError(f"the episode's provenance is damaged: {error!r}") from error
    if entry_point in _OBSERVERS:
        return env
    known: Any = None
    if name in gym.wrappers.__all__:
        known = getattr(gym.wrappers, name)
    elif name == RecentTransactionsObservation.__name__:
        known = RecentTransactionsObservation
    if known is None or entry_point != f"{known.__module__}:{known.__name__}" or kwargs is None:
        raise ReplayError(
            f"the episode was recorded through {entry_point}, which cannot be rebuilt yet: only "
            "wrappers that come with Gymnasium, and RecentTransactionsObservation, can"
        )
    if known is RecentTransactionsObservation:
        _check_shows_only_the_episode(kwargs)
    try:
        wrapped: gym.Env[Any, Any] = known(env, **kwargs)
    except Exception as error:
        raise ReplayError(f"the wrapper {name} cannot be rebuilt: {error}") from error
    return wrapped


def _check_shows_only_the_episode(kwargs: Mapping[str, Any]) -> None:
    if kwargs.get("across_episodes"):
        raise ReplayError(
            "the observations hold transactions of earlier episodes (across_episodes=True): record "
            "inside RecentTransactionsObservation, and the environment itself can be replayed"
        )
    said = [field for field in kwargs.get("fields", ()) if str(field).startswith(ANNOTATION)]
    if said:
        raise ReplayError(
            f"the observations hold what the agent said ({said[0]}), and no agent plays in a "
            "replay: record inside RecentTransactionsObservation"
        )


def reset_as_recorded(env: gym.Env[Any, Any], origin: EpisodeOrigin) -> Any:
    """Reset with the seed, or the state of the generator, that the episode began with.

    An episode that follows another one needs an environment in which that one was just played.

    Returns:
        The first observation.

    Raises:
        ReplayError: Neither is known, the options could not be stored, or the reset fails.
    """
    if holds_unrecorded(origin.options):
        raise ReplayError("the options of the reset could not be stored when it was recorded")
    options = None if origin.options is None else dict(origin.options)
    if origin.rng_state is None and origin.seed is None and origin.follows is None:
        raise ReplayError("the episode has neither a seed nor a captured state of its generator")
    generator = None if origin.rng_state is None else _generator(origin.rng_state)
    try:
        if generator is not None:
            env.unwrapped.np_random = generator
        return env.reset(seed=origin.seed, options=options)[0]
    except Exception as error:
        raise ReplayError(f"the environment cannot be reset as recorded: {error!r}") from error


def _generator(state: Mapping[str, Any]) -> np.random.Generator:
    name = state.get("bit_generator")
    if name not in _BIT_GENERATORS:
        raise ReplayError(f"the episode was recorded with the unknown bit generator {name!r}")
    bit_generator = getattr(np.random, str(name))()
    try:
        bit_generator.state = dict(state)
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise ReplayError(f"the stored state of the generator is damaged: {error!r}") from error
    return np.random.Generator(bit_generator)
