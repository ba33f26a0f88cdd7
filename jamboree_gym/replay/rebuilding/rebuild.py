"""Rebuilds the environment of an episode from what is registered and installed here.

The store only contains names. A name is looked up in Gymnasium's registry, or compared with the
name of a class that is already loaded. It is never imported, unless the caller trusts the store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import wrappers as of_gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import VectorEnv

from jamboree_gym.arrays.values import renewed
from jamboree_gym.encoding.info_codec import holds_unrecorded
from jamboree_gym.environment.arguments import arguments_from_json, unkept
from jamboree_gym.environment.hidden_generators import (
    DAMAGED_STATE,
    HIDDEN,
    bit_generator_state,
    restore_hidden,
)
from jamboree_gym.environment.references import resolved
from jamboree_gym.environment.wrapper_state import carriers_of, put_carried
from jamboree_gym.errors import DecodeError, ReplayError
from jamboree_gym.handlers.rendered_frames import RENDER_MODE
from jamboree_gym.records import EpisodeOrigin
from jamboree_gym.replay.rebuilding.install_hints import missing_registration
from jamboree_gym.replay.rebuilding.named_modules import check_arguments
from jamboree_gym.replay.rebuilding.wrapping import (
    OBSERVERS,
    BuiltWrapper,
    damaged,
    layers_of,
    wrap_again,
)

__all__ = ["MakeAgain", "begins_anew", "generator_from", "rebuild_env", "reset_as_recorded"]

MakeAgain: TypeAlias = Callable[[], gym.Env[Any, Any]]
"""Makes the environment of an episode as it was made when the episode was recorded."""

_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
_REWARD_DTYPE = re.compile(r"[<>=|]?[biuf][1-8]")
# Gymnasium registers these for shimmy: they would import the environment that their arguments name.
_IMPORTING_ENVS = ("GymV21Environment-v0", "GymV26Environment-v0")
# Environments and wrappers in which a reset erases everything but the generator.
_BEGIN_ANEW = ("gymnasium.envs.classic_control.", "gymnasium.envs.toy_text.")
_WRAPPERS_BEGIN_ANEW = (
    of_gymnasium.OrderEnforcing,
    of_gymnasium.PassiveEnvChecker,
    of_gymnasium.TimeLimit,
)


def rebuild_env(
    provenance: Mapping[str, Any],
    *,
    wrappers: Sequence[BuiltWrapper] = (),
    trust_entry_point: bool = False,
    render_mode: str | None = None,
    make: MakeAgain | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> gym.Env[Any, Any]:
    """Rebuild the environment of an episode from the local registry.

    Args:
        provenance: As stored: any writer of the store may have written it.
        wrappers: Classes that may be built with stored arguments, beside the known ones
            (`known_wrappers.py`).
        trust_entry_point: Import and call the code that the store names, if it is unknown here, and
            accept arguments that name modules.
        render_mode: Replaces the recorded mode; a replay needs no window.
        make: Makes the environment with all its wrappers, instead of what is stored of it.
        env_kwargs: Arguments of `gymnasium.make` that replace stored ones.

    Raises:
        ReplayError: `make` fails. Or the environment has no spec, is not registered here, cannot be
            constructed, lacks the render mode, had a wrapper that must not be built, or was part of
            a vector environment that cannot be taken apart; or an argument is missing, is a
            function that nobody here has used, or names a module.
    """
    if make is not None:
        return _made_by(make, render_mode)
    handed = dict(env_kwargs or {})
    _check_stands_alone(provenance)
    try:
        spec, reason = provenance["env_spec"], provenance["spec_error"]
        if spec is None:
            advice = (
                "say how to make it: verify(..., make=lambda: ...) (in a shell: --make "
                "module:function)"
            )
            text, *own_advice = str(reason).split("\n")
            raise ReplayError(
                f"the environment cannot be made again: {text}\n{[*own_advice, advice][0]}"
            )
        name, layers = str(spec["id"]), layers_of(provenance)
        limit = spec["max_episode_steps"] if layers.limits is None else None
        registered = gym.registry[name].kwargs if name in gym.registry else None
        options = {**arguments_from_json(spec)}
        missing = unkept(spec, registered, handed)
        renders = any(one["name"] == "AddRenderObservation" for one in layers.wrappers)
    except (AttributeError, DecodeError, KeyError, TypeError, ValueError) as error:
        raise damaged(error) from error
    if missing is not None:
        name_of_it = missing.removeprefix("argument ").partition("=")[0]
        raise ReplayError(
            f"the environment cannot be made again: {missing}\n"
            f"hand it over: env_kwargs={{{name_of_it!a}: ...}}, or make=... (in a shell: --arg, or "
            "--make module:function)"
        )
    for argument in (*handed, "render_mode"):
        options.pop(argument, None)
    if spec.get("exact") and name in gym.registry and name not in _IMPORTING_ENVS:
        _load(name)
    options = {
        "max_episode_steps": limit or -1,
        **resolved(options, name, registered, trust=trust_entry_point),
    }
    if render_mode is not None:
        _check_render_mode(name, render_mode)
    if renders or render_mode is not None:
        options["render_mode"] = render_mode or RENDER_MODE
    env = _make(name, options, handed, provenance, trust_entry_point=trust_entry_point)
    try:
        return wrap_again(env, layers, wrappers, trust_entry_point=trust_entry_point)
    except ReplayError:
        env.close()
        raise


def _made_by(make: MakeAgain, render_mode: str | None) -> gym.Env[Any, Any]:
    try:
        env = make()
    except Exception as error:
        raise ReplayError(f"make= raises {error!r:.200}") from error
    if not isinstance(env, gym.Env):
        raise ReplayError(f"make= gives a {type(env).__name__}: it must give a gymnasium.Env")
    if render_mode is not None and env.render_mode != render_mode:
        env.close()
        raise ReplayError(
            f"make= gives an environment with render_mode={env.render_mode!r}: make it with "
            f"render_mode={render_mode!r}"
        )
    return env


def _load(name: str) -> None:
    """Load the class of a registered environment: arguments may be of classes beside it."""
    creator = gym.registry[name].entry_point
    if isinstance(creator, str):
        with suppress(Exception):  # it is said when it is made
            load_env_creator(creator)


def begins_anew(env: gym.Env[Any, Any]) -> bool:
    """Whether a reset is known to erase all traces of earlier episodes.

    If this is not known, each episode needs its own environment.
    """
    while isinstance(env, gym.Wrapper):
        if type(env) not in _WRAPPERS_BEGIN_ANEW:
            return False
        env = env.env
    return type(env).__module__.startswith(_BEGIN_ANEW)


def _check_stands_alone(provenance: Mapping[str, Any]) -> None:
    """Check that one sub-environment behaves the same without its vector environment."""
    try:
        vector = provenance.get("vector")
        if vector is None:
            return
        kind, independent, wrappers = vector["class"], vector["independent"], vector["wrappers"]
        changing = [name for name in wrappers if ":".join(name.rsplit(".", 1)) not in OBSERVERS]
        reward_dtype = str(vector["reward_dtype"])
    except (AttributeError, KeyError, TypeError) as error:
        raise damaged(error) from error
    if not _REWARD_DTYPE.fullmatch(reward_dtype):
        raise ReplayError(f"the episode's provenance is damaged: rewards of dtype {reward_dtype!r}")
    if not independent and provenance.get("env_spec") is None:
        raise ReplayError(
            f"the episode was recorded in a {kind}, which does not show how its environments were "
            "made\nrecord each of them instead, where it is made: jam.record(gymnasium.make(...))"
        )
    if not independent:
        raise ReplayError(
            f"the episode was recorded in a {kind}: its sub-environments may share one random "
            "generator, so that none of them can be simulated again without the others\n"
            "verify(episode) plays all of them; to fork, record environments of gymnasium.make_vec("
            '..., vectorization_mode="sync")'
        )
    if changing:
        raise ReplayError(
            f"the episode was recorded above {changing[0]}, which cannot be rebuilt for one "
            "sub-environment: record below it"
        )


def _make(
    name: str,
    options: Mapping[str, Any],
    handed: Mapping[str, Any],
    provenance: Mapping[str, Any],
    *,
    trust_entry_point: bool,
) -> gym.Env[Any, Any]:
    if ":" in name:  # gym.make would import the part before the colon
        raise ReplayError(f"{name!r} names a module to import; nothing that is stored is imported")
    if name in _IMPORTING_ENVS and not trust_entry_point:
        raise ReplayError(f"{name} imports what its arguments name; nothing that is stored is")
    is_known = name in gym.registry
    if not is_known and not trust_entry_point:
        raise missing_registration(name, provenance)
    if not trust_entry_point:
        check_arguments(options, name, gym.registry[name].kwargs)
    try:
        spec = name if is_known else _stored_spec(name, provenance["env_spec"])
        return gym.make(spec, disable_env_checker=True, **{**options, **handed})
    except Exception as error:
        raise ReplayError(f"{name} cannot be made here: {error}") from error


def _check_render_mode(name: str, render_mode: str) -> None:
    """Check that an environment has this mode. One that cannot be loaded fails later, when made."""
    try:
        creator: Any = gym.registry[name].entry_point
        creator = load_env_creator(creator) if isinstance(creator, str) else creator
        known = list(creator.metadata["render_modes"])
    except Exception:  # noqa: BLE001 - unknown before the environment is made
        return
    if render_mode not in known:
        raise ReplayError(f"{name} does not render {render_mode!r}: its render modes are {known}")


def _stored_spec(name: str, stored: Mapping[str, Any]) -> EnvSpec:
    order_enforce = bool(stored["order_enforce"])
    return EnvSpec(name, entry_point=stored["entry_point"], order_enforce=order_enforce)


def reset_as_recorded(
    env: gym.Env[Any, Any], origin: EpisodeOrigin, *, trust_entry_point: bool = False
) -> tuple[Any, dict[str, Any]]:
    """Reset with the recorded seed, or with the recorded state of the generator.

    An episode that follows another one needs an environment in which that one has just been played.

    Returns:
        The first observation and its info.

    Raises:
        ReplayError: Neither seed nor state is known, the options could not be stored or name a
            module (unless `trust_entry_point`), or the reset fails.
    """
    options = None if origin.options is None else _options_of(origin, trust=trust_entry_point)
    if origin.rng_state is None and origin.seed is None and origin.follows is None:
        raise ReplayError("the episode has neither a seed nor a captured state of its generator")
    state = origin.rng_state
    try:
        if state is not None:
            put_generators(env, state)
        if origin.carried is not None:
            put_carried(carriers_of(env), origin.carried)
        observation, info = env.reset(seed=origin.seed, options=options)
    except ReplayError:
        raise
    except Exception as error:
        raise ReplayError(f"the environment cannot be reset as recorded: {error!r}") from error
    return observation, info


def _options_of(origin: EpisodeOrigin, *, trust: bool) -> Any:
    """The options of the reset; a `ReplayError` if they were not stored, or name a module."""
    if holds_unrecorded(origin.options):
        raise ReplayError("the options of the reset could not be stored when it was recorded")
    options: Any = renewed(origin.options)
    if isinstance(options, Mapping):
        options = dict(options)
    if options is not None and not trust:
        named = options if isinstance(options, dict) else {"options": options}
        check_arguments(named, "the reset")
    return options


def put_generators(
    env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any], state: Mapping[str, Any]
) -> None:
    """Give an environment its generators back, before an unseeded reset.

    Raises:
        ReplayError: The state of `np_random` is damaged.
        DAMAGED_STATE: That of another generator is, or is of another kind of environment.
    """
    is_hidden_alone = isinstance(state, Mapping) and state and set(HIDDEN).issuperset(state)
    if not is_hidden_alone:
        env.unwrapped.np_random = generator_from(state)
    restore_hidden(env, state)


def generator_from(state: Mapping[str, Any]) -> np.random.Generator:
    """A generator in a stored state; a `ReplayError` if the state is damaged."""
    name = state.get("bit_generator") if isinstance(state, Mapping) else state
    if name not in _BIT_GENERATORS:
        raise ReplayError(f"the episode was recorded with the unknown bit generator {name!r}")
    bit_generator = getattr(np.random, str(name))(0)  # faster than with the system's entropy
    try:
        bit_generator.state = bit_generator_state(state)
    except DAMAGED_STATE as error:
        raise ReplayError(f"the stored state of the generator is damaged: {error!r}") from error
    return np.random.Generator(bit_generator)
