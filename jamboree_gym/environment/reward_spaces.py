"""Refuses vector environments that hold one number, of environments whose rewards are several."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from jamboree_gym.errors import UnsupportedSpace

__all__ = ["check_held_rewards"]

_PASSING = ("gymnasium.", "jamboree_gym.")  # wrappers of these pass on rewards, except
_ALTERING = (gym.RewardWrapper,)  # wrappers of these kinds


def check_held_rewards(envs: Iterable[gym.Env[Any, Any]], holder: str) -> None:
    """Refuse environments that declare rewards of several numbers, where only one is held.

    The check looks for `reward_space` through the wrappers, as far as they pass on rewards
    unchanged.

    Args:
        envs: The sub-environments.
        holder: What holds their rewards.

    Raises:
        UnsupportedSpace: One declares such rewards; says what to do.
    """
    for env in envs:
        layer: Any = env
        while layer is not None:
            space = getattr(layer, "reward_space", None)
            if isinstance(space, spaces.Space) and space.shape not in ((), (1,)):
                raise UnsupportedSpace(
                    f"the reward space is {space}, and {holder} holds one number: use "
                    "mo_gymnasium.wrappers.vector.MOSyncVectorEnv, or wrap each environment in "
                    "mo_gymnasium.wrappers.LinearReward"
                )
            layer = layer.env if isinstance(layer, gym.Wrapper) and _passes_on(layer) else None


def _passes_on(wrapper: Any) -> bool:
    """Whether the wrapper leaves the shape of rewards as it is."""
    if isinstance(wrapper, _ALTERING):
        return False
    return str(type(wrapper).step.__module__).startswith(_PASSING)
