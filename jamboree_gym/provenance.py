"""Where an episode came from: what has to be the same for it to happen again."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from jamboree_gym.spaces import space_to_json

__all__ = ["describe", "describe_sub_env", "rng_state_of"]

FORMAT_VERSION = 1
GIT_TIMEOUT_S = 2.0


def describe(env: gym.Env[Any, Any]) -> bytes:
    """Everything that is the same for all episodes of one recorder, as JSON.

    Args:
        env: The environment as recorded, without the recorder.

    Returns:
        UTF-8 JSON: `env_spec`, `spec_error`, `wrappers` (outermost first), spaces, `versions`,
        `platform`, `git_commit`, `host`, `pid`, and `vector`, which is null.
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


def _described(
    env: gym.Env[Any, Any] | EnvSpec | None,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    vector: Mapping[str, Any] | None,
) -> bytes:
    spec, spec_error = _spec(env.spec if isinstance(env, gym.Env) else env)
    content = {
        "format": FORMAT_VERSION,
        "env_spec": spec,
        "spec_error": spec_error,
        "wrappers": _wrappers(env),
        "observation_space": json.loads(space_to_json(observation_space)),
        "action_space": json.loads(space_to_json(action_space)),
        "vector": vector,
        "versions": {**_versions(), **_env_version(env)},
        "platform": platform.platform(),
        "git_commit": _git_commit(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    return json.dumps(content, sort_keys=True).encode()


def rng_state_of(env: gym.Env[Any, Any]) -> Mapping[str, Any] | None:
    """State of an environment's generator, to be asked before a reset; None where it has none.

    One that does not exist yet is made now, as the environment would do it a moment later.
    """
    env = env.unwrapped
    generator = getattr(env, "_np_random", None)
    if generator is None and type(env).np_random is gym.Env.np_random:
        generator = env.np_random
    if not isinstance(generator, np.random.Generator):
        return None
    state: Mapping[str, Any] = generator.bit_generator.state
    return state


def _spec(spec: EnvSpec | None) -> tuple[dict[str, Any] | None, str | None]:
    """The environment's spec as JSON, or why it has none.

    Unlike `EnvSpec.to_json` it takes an entry point that is a class: a replay looks the
    environment up by its id, and needs only what it was called with.
    """
    if spec is None:
        return None, "the environment was not made by gymnasium.make"
    content = {
        "id": spec.id,
        "entry_point": _entry_point(spec.entry_point),
        "max_episode_steps": spec.max_episode_steps,
        "order_enforce": spec.order_enforce,
        "nondeterministic": spec.nondeterministic,
        "reward_threshold": spec.reward_threshold,
        "kwargs": spec.kwargs,
        "additional_wrappers": [
            {"name": one.name, "entry_point": one.entry_point, "kwargs": one.kwargs}
            for one in spec.additional_wrappers
        ],
    }
    parts = [(spec.id, spec.kwargs)]
    parts += [(one.name, one.kwargs or {}) for one in spec.additional_wrappers]
    for name, kwargs in parts:
        for argument, value in kwargs.items():
            try:
                json.dumps(value)
            except (RecursionError, TypeError, ValueError) as error:
                return None, f"{argument}={value!r} of {name} cannot be written as JSON: {error}"
    return content, None


def _entry_point(entry_point: Any) -> str | None:
    if entry_point is None or isinstance(entry_point, str):
        return entry_point
    name = getattr(entry_point, "__qualname__", type(entry_point).__qualname__)
    return f"{getattr(entry_point, '__module__', '')}:{name}"


def _wrappers(env: gym.Env[Any, Any] | EnvSpec | None) -> list[str]:
    if isinstance(env, EnvSpec):
        return [one.entry_point.replace(":", ".") for one in reversed(env.additional_wrappers)]
    names = []
    while isinstance(env, gym.Wrapper):
        names.append(f"{type(env).__module__}.{type(env).__qualname__}")
        env = env.env
    return names


@cache
def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "gymnasium": gym.__version__,
        "jamboree-gym": _distribution_version("jamboree-gym"),
    }


def _env_version(env: gym.Env[Any, Any] | EnvSpec | None) -> dict[str, str]:
    """Version of the distribution that the environment's class comes from."""
    if isinstance(env, gym.Env):
        module = type(env.unwrapped).__module__
    else:
        module = (env and _entry_point(env.entry_point)) or ""
    package = module.partition(":")[0].partition(".")[0]
    names = _distributions().get(package, [])
    return {name: _distribution_version(name) for name in names}


@cache
def _distributions() -> dict[str, list[str]]:
    return {name: list(found) for name, found in metadata.packages_distributions().items()}


def _distribution_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


@cache
def _git_commit() -> str | None:
    """Commit of the working directory, `+dirty` where files differ from it; None outside git."""
    try:
        commit = _git("rev-parse", "HEAD")
        dirty = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+dirty" if dirty else commit


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True
    )
    return done.stdout.strip()
