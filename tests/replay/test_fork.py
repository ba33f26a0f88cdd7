"""`fork`: a live environment where a recorded one stood, and what is recorded of its way on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from forged import forge_origin
from forks import assert_forks_like_recorded, assert_other_ways_verify
from recorded_envs import CountingEnv, MixingEnv, ReusingEnv, play

import jamboree_envs  # noqa: F401 - registers its environments
from jamboree_gym import Jamboree
from jamboree_gym.arrays.values import encode_value
from jamboree_gym.errors import EpisodeNotFound, InvalidRecord, ReplayError
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay import fork, verify

ENVS = [
    *("CartPole-v1", "Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1"),
    *("FrozenLake-v1", "Taxi-v4", "Taxi-v3", "CliffWalking-v1", "Blackjack-v1"),
    "jamboree/Balance-v0",
]
ENVS = [name for name in ENVS if name in gym.registry]


class ForgetfulEnv(CountingEnv):
    """Observes how many of its kind have been made: a second one does not do the same."""

    made = 0

    def __init__(self) -> None:
        super().__init__(length=9)
        type(self).made += 1

    def observe(self) -> Any:
        changed = self.count >= 2 and self.made
        return np.array([self.count, changed], np.float32)


SAMPLES = {"Forgetful": ForgetfulEnv, "Mixing": MixingEnv, "Reusing": ReusingEnv}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for name, entry_point in SAMPLES.items():
        gym.register(f"tests/{name}-v0", entry_point=entry_point, disable_env_checker=True)
    ForgetfulEnv.made = 0
    yield
    for name in SAMPLES:
        gym.registry.pop(f"tests/{name}-v0", None)


def record(
    jam: Jamboree, env: gym.Env[Any, Any], steps: int = 12, seed: int | None = 3, **options: Any
) -> Episode:
    """Record an episode of random actions, or its first steps."""
    recorded = jam.record(env, **options)
    recorded.action_space.seed(4)
    recorded.reset(seed=seed)
    for _ in range(steps):
        *_, terminated, truncated, _ = recorded.step(recorded.action_space.sample())
        if terminated or truncated:
            break
    recorded.close()
    return jam.episode(recorded.episode_id)


# -- where it stands --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENVS)
@pytest.mark.parametrize(
    "seed",
    [pytest.param(11, marks=pytest.mark.long), None],  # the generator is that of a seed, or kept
    ids=["seeded", "unseeded"],
)
def test_a_fork_at_every_step_goes_on_as_recorded(
    jam: Jamboree, name: str, seed: int | None
) -> None:
    episode = record(jam, gym.make(name), seed=seed)

    assert_forks_like_recorded(jam, episode)


@pytest.mark.parametrize("name", ENVS)
def test_other_actions_give_a_child_and_a_grandchild_that_verify(jam: Jamboree, name: str) -> None:
    episode = record(jam, gym.make(name), seed=None)

    assert_other_ways_verify(jam, episode, len(episode) // 2)


def test_a_fork_after_no_steps_stands_right_after_the_reset(jam: Jamboree) -> None:
    episode = record(jam, gym.make("FrozenLake-v1"))

    env = fork(episode, 0)

    assert env.observation == episode.data().observations[0]
    assert encode_value(env.info) == encode_value(dict(episode.data().infos[0]))


def test_the_time_limit_goes_on_counting(jam: Jamboree) -> None:
    episode = record(jam, gym.make("Pendulum-v1", max_episode_steps=30), steps=30)
    env = fork(episode, 25)

    ends = [env.step(np.zeros(1, np.float32))[3] for _ in range(5)]

    assert ends == [False] * 4 + [True]
    assert jam.episode(env.episode_id).status == "truncated"


def test_a_buffer_that_is_used_again_does_not_change_what_was_seen(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Reusing-v0"), steps=2)
    env = fork(episode, 1)
    env.step(env.action_space.sample())

    assert env.observation.tolist() == [1.0, 1.0]
    assert jam.episode(env.episode_id).data().observations.tolist() == [[1.0, 1.0], [2.0, 2.0]]


def test_python_and_numpy_actions_are_played_as_they_were(jam: Jamboree) -> None:
    env = jam.record(gym.make("tests/Mixing-v0"))
    play(env, [1, np.int64(1), 2, np.int64(2), np.int64(0), 1, 2] * 3, seed=1)
    env.close()

    assert_forks_like_recorded(jam, jam.episode(env.episode_id), range(0, 21, 5))


def test_an_environment_can_be_rendered_from_there(jam: Jamboree) -> None:
    episode = record(jam, gym.make("jamboree/Balance-v0"))

    env = fork(episode, 2, render_mode="ansi")

    assert env.render().startswith("step 2 ")


def test_an_episode_of_a_vector_environment_can_be_forked(jam: Jamboree) -> None:
    envs = jam.record(gym.make_vec("Pendulum-v1", num_envs=2, vectorization_mode="sync"))
    envs.action_space.seed(1)
    envs.reset(seed=5)
    for _ in range(9):
        envs.step(envs.action_space.sample())
    envs.close()
    episode = jam.episode(envs.episode_ids[1])

    assert_forks_like_recorded(jam, episode)
    grandchild = assert_other_ways_verify(jam, episode, 4)
    assert grandchild.summary.vector_index is None


def test_an_episode_that_follows_another_can_be_forked(jam: Jamboree) -> None:
    envs = jam.record(gym.make_vec("FrozenLake-v1", num_envs=2, vectorization_mode="async"))
    envs.action_space.seed(1)
    envs.reset(seed=5)
    for _ in range(60):
        envs.step(envs.action_space.sample())
    envs.close()
    episode = next(one for one in jam.episodes() if one.predecessor is not None and len(one) > 2)

    assert_forks_like_recorded(jam, episode)
    assert_other_ways_verify(jam, episode, 1)


def test_an_episode_that_still_goes_on_can_be_forked(jam: Jamboree) -> None:
    running = jam.record(gym.make("CartPole-v1"))
    running.reset(seed=1)
    for action in (0, 1, 0, 1):
        running.step(action)

    env = fork(jam.episode(running.episode_id), 4)

    _, _, *mine, _ = env.step(0)
    assert mine == list(running.step(0)[2:4])
    report = jam.diff(running.episode_id, env.episode_id)
    assert not report, str(report)


# -- what is recorded -------------------------------------------------------------------------


def test_a_child_says_where_it_comes_from(jam: Jamboree) -> None:
    episode = record(jam, gym.make("CartPole-v1"), run="first", tags={"lr": 1.0, "who": "me"})
    env = fork(episode, 5, tags={"who": "you"})
    env.annotate(value=0.5)
    env.step(0)
    env.close()

    child = jam.episode(env.episode_id)
    summary = child.summary
    assert (summary.parent, summary.run, summary.env_id) == (episode.id, "first", "CartPole-v1")
    assert summary.tags == {"lr": 1.0, "who": "you"}
    assert (summary.seed, summary.steps, summary.status) == (None, 1, "abandoned")
    assert (child.origin.parent, child.origin.fork_step) == (episode.id, 5)
    assert child.data().annotations["value"].tolist() == [0.5]
    assert (env.parent.id, env.fork_step) == (episode.id, 5)
    assert env.spec == gym.make("CartPole-v1", disable_env_checker=True).spec


def test_a_child_may_belong_to_another_run(jam: Jamboree) -> None:
    episode = record(jam, gym.make("CartPole-v1"), run="first")

    env = fork(episode, 2, run="second")

    assert jam.episode(env.episode_id).summary.run == "second"


def test_a_child_begins_with_what_was_seen_at_the_fork(jam: Jamboree) -> None:
    episode = record(jam, gym.make("FrozenLake-v1"))
    env = fork(episode, 1)
    env.close()
    data, parent = jam.episode(env.episode_id).data(), episode.data()

    assert len(data) == 0
    assert data.observations.tolist() == parent.observations[1:2].tolist()
    assert encode_value(list(data.infos)) == encode_value(list(parent.infos[1:2]))


def test_nothing_is_recorded_where_nothing_shall_be(jam: Jamboree) -> None:
    episode = record(jam, gym.make("CartPole-v1"))
    env = fork(episode, 2, record=False)
    env.annotate(value=1.0)
    env.step(0)
    env.close()

    with pytest.raises(EpisodeNotFound, match="not recorded"):
        _ = env.episode_id
    assert jam.episodes().ids() == [episode.id]


def test_a_reset_of_a_fork_begins_an_ordinary_episode(jam: Jamboree) -> None:
    episode = record(jam, gym.make("Pendulum-v1", max_episode_steps=6), steps=6)
    env = fork(episode, 4)
    child = env.episode_id
    env.reset()
    for _ in range(6):
        *_, truncated, _ = env.step(env.action_space.sample())
    ordinary = jam.episode(env.episode_id)

    assert truncated
    assert jam.episode(child).status == "abandoned"
    assert ordinary.parent is None
    assert verify(ordinary)


def test_children_survive_backup_and_restore(jam: Jamboree) -> None:
    episode = record(jam, gym.make("FrozenLake-v1"), seed=None)
    grandchild = assert_other_ways_verify(jam, episode, 1)
    line = [one.id for one in grandchild.lineage]
    jam.backup.flush()
    jam.redis.flushdb()
    jam.backup.restore()

    assert [one.id for one in jam.episode(grandchild.id).lineage] == line
    assert [one.id for one in jam.episode(episode.id).children] == [line[1]]
    assert verify(grandchild)
    assert jam.backup.verify()


def test_a_child_whose_parent_was_deleted_cannot_be_verified(jam: Jamboree) -> None:
    episode = record(jam, gym.make("CartPole-v1"))
    env = fork(episode, 2)
    env.step(0)
    env.close()
    child = jam.episode(env.episode_id)
    episode.delete()

    with pytest.raises(ReplayError, match=f"forked from '{episode.id}', which is not there"):
        verify(child)
    with pytest.raises(ReplayError, match="not there"):
        fork(child, 0)


@pytest.mark.parametrize("fork_step", [3, 5])
def test_a_child_is_compared_after_the_very_steps_of_its_parent(
    jam: Jamboree, fork_step: int
) -> None:
    episode = record(jam, gym.make("CartPole-v1"))
    env = fork(episode, 4)
    env.step(0)
    env.close()
    child = jam.episode(env.episode_id)
    assert verify(child)

    mismatch = verify(forge_origin(jam, child, fork_step=fork_step)).mismatch

    assert (mismatch.step, mismatch.field) == (-1, "observation")


# -- what cannot be forked --------------------------------------------------------------------


@pytest.mark.parametrize("step", [-1, 4, 99])
def test_a_step_that_is_none_is_named(jam: Jamboree, step: Any) -> None:
    episode = record(jam, gym.make("CartPole-v1"), steps=3)
    fork(episode, 3)  # it was abandoned there, so it can go on

    with pytest.raises(ReplayError, match=r"has 3 steps\. Fork it after 0 to 3 steps"):
        fork(episode, step)


@pytest.mark.parametrize("make", ["terminated", "truncated"])
def test_an_end_is_an_end(jam: Jamboree, make: str) -> None:
    limit = 5 if make == "truncated" else 500
    env = gym.make("CartPole-v1", max_episode_steps=limit)
    episode = record(jam, env, steps=500)
    steps = len(episode)

    with pytest.raises(ReplayError, match=f"is {make}, so nothing comes after its end"):
        fork(episode, steps)
    fork(episode, steps - 1)


def test_an_episode_that_does_not_happen_again_is_not_forked(jam: Jamboree) -> None:
    episode = record(jam, gym.make("tests/Forgetful-v0"), steps=6)

    fork(episode, 1)  # up to there it does
    with pytest.raises(ReplayError, match=r"does not happen again.*observation.* at step 1: "):
        fork(episode, 3)
    assert len(jam.episodes(forks=True)) == 2


def test_an_episode_that_is_not_there_is_named(jam: Jamboree) -> None:
    with pytest.raises(EpisodeNotFound):
        fork(jam.episode("nobody"), 0)


def test_a_tag_that_cannot_be_kept_leaves_nothing_behind(jam: Jamboree) -> None:
    episode = record(jam, gym.make("CartPole-v1"))

    with pytest.raises(InvalidRecord, match="rule"):
        fork(episode, 1, tags={"rule": len})
    assert len(jam.episodes()) == 1


@pytest.mark.parametrize(
    "change",
    [lambda origin: origin.fork_step, lambda origin: origin.parent],
    ids=["fork_step", "parent"],
)
def test_the_origin_comes_back_as_written(jam: Jamboree, change: Callable[[Any], object]) -> None:
    episode = record(jam, gym.make("CartPole-v1"))
    env = fork(episode, 7)

    assert change(jam.episode(env.episode_id).origin) in (7, episode.id)
    assert change(episode.origin) is None
