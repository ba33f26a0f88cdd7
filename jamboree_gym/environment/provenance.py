"""Where an episode came from: what has to be the same for it to happen again."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import cache
from importlib import metadata
from inspect import getmodulename
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from jamboree_gym.environment.arguments import arguments_as_json, json_error, shown
from jamboree_gym.environment.atari_rng import emulator_state_of
from jamboree_gym.environment.spaces import check_space, space_to_json
from jamboree_gym.errors import DecodeError

__all__ = [
    "BASE_VERSIONS",
    "DONE_AND_TRUNCATED",
    "EMULATOR",
    "carries_over",
    "class_name",
    "conditions_now",
    "conditions_of",
    "decode_provenance",
    "describe",
    "describe_imported",
    "describe_sub_env",
    "env_id_of",
    "generator_of",
    "hides_truncations",
    "rng_state_of",
    "spec_of",
]

FORMAT_VERSION = 2  # 1 had no `exact` and no `not_kept` arguments
GIT_TIMEOUT_S = 2.0
BASE_VERSIONS = ("python", "numpy", "gymnasium", "jamboree-gym")
"""Versions that every provenance has; the others are those of environment and wrappers."""
EMULATOR = "emulator"
# They keep their world from one episode to the next, and what happened in it.
_CARRY_OVER = (
    "gymnasium.envs.box2d.bipedal_walker:BipedalWalker",
    "gymnasium.envs.box2d.car_racing:CarRacing",
)
DONE_AND_TRUNCATED = "done"
"""How a VecEnv of SB3 says `ends`: a step that was both terminated and truncated was terminated."""

# What computes in environments whose own module does not tell.
_ENGINES = {"gymnasium.envs.box2d": "Box2D", "gymnasium.envs.mujoco": "mujoco"}


def describe(env: gym.Env[Any, Any]) -> bytes:
    """Everything that is the same for all episodes of one recorder, as JSON.

    Args:
        env: The environment as recorded, without the recorder.

    Returns:
        UTF-8 JSON: `env_spec` (its arguments as `arguments_as_json` has them), `spec_error`,
        `env_kwargs` (what is no JSON as text), `wrappers`
        (outermost first, each with its class and its arguments, null where it does not tell them),
        spaces, `versions` (also of the distributions of environment and wrappers), `platform`,
        `git_commit`, `host`, `pid`, and `vector`, which is null.
    """
    return _described(env, env.observation_space, env.action_space, None)


def describe_sub_env(
    env: gym.Env[Any, Any] | EnvSpec | None,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    *,
    vector: Mapping[str, Any],
) -> bytes:
    """The same for one sub-environment of a vector environment.

    Args:
        env: The sub-environment, or its spec where it lives in another process.
        observation_space: Of one sub-environment, as recorded.
        action_space: Likewise.
        vector: Of the vector environment: `class`, `num_envs`, `autoreset_mode`, `reward_dtype`,
            `wrappers` (outermost first) and `independent`: whether each sub-environment is one
            that `gymnasium.make` gives, with a generator of its own.
    """
    return _described(env, observation_space, action_space, vector)


def describe_imported(
    spec: EnvSpec | None,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    *,
    source: Mapping[str, Any],
) -> bytes:
    """The same for episodes that were not recorded here: what nobody knows of them is null.

    Args:
        spec: Of the environment; None where it is not known.
        observation_space: Its observations.
        action_space: Its actions.
        source: Where they come from; JSON, kept as `imported`.
    """
    content = json.loads(_described(spec, observation_space, action_space, None))
    unknown = dict.fromkeys(("platform", "git_commit", "host", "pid"))
    content |= {**unknown, "versions": {}, "imported": dict(source)}
    return json.dumps(content, sort_keys=True).encode()


def _described(
    env: gym.Env[Any, Any] | EnvSpec | None,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    vector: Mapping[str, Any] | None,
) -> bytes:
    check_space(observation_space, "observation")
    check_space(action_space, "action")
    stack = list(_stack(env)) if isinstance(env, gym.Env) else []
    spec = spec_of(env)
    env_spec, spec_error = _spec(spec)
    content = {
        "format": FORMAT_VERSION,
        "env_spec": env_spec,
        "spec_error": spec_error,
        "env_kwargs": {} if spec is None else _as_json(spec.kwargs),
        "wrappers": _wrappers(stack, spec),
        "observation_space": json.loads(space_to_json(observation_space)),
        "action_space": json.loads(space_to_json(action_space)),
        "vector": vector,
        "versions": {**_versions(), **_distributions_of(_modules(stack, spec))},
        "platform": platform.platform(),
        "git_commit": _git_commit(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    return json.dumps(content, sort_keys=True).encode()


def decode_provenance(content: bytes, *, where: str) -> dict[str, Any]:
    """Inverse of `describe`. What stands in it may be of any kind.

    Raises:
        DecodeError: It is no JSON object.
    """
    try:
        provenance = json.loads(content.decode())
    except (RecursionError, ValueError) as error:
        raise DecodeError(f"{where}: not a provenance: {error}") from error
    if not isinstance(provenance, dict):
        raise DecodeError(f"{where}: not a provenance: a {type(provenance).__name__}")
    return provenance


def conditions_of(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What an episode was recorded with and on, by name: versions, `platform`, `git_commit`."""
    named = {name: provenance[name] for name in ("platform", "git_commit")}
    return {**provenance["versions"], **named}


