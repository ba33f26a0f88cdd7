"""Copies and pickles: what is data can be; what holds a connection says what to do instead."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from jamboree_gym import DBHandler, Jamboree
from jamboree_gym.errors import JamboreeError, NotCopyable

WHOLE: dict[str, Callable[[Jamboree, Any], Any]] = {
    "jam": lambda jam, env: jam,
    "env": lambda jam, env: env,
    "vector env": lambda jam, env: jam.record(gym.make_vec("CartPole-v1", num_envs=1)),
    "handler": lambda jam, env: DBHandler(jam),
    "episode handler": lambda jam, env: env.handler,
    "episode": lambda jam, env: jam.episode(env.episode_id),
    "query": lambda jam, env: jam.episodes(),
    "run": lambda jam, env: jam.run(env.run),
}


@pytest.fixture
def env(jam: Jamboree) -> Any:
    recorded = jam.record(gym.make("CartPole-v1"))
    recorded.reset(seed=1)
    recorded.step(0)
    return recorded


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_what_holds_a_connection_says_what_to_do_instead(
    jam: Jamboree, env: Any, name: str, take: Callable[[Any], Any]
) -> None:
    with pytest.raises(
        NotCopyable, match=r"cannot be copied or pickled: .*(there|process|copy)"
    ) as no:
        take(WHOLE[name](jam, env))
    assert isinstance(no.value, JamboreeError)
    assert isinstance(no.value, TypeError)  # what copy and pickle raise


def test_what_was_read_is_data_and_can_be_pickled(jam: Jamboree, env: Any) -> None:
    episode = jam.episode(env.episode_id)
    for read in (episode.steps(), episode.recent(1), episode.data()):
        back = pickle.loads(pickle.dumps(read))
        np.testing.assert_array_equal(back.observations, read.observations)
    rows = episode._rows()
    again = copy.deepcopy(rows)
    assert again.observation(1).tolist() == rows.observation(1).tolist()
    for one in (episode.summary, episode.origin, episode.provenance, next(iter(episode.steps()))):
        pickle.loads(pickle.dumps(one))


def test_the_environment_below_can_be_copied_and_recorded(jam: Jamboree, env: Any) -> None:
    again = jam.record(copy.deepcopy(env.env))
    again.reset(seed=1)
    assert again.episode_id != env.episode_id
