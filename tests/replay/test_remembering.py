"""A wrapper with statistics of earlier episodes is named where a replay differs."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import NormalizeObservation

from jamboree_gym import Jamboree
from jamboree_gym.replay import verify
from jamboree_gym.replay.verification.report import remembering_of


def test_a_difference_above_a_wrapper_that_remembers_names_it(jam: Jamboree) -> None:
    """Of a sub-environment it is not known what it has seen before it was recorded."""
    envs = SyncVectorEnv([lambda: NormalizeObservation(gym.make("CartPole-v1"))])
    envs.reset(seed=1)
    recorded = jam.record(envs)
    recorded.reset(seed=2)
    recorded.step(np.array([0]))
    recorded.close()
    report = verify(jam.episode(recorded.episode_ids[0]))
    assert not report
    assert "recorded above NormalizeObservation, with statistics of earlier" in str(report)
    assert str(report).count("\n") == 1


@pytest.mark.parametrize("wrappers", [None, 7, ["x"], [{}], [{"class": 7}]])
def test_damaged_wrappers_of_a_provenance_remember_nothing(wrappers: object) -> None:
    assert remembering_of({"wrappers": wrappers}) == ()
