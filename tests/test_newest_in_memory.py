"""The newest steps of an episode that this process records: arrays are made when asked for."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields, replace

import gymnasium as gym
import numpy as np
import pytest
from msgspec import structs

from jamboree_gym import Jamboree, Transitions
from jamboree_gym.compiled import compiled_core
from jamboree_gym.journal.row_block import Extent
from jamboree_gym.reading import row_arrays
from jamboree_gym.reading.episode import Episode

STEPS = 40


class Counter(gym.Env):  # type: ignore[type-arg]
    """Each observation, reward and action tells its step."""

    observation_space = gym.spaces.Box(0, np.inf, (3,), np.float32)
    action_space = gym.spaces.Discrete(10**6)

    def reset(self, *, seed=None, options=None):  # type: ignore[no-untyped-def]
        super().reset(seed=seed)
        self.n = 0
        return np.full(3, 0, np.float32), {}

    def step(self, action):  # type: ignore[no-untyped-def]
        self.n += 1
        return np.full(3, self.n, np.float32), float(self.n), False, False, {}


@pytest.fixture
def env(jam: Jamboree):  # type: ignore[no-untyped-def]
    env = jam.record(Counter())
    env.reset(seed=0)
    for n in range(STEPS):
        env.step(n + 1)
    yield env
    env.close()


@pytest.fixture
def episode(jam: Jamboree, env) -> Episode:  # type: ignore[no-untyped-def]
    return jam.episode(env.episode_id)


def is_made(steps: Transitions, name: str) -> bool:
    try:
        vars(Transitions)[name].__get__(steps)
    except AttributeError:
        return False
    return True


def assert_newest(steps: Transitions, last: int, n: int) -> None:
    numbers = np.arange(last - n + 1, last + 1)
    np.testing.assert_array_equal(steps.indices, numbers - 1)
    np.testing.assert_array_equal(steps.rewards, numbers)
    np.testing.assert_array_equal(steps.actions, numbers)
    np.testing.assert_array_equal(steps.observations[:, 0], numbers - 1)
    np.testing.assert_array_equal(steps.next_observations[:, 2], numbers)


def test_no_array_is_made_before_one_is_used(episode: Episode) -> None:
    steps = episode.recent(16)
    assert not any(is_made(steps, field.name) for field in fields(steps))

    assert steps.rewards[-1] == STEPS
    assert is_made(steps, "rewards")


def test_they_stay_what_they_were_however_much_is_recorded_and_delivered_meanwhile(
    jam: Jamboree, episode: Episode, env
) -> None:  # type: ignore[no-untyped-def]
    steps = episode.recent(16)
    for n in range(1000):
        env.step(STEPS + n + 1)
        if n % 100 == 0:
            jam.flush()
    env.reset()
    for n in range(1000):
        env.step(n)
    jam.flush()

    assert_newest(steps, STEPS, 16)


@pytest.mark.parametrize("n", [0, 1, STEPS, STEPS + 100])
def test_there_are_as_many_as_there_are_steps_at_most(episode: Episode, n: int) -> None:
    assert len(episode.recent(n)) == min(n, STEPS)
    assert_newest(episode.recent(n), STEPS, min(n, STEPS))


def test_they_are_transitions_like_any_other(jam: Jamboree, episode: Episode) -> None:
    steps = episode.recent(16)
    assert type(steps) is Transitions
    assert repr(episode.recent(16)) == repr(episode.steps(STEPS - 16))
    for same in (
        pickle.loads(pickle.dumps(episode.recent(16))),
        copy.deepcopy(episode.recent(16)),
        replace(episode.recent(16), infos=[{}] * 16),
    ):
        assert_newest(same, STEPS, 16)
    with pytest.raises(FrozenInstanceError):
        steps.rewards = steps.rewards  # type: ignore[misc]
    with pytest.raises(AttributeError, match="no attribute 'reward'"):
        steps.reward  # type: ignore[attr-defined] # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'reward'"):
        replace(steps).reward  # type: ignore[attr-defined] # noqa: B018
    steps.rewards[0] = -1.0  # they are the reader's own
    assert episode.recent(16).rewards[0] == STEPS - 15
    assert all(one.flags.c_contiguous for one in (steps.observations, steps.rewards))


def test_steps_with_infos_are_there_with_them(jam: Jamboree) -> None:
    env = jam.record(gym.wrappers.TransformReward(Counter(), float))
    env.reset()
    env.unwrapped.step = lambda action: (np.zeros(3, np.float32), 0.0, False, False, {"a": action})
    for n in range(5):
        env.step(n)
    steps = jam.episode(env.episode_id).recent(2)
    assert list(steps.infos) == [{"a": 3}, {"a": 4}]
    env.close()


def held(episode: Episode):  # type: ignore[no-untyped-def]
    return episode._connection.held(episode._reader.key)


def content(steps: Transitions | None) -> list[str] | None:
    """All fields, as texts that show each bit; None where there are no steps."""
    if steps is None:
        return None
    values = [(field.name, getattr(steps, field.name)) for field in fields(steps)]
    return [
        f"{name} {value.dtype} {value.shape} {value.tobytes().hex()}"
        if isinstance(value, np.ndarray)
        else f"{name} {value!r}"
        for name, value in values
    ]


@pytest.mark.compiled
@pytest.mark.parametrize("n", [0, 1, 16, STEPS - 1, STEPS, STEPS + 1, 2**31, 2**70])
def test_the_compiled_core_finds_the_newest_steps_that_python_finds(
    jam: Jamboree, episode: Episode, env, n: int
) -> None:  # type: ignore[no-untyped-def]
    rows = held(episode)
    assert row_arrays.newest_in_block is not row_arrays._newest_in_block
    for more in (0, 1, 5000):  # the last is more than memory keeps, in several blocks
        for step in range(more):
            env.step(step)
            if step % 1000 == 0:
                jam.flush()
        mine, pythons = row_arrays.newest_in_block(rows, n), row_arrays._newest_in_block(rows, n)
        assert content(mine) == content(pythons) or n == 2**70
    assert rows._extents[0].start > 0


@pytest.mark.compiled
def test_the_compiled_core_leaves_to_python_what_does_not_lie_in_a_block(jam: Jamboree) -> None:
    begun = jam.record(Counter())
    begun.reset()
    rows = held(jam.episode(begun.episode_id))
    assert row_arrays.newest_in_block(rows, 1) is not None
    extent = rows._extents[-1]

    ends_before_its_rows = extent.content[: extent.first_at]
    for content in (ends_before_its_rows, bytes(extent.content)):
        rows._extents[-1] = structs.replace(extent, content=content)
        assert row_arrays.newest_in_block(rows, 1) is None
    rows._extents[-1] = extent
    rows._variable_bytes_put = 8
    assert row_arrays.newest_in_block(rows, 1) is None
    begun.close()

    envs = jam.record(
        gym.make_vec("CartPole-v1", num_envs=8, vectorization_mode="vector_entry_point")
    )
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    for id in envs.episode_ids:
        rows = held(jam.episode(id))
        assert not isinstance(rows._extents[-1], Extent)
        assert row_arrays.newest_in_block(rows, 1) is None
        assert len(jam.episode(id).recent(4)) == 1
    envs.close()


@pytest.mark.compiled
def test_the_compiled_core_refuses_what_has_no_rows() -> None:
    core = compiled_core()
    assert core is not None
    for wrong in ((object(), 1), (1,), ()):
        with pytest.raises(TypeError, match="newest_in_block takes"):
            row_arrays.newest_in_block(*wrong)
    with pytest.raises(AttributeError):
        core.newest_of(int, int, int, int, print)
    with pytest.raises(TypeError):
        core.newest_of(1)
