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


class DrawsFromElsewhere(gym.ObservationWrapper):
    """No reset sets this generator back."""

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation + np.random.random()


def drawing_from_elsewhere() -> gym.Env:
    return NormalizeObservation(DrawsFromElsewhere(gym.make("CartPole-v1")))


def test_statistics_that_were_recorded_are_no_cause_of_a_difference(jam: Jamboree) -> None:
    env = jam.record(drawing_from_elsewhere())
    env.reset(seed=2)
    env.step(0)
    env.close()
    report = verify(jam.episode(env.episode_id), make=drawing_from_elsewhere)
    assert not report
    assert "recorded above" not in str(report)


@pytest.mark.parametrize("wrappers", [None, 7, ["x"], [{}], [{"class": 7}]])
def test_damaged_wrappers_of_a_provenance_remember_nothing(wrappers: object) -> None:
    assert remembering_of({"wrappers": wrappers}) == ()
