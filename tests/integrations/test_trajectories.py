"""Episodes as imitation learning takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from jamboree_gym import Jamboree
from jamboree_gym.errors import InvalidArgument

pytestmark = pytest.mark.torch


def play(jam: Jamboree) -> None:
    """An episode that is abandoned without a step, three that end, and one that goes on."""
    env = jam.record(gym.make("FrozenLake-v1"), run="r")
    env.action_space.seed(1)
    env.reset(seed=0)
    for seed in range(4):
        env.reset(seed=seed)
        while seed < 3:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                break
    env.step(0)


def test_trajectories_are_the_episodes_in_the_order_of_the_query(jam: Jamboree) -> None:
    from jamboree_gym.integrations.sb3 import to_trajectories

    play(jam)
    query = jam.episodes(run="r").order_by("-steps")
    told: list[tuple[int, int]] = []
    trajectories = list(to_trajectories(query, progress=lambda *now: told.append(now)))

    expected = [episode.data() for episode in query][:4]
    assert told[-1] == (5, 5)
    assert len(trajectories) == 4, "without the one that has no step"
    for got, episode in zip(trajectories, expected, strict=True):
        np.testing.assert_array_equal(got.obs, episode.observations)
        np.testing.assert_array_equal(got.acts, episode.actions)
        np.testing.assert_array_equal(got.rews, episode.rewards)
        assert got.infos == episode.infos[1:]
        assert len(got) == len(got.acts) == len(got.obs) - 1
    assert [one.terminal for one in trajectories] == [len(one) > 1 for one in trajectories]


@dataclass(frozen=True)
class WithRew:
    """Has the fields and the checks of imitation's `TrajectoryWithRew`, which needs an old SB3."""

    obs: Any
    acts: Any
    infos: Any
    terminal: bool
    rews: Any

    def __post_init__(self) -> None:
        assert len(self.obs) == len(self.acts) + 1
        assert len(self.infos) == len(self.acts) > 0
        assert self.rews.shape == (len(self.acts),)
        assert np.issubdtype(self.rews.dtype, np.floating)


def test_another_class_may_hold_them(jam: Jamboree) -> None:
    from jamboree_gym.integrations.sb3 import to_trajectories

    play(jam)
    assert {type(one) for one in to_trajectories(jam.episodes(), WithRew)} == {WithRew}
    with pytest.raises(InvalidArgument, match="make='WithRew': give a function"):
        to_trajectories(jam.episodes(), "WithRew")  # type: ignore[arg-type]
