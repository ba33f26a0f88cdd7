"""Minari datasets out of the store and back, held to Minari's own reader and command line."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
from filelock import FileLock
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from minari.data_collector import EpisodeBuffer
from nested import NESTED, is_same
from processes import read_line, run_python
from recorded_envs import CountingEnv, ScriptedEnv
from warm import start_warm

from jamboree_gym import EpisodeData, Jamboree
from jamboree_gym.errors import (
    DecodeError,
    EpisodeNotFound,
    ExportError,
    InvalidArgument,
    InvalidRecord,
    UnsupportedSpace,
)
from jamboree_gym.integrations.minari import export as exporting
from jamboree_gym.integrations.minari import from_minari, to_minari
from jamboree_gym.reading.part_folder import aside_of
from jamboree_gym.recording import part_appends
from jamboree_gym.replay import fork, verify

MINARI = [sys.executable, "-c", "from minari.cli import app; app()"]


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Minari keeps its datasets."""
    path = tmp_path / "datasets"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(path))
    return path


@pytest.fixture
def other(open_jamboree: Callable[..., Jamboree], namespace: str) -> Jamboree:
    """Another store."""
    return open_jamboree(namespace=f"{namespace}-other")


class PayingEnv(CountingEnv):
    """Pays for the count that was seen times the action: misaligned, nothing adds up."""

    def step(self, action: Any) -> Any:
        seen = self.count
        observation, _, *rest = super().step(action)
        return observation, seen * 10.0 + float(action[0]), *rest


class SpaceEnv(gym.Env[Any, Any]):
    """Returns samples of a space, and is acted on by samples of it."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.observation_space = self.action_space = space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.5, False, False, {}


def record(jam: Jamboree, env: Any, steps: int = 3, episodes: int = 1, **options: Any) -> list[str]:
    """Episodes with sampled actions; their ids."""
    env = jam.record(env, **options)
    env.action_space.seed(0)
    ids = []
    for seed in range(episodes):
        env.reset(seed=seed)
        ids.append(env.episode_id)
        for _ in range(steps):
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                break
    env.close()
    return ids


def plain(data: EpisodeData) -> dict[str, Any]:
    """All that an episode holds, but its id."""
    fields = set(EpisodeData.__slots__) - {"id"}
    return {name: getattr(data, name) for name in fields}


def assert_equal(one: EpisodeData, other: EpisodeData) -> None:
    for name, value in plain(one).items():
        assert is_same(listed(value), listed(getattr(other, name))), name


def listed(value: Any) -> Any:
    """Arrays of objects as lists, so that what is in them is compared."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        return value.tolist()
    if isinstance(value, dict):
        return {key: listed(part) for key, part in value.items()}
    return type(value)(map(listed, value)) if isinstance(value, (list, tuple)) else value


def steps_of(jam: Jamboree, id: str) -> list[tuple[Any, ...]]:
    """The steps one by one, each value with its type."""
    return [
        (s.observation, s.action, s.reward, s.next_observation, s.info, s.timestamp, s.annotation)
        for s in jam.episode(id).steps()
    ]


# --- what Minari's own reader sees ----------------------------------------------------------------


