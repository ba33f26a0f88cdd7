"""What is recorded of a PettingZoo environment, so that it can be made again."""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final

import gymnasium as gym
import numpy as np

from jamboree_gym.environment.arguments import arguments_as_json
from jamboree_gym.environment.provenance import describe_sub_env, versions_of

__all__ = [
    "WRAPPERS",
    "api_of",
    "describe_agent",
    "describe_layers",
    "entry_point_of",
    "env_name",
    "generator_state_of",
    "layers_of",
    "space_of",
]

_UTILS: Final = "pettingzoo.utils"
WRAPPERS: Final[Mapping[str, Mapping[str, str]]] = {
    f"{_UTILS}.wrappers.assert_out_of_bounds:AssertOutOfBoundsWrapper": {},
    f"{_UTILS}.wrappers.capture_stdout:CaptureStdoutWrapper": {},
    f"{_UTILS}.wrappers.clip_out_of_bounds:ClipOutOfBoundsWrapper": {},
    f"{_UTILS}.wrappers.order_enforcing:OrderEnforcingWrapper": {},
    f"{_UTILS}.wrappers.terminate_illegal:TerminateIllegalWrapper": {
        "illegal_reward": "_illegal_value"
    },
    f"{_UTILS}.conversions:aec_to_parallel_wrapper": {},
    f"{_UTILS}.conversions:parallel_to_aec_wrapper": {},
    f"{_UTILS}.conversions:turn_based_aec_to_parallel_wrapper": {},
}
"""Wrappers of PettingZoo that a replay builds: their arguments, and the attributes with these."""

NOT_ALONE: Final = (
    "it is one agent's part of a joint episode\n"
    "simulate all agents together: jam.joint_episode(id).verify(), or .fork(turn)"
)


def layers_of(env: Any) -> Iterator[Any]:
    """The wrappers of an environment, outermost first, and the environment."""
    while True:
        yield env
        inner = [vars(env).get(name) for name in ("env", "aec_env")]
        below = [one for one in inner if api_of(one) is not None]
        if not below:
            return
        env = below[0]


def api_of(env: Any) -> str | None:
    """`aec` or `parallel`; None if it is no environment of PettingZoo. Imports nothing."""
    pettingzoo = sys.modules.get("pettingzoo")  # nobody has such an environment without it
    if isinstance(env, getattr(pettingzoo, "AECEnv", ())):
        return "aec"
    return "parallel" if isinstance(env, getattr(pettingzoo, "ParallelEnv", ())) else None


def describe_layers(env: Any) -> list[dict[str, Any]]:
    """Each layer with its class and arguments, outermost first.

    `arguments` has the form of `arguments_as_json`; null where a layer does not remember them.
    """
    found = []
    for one in layers_of(env):
        known = _arguments_of(one)
        arguments = None if known is None else arguments_as_json(known)
        found.append({"class": entry_point_of(type(one)), "arguments": arguments})
    return found


def describe_agent(
    layers: list[dict[str, Any]],
    api: str,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
) -> bytes:
    """The provenance of an agent's episodes: as `describe`, with `multi_agent` instead of a spec.

    Agents with the same spaces have the same provenance.
    """
    content = json.loads(
        describe_sub_env(None, observation_space, action_space, vector=None).decode()
    )
    content["spec_error"] = NOT_ALONE
    content["multi_agent"] = {"api": api, "layers": layers}
    modules = {one["class"].partition(":")[0] for one in layers} | {"pettingzoo"}
    content["versions"] |= versions_of(modules)
    return json.dumps(content, sort_keys=True).encode()


def entry_point_of(kind: type) -> str:
    """The module and name of a class."""
    return f"{kind.__module__}:{kind.__qualname__}"


def env_name(env: Any) -> str:
    """The name that an environment has in its metadata; that of its class if it has none."""
    metadata = getattr(env, "metadata", None)
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return name if isinstance(name, str) else type(env.unwrapped).__name__


def space_of(env: Any, agent: Any) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """Observation and action space of an agent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the default of PettingZoo warns that it is the default
        return env.observation_space(agent), env.action_space(agent)


def generator_state_of(env: Any) -> Mapping[str, Any] | None:
    """State of the generator `np_random` of an environment; None if it has none."""
    generator = getattr(env.unwrapped, "np_random", None)
    if not isinstance(generator, np.random.Generator):
        return None
    return generator.bit_generator.state


def _arguments_of(layer: Any) -> dict[str, Any] | None:
    """The arguments with which a layer was made; None if it does not remember them."""
    attributes = WRAPPERS.get(entry_point_of(type(layer)))
    if attributes is not None:
        return {name: vars(layer).get(attribute) for name, attribute in attributes.items()}
    parameters = _parameters_of(type(layer))
    if parameters is None:
        return None
    given = getattr(layer, "_ezpickle_args", None), getattr(layer, "_ezpickle_kwargs", None)
    if given == (None, None):
        return None if parameters.parameters else {}
    try:
        bound = parameters.bind(*(given[0] or ()), **(given[1] or {})).arguments
    except TypeError:
        return None
    known: dict[str, Any] = {}
    for name, value in bound.items():
        kind = parameters.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            return None
        known |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    return known


def _parameters_of(kind: type) -> inspect.Signature | None:
    """The parameters of a constructor without `self`; none if it has none of its own."""
    init: Any = inspect.getattr_static(kind, "__init__")
    if init is object.__init__:
        return inspect.Signature()
    try:
        signature = inspect.signature(init)
    except (TypeError, ValueError):
        return None
    return signature.replace(parameters=list(signature.parameters.values())[1:])
