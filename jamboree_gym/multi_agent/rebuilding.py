"""Makes the environment of a joint episode again, and resets it as recorded.

The store only contains names. A class is used if it is loaded in this process, if PettingZoo's
registry names its module, or if the caller passes what makes the environment. Nothing else is
imported, unless the caller trusts the store.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from jamboree_gym.encoding.info_codec import holds_unrecorded
from jamboree_gym.environment.arguments import arguments_from_json, unkept
from jamboree_gym.environment.hidden_generators import bit_generator_state
from jamboree_gym.errors import DecodeError, ReplayError
from jamboree_gym.multi_agent.joint_episode import JointEpisode
from jamboree_gym.multi_agent.recording.description import WRAPPERS, api_of
from jamboree_gym.replay.rebuilding.named_modules import check_arguments

__all__ = [
    "MakeJointEnv",
    "layers_recorded",
    "made_env",
    "put_generator_state",
    "reset_as_recorded",
]

MakeJointEnv: TypeAlias = Callable[[], Any]
"""Makes a PettingZoo environment like the recorded one, with all its wrappers."""


def layers_recorded(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The layers of the environment, outermost first."""
    try:
        return list(provenance["multi_agent"]["layers"])
    except (KeyError, TypeError) as error:
        raise ReplayError(f"the provenance of the joint episode is damaged: {error!r}") from error


def made_env(
    joint: JointEpisode,
    make: MakeJointEnv | None = None,
    *,
    render_mode: str | None = None,
    trust_entry_point: bool = False,
) -> Any:
    """The environment of a joint episode, made again.

    Args:
        joint: The joint episode.
        make: Makes it, whatever was recorded.
        render_mode: Takes the place of the recorded argument; None = as recorded.
        trust_entry_point: As in `verify`.

    Raises:
        ReplayError: It cannot be; says why, and what helps.
    """
    if make is not None:
        return _made_by(make, joint)
    layers = layers_recorded(joint.episodes[0].provenance)
    env = None
    try:
        for layer in reversed(layers):
            env = _layer(layer, env, render_mode, trust_entry_point=trust_entry_point)
    except ReplayError:
        if env is not None:
            env.close()
        raise
    return env


def _made_by(make: MakeJointEnv, joint: JointEpisode) -> Any:
    try:
        env = make()
    except Exception as error:
        raise ReplayError(f"make= raises {error!r:.200}") from error
    api = api_of(env)
    if api == joint.api:
        return env
    if api is not None:
        env.close()
    what = "an AEC" if joint.api == "aec" else "a Parallel"
    raise ReplayError(
        f"make() gave a {type(env).__name__}: the episode was recorded in {what} "
        "environment of PettingZoo"
    )


def _layer(
    layer: Mapping[str, Any], inner: Any, render_mode: str | None, *, trust_entry_point: bool
) -> Any:
    try:
        name, arguments = str(layer["class"]), layer["arguments"]
        missing = None if arguments is None else unkept(arguments)
        known = None if arguments is None else arguments_from_json(arguments)
    except (AttributeError, DecodeError, KeyError, TypeError, ValueError) as error:
        raise ReplayError(f"the provenance of the joint episode is damaged: {error!r}") from error
    kind = name.rpartition(":")[2]
    if inner is not None and name not in WRAPPERS:
        raise _cannot(kind, "is a wrapper that cannot be rebuilt")
    if known is None:
        raise _cannot(kind, "does not remember the arguments that it was made with")
    if missing is not None:
        raise _cannot(kind, missing)
    found = _class_of(name, trust_entry_point=trust_entry_point)
    if not trust_entry_point:
        check_arguments(known, kind)
    if inner is None and render_mode is not None:
        known = {**known, "render_mode": render_mode}
    try:
        return found(**known) if inner is None else found(inner, **known)
    except Exception as error:
        raise ReplayError(f"{name} cannot be made here: {error!r}") from error


def _cannot(kind: str, why: str) -> ReplayError:
    return ReplayError(
        f"the environment cannot be made again: {kind}: {why}\n"
        "hand over what makes it: joint.verify(make=lambda: ...)"
    )


def _class_of(name: str, *, trust_entry_point: bool) -> Any:
    """A class of an environment or wrapper that is loaded here."""
    module, _, kind = name.partition(":")
    is_known = name in WRAPPERS or _is_registered(module)  # not by the store alone
    if trust_entry_point or is_known:
        try:
            import_module(module)
        except ImportError as error:
            raise ReplayError(f"{name} cannot be imported here: {error}") from error
    if module not in sys.modules:
        raise ReplayError(
            f"{name} is not loaded, and nothing that is stored is imported\n"
            f"import {module} before, or hand over what makes it: joint.verify(make=lambda: ...)"
        )
    found = vars(sys.modules[module]).get(kind)
    pettingzoo = sys.modules.get("pettingzoo")
    bases = tuple(getattr(pettingzoo, one, object) for one in ("AECEnv", "ParallelEnv"))
    if not isinstance(found, type) or pettingzoo is None or not issubclass(found, bases):
        raise ReplayError(f"{name} is no environment of PettingZoo here: verify(make=lambda: ...)")
    return found


def _is_registered(module: str) -> bool:
    """Whether the registry of PettingZoo in this process names a module."""
    try:
        pettingzoo = import_module("pettingzoo")
    except ImportError:
        return False
    specs = [*pettingzoo.aec_registry.values(), *pettingzoo.parallel_registry.values()]
    return any(str(one.entry_point).partition(":")[0] == module for one in specs)


def reset_as_recorded(env: Any, joint: JointEpisode) -> Any:
    """Reset with the recorded seed, or with the recorded state of the generator.

    Returns:
        What `reset` returns.

    Raises:
        ReplayError: The options of the reset could not be stored, or it fails.
    """
    options, state = joint.origin("options"), joint.origin("rng_state")
    if holds_unrecorded(options):
        raise ReplayError("the options of the reset could not be stored when it was recorded")
    try:
        if state is not None:
            put_generator_state(env.unwrapped, state)
        return env.reset(seed=joint.origin("seed"), options=options)
    except Exception as error:
        raise ReplayError(f"the environment cannot be reset as recorded: {error!r}") from error


def put_generator_state(base: Any, state: Mapping[str, Any]) -> None:
    """Set the generator of an environment; in place if possible, as others may hold it, too."""
    generator = getattr(base, "np_random", None)
    name = state["bit_generator"]
    if not isinstance(generator, np.random.Generator):
        generator = None
    if generator is None or generator.bit_generator.state["bit_generator"] != name:
        if name not in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"):
            raise ValueError(f"unknown bit generator {name!r}")
        generator = np.random.Generator(getattr(np.random, name)(0))
        base.np_random = generator
    generator.bit_generator.state = bit_generator_state(state)
