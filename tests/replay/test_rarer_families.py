"""Robots with goals, trading, dm_control and a text game: recorded, verified and forked.

They need an older MuJoCo, or many packages. So these tests have an environment of their own: see
`.ci/run`. Without gymnasium-robotics they are not collected.
"""

from __future__ import annotations

import string
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gym_anytrading  # noqa: F401 - it registers its environments
import gymnasium as gym
import gymnasium_robotics
import pytest
import shimmy
import textworld
import textworld.gym
from gymnasium import spaces

from jamboree_gym import Jamboree
from jamboree_gym.replay import ReplayEnv, fork, verify

pytestmark = pytest.mark.filterwarnings("ignore")  # of these packages themselves

ROBOTS = [
    *("FetchReach-v4", "FetchPush-v4", "HandReach-v3", "PointMaze_UMaze-v3"),
    *("AdroitHandDoor-v1", "FrankaKitchen-v1"),
]
TRADING = ["forex-v0", "stocks-v0"]
OF_DM_CONTROL = ["dm_control/cartpole-balance-v0", "dm_control/walker-walk-v0"]
STEPS = 12


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    gym.register_envs(gymnasium_robotics)
    gym.register_envs(shimmy)


def check_it_happens_again(jam: Jamboree, env: Any, actions: Iterator[Any], **remade: Any) -> None:
    """Record a seeded and an unseeded episode, then verify, replay and fork them."""
    recorded = jam.record(env, run="tried")
    for seed in (1, None):
        recorded.reset(seed=seed)
        for _ in range(STEPS):
            *_, terminated, truncated, _ = recorded.step(next(actions))
            if terminated or truncated:
                break
    recorded.close()

    episodes = list(jam.episodes(run="tried"))
    for episode in reversed(episodes):
        report = verify(episode, **remade)
        assert report, str(report)
    replay = ReplayEnv(episodes[1])
    replay.reset()
    replay.step(replay.recorded_action)
    with fork(episodes[0], 2, **remade) as child:
        child.step(next(actions))
    (forked,) = jam.episodes(run="tried", forks=True).where(parent=episodes[0])
    assert verify(forked, **remade)


def sampled(env: gym.Env[Any, Any]) -> Iterator[Any]:
    env.action_space.seed(1)
    while True:
        yield env.action_space.sample()


@pytest.mark.parametrize("env_id", ROBOTS)
def test_a_robot_happens_again(
    jam: Jamboree, env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # mazes leave their files there
    env = gym.make(env_id, max_episode_steps=20)
    if not env_id.startswith("Adroit"):
        assert isinstance(env.observation_space, spaces.Dict)
    check_it_happens_again(jam, env, sampled(env))


@pytest.mark.torch
def test_hindsight_replay_learns_on_a_recorded_robot(jam: Jamboree) -> None:
    from stable_baselines3 import DDPG, HerReplayBuffer

    env = jam.record(gym.make("FetchReach-v4", max_episode_steps=20), run="tried")
    model = DDPG(
        "MultiInputPolicy",
        env,
        replay_buffer_class=HerReplayBuffer,
        learning_starts=60,
        batch_size=32,
        seed=1,
    )
    model.learn(200)
    env.close()
    assert model.replay_buffer is not None
    goals = model.replay_buffer.sample(64).observations["desired_goal"]

    episodes = list(jam.episodes(run="tried").where(status="truncated"))
    reports = verify(episodes)
    assert len(reports) == 10
    assert reports, str(reports)
    recorded = episodes[0].data().observations["desired_goal"][0]
    assert goals.shape[1:] == recorded.shape


@pytest.mark.parametrize("env_id", TRADING)
def test_trading_happens_again(jam: Jamboree, env_id: str) -> None:
    env = gym.make(env_id, window_size=10, frame_bound=(50, 100))
    check_it_happens_again(jam, env, sampled(env))


@pytest.mark.parametrize("env_id", OF_DM_CONTROL)
def test_dm_control_by_shimmy_happens_again(jam: Jamboree, env_id: str) -> None:
    env = gym.make(env_id)
    check_it_happens_again(jam, env, sampled(env))


class TextGame(gym.Env[str, str]):
    """A game of TextWorld, whose own class is no `gymnasium.Env`."""

    observation_space = spaces.Text(10_000, charset=string.printable)
    action_space = spaces.Text(100, charset=string.printable)

    def __init__(self, path: str) -> None:
        asked = textworld.EnvInfos(admissible_commands=True)
        self.game = textworld.gym.make(textworld.gym.register_game(path, asked))
        self.score = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.score = 0
        return self.game.reset()

    def step(self, action: str) -> Any:
        text, score, is_over, info = self.game.step(action)
        reward, self.score = score - self.score, score
        return text, float(reward), is_over, False, info


def test_a_text_game_happens_again(jam: Jamboree, tmp_path: Path) -> None:
    options = textworld.GameOptions()
    options.seeds, options.nb_rooms, options.nb_objects = 1, 3, 5
    options.quest_length, options.path = 3, str(tmp_path / "game.z8")
    path, _ = textworld.make(options)
    make = partial(TextGame, path)
    commands = iter(["look", "inventory", "go east", "go north", "look"] * STEPS)
    check_it_happens_again(jam, make(), commands, make=make)
    first = jam.episodes(run="tried")[0].data()
    assert first.observations[0].strip()
    assert "look" in first.infos[0]["admissible_commands"]
