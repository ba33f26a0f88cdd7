"""Provenance of an episode: everything that must be the same for an exact replay."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import warnings
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from functools import cache
from importlib import metadata
from inspect import getmodulename
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from jamboree_gym.environment.arguments import (
    arguments_as_json,
    json_error,
    shown,
    warn_of_unkept,
)
from jamboree_gym.environment.hidden_generators import hidden_state_of, legacy_generator_of
from jamboree_gym.environment.spaces import check_space, space_to_json
from jamboree_gym.environment.wrapper_arguments import (
    arguments_of,
    made_by_hand,
    stack_of,
    with_arguments,
)
from jamboree_gym.environment.wrapper_state import has_carriers
from jamboree_gym.errors import DecodeError

__all__ = [
    "BASE_VERSIONS",
    "DONE_AND_TRUNCATED",
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
    "versions_of",
]

FORMAT_VERSION = 3  # 1 had no `exact` and no `not_kept` arguments, 2 no kinds in `exact`
GIT_TIMEOUT_S = 2.0
BASE_VERSIONS = ("python", "numpy", "gymnasium", "jamboree-gym")
"""Versions in every provenance, besides those of the environment and its wrappers."""
# Environments that keep their world, with all changes, from one episode to the next.
_CARRY_OVER = (
    "gymnasium.envs.box2d.bipedal_walker:BipedalWalker",
    "gymnasium.envs.box2d.car_racing:CarRacing",
)
DONE_AND_TRUNCATED = "done"
"""How SB3's VecEnv reports `ends`: a step both terminated and truncated counts as terminated."""

# Engines of environments whose own module does not show them.
_ENGINES = {"gymnasium.envs.box2d": "Box2D", "gymnasium.envs.mujoco": "mujoco"}


def describe(env: gym.Env[Any, Any]) -> bytes:
    """Everything that all episodes of one recorder have in common, as JSON.

    Args:
        env: The environment as recorded, without the recorder.

    Returns:
        UTF-8 JSON: `env_spec` (its arguments in the form of `arguments_as_json`), `spec_error`,
        `env_kwargs` (values that are no JSON as text), `wrappers` (outermost first, each with its
        class and its arguments, but none that another one makes), spaces, `versions` (also of the
        distributions of environment and wrappers), `platform`, `git_commit`, `host`, `pid`, and
        `vector`, which is null.
    """
    return describe_sub_env(env, env.observation_space, env.action_space, vector=None)


