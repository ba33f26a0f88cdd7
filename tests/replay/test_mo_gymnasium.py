"""MO-Gymnasium's own environments and wrappers: recorded, verified and forked.

It needs pygame, whose files are those of pygame-ce, which Minigrid needs. So these tests have an
environment of their own: see `.ci/run`. Without MO-Gymnasium they are not collected.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import mo_gymnasium
import numpy as np
import pytest
from mo_gymnasium import wrappers
from mo_gymnasium.wrappers.vector import MOAsyncVectorEnv, MOSyncVectorEnv

from jamboree_gym import Jamboree
from jamboree_gym.errors import UnsupportedSpace
from jamboree_gym.replay import ReplayEnv, fork, verify

pytestmark = pytest.mark.filterwarnings("ignore")  # of MO-Gymnasium itself

STEPS = 12
ENVIRONMENTS = {
    "breakable-bottles-v0": 3,
    "deep-sea-treasure-concave-v0": 2,
    "deep-sea-treasure-mirrored-v0": 2,
    "deep-sea-treasure-v0": 2,
    "fishwood-v0": 2,
    "four-room-v0": 3,
    "fruit-tree-v0": 6,
    "minecart-deterministic-v0": 3,
    "minecart-v0": 3,
    "mo-ant-v5": 3,
    "mo-halfcheetah-v5": 2,
    "mo-hopper-v5": 3,
    "mo-humanoid-v5": 2,
    "mo-lunar-lander-continuous-v3": 4,
    "mo-lunar-lander-v3": 4,
    "mo-mountaincar-3d-v0": 3,
    "mo-mountaincar-v0": 3,
    "mo-mountaincarcontinuous-v0": 2,
    "mo-reacher-v5": 4,
    "mo-swimmer-v5": 2,
    "mo-walker2d-v5": 2,
    "resource-gathering-v0": 3,
    "water-reservoir-v0": 2,
}


def played(env: Any, *, seed: int | None, steps: int = STEPS) -> list[Any]:
    """The rewards of an episode, or of its beginning."""
    env.reset(seed=seed)
    env.action_space.seed(3)
    rewards, is_over = [], False
    while not is_over and len(rewards) < steps:
        _, reward, *ends, _ = env.step(env.action_space.sample())
        rewards.append(np.array(reward, float if isinstance(reward, list) else None))
        is_over = any(ends)
    return rewards


@pytest.mark.parametrize(("env_id", "size"), ENVIRONMENTS.items())
def test_an_environment_is_recorded_verified_and_forked(
    jam: Jamboree, env_id: str, size: int
) -> None:
    env = jam.record(mo_gymnasium.make(env_id), run="r")
    for seed in (1, None):
        rewards = np.array(played(env, seed=seed))
        episode = jam.episode(env.episode_id)
        data = episode.data()
        assert (data.rewards.dtype, data.rewards.tobytes()) == (rewards.dtype, rewards.tobytes())
        assert data.rewards.shape == (len(data), size)
        assert len(episode.summary.returns or ()) == size
        report = verify(episode)
        assert report, report
        replay = ReplayEnv(episode)
        replay.reset()
        assert replay.step(replay.recorded_action)[1].tolist() == rewards[0].tolist()
    env.close()
    with fork(episode, 1) as child:
        child.step(child.action_space.sample())
    (forked,) = jam.episodes(run="r", forks=True).where(parent=episode)
    assert forked.data().rewards.shape == (1, size)


@pytest.mark.parametrize(
    ("wrap", "shape"),
    [
        (lambda env: wrappers.LinearReward(env, np.array([0.25, 0.75])), ()),
        (lambda env: wrappers.MOClipReward(env, 0, min_r=-1, max_r=1), (2,)),
        (lambda env: wrappers.MORecordEpisodeStatistics(env), (2,)),
        (lambda env: wrappers.MONormalizeReward(env, 1), (2,)),
    ],
    ids=["LinearReward", "MOClipReward", "MORecordEpisodeStatistics", "MONormalizeReward"],
)
def test_what_a_wrapper_makes_of_rewards_is_recorded(jam: Jamboree, wrap: Any, shape: Any) -> None:
    env = jam.record(wrap(mo_gymnasium.make("deep-sea-treasure-v0")))
    rewards = played(env, seed=1)
    env.close()

    found = jam.episode(env.episode_id).data().rewards
    assert found.shape[1:] == shape
    assert found.tolist() == np.array(rewards).tolist()


@pytest.mark.parametrize("outer", [wrappers.MORecordEpisodeStatistics, wrappers.MONormalizeReward])
def test_below_a_wrapper_what_the_environment_returned_is_verified(
    jam: Jamboree, outer: Any
) -> None:
    recorded = jam.record(mo_gymnasium.make("mo-mountaincar-v0"))
    env = outer(recorded, 0) if outer is wrappers.MONormalizeReward else outer(recorded)
    played(env, seed=None)

    assert verify(jam.episode(recorded.episode_id))


# Gymnasium 1.4 refuses the worker of MO-Gymnasium 1.3.2.
IS_OLD = tuple(map(int, gym.__version__.split(".")[:2])) < (1, 4)


@pytest.mark.parametrize("num_envs", [2, 8])
@pytest.mark.parametrize("kind", [MOSyncVectorEnv, *([MOAsyncVectorEnv] if IS_OLD else [])])
def test_its_vector_environments_are_recorded_and_verified(
    jam: Jamboree, kind: Any, num_envs: int
) -> None:
    envs = kind([lambda: mo_gymnasium.make("resource-gathering-v0")] * num_envs)
    recorded = jam.record(envs, run="many")
    recorded.reset(seed=1)
    recorded.action_space.seed(1)
    for _ in range(60):
        recorded.step(recorded.action_space.sample())
    recorded.close()

    ends = jam.episodes(run="many")
    assert len(ends) >= num_envs
    for episode in list(ends)[:12]:
        assert episode.data().rewards.shape[1:] == (3,)
        report = verify(episode)
        assert report, report


def test_gymnasiums_own_vector_environment_is_refused_with_advice(jam: Jamboree) -> None:
    envs = gym.vector.SyncVectorEnv([lambda: mo_gymnasium.make("deep-sea-treasure-v0")])
    with pytest.raises(UnsupportedSpace, match="MOSyncVectorEnv"):
        jam.record(envs)
    envs.close()
