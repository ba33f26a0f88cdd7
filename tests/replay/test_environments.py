"""Every environment of the table in docs/replayable.md, recorded and proven bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from environments import CASES, ONE_OF_EACH_KIND, Case, every_environment, newest
from forks import assert_forks_like_recorded, assert_other_ways_verify
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from minigrid.wrappers import FullyObsWrapper, ImgObsWrapper

from jamboree_gym import Jamboree
from jamboree_gym.errors import ReplayError
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay import verify
from jamboree_gym.replay.rebuilding.rebuild import reset_as_recorded

pytestmark = pytest.mark.once

STEPS = 60
VECTOR_STEPS = 40  # before and after a reset
FORKED_STEPS = 12  # an episode of n steps is forked n times


def record(
    jam: Jamboree, env: gym.Env[Any, Any], seeds: Sequence[int | None], steps: int = STEPS
) -> list[Episode]:
    """Random actions: an episode for each seed, or its first steps."""
    recorded = jam.record(env)
    recorded.action_space.seed(4)
    episodes = []
    for seed in seeds:
        recorded.reset(seed=seed)
        episodes.append(jam.episode(recorded.episode_id))
        for _ in range(steps):
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
        for _ in range(VECTOR_STEPS):
            recorded.step(recorded.action_space.sample())
    recorded.close()
    return list(jam.episodes(run="vector"))


def check(episodes: Sequence[Episode], *, infos: bool = True) -> None:
    """Each happens again, bit for bit, infos too."""
    for episode in episodes:
        report = verify(episode, infos=infos)
        assert report, str(report)
        assert report.steps == len(episode)
    assert sum(map(len, episodes)) > 0


@every_environment(quick=ONE_OF_EACH_KIND)
def test_seeded_episodes_happen_again(jam: Jamboree, case: Case) -> None:
    check(record(jam, case.make(), [1, 2, 3]))


@every_environment(quick=["Acrobot-v1", "BipedalWalker-v3", "MiniGrid-DoorKey-5x5-v0"])
def test_unseeded_episodes_happen_again(jam: Jamboree, case: Case) -> None:
    episodes = record(jam, case.make(), [None, None, 7, None])

    assert [episode.summary.seed for episode in episodes] == [None, None, 7, None]
    check(episodes)


@every_environment(quick=["FrozenLake-v1", "Hopper-v5"])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("seed", [1, None], ids=["seeded", "unseeded"])
def test_episodes_of_a_vector_environment_happen_again(
    jam: Jamboree, case: Case, mode: AutoresetMode, seed: int | None
) -> None:
    envs = SyncVectorEnv([case.make] * 2, autoreset_mode=mode)

    episodes = record_vector(jam, envs, seed)

    assert {episode.summary.vector_index for episode in episodes} == {0, 1}
    check(episodes, infos=False)  # Gymnasium puts infos into arrays, where 0.3 may become 0


@every_environment(quick=["Pendulum-v1", newest("CliffWalking")])
def test_a_fork_at_any_step_goes_on_as_recorded(jam: Jamboree, case: Case) -> None:
    for episode in record(jam, case.make(), [1, None], FORKED_STEPS):
        assert_forks_like_recorded(jam, episode)


@every_environment(quick=["LunarLander-v3", "Ant-v5", "jamboree/Balance-v0"])
def test_other_ways_happen_again_too(jam: Jamboree, case: Case) -> None:
    for episode in record(jam, case.make(), [2, None], FORKED_STEPS):
        assert_other_ways_verify(jam, episode, len(episode) // 2)


PROGRAM = """
import sys
import numpy as np
from environments import CASES
from test_environments import record
from jamboree_gym import Jamboree

url, namespace, *ids = sys.argv[1:]
with Jamboree(url, namespace=namespace) as jam:
    for case in (case for case in CASES if case.id in ids):
        print(case.id, *(episode.id for episode in record(jam, case.make(), [None, 5])))
