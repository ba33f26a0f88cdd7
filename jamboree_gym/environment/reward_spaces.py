"""Refuses environments whose rewards are several numbers, if they say so."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorRewardWrapper, VectorWrapper

from jamboree_gym.errors import UnsupportedSpace

__all__ = ["check_reward_space", "check_vector_reward_space", "refuse_reward_space"]

_ONE_NUMBER: frozenset[tuple[int, ...]] = frozenset({(), (1,)})
_PASSING = ("gymnasium.", "jamboree_gym.")  # wrappers of these pass on rewards, except
_ALTERING = (gym.RewardWrapper, VectorRewardWrapper)  # wrappers of these kinds


def check_reward_space(env: gym.Env[Any, Any]) -> None:
    """Refuse an environment that declares rewards of several numbers.

    The check looks for `reward_space` through the wrappers, as far as they pass on rewards
    unchanged.

    Raises:
        UnsupportedSpace: The environment declares such rewards; says what to do.
    """
    layer: Any = env
    while layer is not None:
        refuse_reward_space(layer, _ONE_NUMBER)
        layer = layer.env if isinstance(layer, gym.Wrapper) and _passes_on(layer) else None


def check_vector_reward_space(env: VectorEnv[Any, Any, Any]) -> None:
    """As `check_reward_space`, for a vector environment; its own space may be that of a batch."""
    size = env.num_envs
    allowed = {*_ONE_NUMBER, (size,), (size, 1)}
    layer: Any = env
    while isinstance(layer, VectorWrapper):
        refuse_reward_space(layer, allowed)
        if not _passes_on(layer):
            return
        layer = layer.env
    refuse_reward_space(layer, allowed)
    if isinstance(layer, SyncVectorEnv):
        for one in layer.envs:
            check_reward_space(one)


def refuse_reward_space(layer: Any, allowed: Collection[tuple[int, ...]]) -> None:
    """Refuse (`UnsupportedSpace`) a layer whose `reward_space` has none of the allowed shapes."""
    space = getattr(layer, "reward_space", None)
    if isinstance(space, spaces.Space) and space.shape not in allowed:
        raise UnsupportedSpace(
            f"the reward space is {space}: rewards of several numbers cannot be recorded yet; make "
            "one of them, with mo_gymnasium.wrappers.LinearReward or a gymnasium.RewardWrapper"
        )


def _passes_on(wrapper: Any) -> bool:
    """Whether the wrapper leaves the shape of rewards as it is."""
    if isinstance(wrapper, _ALTERING):
        return False
    return str(type(wrapper).step.__module__).startswith(_PASSING)