def conditions_now(names: Iterable[str]) -> dict[str, str | None]:
    """The same here and today. Nothing is imported to find out."""
    known = {**_versions(), "platform": platform.platform(), "git_commit": _git_commit()}
    return {name: known[name] if name in known else _installed_version(name) for name in names}


@cache
def _installed_version(name: str) -> str | None:
    """None where there is no such distribution."""
    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, ValueError):
        return None


def generator_of(env: gym.Env[Any, Any]) -> np.random.Generator | None:
    """An environment's generator, if it has one.

    One that does not exist yet is made now, as the environment would do it a moment later.
    """
    env = env.unwrapped
    generator = getattr(env, "_np_random", None)
    if generator is None and type(env).np_random is gym.Env.np_random:
        generator = env.np_random
    return generator if isinstance(generator, np.random.Generator) else None


def rng_state_of(env: gym.Env[Any, Any]) -> Mapping[str, Any] | None:
    """State of an environment's generator, to be asked before a reset; None where it has none.

    Where randomness lives in an emulator as well, the emulator's state is beside it (`EMULATOR`).
    """
    generator = generator_of(env)
    if generator is None:
        return None
    state, emulator = generator.bit_generator.state, emulator_state_of(env)
    return state if emulator is None else {**state, EMULATOR: emulator}


def carries_over(env: gym.Env[Any, Any] | EnvSpec | None) -> bool:
    """Whether an episode depends on the ones before it, also where its reset was seeded."""
    spec = spec_of(env)
    return spec is not None and _entry_point(spec.entry_point) in _CARRY_OVER


def spec_of(env: gym.Env[Any, Any] | EnvSpec | None) -> EnvSpec | None:
    """The spec of an environment, also where Gymnasium has none because it cannot be copied."""
    if not isinstance(env, gym.Env):
        return env
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would warn each time that it cannot copy it
        found = env.spec
    return _assembled(env) if found is None and isinstance(env, gym.Wrapper) else found


def env_id_of(env: gym.Env[Any, Any] | EnvSpec | None) -> str:
    """Id of an environment; empty where it has none."""
    spec = spec_of(env)
    return "" if spec is None else spec.id


def _assembled(env: gym.Env[Any, Any]) -> EnvSpec | None:
    """The spec of the innermost environment, and what Gymnasium's wrappers add to it."""
    *stack, base = _stack(env)
    if base.spec is None:
        return None
    spec = copy(base.spec)
    for wrapper in reversed(stack):
        if isinstance(wrapper, TimeLimit):
            spec.max_episode_steps = wrapper._max_episode_steps
        elif isinstance(wrapper, OrderEnforcing):
            spec.order_enforce = True
        elif not isinstance(wrapper, PassiveEnvChecker):
            name, entry_point = (
                wrapper.class_name(),
                f"{wrapper.__module__}:{type(wrapper).__name__}",
            )
            spec.additional_wrappers += (WrapperSpec(name, entry_point, _saved(wrapper)),)
    return spec


def _saved(wrapper: gym.Env[Any, Any]) -> dict[str, Any] | None:
    if not isinstance(wrapper, RecordConstructorArgs):
        return None
    return {name: value for name, value in wrapper._saved_kwargs.items() if name != "env"}


def hides_truncations(vector: Mapping[str, Any] | None) -> bool:
    """Whether episodes recorded so are `terminated` alone where the environment said both.

    Args:
        vector: What provenance says of the vector environment, if any.
    """
    if vector is None:
        return False
    if "ends" in vector:
        return bool(vector["ends"] == DONE_AND_TRUNCATED)
    return str(vector.get("class", "")).startswith("stable_baselines3.")  # older ones do not say


