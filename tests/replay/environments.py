"""The environments that replays are held to, for every test module that goes through them all."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import gymnasium as gym
import pytest


class Case(NamedTuple):
    """An environment as `gymnasium.make` gets it.

    Attributes:
        id: Gymnasium id.
        kwargs: Arguments of its own.
        needs: The module that registers it, beyond those of Gymnasium itself.
    """

    id: str
    kwargs: Mapping[str, Any] = MappingProxyType({})
    needs: str | None = None

    def register(self) -> None:
        """Import what registers it."""
        if self.needs is not None:
            module = importlib.import_module(self.needs)
            if self.id not in gym.registry:
                gym.register_envs(module)

    def make(self, **kwargs: Any) -> gym.Env[Any, Any]:
        """Make one."""
        self.register()
        return gym.make(self.id, **self.kwargs, **kwargs)


def newest(name: str) -> str:
    """The newest registered version of an environment."""
    versions = [spec.version or 0 for spec in gym.registry.values() if spec.name == name]
    return f"{name}-v{max(versions)}"


CASES = [
    Case("CartPole-v1"),
    Case("Pendulum-v1"),
    Case("Acrobot-v1"),
    Case("MountainCar-v0"),
    Case("MountainCarContinuous-v0"),
    Case("FrozenLake-v1"),
    Case(newest("Taxi")),
    Case("Blackjack-v1"),
    Case(newest("CliffWalking")),
    Case("LunarLander-v3"),
    Case("BipedalWalker-v3"),
    Case("Hopper-v5"),
    Case("Ant-v5"),
    Case("ALE/Breakout-v5", needs="ale_py"),  # repeats an action with probability 0.25
    Case("MiniGrid-DoorKey-5x5-v0", needs="minigrid"),
    Case("jamboree/Balance-v0", needs="jamboree_envs"),
]

ONE_OF_EACH_KIND = (
    "CartPole-v1",
    "FrozenLake-v1",
    "LunarLander-v3",
    "Hopper-v5",
    "ALE/Breakout-v5",
    "MiniGrid-DoorKey-5x5-v0",
    "jamboree/Balance-v0",
)


def every_environment(*, quick: Collection[str]) -> pytest.MarkDecorator:
    """Parametrizes `case` with all of them; those that are not in `quick` (ids) are `long`."""
    assert {*quick} <= {case.id for case in CASES}
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=case.id, marks=() if case.id in quick else pytest.mark.long)
            for case in CASES
        ],
    )
