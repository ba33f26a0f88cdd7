"""Wrappers of Gymnasium and of other packages: recorded, proven seeded and unseeded, and forked."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from environments import Case
from gymnasium import wrappers
from lengths import quick_and_long
from replayed_envs import ShyObservation, record

from jamboree_gym import Jamboree
from jamboree_gym.environment import constructor_calls
from jamboree_gym.errors import ReplayError
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay import fork, verify
from jamboree_gym.replay.rebuilding import known_wrappers
from jamboree_gym.replay.rebuilding.rebuild import reset_as_recorded

pytestmark = pytest.mark.once

STEPS = 12
Make = Callable[[], Any]


def record_three(
    jam: Jamboree,
    env: gym.Env[Any, Any],
    *,
    steps: int = STEPS,
    seeds: Sequence[int | None] = (1, None, 2),
) -> list[Episode]:
    """Episodes of random actions, seeded and not, that follow each other in one environment."""
    recorded = jam.record(env, run="wrapped")
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


def assert_happen_again(episodes: list[Episode]) -> None:
    """Each is equal, bit for bit, and the last one goes on from its middle."""
    reports = verify(episodes)
    assert reports, str(reports)
    assert [one.steps for one in reports] == [len(one) for one in episodes]
    forked = fork(episodes[-1], len(episodes[-1]) // 2, record=False)
    forked.step(forked.action_space.sample())
    forked.close()


# -- Gymnasium --------------------------------------------------------------------------------


def pendulum(**kwargs: Any) -> gym.Env[Any, Any]:
    return gym.make("Pendulum-v1", **kwargs)


def picture() -> gym.Env[Any, Any]:
    """Observes pictures."""
    return gym.make("MiniGrid-Empty-5x5-v0", max_episode_steps=STEPS)


def image() -> gym.Env[Any, Any]:
    module = importlib.import_module("minigrid.wrappers")
    env: gym.Env[Any, Any] = module.ImgObsWrapper(module.RGBImgObsWrapper(picture(), tile_size=4))
    return env


def breakout() -> gym.Env[Any, Any]:
    return Case("ALE/Breakout-v5", {"frameskip": 1}, needs="ale_py").make()


ONE, TWO = np.full(1, -0.5, np.float32), np.full(1, 0.5, np.float32)
OF_GYMNASIUM: dict[str, Make] = {
    "AddRenderObservation": lambda: wrappers.AddRenderObservation(
        gym.make("FrozenLake-v1", render_mode="rgb_array"), render_only=False
    ),
    "AddWhiteNoise": lambda: wrappers.AddWhiteNoise(image(), 0.4, is_noise_grayscale=True),
    "AtariPreprocessing": lambda: wrappers.AtariPreprocessing(
        breakout(), screen_size=(20, 20), terminal_on_life_loss=True
    ),
    "Autoreset": lambda: wrappers.Autoreset(pendulum()),
    "ClipAction": lambda: wrappers.ClipAction(pendulum()),
    "ClipReward": lambda: wrappers.ClipReward(pendulum(), -1.0),
    "DelayObservation": lambda: wrappers.DelayObservation(pendulum(), 2),
    "DiscretizeAction": lambda: wrappers.DiscretizeAction(pendulum(), 5),
    "DiscretizeObservation": lambda: wrappers.DiscretizeObservation(pendulum(), 5),
    "DtypeObservation": lambda: wrappers.DtypeObservation(image(), np.float32),
    "FilterObservation": lambda: wrappers.FilterObservation(picture(), ["image", "direction"]),
    "FlattenObservation": lambda: wrappers.FlattenObservation(
        wrappers.FilterObservation(picture(), ["image", "direction"])
    ),
    "FrameStackObservation": lambda: wrappers.FrameStackObservation(
        pendulum(), 3, padding_type="zero"
    ),
    "GrayscaleObservation": lambda: wrappers.GrayscaleObservation(image(), keep_dim=True),
    "MaxAndSkipObservation": lambda: wrappers.MaxAndSkipObservation(pendulum(), 2),
    "NormalizeObservation": lambda: wrappers.NormalizeObservation(pendulum(), 1e-3),
    "NormalizeReward": lambda: wrappers.NormalizeReward(pendulum(), gamma=0.9),
    "ObstructView": lambda: wrappers.ObstructView(image(), 0.4, 2, is_noise_grayscale=True),
    "OrderEnforcing": lambda: wrappers.OrderEnforcing(pendulum()),
    "PassiveEnvChecker": lambda: wrappers.PassiveEnvChecker(pendulum(disable_env_checker=True)),
    "RecordEpisodeStatistics": lambda: wrappers.RecordEpisodeStatistics(pendulum()),
    "RenderCollection": lambda: wrappers.RenderCollection(pendulum(render_mode="rgb_array")),
    "RepeatAction": lambda: wrappers.RepeatAction(pendulum(), 2),
    "RescaleAction": lambda: wrappers.RescaleAction(pendulum(), ONE, TWO),
    "RescaleObservation": lambda: wrappers.RescaleObservation(
        wrappers.DtypeObservation(gym.make("MountainCar-v0"), np.float32),
        np.zeros(2, np.float32),
        np.ones(2, np.float32),
    ),
    "ReshapeObservation": lambda: wrappers.ReshapeObservation(pendulum(), (3, 1)),
    "ResizeObservation": lambda: wrappers.ResizeObservation(image(), (9, 7)),
    "StickyAction": lambda: wrappers.StickyAction(pendulum(), 0.4, 2),
    "TimeAwareObservation": lambda: wrappers.TimeAwareObservation(pendulum(), flatten=False),
    "TimeLimit": lambda: wrappers.TimeLimit(pendulum(), 5),
}
NOT_IN_OLD_RELEASES = {
    *("AddWhiteNoise", "DiscretizeAction", "DiscretizeObservation", "ObstructView"),
    "RepeatAction",
}
CANNOT: dict[str, tuple[Make, str]] = {
    "TransformAction": (
        lambda: wrappers.TransformAction(pendulum(), lambda action: action, None),
        "argument func=",
    ),
    "TransformObservation": (
        lambda: wrappers.TransformObservation(pendulum(), lambda seen: seen, None),
        "argument func=",
    ),
    "TransformReward": (
        lambda: wrappers.TransformReward(pendulum(), lambda reward: reward),
        "argument func=",
    ),
}
OF_TENSORS = ("ArrayConversion", "NumpyToTorch")
OBSERVING = ("HumanRendering", "RecordVideo")  # a window, files: left out of a replay
ELSEWHERE = {"JaxToNumpy", "JaxToTorch", "vector"}


def test_every_wrapper_of_gymnasium_has_a_row() -> None:
    rows = {*OF_GYMNASIUM, *CANNOT, *OF_TENSORS, *OBSERVING}
    assert set(wrappers.__all__) <= {*rows, *ELSEWHERE}


@pytest.fixture(scope="module", autouse=True)
def _minigrid() -> None:
    Case("MiniGrid-Empty-5x5-v0", needs="minigrid").register()


DEAR = {"AddRenderObservation", "AtariPreprocessing"}  # SB3 has others for Atari, below


@pytest.mark.parametrize(
    "name", quick_and_long(OF_GYMNASIUM, quick=[one for one in OF_GYMNASIUM if one not in DEAR])
)
def test_a_wrapper_of_gymnasium_happens_again(jam: Jamboree, name: str) -> None:
    if not hasattr(wrappers, name):
        assert name in NOT_IN_OLD_RELEASES
        return

    assert_happen_again(record_three(jam, OF_GYMNASIUM[name]()))


@pytest.mark.parametrize("name", CANNOT)
def test_a_function_that_cannot_be_kept_is_named_with_the_line_that_helps(
    jam: Jamboree, name: str
) -> None:
    make, argument = CANNOT[name]
    episode = record(jam, make(), steps=3, seed=1)

    with pytest.raises(ReplayError, match=f"{name} cannot be rebuilt: {argument}") as caught:
        verify(episode)
    assert "make=lambda: ..." in str(caught.value)
    assert str(caught.value).count("\n") == 1


def record_tensors(jam: Jamboree, env: gym.Env[Any, Any]) -> list[Episode]:
    """Episodes of actions that are tensors of torch."""
    torch = importlib.import_module("torch")
    recorded = jam.record(env)
    episodes = []
    for seed in (1, None, 2):
        observation, _ = recorded.reset(seed=seed)
        assert isinstance(observation, torch.Tensor)
        episodes.append(jam.episode(recorded.episode_id))
        for number in range(5):
            recorded.step(torch.tensor([number / 4]))
    recorded.close()
    return episodes


@pytest.mark.array_api
@pytest.mark.torch
@pytest.mark.parametrize("options", [{}, {"device": "cpu"}], ids=repr)
def test_a_wrapper_that_gives_tensors_happens_again(jam: Jamboree, options: Any) -> None:
    assert_happen_again(record_tensors(jam, wrappers.NumpyToTorch(pendulum(), **options)))


@pytest.mark.array_api
@pytest.mark.torch
def test_a_wrapper_with_modules_as_arguments_happens_again_with_the_line_that_helps(
    jam: Jamboree,
) -> None:
    if not hasattr(wrappers, "ArrayConversion"):  # older than 1.2
        return
    modules = {"env_xp": np, "target_xp": importlib.import_module("torch")}
    episodes = record_tensors(jam, wrappers.ArrayConversion(pendulum(), **modules))

    with pytest.raises(ReplayError, match=r"functools\.partial\(ArrayConversion, \.\.\.\)"):
        verify(episodes[0])
    again = [partial(wrappers.ArrayConversion, **modules)]
    assert verify(episodes, wrappers=again)
    fork(episodes[-1], 2, record=False, wrappers=again).close()


@pytest.mark.parametrize("name", quick_and_long(OBSERVING, quick=["RecordVideo"]))
def test_a_wrapper_that_shows_or_films_is_left_out_of_a_replay(
    jam: Jamboree, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # a window without a screen
    monkeypatch.setitem(sys.modules, "moviepy", ModuleType("moviepy"))  # it writes no video here
    videos = {"video_folder": str(tmp_path / "videos"), "episode_trigger": lambda number: False}
    made = pendulum(render_mode="rgb_array")
    episodes = record_three(jam, getattr(wrappers, name)(made, **videos if name[0] == "R" else {}))

    monkeypatch.delenv("SDL_VIDEODRIVER")
    assert_happen_again(episodes)
    (again,) = [fork(episodes[0], 1, record=False)]
    assert name not in str(again)
    again.close()


# -- other packages ---------------------------------------------------------------------------


def minigrid(*names: Any) -> gym.Env[Any, Any]:
    """DoorKey in these wrappers, innermost first; with arguments: (name, arguments)."""
    module = importlib.import_module("minigrid.wrappers")
    env = gym.make("MiniGrid-DoorKey-5x5-v0", max_episode_steps=STEPS)
    for one in names:
        name, *arguments = (one,) if isinstance(one, str) else one
        env = getattr(module, name)(env, *arguments)
    return env


OF_MINIGRID: dict[str, tuple[Any, ...]] = {
    "six": (
        *(("ViewSizeWrapper", 5), "FullyObsWrapper", ("RGBImgObsWrapper", 4), "ImgObsWrapper"),
        *(("PositionBonus", 2), "ActionBonus"),
    ),
    "one-hot": ("OneHotPartialObsWrapper", "ImgObsWrapper"),
    "flat, with chance": (("StochasticActionWrapper", 0.7), "FlatObsWrapper"),
    "directions": ("DirectionObsWrapper", ("RGBImgPartialObsWrapper", 4)),
    "no death, in words": (("NoDeath", ("lava",)), "DictObservationSpaceWrapper"),
    "symbols": ("SymbolicObsWrapper",),
}


@pytest.mark.parametrize("name", OF_MINIGRID)
def test_wrappers_of_minigrid_happen_again(jam: Jamboree, name: str) -> None:
    assert_happen_again(record_three(jam, minigrid(*OF_MINIGRID[name])))


def test_a_wrapper_that_brings_its_own_seeds_happens_again(jam: Jamboree) -> None:
    env = minigrid(("ReseedWrapper", (3, 5)), "ImgObsWrapper")
    episodes = record_three(jam, env, seeds=[None, None, None])

    assert_happen_again(episodes)
    assert [one.origin.carried for one in episodes] == [
        [{"seed_idx": 0}],
        [{"seed_idx": 1}],
        [{"seed_idx": 0}],
    ]


def atari() -> gym.Env[Any, Any]:
    """One life each, in little pictures."""
    from stable_baselines3.common.atari_wrappers import AtariWrapper

    return AtariWrapper(breakout(), noop_max=3, screen_size=20)


@pytest.mark.torch
def test_the_atari_wrappers_of_sb3_happen_again(jam: Jamboree) -> None:
    """A reset after a lost life goes on in the same game: the episode follows the one before."""
    episodes = record_three(jam, atari(), steps=60)

    assert_happen_again(episodes)
    assert [one.origin.follows is not None for one in episodes] == [False, True, True]
    assert [one["class"].rpartition(".")[2] for one in episodes[0].provenance["wrappers"]] == [
        "AtariWrapper",
        *(["OrderEnforcing", "PassiveEnvChecker"]),
    ]


@pytest.mark.long  # the one above has the same classes
@pytest.mark.torch
def test_each_of_them_alone_happens_again(jam: Jamboree) -> None:
    from stable_baselines3.common import atari_wrappers as of_sb3

    env = of_sb3.MaxAndSkipEnv(of_sb3.NoopResetEnv(breakout(), noop_max=4), 3)
    env = of_sb3.WarpFrame(of_sb3.FireResetEnv(of_sb3.StickyActionEnv(env, 0.3)), height=18)

    assert_happen_again(record_three(jam, of_sb3.ClipRewardEnv(env)))


@pytest.mark.long  # integrations/test_vec_record.py has it of other environments
@pytest.mark.torch
def test_they_do_so_in_a_vec_env(jam: Jamboree) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    venv = jam.record(DummyVecEnv([atari]), run="wrapped")
    venv.seed(3)
    venv.action_space.seed(3)  # a life is lost
    venv.reset()
    for _ in range(40):
        venv.step(np.array([venv.action_space.sample()]))
    venv.close()

    episodes = list(jam.episodes(run="wrapped"))
    assert len(episodes) > 1
    assert verify(episodes)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("highway-fast-v0", marks=pytest.mark.long),
        "parking-v0",
        pytest.param("merge", marks=pytest.mark.long),
        pytest.param("roundabout", marks=pytest.mark.long),
    ],
)
def test_environments_of_highway_env_happen_again(jam: Jamboree, name: str) -> None:
    importlib.import_module("highway_env")
    versions = [one for one in gym.registry if one.startswith(f"{name}-v")]
    name = name if name in gym.registry else max(versions)
    config = {"vehicles_count": 3, "duration": 4}

    assert_happen_again(record_three(jam, gym.make(name, config=config), steps=4))


@pytest.mark.torch  # SuperSuit is there where torch is: it has no build for Python 3.13
def test_supersuit_skips_frames_again(jam: Jamboree) -> None:
    supersuit = importlib.import_module("supersuit")

    assert_happen_again(record_three(jam, supersuit.frame_skip_v0(pendulum(), (2, 3))))


@pytest.mark.torch  # SuperSuit is there where torch is: it has no build for Python 3.13
def test_what_supersuit_makes_of_a_function_is_named_with_the_line_that_helps(
    jam: Jamboree,
) -> None:
    supersuit = importlib.import_module("supersuit")
    episode = record(jam, supersuit.frame_stack_v1(pendulum(), 3), steps=3, seed=1)

    with pytest.raises(ReplayError, match="argument modifier_class=") as caught:
        verify(episode)
    assert "make=lambda: ..." in str(caught.value)


# -- what is carried from one episode to the next ---------------------------------------------


def test_statistics_are_kept_with_each_episode(jam: Jamboree) -> None:
    first, second, _ = record_three(jam, wrappers.NormalizeObservation(pendulum()))

    counts = [episode.origin.carried[0]["obs_rms.count"] for episode in (first, second)]
    assert counts[1] > counts[0]
    assert first.origin.rng_state is None
    assert second.origin.rng_state["bit_generator"] == "PCG64"


def test_statistics_that_were_frozen_stay_frozen(jam: Jamboree) -> None:
    env = wrappers.NormalizeObservation(pendulum())
    env.reset(seed=1)
    for _ in range(5):
        env.step(env.action_space.sample())
    env.update_running_mean = False

    assert_happen_again(record_three(jam, env))


@pytest.mark.parametrize("sync", [True, False])
def test_statistics_of_sub_environments_happen_again(jam: Jamboree, sync: bool) -> None:
    kind = gym.vector.SyncVectorEnv if sync else gym.vector.AsyncVectorEnv
    envs = jam.record(kind([normalized] * 2), run="vector")
    for seed in (1, None):
        envs.reset(seed=seed)
        for _ in range(12):
            envs.step(envs.action_space.sample())
    envs.close()

    assert len(jam.episodes(run="vector")) == 8
    assert verify(jam.episodes(run="vector"), wrappers=[ShyObservation])


def normalized() -> gym.Env[Any, Any]:
    env = wrappers.NormalizeObservation(gym.make("Pendulum-v1", max_episode_steps=8))
    return ShyObservation(wrappers.NormalizeReward(env))


STATISTICS = ("mean", "var", "count")


@pytest.mark.parametrize(
    "damage",
    [
        [],
        [{"obs_rms.mean": 1}],
        [{"counts": {}}, {}],
        [dict.fromkeys((*(f"obs_rms.{one}" for one in STATISTICS), "_update_running_mean"), "x")],
    ],
)
def test_a_damaged_state_of_wrappers_is_named(jam: Jamboree, damage: Any) -> None:
    (episode, *_) = record_three(jam, wrappers.NormalizeObservation(pendulum()), steps=1)

    with pytest.raises(ReplayError, match="cannot be reset as recorded"):
        reset_as_recorded(
            wrappers.NormalizeObservation(pendulum()), replace(episode.origin, carried=damage)
        )


# -- wrappers of one's own --------------------------------------------------------------------


class Outer(gym.Wrapper):
    """Makes two more wrappers inside."""

    def __init__(self, env: gym.Env[Any, Any], *, scale: float, **more: Any) -> None:
        super().__init__(ShyObservation(wrappers.ClipAction(env), scale))
        more.clear()


class Changing(gym.ObservationWrapper):
    """Changes what it was given."""

    def __init__(self, env: gym.Env[Any, Any], factors: list[float]) -> None:
        super().__init__(env)
        self.total = np.float32(0)
        while factors:
            self.total += factors.pop()

    def observation(self, observation: Any) -> Any:
        return observation * self.total


@pytest.mark.parametrize(
    ("wrapper", "arguments", "keywords"),
    [
        (ShyObservation, (), {}),
        (ShyObservation, (3.0,), {}),
        (ShyObservation, (), {"scale": np.float32(0.5)}),
        (Outer, (), {"scale": 3.0, "note": (1, 2)}),
        (Changing, ([2.0, 0.5],), {}),
    ],
)
def test_a_class_is_enough_for_a_wrapper_of_ones_own(
    jam: Jamboree, wrapper: Any, arguments: Any, keywords: Any
) -> None:
    (episode, *_) = record_three(jam, wrapper(pendulum(), *arguments, **keywords))

    with pytest.raises(ReplayError, match=f"wrappers=.{wrapper.__name__}"):
        verify(episode)
    assert verify(episode, wrappers=[wrapper])


def test_a_wrapper_that_was_made_before_tells_its_arguments_by_its_attributes(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = minigrid(("ViewSizeWrapper", 5), ("RGBImgPartialObsWrapper", 4))
    monkeypatch.setattr(constructor_calls, "_noted", {})

    episode = record(jam, env, steps=3, seed=1)

    assert verify(episode)
    kept = episode.provenance["env_spec"]["additional_wrappers"]
    assert [one["kwargs"] for one in kept] == [{"agent_view_size": 5}, {"tile_size": 4}]


def test_an_argument_that_nobody_knows_is_named_with_the_line_that_helps(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = Changing(pendulum(), [2.0])
    monkeypatch.setattr(constructor_calls, "_noted", {})

    with pytest.raises(ReplayError, match=r"argument factors=<not known> cannot") as caught:
        verify(record(jam, env, steps=3, seed=1), wrappers=[Changing])
    assert "functools.partial(Changing, ...)" in str(caught.value)


def test_a_wrapper_of_another_package_is_built_only_where_that_is_loaded(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode = record(jam, minigrid("ImgObsWrapper"), steps=3, seed=1)
    monkeypatch.delitem(sys.modules, "minigrid.wrappers")

    with pytest.raises(ReplayError, match=r"not loaded here.*\n.*: import minigrid\.wrappers$"):
        verify(episode)
    monkeypatch.setattr(known_wrappers, "_LOADED_BY_PARENT", {"minigrid.wrappers"})
    assert verify(episode)  # as in a process that works for one that has loaded it


@pytest.mark.long  # two interpreters that import everything
def test_a_worker_process_has_the_wrappers_that_this_process_has(jam: Jamboree) -> None:
    record_three(jam, minigrid("ImgObsWrapper"), steps=3)

    assert verify(jam.episodes(run="wrapped"), workers=2)
