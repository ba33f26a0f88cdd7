"""What every environment that can be replayed has to show of its forks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from jamboree_gym import Jamboree
from jamboree_gym.arrays.values import encode_value
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay import fork, verify
from jamboree_gym.replay.verification.compare import recorded_actions


def assert_forks_like_recorded(
    jam: Jamboree, episode: Episode, steps: Iterable[int] | None = None, **options: Any
) -> None:
    """Fork at every step (or these), take the recorded actions, and find the recorded rest.

    As bits: observations, rewards and ends, both as returned and as recorded in the child.
    """
    rows, data = episode._rows(), episode.data()
    is_same = _are_same if episode.provenance["vector"] else _are_identical
    has_ended = episode.status in ("terminated", "truncated")
    actions = list(recorded_actions(rows))
    for step in range(len(actions) + (not has_ended)) if steps is None else steps:
        env = fork(episode, step, **options)
        assert is_same(env.observation, rows.observation(step)), step
        for number, action in enumerate(actions[step:], step):
            observation, reward, terminated, truncated, _ = env.step(action)
            assert is_same(observation, rows.observation(number + 1)), number
            assert float(reward) == data.rewards[number], number
            ends = bool(data.terminations[number]), bool(data.truncations[number])
            assert (terminated, truncated) == ends
        env.close()
        child = jam.episode(env.episode_id)
        report = jam.diff(episode, child)
        assert not report, str(report)
        assert (child.origin.parent, child.origin.fork_step) == (episode.id, step)
        assert child.status == episode.status


def _are_identical(one: Any, other: Any) -> bool:
    if isinstance(one, dict):  # in whichever order
        return one.keys() == other.keys() and all(
            _are_identical(one[key], other[key]) for key in one
        )
    return encode_value(one) == encode_value(other)


def _are_same(one: Any, other: Any) -> bool:
    """What came through a vector environment is an array or NumPy scalar, whatever it was."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_are_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_are_same, one, other))
    return np.asarray(one).astype(np.asarray(other).dtype).tobytes() == np.asarray(other).tobytes()


def assert_other_ways_verify(jam: Jamboree, episode: Episode, step: int, n: int = 8) -> Episode:
    """Fork, take random actions, and verify the child; then a grandchild of it."""
    child = _on_its_own_way(episode, step, seed=step, n=n)
    report = verify(child, infos=True)
    assert report, str(report)
    grandchild = _on_its_own_way(child, max(0, len(child) - 2), seed=step + 1, n=n)
    report = verify(grandchild, infos=True)
    assert report, str(report)
    assert [one.id for one in grandchild.lineage[-3:]] == [episode.id, child.id, grandchild.id]
    return grandchild


def _on_its_own_way(episode: Episode, step: int, *, seed: int, n: int) -> Episode:
    env = fork(episode, step)
    env.action_space.seed(seed)
    for _ in range(n):
        mask = env.info.get("action_mask") if isinstance(env.info, dict) else None
        action = (
            env.action_space.sample() if mask is None else env.action_space.sample(np.array(mask))
        )
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            break
    env.close()
    return Episode(episode._connection, env.episode_id)