def _spec(spec: EnvSpec | None) -> tuple[dict[str, Any] | None, str | None]:
    """The environment's spec as JSON, or why it has none.

    Unlike `EnvSpec.to_json` it takes an entry point that is a class: a replay looks the
    environment up by its id, and needs only what it was called with. Each argument that cannot be
    kept is named by itself.
    """
    if spec is None:
        return None, "the environment was not made by gymnasium.make"
    registered = gym.registry[spec.id].kwargs if spec.id in gym.registry else {}
    content = {
        "id": spec.id,
        "entry_point": _entry_point(spec.entry_point),
        "max_episode_steps": spec.max_episode_steps,
        "order_enforce": bool(spec.order_enforce),
        "nondeterministic": bool(spec.nondeterministic),
        "reward_threshold": _as_float(spec.reward_threshold),
        **arguments_as_json(spec.kwargs, registered),
        "additional_wrappers": [
            {"name": one.name, "entry_point": one.entry_point, **_of_wrapper(one.kwargs)}
            for one in spec.additional_wrappers
        ],
    }
    return content, None


def _of_wrapper(arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """Null as its arguments is for a wrapper that does not tell them."""
    content = arguments_as_json(arguments or {})
    return {**content, "kwargs": None} if arguments is None else content


def _as_float(value: Any) -> float | None:
    return None if value is None else float(value)


def _entry_point(entry_point: Any) -> str | None:
    if entry_point is None or isinstance(entry_point, str):
        return entry_point
    name = getattr(entry_point, "__qualname__", type(entry_point).__qualname__)
    return f"{getattr(entry_point, '__module__', '')}:{name}"


def _wrappers(stack: Sequence[gym.Env[Any, Any]], spec: EnvSpec | None) -> list[dict[str, Any]]:
    """Class and arguments, outermost first; where there is only a spec, what it says."""
    if stack:
        return [
            {"class": class_name(type(wrapper)), "kwargs": _arguments(wrapper)}
            for wrapper in stack[:-1]
        ]
    return [
        {"class": one.entry_point.replace(":", "."), "kwargs": _as_json(one.kwargs or {})}
        for one in reversed(spec.additional_wrappers if spec is not None else ())
    ]


def _stack(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    """Wrappers, outermost first, and the environment."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env


def class_name(cls: type) -> str:
    """The name of a class with its module."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _arguments(wrapper: gym.Env[Any, Any]) -> dict[str, Any] | None:
    """Arguments that a wrapper was made with, where it keeps them for its spec."""
    if not isinstance(wrapper, RecordConstructorArgs):
        return None
    return _as_json(_saved(wrapper) or {})


def _as_json(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, as text where JSON cannot hold them."""
    return {
        name: value if json_error(value) is None else shown(value)
        for name, value in arguments.items()
    }


@cache
def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "gymnasium": gym.__version__,
        "jamboree-gym": _distribution_version("jamboree-gym"),
    }


def _modules(stack: Sequence[gym.Env[Any, Any]], spec: EnvSpec | None) -> set[str]:
    """Modules that environment and wrappers come from, and what computes in them."""
    if stack or spec is None:
        modules = {type(env).__module__ for env in stack}
    else:
        entry_points = [_entry_point(spec.entry_point) or ""]
        entry_points += [one.entry_point for one in spec.additional_wrappers]
        modules = {entry_point.partition(":")[0] for entry_point in entry_points}
    packages = {module.rpartition(".")[0] for module in modules}
    return modules | {engine for package, engine in _ENGINES.items() if package in packages}


def _distributions_of(modules: Iterable[str]) -> dict[str, str]:
    """Versions of the distributions that these modules belong to."""
    packages = {module.partition(".")[0] for module in modules}
    names = {name for package in packages for name in _distributions_with(package)}
    return {name: _distribution_version(name) for name in sorted(names)}


@cache
def _distributions_with(package: str) -> list[str]:
    """Names of the distributions that it belongs to, as `metadata.packages_distributions` has them.

    That parses all that each distribution says of itself: half a second in a large environment.
    """
    return [one.metadata["Name"] for one in metadata.distributions() if _holds(one, package)]


def _holds(distribution: metadata.Distribution, package: str) -> bool:
    declared = distribution.read_text("top_level.txt")
    if declared:
        return package in declared.split()
    record = distribution.read_text("RECORD")
    files = map(str, distribution.files or ()) if record is None else record.splitlines()
    paths = (file.partition(",")[0] for file in files if file.startswith(package))
    return any(path.startswith(f"{package}/") or getmodulename(path) == package for path in paths)


def _distribution_version(name: str) -> str:
    return _installed_version(name) or "unknown"


@cache
def _git_commit() -> str | None:
    """Commit of the working directory; None outside git.

    With `+dirty` where files that git knows differ from it, `+unchecked` where git could not tell.
    """
    commit = _git("rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    changes = _git("status", "--porcelain", "--untracked-files=no")
    if changes is None:
        return f"{commit}+unchecked"
    return f"{commit}+dirty" if changes else commit


def _git(*arguments: str) -> str | None:
    """What git answers; None where there is no git, no repository, or no answer in time."""
    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=GIT_TIMEOUT_S,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # asking changes nothing on the disk
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()
