"""Reference environments; ``import jamboree_envs`` registers them under ``jamboree/``."""

import gymnasium as gym

__all__ = ["register_envs"]


def register_envs() -> None:
    """Register every environment of this package; a second call changes nothing."""
    if "jamboree/Balance-v0" not in gym.registry:
        gym.register(
            id="jamboree/Balance-v0",
            entry_point="jamboree_envs.balance:BalanceEnv",
            max_episode_steps=100,
        )


register_envs()
