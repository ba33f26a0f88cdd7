"""Where an episode came from: what has to be the same for it to happen again."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from types import BuiltinFunctionType, FunctionType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from jamboree_gym.spaces import space_to_json

__all__ = ["describe"]

FORMAT_VERSION = 1
GIT_TIMEOUT_S = 2.0
MAX_SHOWN = 200


def describe(env: gym.Env[Any, Any]) -> bytes:
    """Everything that is the same for all episodes of one recorder, as JSON.

    Args:
        env: The environment as recorded, without the recorder.

    Returns:
        UTF-8 JSON: `env_spec`, `spec_error`, `env_kwargs` (what is no JSON as text), `wrappers`
        (outermost first, each with its class and its arguments, null where it does not tell them),
        spaces, `versions` (also of the distributions of environment and wrappers), `platform`,
        `git_commit`, `host`, `pid`.
    """
    spec, spec_error = _spec(env)
    stack = list(_stack(env))
    content = {
        "format": FORMAT_VERSION,
        "env_spec": spec,
        "spec_error": spec_error,
        "env_kwargs": {} if env.spec is None else _as_json(env.spec.kwargs),
        "wrappers": [
            {"class": _class_name(wrapper), "kwargs": _arguments(wrapper)} for wrapper in stack[:-1]
        ],
        "observation_space": json.loads(space_to_json(env.observation_space)),
        "action_space": json.loads(space_to_json(env.action_space)),
        "versions": {**_versions(), **_stack_versions(stack)},
        "platform": platform.platform(),
        "git_commit": _git_commit(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    return json.dumps(content, sort_keys=True).encode()


def _spec(env: gym.Env[Any, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """The environment's spec as JSON, or why it has none.

    Unlike `EnvSpec.to_json` it takes an entry point that is a class: a replay looks the
    environment up by its id, and needs only what it was called with.
    """
    spec = env.spec
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
            error = _json_error(value)
            if error is not None:
                shown = _shown(value)
                return None, f"{argument}={shown} of {name} cannot be written as JSON: {error}"
    return content, None


def _entry_point(entry_point: Any) -> str | None:
    if entry_point is None or isinstance(entry_point, str):
        return entry_point
    name = getattr(entry_point, "__qualname__", type(entry_point).__qualname__)
    return f"{getattr(entry_point, '__module__', '')}:{name}"


def _stack(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    """Wrappers, outermost first, and the environment."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env


def _class_name(env: gym.Env[Any, Any]) -> str:
    return f"{type(env).__module__}.{type(env).__qualname__}"


def _arguments(wrapper: gym.Env[Any, Any]) -> dict[str, Any] | None:
    """Arguments that a wrapper was made with, where it keeps them for its spec."""
    if not isinstance(wrapper, RecordConstructorArgs):
        return None
    arguments = _as_json(wrapper._saved_kwargs)
    arguments.pop("env", None)
    return arguments


def _as_json(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, as text where JSON cannot hold them."""
    return {
        name: value if _json_error(value) is None else _shown(value)
        for name, value in arguments.items()
    }


def _json_error(value: Any) -> Exception | None:
    try:
        json.dumps(value, sort_keys=True)
    except (RecursionError, TypeError, ValueError) as error:
        return error
    return None


def _shown(value: Any) -> str:
    """What is no JSON, in few words; functions without the address that differs each time."""
    text = f"{value.__module__}:{value.__qualname__}" if _has_name(value) else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _has_name(value: Any) -> bool:
    return isinstance(value, (type, FunctionType, BuiltinFunctionType))


@cache
def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "gymnasium": gym.__version__,
        "jamboree-gym": _distribution_version("jamboree-gym"),
    }


def _stack_versions(stack: Iterable[gym.Env[Any, Any]]) -> dict[str, str]:
    """Versions of the distributions that environment and wrappers come from."""
    packages = {type(env).__module__.partition(".")[0] for env in stack}
    names = {name for package in packages for name in _distributions().get(package, [])}
    return {name: _distribution_version(name) for name in sorted(names)}


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