"""


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param([CASES[0], CASES[-1]], id="two"),
        pytest.param(CASES, id="all", marks=pytest.mark.long),
    ],
)
def test_episodes_of_another_process_happen_again(
    jam: Jamboree, valkey: Any, cases: list[Case]
) -> None:
    ids = [case.id for case in cases]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, valkey.url, jam._connection.keyspace.namespace, *ids],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    recorded = [line.split() for line in done.stdout.splitlines()]

    assert [name for name, *_ in recorded] == ids
    for case, (_, *episodes) in zip(cases, recorded, strict=True):
        case.register()
        check([jam.episode(id) for id in episodes])


# -- what they need ---------------------------------------------------------------------------

BREAKOUT = Case("ALE/Breakout-v5", needs="ale_py")


def atari(**kwargs: Any) -> gym.Env[Any, Any]:
    """As agents are trained on it."""
    env = BREAKOUT.make(frameskip=1, **kwargs)
    return wrappers.FrameStackObservation(wrappers.AtariPreprocessing(env, **SQUARE), 4)


SQUARE = {"screen_size": (84, 84)}


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param([1, 2], id="seeded", marks=pytest.mark.long),
        pytest.param([None, None], id="unseeded"),
    ],
)
def test_atari_as_agents_are_trained_on_it_happens_again(
    jam: Jamboree, seeds: list[int | None]
) -> None:
    episodes = record(jam, atari(), seeds)

    assert episodes[0].data().observations.shape[1:] == (4, 84, 84)
    check(episodes)


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param([1, 2], id="seeded"),
        pytest.param([None, None], id="unseeded", marks=pytest.mark.long),
    ],
)
def test_atari_that_skips_frames_at_random_happens_again(
    jam: Jamboree, seeds: list[int | None]
) -> None:
    """Its generator draws in each step; its argument is a tuple, which JSON does not know."""
    check(record(jam, BREAKOUT.make(frameskip=(2, 5), obs_type="ram"), seeds))


def test_an_unseeded_atari_episode_keeps_the_generators_of_its_emulator(jam: Jamboree) -> None:
    first, second, seeded = record(jam, BREAKOUT.make(), [None, None, 1], 20)

    before, after = (one.origin.rng_state["emulator"]["generators"] for one in (first, second))
    assert before.dtype == np.uint32
    assert before.shape == after.shape
    assert not np.array_equal(before, after)
    assert seeded.origin.rng_state is None


def test_the_actions_of_atari_stick(jam: Jamboree) -> None:
    """Or the matrix would not show that sticky actions are repeated."""
    episodes = record(jam, BREAKOUT.make(), [1, 2])

    screens = [episode.data().observations for episode in episodes]
    same = min(map(len, screens))
    assert not np.array_equal(screens[0][:same], screens[1][:same])


@pytest.mark.parametrize(
    "damage",
    [
        b"any bytes",
        pytest.param({}, marks=pytest.mark.long),
        pytest.param({"generators": b"any bytes", "frame": 0}, marks=pytest.mark.long),
        {"generators": np.zeros((2, 3), np.uint32), "frame": 0},
        pytest.param(
            {"generators": np.zeros((2, 625), np.int64), "frame": 0}, marks=pytest.mark.long
        ),
        {"generators": np.full((2, 625), 625, np.uint32), "frame": 0},
        pytest.param(
            {"generators": np.zeros((2, 625), np.uint32), "frame": "many"}, marks=pytest.mark.long
        ),
    ],
)
def test_a_damaged_state_of_an_emulator_is_named(jam: Jamboree, damage: Any) -> None:
    (episode,) = record(jam, BREAKOUT.make(), [None], 1)
    state = {**episode.origin.rng_state, "emulator": damage}
    env = BREAKOUT.make()

    with pytest.raises(ReplayError, match="cannot be reset as recorded"):
        reset_as_recorded(env, replace(episode.origin, rng_state=state))
    env.close()


def test_an_emulator_that_is_not_there_is_named(jam: Jamboree) -> None:
    (episode,) = record(jam, BREAKOUT.make(), [None], 1)

    with pytest.raises(ReplayError, match="this environment has none"):
        reset_as_recorded(gym.make("CartPole-v1"), episode.origin)


def test_episodes_of_an_environment_that_keeps_its_world_follow_each_other(jam: Jamboree) -> None:
    first, second, third = record(jam, gym.make("BipedalWalker-v3"), [1, 2, None])

    assert first.predecessor is None
    assert [second.origin.follows, third.origin.follows] == [first.id, second.id]


def test_they_do_so_in_a_vector_environment(jam: Jamboree) -> None:
    envs = SyncVectorEnv([lambda: gym.make("BipedalWalker-v3")] * 2)
    recorded = jam.record(envs)
    recorded.reset(seed=1)
    before = recorded.episode_ids
    recorded.reset(seed=2)

    assert [jam.episode(id).origin.follows for id in recorded.episode_ids] == before
    recorded.close()


def test_after_a_step_past_the_end_nothing_is_followed(jam: Jamboree) -> None:
    """Nobody has recorded it."""
    env = jam.record(gym.make("BipedalWalker-v3", max_episode_steps=2))
    env.reset(seed=1)
    for _ in range(3):
        env.step(env.action_space.sample())
    env.reset(seed=2)

    assert jam.episode(env.episode_id).origin.follows is None
    env.close()


def test_minigrid_happens_again_through_its_own_wrappers(jam: Jamboree) -> None:
    case = Case("MiniGrid-DoorKey-5x5-v0", needs="minigrid")
    env = ImgObsWrapper(FullyObsWrapper(case.make()))

    for episode in record(jam, env, [1, None]):
        assert verify(episode)
        assert verify(episode, wrappers=[ImgObsWrapper, FullyObsWrapper])


@pytest.mark.parametrize(("name", "engine"), [("Hopper-v5", "mujoco"), ("LunarLander-v3", "Box2D")])
def test_the_version_of_what_computes_is_recorded(jam: Jamboree, name: str, engine: str) -> None:
    (episode,) = record(jam, gym.make(name), [1])

    versions = {name.lower(): value for name, value in episode.provenance["versions"].items()}
    assert versions[engine.lower()] == metadata.version(engine)
