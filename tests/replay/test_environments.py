"""Every environment of the table in docs/replayable.md, recorded and proven bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from environments import CASES, Case, every_environment
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from jamboree_gym import Jamboree
from jamboree_gym.episode import Episode
from jamboree_gym.replay import verify

STEPS = 120


def record(jam: Jamboree, env: gym.Env[Any, Any], seeds: Sequence[int | None]) -> list[Episode]:
    """Random actions: an episode for each seed, or its first steps."""
    recorded = jam.record(env)
    recorded.action_space.seed(4)
    episodes = []
    for seed in seeds:
        recorded.reset(seed=seed)
        episodes.append(jam.episode(recorded.episode_id))
        for _ in range(STEPS):
            *_, terminated, truncated, _ = recorded.step(recorded.action_space.sample())
            if terminated or truncated:
                break
    recorded.close()
    return episodes


def record_vector(jam: Jamboree, envs: SyncVectorEnv, seed: int | None) -> list[Episode]:
    """Random actions in all sub-environments, with a reset in the middle."""
    recorded = jam.record(envs, run="vector")
    recorded.action_space.seed(4)
    for begin in (seed, None):
        recorded.reset(seed=begin)
        for _ in range(STEPS // 2):
            recorded.step(recorded.action_space.sample())
    recorded.close()
    return list(jam.episodes(run="vector"))


def check(episodes: Sequence[Episode]) -> None:
    """Each happens again, bit for bit."""
    for episode in episodes:
        report = verify(episode)
        assert report, str(report)
        assert report.steps == len(episode)
    assert sum(map(len, episodes)) > 0


@every_environment
def test_seeded_episodes_happen_again(jam: Jamboree, case: Case) -> None:
    check(record(jam, case.make(), [1, 2, 3]))


@every_environment
def test_unseeded_episodes_happen_again(jam: Jamboree, case: Case) -> None:
    episodes = record(jam, case.make(), [None, None, 7, None])

    assert [episode.summary.seed for episode in episodes] == [None, None, 7, None]
    check(episodes)


@every_environment
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("seed", [1, None], ids=["seeded", "unseeded"])
def test_episodes_of_a_vector_environment_happen_again(
    jam: Jamboree, case: Case, mode: AutoresetMode, seed: int | None
) -> None:
    envs = SyncVectorEnv([case.make] * 2, autoreset_mode=mode)

    episodes = record_vector(jam, envs, seed)

    assert {episode.summary.vector_index for episode in episodes} == {0, 1}
    check(episodes)


PROGRAM = """
import sys
import numpy as np
from environments import CASES
from test_environments import record
from jamboree_gym import Jamboree

url, namespace = sys.argv[1:]
with Jamboree(url, namespace=namespace) as jam:
    for case in CASES:
        print(case.id, *(episode.id for episode in record(jam, case.make(), [None, 5])))
"""


def test_episodes_of_another_process_happen_again(jam: Jamboree, valkey: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, valkey.url, jam.keyspace.namespace],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    recorded = [line.split() for line in done.stdout.splitlines()]

    assert [name for name, *_ in recorded] == [case.id for case in CASES]
    for case, (_, *ids) in zip(CASES, recorded, strict=True):
        case.register()
        check([jam.episode(id) for id in ids])


def atari(**kwargs: Any) -> gym.Env[Any, Any]:
    """As agents are trained on it."""
    env = Case("ALE/Breakout-v5", {"frameskip": 1}, "ale_py").make(**kwargs)
    return wrappers.FrameStackObservation(wrappers.AtariPreprocessing(env), 4)


@pytest.mark.parametrize("seeds", [[1, 2], [None, None]], ids=["seeded", "unseeded"])
def test_atari_as_agents_are_trained_on_it_happens_again(
    jam: Jamboree, seeds: list[int | None]
) -> None:
    episodes = record(jam, atari(), seeds)

    assert episodes[0].data().observations.shape[1:] == (4, 84, 84)
    check(episodes)


def test_an_unseeded_atari_episode_keeps_the_state_of_its_emulator(jam: Jamboree) -> None:
    case = Case("ALE/Breakout-v5", needs="ale_py")
    first, second = record(jam, case.make(), [None, None])

    assert isinstance(first.origin.rng_state["emulator"], bytes)
    assert first.origin.rng_state["emulator"] != second.origin.rng_state["emulator"]


def test_the_actions_of_atari_stick(jam: Jamboree) -> None:
    """Or the matrix would not show that sticky actions are repeated."""
    episodes = record(jam, Case("ALE/Breakout-v5", needs="ale_py").make(), [1, 2])

    screens = [episode.data().observations for episode in episodes]
    same = min(map(len, screens))
    assert not np.array_equal(screens[0][:same], screens[1][:same])
