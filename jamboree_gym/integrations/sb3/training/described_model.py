"""What is kept of a model: its class, its policy's, and what it was made with."""

from __future__ import annotations

import inspect
import os
import socket
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from jamboree_gym.environment.provenance import class_name, conditions_now
from jamboree_gym.wording import shortened

__all__ = ["described_model"]

_DISTRIBUTIONS: Final = (
    *("python", "numpy", "gymnasium", "jamboree-gym"),
    *("stable-baselines3", "sb3-contrib", "torch"),
)
# What a constructor takes that is no hyperparameter, or stands beside them.
_NO_HYPERPARAMETERS: Final = frozenset({"self", "policy", "env", "device", "seed", "verbose"})
_MAX_SHOWN: Final = 200


def described_model(model: BaseAlgorithm) -> dict[str, Any]:
    """What `Run.info` says of a model and of the machine, JSON throughout.

    Hyperparameters are the arguments of its constructors, as the model holds them: what is no JSON
    as a text, a schedule as its values at the `start` (progress remaining 1) and at the `end` (0).
    """
    found = conditions_now([*_DISTRIBUTIONS, "platform", "git_commit"])
    return {
        "algorithm": class_name(type(model)),
        "policy": class_name(type(model.policy)),
        "hyperparameters": _hyperparameters(model),
        "device": str(model.device),
        "seed": _as_json(model.seed),
        "n_envs": model.n_envs,
        "timesteps_asked": model._total_timesteps,
        "versions": {name: found[name] for name in _DISTRIBUTIONS if found[name] is not None},
        "platform": found["platform"],
        "git_commit": found["git_commit"],
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def _hyperparameters(model: BaseAlgorithm) -> dict[str, Any]:
    names: dict[str, None] = {}
    for cls in type(model).__mro__:
        if "__init__" in vars(cls) and cls is not object:
            names.update(dict.fromkeys(inspect.signature(vars(cls)["__init__"]).parameters))
    return {
        name: _as_json(getattr(model, name))
        for name in names
        if name not in _NO_HYPERPARAMETERS and name[0] != "_" and hasattr(model, name)
    }


def _as_json(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, type):
        return class_name(value)
    if isinstance(value, Mapping):
        return {str(name): _as_json(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(one) for one in value]
    return _schedule(value) or shortened(repr(value), _MAX_SHOWN)


def _schedule(value: Any) -> dict[str, float] | None:
    """A function of the remaining progress, at both ends; None for what is none."""
    if not callable(value):
        return None
    try:
        return {"start": float(value(1.0)), "end": float(value(0.0))}
    except Exception:  # noqa: BLE001 - whatever else can be called
        return None