def test_an_observation_stands_beside_the_action_that_was_taken_from_it(jam: Jamboree) -> None:
    record(jam, PayingEnv(length=5), steps=5)

    (episode,) = to_minari(jam.episodes(), "paying-v0")

    assert episode.observations[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    expected = episode.observations[:-1, 0] * 10.0 + episode.actions[:, 0].astype(float)
    assert episode.rewards.tolist() == expected.tolist()
    assert episode.terminations.tolist() == [False] * 4 + [True]
    assert not episode.truncations.any()


def test_the_dataset_is_one_that_minari_knows_by_all_its_names(jam: Jamboree) -> None:
    env = gym.make("CartPole-v1", max_episode_steps=7)
    ids = record(jam, env, steps=20, episodes=3, run="expert", tags={"lr": 0.1})

    dataset = to_minari(
        jam.episodes(run="expert"),
        "cartpole/expert-v0",
        description="Seven steps.",
        author="Ada",
        author_email={"ada@example.org"},
        algorithm_name="random",
        code_permalink="https://example.org",
        eval_env="CartPole-v1",
    )

    assert (dataset.total_episodes, dataset.total_steps) == (3, 21)
    assert dataset.spec.namespace == "cartpole"
    assert minari.list_local_datasets()["cartpole/expert-v0"]["author"] == ["Ada"]
    recovered = dataset.recover_environment()
    assert recovered.spec is not None
    assert recovered.spec.max_episode_steps == 7
    assert recovered.observation_space == dataset.observation_space == env.observation_space
    assert dataset.recover_environment(eval_env=True).spec.max_episode_steps == 500
    (first, *_) = dataset.storage.get_episode_metadata([0])
    assert (first["seed"], first["jamboree_id"], first["jamboree_run"]) == (0, ids[0], "expert")
    assert first["jamboree_tags"] == "{'lr': 0.1}"
    combined = minari.combine_datasets([dataset, dataset], "cartpole/twice-v0")
    assert combined.total_episodes == 6
    assert dataset.filter_episodes(lambda one: one.id > 0).total_episodes == 2
    assert len(minari.split_dataset(dataset, [1, 2])[1].sample_episodes(2)) == 2


def test_the_folder_of_datasets_may_be_a_relative_one(
    jam: Jamboree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", "here")
    record(jam, CountingEnv(length=2))

    to_minari(jam.episodes(), "relative-v0")

    assert minari.load_dataset("relative-v0").total_steps == 2


@pytest.mark.long
def test_minaris_command_line_shows_and_lists_it(jam: Jamboree) -> None:
    record(jam, gym.make("CartPole-v1"), steps=3)
    to_minari(jam.episodes(), "cartpole/few-v0", description="Few.")

    for command in (["show", "cartpole/few-v0"], ["list", "local"]):
        done = subprocess.run([*MINARI, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "few" in done.stdout


def test_an_episode_without_an_end_is_truncated_and_its_status_says_why(
    jam: Jamboree, other: Jamboree
) -> None:
    record(jam, CountingEnv(length=9), steps=3)

    dataset = to_minari(jam.episodes(), "open-v0")

    assert dataset[0].truncations.tolist() == [False, False, True]
    assert next(dataset.storage.get_episode_metadata([0]))["jamboree_status"] == "abandoned"
    (id,) = from_minari(other, dataset)
    assert other.episode(id).status == "abandoned"
    assert not other.episode(id).data().truncations.any()


def test_what_goes_on_or_has_no_step_is_left_out(
    jam: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    record(jam, CountingEnv(length=2))
    record(jam, CountingEnv(), steps=0)
    env = jam.record(CountingEnv(length=9))
    env.reset()
    env.step(env.action_space.sample())

    assert to_minari(jam.episodes(), "some-v0").total_episodes == 1
    assert "2 of 3 episodes are not written" in caplog.text

    env.close()
    assert to_minari(jam.episodes(), "some-v0").total_episodes == 2


INFOS: list[dict[str, Any]] = [
    {"first": True},
    {"x": 1.5, "n": 3, "s": "a", "d": {"v": np.float32(2)}, "a": np.arange(3), "rare": None},
    {"x": 2.5, "n": 4, "s": "bé", "d": {"v": np.float32(3)}, "a": np.arange(3), "l": [1, "b"]},
    {"x": 3.5, "n": 5, "s": "", "d": {"v": np.float32(4)}, "a": np.arange(3), 7: (1, 2)},
]


def test_infos_are_columns_where_every_step_has_them_and_all_of_them_come_back(
    jam: Jamboree, other: Jamboree
) -> None:
    (id,) = record(jam, ScriptedEnv(infos=INFOS))

    dataset = to_minari(jam.episodes(), "infos-v0")

    infos = dataset[0].infos
    assert np.array_equal(infos["x"], [np.nan, 1.5, 2.5, 3.5], equal_nan=True)
    assert infos["n"].tolist() == [0, 3, 4, 5]
    assert infos["d"]["v"].dtype == np.float32
    assert infos["a"].shape == (4, 3)
    assert infos["s"].tolist() == [b"", b"a", "bé".encode(), b""]
    assert not {"first", "rare", "l"} & infos.keys()
    (back,) = from_minari(other, dataset)
    assert is_same(list(other.episode(back).data().infos), INFOS)
    assert_equal(jam.episode(id).data(), other.episode(back).data())


# --- there and back -------------------------------------------------------------------------------

EVERY_DTYPE = [
    *(np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
    *(np.float16, np.float32, np.float64, np.bool_),
]
KNOWN_SPACES = {
    **{np.dtype(dtype).name: spaces.Box(0, 1, (2, 3), dtype) for dtype in EVERY_DTYPE},
    "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "scalar": spaces.Box(-1, 1, (), np.float64),
    "image": spaces.Box(0, 255, (40, 36, 3), np.uint8),
    "grey": spaces.Box(0, 255, (36, 40), np.uint8),
    "discrete": spaces.Discrete(5, start=-2),
    "multi_discrete": spaces.MultiDiscrete([3, 4], start=[1, -1]),
    "nested_multi_discrete": spaces.MultiDiscrete([[3, 4], [5, 6]]),
    "multi_binary": spaces.MultiBinary((2, 3)),
    "text": spaces.Text(8, charset="aé☃ "),
    "tuple": spaces.Tuple([spaces.Discrete(3), spaces.Tuple([spaces.Text(4)])]),
    "dict": spaces.Dict(
        b=spaces.Dict(image=spaces.Box(0, 255, (33, 33, 3), np.uint8), t=spaces.Text(3)),
        a=spaces.Tuple([spaces.MultiBinary(2), spaces.Dict({"x y.z": spaces.Box(-1, 1, (1,))})]),
    ),
}


@pytest.mark.parametrize("name", KNOWN_SPACES)
def test_every_space_that_minari_knows_comes_back_equal(
    name: str, jam: Jamboree, other: Jamboree
) -> None:
    space = KNOWN_SPACES[name]
    space.seed(1)
    (id,) = record(jam, SpaceEnv(space), run="there", tags={"a": (1, None)})

    dataset = to_minari(jam.episodes(), "spaces/all-v0")
    (back,) = from_minari(other, minari.load_dataset("spaces/all-v0"), run="back")

    assert_equal(jam.episode(id).data(), other.episode(back).data())
    assert is_same(steps_of(jam, id), steps_of(other, back))
    assert jam.episode(id).provenance == other.episode(back).provenance
    there, here = jam.episode(id).summary, other.episode(back).summary
    for field in ("status", "steps", "episode_return", "started_at", "elapsed_s", "seed"):
        assert getattr(there, field) == getattr(here, field)
    assert here.tags == {"a": (1, None), "minari": "spaces/all-v0", "minari_episode": 0}
    assert dataset.observation_space == space


@pytest.mark.parametrize(
    ("name", "kind"), [("seen", "Sequence"), ("map", "Graph"), ("either", "OneOf")]
)
def test_the_error_for_other_spaces_names_the_leaf(
    name: str, kind: str, jam: Jamboree, datasets: Path
) -> None:
    space = spaces.Tuple([spaces.Discrete(2), spaces.Dict({name: NESTED[name]})])
    record(jam, SpaceEnv(space))

    with pytest.raises(UnsupportedSpace, match=rf"observation\[1\]\['{name}'\]: it has no {kind}"):
        to_minari(jam.episodes(), "nested-v0")

    assert not (datasets / "nested-v0").exists()


@pytest.mark.parametrize(
    ("space", "leaf"),
    [
        (spaces.Dict({"a/b": spaces.Discrete(2)}), r"observation\['a/b'\]"),
        (spaces.Dict(none=spaces.Box(0, 1, (0,))), r"observation\['none'\]: arrays of shape"),
    ],
)
def test_names_and_shapes_that_its_files_lack_are_named(
    space: spaces.Space[Any], leaf: str, jam: Jamboree
) -> None:
    record(jam, SpaceEnv(space))

    with pytest.raises(UnsupportedSpace, match=leaf):
        to_minari(jam.episodes(), "names-v0")


def test_a_text_that_its_files_lack_is_named(jam: Jamboree) -> None:
    env = ScriptedEnv(observations=["", "a\0b"])
    env.observation_space = spaces.Text(3, min_length=0)
    record(jam, env, steps=1)

    with pytest.raises(InvalidRecord, match="observation holds what is not of its space"):
        to_minari(jam.episodes(), "texts-v0")


def test_annotations_come_back(jam: Jamboree, other: Jamboree) -> None:
    env = jam.record(CountingEnv(length=4))
    env.reset(seed=1)
    for said in ({"value": 0.5, "why": "left"}, {}, {"q": np.ones(2)}, {"value": 1.5, "why": "b"}):
        if said:
            env.annotate(**said)
        env.step(env.action_space.sample())

    dataset = to_minari(jam.episodes(), "said-v0")

    values = dataset[0].infos["jamboree.annotation.value"]
    assert np.array_equal(values, [np.nan, 0.5, np.nan, np.nan, 1.5], equal_nan=True)
    (back,) = from_minari(other, dataset)
    assert is_same(steps_of(jam, env.episode_id), steps_of(other, back))


def test_types_that_change_in_an_episode_come_back(jam: Jamboree, other: Jamboree) -> None:
    env = ScriptedEnv(observations=[1, np.int64(2), 3, np.int64(4)])
    env.observation_space = spaces.Discrete(9)
    (id,) = record(jam, env)

    (back,) = from_minari(other, to_minari(jam.episodes(), "types-v0"))

    assert is_same(steps_of(jam, id), steps_of(other, back))


def test_options_and_an_unseeded_reset_come_back_and_verify(jam: Jamboree, other: Jamboree) -> None:
    env = jam.record(gym.make("CartPole-v1"))
    env.reset(options={"low": -0.01, "high": 0.01})
    for _ in range(5):
        env.step(0)
    env.close()

    dataset = to_minari(jam.episodes(), "options-v0")
    (back,) = from_minari(other, dataset)

    metadata = next(dataset.storage.get_episode_metadata([0]))
    assert metadata["options"] == {"low": -0.01, "high": 0.01}
    assert other.episode(back).origin.options == {"low": -0.01, "high": 0.01}
    assert verify(other.episode(back))


def test_a_fork_comes_back_as_a_child_of_its_parent(jam: Jamboree, other: Jamboree) -> None:
    (parent,) = record(jam, gym.make("CartPole-v1"), steps=5)
    with fork(jam.episode(parent), step=3) as child:
        child.step(0)

    ids = from_minari(other, to_minari(jam.episodes(forks=True), "forks-v0"))

    assert other.episode(ids[1]).parent.id == ids[0]
    assert verify(other.episode(ids[1]))


def test_a_fork_with_another_spec_says_how_to_leave_forks_out(jam: Jamboree) -> None:
    (parent,) = record(jam, gym.make("CartPole-v1"), steps=5)
    with fork(jam.episode(parent), step=3, render_mode="rgb_array") as child:
        child.step(0)

    with pytest.raises(InvalidRecord, match=r"Choose with where\(parent=None\): it is a fork"):
        to_minari(jam.episodes(forks=True), "forks-v0")
    assert to_minari(jam.episodes(), "no-forks-v0").total_episodes == 1


def test_an_episode_that_follows_another_comes_back_and_verifies(
    jam: Jamboree, other: Jamboree
) -> None:
    same_step = {"autoreset_mode": AutoresetMode.SAME_STEP}
    envs = gym.make_vec("CartPole-v1", 1, vectorization_mode="sync", vector_kwargs=same_step)
    envs = jam.record(envs)
    envs.reset(seed=1)
    while len(jam.episodes().where(min_steps=1)) < 2:
        envs.step(np.array([1]))
    envs.close()

    ids = from_minari(other, to_minari(jam.episodes(), "follows-v0"))

    assert other.episode(ids[1]).predecessor.id == ids[0]
    assert verify(other.episode(ids[1]))


def test_a_long_episode_comes_back(
    jam: Jamboree, other: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_appends, "MAX_BATCHES_PER_APPEND", 1)
    (id,) = record(jam, CountingEnv(length=600), steps=600)

    (back,) = from_minari(other, to_minari(jam.episodes(), "long-v0"))

    assert_equal(jam.episode(id).data(), other.episode(back).data())
    assert other.episode(back).status == "terminated"


# --- datasets of others ---------------------------------------------------------------------------


def foreign(data_format: str, id: str = "foreign-v0", **options: Any) -> minari.MinariDataset:
    """A dataset of real CartPole episodes, written by Minari."""
    env = gym.make("CartPole-v1", max_episode_steps=6)
    buffers = []
    for seed in (3, 4):
        observation, _ = env.reset(seed=seed)
        seen, actions, rewards, ends = [observation], [], [], []
        for number in range(6):
            actions.append(number % 2)
            observation, reward, terminated, *_ = env.step(actions[-1])
            seen.append(observation)
            rewards.append(reward)
            ends.append(terminated)
        last = [False] * 5 + [True]
        infos = {"n": list(range(7)), "name": [f"é{n}" for n in range(7)], **options}
        buffers.append(
            EpisodeBuffer(
                None, seed, None, np.array(seen), np.array(actions), rewards, ends, last, infos
            )
        )
    return minari.create_dataset_from_buffers(
        id,
        buffers,
        env=env,
        eval_env="CartPole-v1",
        data_format=data_format,
        algorithm_name="a",
        author="b",
        author_email="c",
        code_permalink="d",
        description="e",
    )


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_a_dataset_of_others_becomes_episodes_that_verify(data_format: str, jam: Jamboree) -> None:
    dataset = foreign(data_format)

    ids = from_minari(jam, "foreign-v0", tags={"level": 1})

    for id, theirs in zip(ids, dataset, strict=True):
        episode = jam.episode(id)
        ours = episode.data()
        assert is_same(ours.observations, theirs.observations)
        assert is_same(ours.actions, theirs.actions)
        assert ours.rewards.tolist() == theirs.rewards.tolist()
        assert (episode.status, episode.summary.run) == ("truncated", "foreign-v0")
        assert episode.summary.tags["level"] == 1
        assert [info["n"] for info in ours.infos] == list(range(7))
        assert ours.infos[2]["name"] == "é2"
        assert (np.diff(ours.timestamps) > 0).all()
        assert verify(episode)
    assert [jam.episode(id).summary.seed for id in ids] == [3, 4]
    provenance = jam.episode(ids[0]).provenance
    assert provenance["imported"]["dataset"] == "foreign-v0"
    assert (provenance["versions"], provenance["host"]) == ({}, None)
    assert len(jam.episodes(env_id="CartPole-v1", status="truncated")) == 2


def test_only_the_episodes_that_a_dataset_points_to_are_imported(jam: Jamboree) -> None:
    dataset = foreign("hdf5").filter_episodes(lambda episode: episode.id == 1)

    (id,) = from_minari(jam, dataset)

    assert jam.episode(id).summary.seed == 4
    assert from_minari(jam, "foreign-v0")[1] == id


def test_infos_of_old_datasets_and_odd_ones(
    jam: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    foreign("hdf5", short=np.arange(6.0), odd=np.arange(3), deep={"v": np.arange(7)})

    (id, _) = from_minari(jam, "foreign-v0")

    infos = jam.episode(id).data().infos
    assert "short" not in infos[0]
    assert [info["short"] for info in infos[1:]] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert infos[3]["deep"] == {"v": 3}
    assert "'odd' has 3 values for 6 steps" in caplog.text


def test_a_dataset_that_is_not_here_says_how_to_get_it(jam: Jamboree) -> None:
    with pytest.raises(EpisodeNotFound, match="minari download D4RL/door/human-v2"):
        from_minari(jam, "D4RL/door/human-v2")


def test_a_damaged_dataset_is_named(jam: Jamboree) -> None:
    dataset = foreign("hdf5")
    path = dataset.storage.data_path / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[:2000])

    with pytest.raises(DecodeError, match="the Minari dataset 'foreign-v0' cannot be read"):
        from_minari(jam, "foreign-v0")


def test_without_what_it_needs_the_error_holds_the_pip_command() -> None:
    code = "import sys; sys.modules['h5py'] = None; import jamboree_gym.integrations.minari"

    done = run_python(code)

    assert "MissingExtra: Minari datasets need: pip install 'jamboree-gym[minari]'" in done.stderr


# --- again, and in between ------------------------------------------------------------------------


def test_a_second_export_adds_what_is_new_and_nothing_twice(jam: Jamboree) -> None:
    ids = record(jam, CountingEnv(length=2), episodes=2)
    to_minari(jam.episodes(), "more/again-v0", description="first")
    ids += record(jam, CountingEnv(length=3), episodes=1)

    for _ in range(2):
        dataset = to_minari(jam.episodes(), "more/again-v0")

    found = [one["jamboree_id"] for one in dataset.storage.get_episode_metadata(range(3))]
    assert found == ids
    assert [one["id"] for one in dataset.storage.get_episode_metadata(range(3))] == [0, 1, 2]
    assert [len(one) for one in dataset] == [2, 2, 3]
    assert dataset.total_steps == 7
    assert dataset.storage.metadata["description"] == "first"


def test_a_second_import_makes_no_copies_and_another_run_is_another(jam: Jamboree) -> None:
    foreign("hdf5")

    first, second = from_minari(jam, "foreign-v0"), from_minari(jam, "foreign-v0")
    elsewhere = from_minari(jam, "foreign-v0", run="elsewhere")

    assert first == second
    assert not set(first) & set(elsewhere)
    assert len(jam.episodes()) == 4
    jam.episode(first[0]).delete()
    assert from_minari(jam, "foreign-v0") == first
    assert len(jam.episodes()) == 4


def test_another_dataset_of_the_same_id_is_an_error(jam: Jamboree) -> None:
    record(jam, CountingEnv(length=4), run="a")
    dataset = to_minari(jam.episodes(run="a"), "same-v0")
    dataset.storage.update_episode_metadata([{"total_steps": 3}])
    (id,) = from_minari(jam, foreign("hdf5", "one-v0"))[:1]
    minari.load_dataset("one-v0").storage.update_episode_metadata([{"total_steps": 5}] * 2)

    with pytest.raises(InvalidRecord, match="imported with 6 steps and has 5"):
        from_minari(jam, "one-v0")
    assert len(jam.episode(id)) == 6


def test_a_dataset_of_others_is_not_touched(jam: Jamboree) -> None:
    foreign("hdf5")
    record(jam, CountingEnv(length=2))

    with pytest.raises(InvalidArgument, match="to_minari did not write it"):
        to_minari(jam.episodes(), "foreign-v0")


def test_episodes_of_two_environments_are_refused(jam: Jamboree) -> None:
    record(jam, gym.make("CartPole-v1"))
    ids = record(jam, gym.make("CartPole-v1", max_episode_steps=9))

    with pytest.raises(InvalidRecord, match=f"episode '{ids[0]}' was recorded in another"):
        to_minari(jam.episodes(), "two-v0")


@pytest.mark.parametrize("id", ["a/name-v0", "name", "name-v0/", "-v0"])
def test_ids_that_minari_does_not_know_are_refused(id: str, jam: Jamboree) -> None:
    with pytest.raises(InvalidArgument, match="is no id of a Minari dataset"):
        to_minari(jam.episodes(), id)


def test_progress_tells_what_is_done_of_all(
    jam: Jamboree, other: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "EPISODES_PER_PART", 2)
    record(jam, CountingEnv(length=1), episodes=5)
    told: list[tuple[int, int]] = []

    dataset = to_minari(jam.episodes(), "told-v0", progress=lambda *now: told.append(now))
    from_minari(other, dataset, progress=lambda *now: told.append(now))

    assert told == [(2, 5), (4, 5), (5, 5), (5, 5)]


EXPORTER = """
import os, sys
from jamboree_gym import Jamboree
from jamboree_gym.integrations.minari import export, to_minari

url, namespace, datasets = sys.argv[1:]
os.environ["MINARI_DATASETS_PATH"] = datasets
export.EPISODES_PER_PART = 4
with Jamboree(url, namespace=namespace) as jam:
    print("begins", flush=True)
    to_minari(jam.episodes(), "killed/often-v0", progress=lambda done, _: print(done, flush=True))
"""


@pytest.mark.faults
@pytest.mark.long
def test_an_export_that_is_killed_goes_on_and_writes_nothing_twice(
    jam: Jamboree, datasets: Path
) -> None:
    rounds = int(os.environ.get("JAMBOREE_KILLED_EXPORTS", "2"))
    ids = record(jam, CountingEnv(length=3), episodes=40 * rounds)  # more than it can write
    jam.flush()  # for other processes
    rng = random.Random(7)
    for _ in range(rounds):
        process = start_warm(
            EXPORTER,
            jam._connection.redis_url,
            jam._connection.keyspace.namespace,
            datasets,
        )
        for _ in range(rng.randrange(1, 4)):
            read_line(process)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.communicate()

    dataset = to_minari(jam.episodes(), "killed/often-v0")

    metadata = dataset.storage.get_episode_metadata(range(dataset.total_episodes))
    assert [one["jamboree_id"] for one in metadata] == ids
    assert sum(len(one) for one in dataset) == 3 * len(ids)


class Killed(BaseException):
    """As if the process had been killed here."""


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the n-th renaming of a folder from now on be the last thing that happens."""
    left = [10**9]

    def counted(rename: Callable[[Path, Any], Path]) -> Callable[[Path, Any], Path]:
        def renamed(path: Path, target: Any) -> Path:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return rename(path, target)

        return renamed

    for name in ("rename", "replace"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    return lambda n: left.__setitem__(0, n)


@pytest.mark.parametrize("renames", range(6))
def test_killed_between_any_two_steps_it_goes_on(
    renames: int, jam: Jamboree, killing: Callable[[int], None]
) -> None:
    ids = record(jam, CountingEnv(length=2), episodes=2)
    to_minari(jam.episodes()[:1], "steps-v0")
    killing(renames)
    with pytest.raises(Killed) if renames < 4 else pytest.MonkeyPatch.context():
        to_minari(jam.episodes(), "steps-v0")
    killing(100)

    dataset = to_minari(jam.episodes(), "steps-v0")

    metadata = dataset.storage.get_episode_metadata(range(dataset.total_episodes))
    assert [one["jamboree_id"] for one in metadata] == ids


def test_what_a_killed_export_had_not_finished_is_removed(jam: Jamboree, datasets: Path) -> None:
    record(jam, CountingEnv(length=2))
    left = aside_of(datasets / ".jamboree" / "left-v0" / "part-00000")
    left.mkdir(parents=True)
    (left / "main_data.hdf5").write_bytes(b"half")

    assert len(to_minari(jam.episodes(), "left-v0")) == 1
    assert not left.parent.exists()


def test_two_do_not_write_one_dataset(jam: Jamboree, datasets: Path) -> None:
    record(jam, CountingEnv(length=2))
    (datasets / ".jamboree").mkdir(parents=True)
    with (
        FileLock(datasets / ".jamboree" / "held-v0.lock"),
        pytest.raises(ExportError, match="held-v0: another process is writing"),
    ):
        to_minari(jam.episodes(), "held-v0")


def long_dataset(jam: Jamboree, ours: bool) -> minari.MinariDataset:
    """One episode of 600 steps, written by us or by Minari alone."""
    record(jam, CountingEnv(length=600), steps=600)
    dataset = to_minari(jam.episodes(), "ours-v0")
    if ours:
        return dataset
    (episode,) = dataset
    names = ("observations", "actions", "rewards", "terminations", "truncations")
    buffer = EpisodeBuffer(**{name: getattr(episode, name) for name in names})
    return minari.create_dataset_from_buffers(
        "theirs-v0",
        [buffer],
        observation_space=dataset.observation_space,
        action_space=dataset.action_space,
        eval_env="CartPole-v1",
        algorithm_name="a",
        author="b",
        author_email="c",
        code_permalink="d",
        description="e",
    )


@pytest.mark.filterwarnings("ignore:env_spec is None:UserWarning")
@pytest.mark.parametrize("ours", [True, False])
def test_an_import_that_was_cut_goes_on_where_it_was(
    ours: bool, jam: Jamboree, other: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = long_dataset(jam, ours)
    monkeypatch.setattr(part_appends, "MAX_BATCHES_PER_APPEND", 1)
    append, calls = other._connection.append_whole, []

    def once(appends: Any) -> Any:
        calls.append(appends)
        if len(calls) > 1:
            raise Killed
        return append(appends)

    monkeypatch.setattr(other._connection, "append_whole", once)
    with pytest.raises(Killed):
        from_minari(other, dataset)
    monkeypatch.setattr(other._connection, "append_whole", append)
    begun = other.episodes().first()
    assert begun.status == "running"  # its writer is this process
    assert 0 < len(begun) < 600

    (back,) = from_minari(other, dataset)

    there, here = jam.episodes().first().data(), other.episode(back).data()
    assert is_same(there.observations, here.observations)
    assert is_same(there.actions, here.actions)
    assert other.episode(back).status == "terminated"
    assert len(other.episodes()) == 1
