"""A wrapper with statistics of earlier episodes is named where a replay differs."""

from __future__ import annotations

import gymnasium as gym
import pytest
from gymnasium.wrappers import NormalizeObservation

from jamboree_gym import Jamboree
from jamboree_gym.replay import verify
from jamboree_gym.replay.verification.report import remembering_of


def test_a_difference_above_a_wrapper_that_remembers_names_it(jam: Jamboree) -> None:
    env = jam.record(NormalizeObservation(gym.make("CartPole-v1")))
    ids = []
    for seed in (1, 2):
        env.reset(seed=seed)
        ids.append(env.episode_id)
        env.step(0)
    env.close()
    report = verify(jam.episode(ids[1]))
    assert not report
    assert "recorded above NormalizeObservation, with statistics of earlier" in str(report)
    assert str(report).count("\n") == 1


@pytest.mark.parametrize("wrappers", [None, 7, ["x"], [{}], [{"class": 7}]])
def test_damaged_wrappers_of_a_provenance_remember_nothing(wrappers: object) -> None:
    assert remembering_of({"wrappers": wrappers}) == ()