def describe_sub_env(
    env: gym.Env[Any, Any] | EnvSpec | None,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    *,
    vector: Mapping[str, Any] | None,
) -> bytes:
    """As `describe`, for one sub-environment of a vector environment.

    Args:
        env: The sub-environment, or its spec if it lives in another process.
        observation_space: Recorded observation space of one sub-environment.
        action_space: Recorded action space of one sub-environment.
        vector: Of the vector environment, if any: `class`, `num_envs`, `autoreset_mode`,
            `reward_dtype`, `wrappers` (outermost first) and `independent`: whether each
            sub-environment is made by `gymnasium.make`, with its own generator.
    """
    check_space(observation_space, "observation")
    check_space(action_space, "action")
    stack = list(stack_of(env)) if isinstance(env, gym.Env) else []
    spec = spec_of(env)
    if isinstance(env, gym.Env) and spec is not None:
        spec = with_arguments(spec, env)
    env_spec, spec_error = _spec(spec)
    warn_of_unkept(env_spec)
    content = {
        "format": FORMAT_VERSION,
        "env_spec": env_spec,
        "spec_error": spec_error,
        "env_kwargs": {} if spec is None else _as_json(spec.kwargs),
        "wrappers": _wrappers(env, spec),
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


def describe_imported(
    spec: EnvSpec | None,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    *,
    source: Mapping[str, Any],
) -> bytes:
    """As `describe`, for imported episodes; unknown facts are null.

    `source` says where the episodes come from: JSON, stored as `imported`. `spec` is None where the
    environment is unknown.
    """
    content = json.loads(describe_sub_env(spec, observation_space, action_space, vector=None))
    unknown = dict.fromkeys(("platform", "git_commit", "host", "pid"))
    content |= {**unknown, "versions": {}, "imported": dict(source)}
    return json.dumps(content, sort_keys=True).encode()


def decode_provenance(content: bytes, *, where: str) -> dict[str, Any]:
    """Inverse of `describe`, with values of any kind; a `DecodeError` if it is no JSON object."""
    try:
        provenance = json.loads(content.decode())
    except (RecursionError, ValueError) as error:
        raise DecodeError(f"{where}: not a provenance: {error}") from error
    if not isinstance(provenance, dict):
        raise DecodeError(f"{where}: not a provenance: a {type(provenance).__name__}")
    return provenance


def conditions_of(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Software and machine of the recording, by name: versions, `platform`, `git_commit`."""
    named = {name: provenance[name] for name in ("platform", "git_commit")}
    return {**provenance["versions"], **named}


def conditions_now(names: Iterable[str]) -> dict[str, str | None]:
    """The same names with their values on this machine now. Imports nothing."""
    known = {**_versions(), "platform": platform.platform(), "git_commit": _git_commit()}
    return {name: known[name] if name in known else _installed_version(name) for name in names}


@cache
def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, ValueError):
        return None


def generator_of(env: gym.Env[Any, Any]) -> np.random.Generator | None:
    """The generator of an environment; None if it has none.

    A generator that does not exist yet is made now, as the environment would do it later.
    """
    env = env.unwrapped
    if legacy_generator_of(env) is not None:
        return None
    generator = getattr(env, "_np_random", None)
    if generator is None and type(env).np_random is gym.Env.np_random:
        generator = env.np_random
    return generator if isinstance(generator, np.random.Generator) else None


def rng_state_of(env: gym.Env[Any, Any]) -> Mapping[str, Any] | None:
    """State of an environment's generators; None if it has none. Ask before a reset.

    Beside that of `np_random` it holds what `hidden_state_of` finds: of an emulator, keys of JAX.
    """
    generator, hidden = generator_of(env), hidden_state_of(env)
    state = {} if generator is None else generator.bit_generator.state
    return {**state, **hidden} if hidden else state or None


def carries_over(env: gym.Env[Any, Any] | EnvSpec | None, *, wrappers: bool = False) -> bool:
    """Whether an episode depends on earlier ones even after a seeded reset.

    `wrappers`: also if a wrapper carries something on (see `take_carried`).
    """
    spec = spec_of(env)
    if wrappers and env is not None and has_carriers(env):
        return True
    return spec is not None and _entry_point(spec.entry_point) in _CARRY_OVER


def spec_of(env: gym.Env[Any, Any] | EnvSpec | None) -> EnvSpec | None:
    """The spec of an environment, even if Gymnasium has none because it cannot copy it."""
    if not isinstance(env, gym.Env):
        return env
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would warn each time that the spec cannot be copied
        found = env.spec
    return _assembled(env) if found is None and isinstance(env, gym.Wrapper) else found


def env_id_of(env: gym.Env[Any, Any] | EnvSpec | None) -> str:
    """Id of an environment; empty if it has none."""
    spec = spec_of(env)
    return "" if spec is None else spec.id


def _assembled(env: gym.Env[Any, Any]) -> EnvSpec | None:
    """The spec of the innermost environment, plus what Gymnasium's wrappers add to it."""
    *stack, base = stack_of(env)
    if base.spec is None:
        return None
    spec = copy(base.spec)
    for wrapper in reversed(stack):
        if isinstance(wrapper, TimeLimit):
            spec.max_episode_steps = wrapper._max_episode_steps
        elif isinstance(wrapper, OrderEnforcing):
            spec.order_enforce = True
        elif not isinstance(wrapper, PassiveEnvChecker):
            entry_point = f"{wrapper.__module__}:{type(wrapper).__name__}"
            added = WrapperSpec(wrapper.class_name(), entry_point, arguments_of(wrapper))
            spec.additional_wrappers += (added,)
    return spec


def hides_truncations(vector: Mapping[str, Any] | None) -> bool:
    """Whether the recording says only `terminated` if the environment said truncated, too.

    `vector` is the provenance of the vector environment; None if there was none.
    """
    if vector is None:
        return False
    if "ends" in vector:
        return bool(vector["ends"] == DONE_AND_TRUNCATED)
    return str(vector.get("class", "")).startswith("stable_baselines3.")  # older ones lack `ends`


def _spec(spec: EnvSpec | None) -> tuple[dict[str, Any] | None, str | None]:
    """The environment's spec as JSON, or why it has none.

    Unlike `EnvSpec.to_json` it accepts a class as entry point: a replay finds the environment by
    its id, and needs only its arguments. Each argument that cannot be stored is named.
    """
    if spec is None:
        return None, "the environment was not made by gymnasium.make"
    registered = gym.registry[spec.id].kwargs if spec.id in gym.registry else {}
    threshold = spec.reward_threshold
    content = {
        "id": spec.id,
        "entry_point": _entry_point(spec.entry_point),
        "max_episode_steps": spec.max_episode_steps,
        "order_enforce": bool(spec.order_enforce),
        "nondeterministic": bool(spec.nondeterministic),
        "reward_threshold": None if threshold is None else float(threshold),
        **arguments_as_json(spec.kwargs, registered),
        "additional_wrappers": [
            {"name": one.name, "entry_point": one.entry_point, **_of_wrapper(one.kwargs)}
            for one in spec.additional_wrappers
        ],
    }
    return content, None


def _of_wrapper(arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of a wrapper in JSON; null if the wrapper does not show them."""
    content = arguments_as_json(arguments or {})
    return {**content, "kwargs": None} if arguments is None else content


def _entry_point(entry_point: Any) -> str | None:
    if entry_point is None or isinstance(entry_point, str):
        return entry_point
    name = getattr(entry_point, "__qualname__", type(entry_point).__qualname__)
    return f"{getattr(entry_point, '__module__', '')}:{name}"


def _wrappers(
    env: gym.Env[Any, Any] | EnvSpec | None, spec: EnvSpec | None
) -> list[dict[str, Any]]:
    """Class and arguments, outermost first; taken from the spec if there is no environment."""
    if isinstance(env, gym.Env):
        return [
            {"class": class_name(type(wrapper)), "kwargs": _as_json(arguments_of(wrapper))}
            for wrapper in made_by_hand(env)
            if isinstance(wrapper, gym.Wrapper)
        ]
    return [
        {"class": one.entry_point.replace(":", "."), "kwargs": _as_json(one.kwargs or {})}
        for one in reversed(spec.additional_wrappers if spec is not None else ())
    ]


def class_name(cls: type) -> str:
    """The name of a class with its module."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _as_json(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name; values that JSON cannot hold become text."""
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
    """Modules of the environment, its wrappers and its engine."""
    if stack or spec is None:
        modules = {type(env).__module__ for env in stack}
    else:
        entry_points = [_entry_point(spec.entry_point) or ""]
        entry_points += [one.entry_point for one in spec.additional_wrappers]
        modules = {entry_point.partition(":")[0] for entry_point in entry_points}
    packages = {module.rpartition(".")[0] for module in modules}
    return modules | {engine for package, engine in _ENGINES.items() if package in packages}


def versions_of(modules: Iterable[str]) -> dict[str, str]:
    """Names and versions of the distributions that these modules come from."""
    return _distributions_of(modules)


def _distributions_of(modules: Iterable[str]) -> dict[str, str]:
    packages = {module.partition(".")[0] for module in modules}
    names = {name for package in packages for name in _distributions_with(package)}
    return {name: _distribution_version(name) for name in sorted(names)}


@cache
def _distributions_with(package: str) -> list[str]:
    """Names of the distributions with a package; same result as `metadata.packages_distributions`.

    That function parses all metadata of every distribution, half a second in a large installation.
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

    Ends with `+dirty` if tracked files have changed, and with `+unchecked` if git could not tell.
    """
    commit = _git("rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    changes = _git("status", "--porcelain", "--untracked-files=no")
    if changes is None:
        return f"{commit}+unchecked"
    return f"{commit}+dirty" if changes else commit


def _git(*arguments: str) -> str | None:
    """Output of a git command; None without git, a repository, or an answer in time."""
    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=GIT_TIMEOUT_S,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # changes nothing on disk
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()
