"""A pytest plugin: every environment that somebody else's test suite makes is recorded.

`gymnasium.make` and `make_vec` return recorded environments, and the VecEnv of each model of
Stable-Baselines3 is recorded. Whatever a recorded test waits for, its records must reach Redis.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import gymnasium as gym
import pytest

from jamboree_gym import Jamboree
from jamboree_gym.servers.embedded import stop_servers


class RecordAll:
    """Records in this process alone: what workers make is recorded by who asked for it."""

    def __init__(self) -> None:
        self._home = tempfile.mkdtemp(prefix="jamboree-peers-")
        self._jam = Jamboree(home=self._home, backup=False)
        self._pid = os.getpid()
        self._depth = 0
        self.recorded = 0

    def around(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose result is recorded; what it makes on its way is not."""

        @wraps(make)
        def make_recorded(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            try:
                made = make(*args, **kwargs)
            finally:
                self._depth -= 1
            if self._depth or os.getpid() != self._pid:
                return made
            self.recorded += 1
            return self._jam.record(made)

        return make_recorded

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """What the test has recorded is stored, or the test fails."""
        yield
        self._jam.flush()

    def pytest_unconfigure(self) -> None:
        """Say how much was recorded, and leave nothing behind."""
        print(f"\n{self.recorded} environments were recorded")
        self._jam.close()
        stop_servers(self._home)


def pytest_configure(config: pytest.Config) -> None:
    plugin = RecordAll()
    gym.make = plugin.around(gym.make)
    gym.make_vec = plugin.around(gym.make_vec)
    try:
        from stable_baselines3.common.base_class import BaseAlgorithm
    except ImportError:
        pass
    else:
        wrap = plugin.around(BaseAlgorithm._wrap_env)
        BaseAlgorithm._wrap_env = staticmethod(wrap)  # type: ignore[method-assign, assignment]
    config.pluginmanager.register(plugin)
