"""What wrappers carry from one episode to the next: statistics, counts, an index of seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from jamboree_gym.environment.wrapper_arguments import stack_of

__all__ = [
    "Carrier",
    "carriers_of",
    "has_carriers",
    "is_in_mid_game",
    "put_carried",
    "take_carried",
]

_STATISTICS: Final = ("mean", "var", "count")
_CARRIED: Final = {
    "gymnasium.wrappers.stateful_observation:NormalizeObservation": (
        *(f"obs_rms.{name}" for name in _STATISTICS),
        "_update_running_mean",
    ),
    "gymnasium.wrappers.stateful_reward:NormalizeReward": (
        *(f"return_rms.{name}" for name in _STATISTICS),
        *("discounted_reward", "_update_running_mean"),
    ),
    "minigrid.wrappers:ActionBonus": ("counts",),
    "minigrid.wrappers:PositionBonus": ("counts",),
    "minigrid.wrappers:ReseedWrapper": ("seed_idx",),
}
# Its reset goes on in the same game, if the last episode ended with a life.
_MID_GAME: Final = "stable_baselines3.common.atari_wrappers:EpisodicLifeEnv"


class Carrier(NamedTuple):
    """A wrapper that carries something, and the names of its attributes."""

    wrapper: Any
    attributes: Sequence[str]


def carriers_of(env: gym.Env[Any, Any]) -> list[Carrier]:
    """The wrappers of an environment that carry something, outermost first."""
    found = ((one, _attributes(type(one))) for one in stack_of(env))
    return [Carrier(one, attributes) for one, attributes in found if attributes]


def has_carriers(env: gym.Env[Any, Any] | EnvSpec) -> bool:
    """Whether a wrapper carries something on, be it the game itself."""
    known = {*_CARRIED, _MID_GAME}
    if isinstance(env, EnvSpec):
        return any(one.entry_point in known for one in env.additional_wrappers)
    return any(not known.isdisjoint(_names(type(one))) for one in stack_of(env))


def is_in_mid_game(env: gym.Env[Any, Any]) -> bool:
    """Whether the next reset goes on in the game of the last episode."""
    return any(
        _MID_GAME in _names(type(one)) and not getattr(one, "was_real_done", True)
        for one in stack_of(env)
    )


def take_carried(carriers: Iterable[Carrier]) -> list[dict[str, Any]] | None:
    """What they carry now, a dict for each; None if there are none."""
    taken = [
        {name: _copied(_get(wrapper, name)) for name in attributes}
        for wrapper, attributes in carriers
    ]
    return taken or None


def put_carried(carriers: Sequence[Carrier], carried: Sequence[Any]) -> None:
    """Give wrappers what others like them carried.

    Raises:
        ValueError: It is of other wrappers.
    """
    names = [list(one.attributes) for one in carriers]
    if [sorted(one) for one in carried] != [sorted(one) for one in names]:
        raise ValueError("what its wrappers carried is of other wrappers")
    for (wrapper, _), values in zip(carriers, carried, strict=True):
        for name, value in values.items():
            before = _get(wrapper, name)
            if np.shape(value) != np.shape(before) or isinstance(value, dict) is not isinstance(
                before, dict
            ):
                raise ValueError(f"{name} of {type(wrapper).__name__} has another shape")
            _set(wrapper, name, _copied(value))


def _names(cls: type) -> set[str]:
    return {f"{one.__module__}:{one.__name__}" for one in cls.__mro__}


def _attributes(cls: type) -> Sequence[str]:
    known = (f"{one.__module__}:{one.__name__}" for one in cls.__mro__)
    return next((_CARRIED[name] for name in known if name in _CARRIED), ())


def _get(wrapper: Any, name: str) -> Any:
    for part in name.split("."):
        wrapper = getattr(wrapper, part)
    return wrapper


def _set(wrapper: Any, name: str, value: Any) -> None:
    *path, last = name.split(".")
    setattr(_get(wrapper, ".".join(path)) if path else wrapper, last, value)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(key): _plain(one) for key, one in value.items()}
    return value.copy() if isinstance(value, np.ndarray) else value


def _plain(value: Any) -> Any:
    """The keys of Minigrid's counts are tuples of numbers of NumPy's kinds, or of Python's."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value
