"""What other formats hold, back in another store: HDF5, Hugging Face's datasets, RLDS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces
from nested import is_same
from recorded_envs import ACTION, CountingEnv, ScriptedEnv, play

from jamboree_gym import Episode, Jamboree
from jamboree_gym.arrays.trees import map_leaves
from jamboree_gym.errors import (
    DecodeError,
    EpisodeNotFound,
    InvalidArgument,
    InvalidRecord,
    JamboreeError,
)
from jamboree_gym.integrations.datasets import from_datasets, to_datasets
from jamboree_gym.integrations.hdf5 import from_hdf5, to_hdf5
from jamboree_gym.integrations.rlds import from_rlds, to_rlds
from jamboree_gym.recording import part_appends

STEPS = 3
OBSERVATIONS = [
    {
        "camera": np.full((3, 2, 3), k, np.uint8),
        "joints": (np.array([k, -k], np.float32), np.int16(k)),
        "say/it": f"é{k}",
    }
    for k in range(STEPS + 1)
]
SPACE = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (3, 2, 3), np.uint8),
        "joints": spaces.Tuple([spaces.Box(-9, 9, (2,)), spaces.Box(-9, 9, (), np.int16)]),
        "say/it": spaces.Text(9),
    }
)
INFOS = [{}, {"n": 1, "ok": True}, {"n": 2, "ok": False, "word": "é"}, {"n": 3, "ok": True}]


@pytest.fixture
def other(open_jamboree: Callable[..., Jamboree], namespace: str) -> Jamboree:
    """Another store."""
    return open_jamboree(namespace=f"{namespace}-other")


@pytest.fixture
def recorded(jam: Jamboree) -> list[Episode]:
    """An episode of odd values, one that ended by itself, and one of a single step."""
    scripted = ScriptedEnv(OBSERVATIONS, rewards=[0.5, -1.25, 3.0], infos=INFOS)
    scripted.observation_space = SPACE
    env = jam.record(scripted, run="odd", tags={"lr": 0.5})
    env.reset(seed=7)
    for step in range(STEPS):
        if step != 1:
            env.annotate(value=float(step))
        env.step(ACTION * step)
    env.close()
    for length in (STEPS, 1):
        scripted = ScriptedEnv(OBSERVATIONS)
        scripted.length, scripted.observation_space = length, SPACE
        env = jam.record(scripted, run="odd")
        play(env, [ACTION] * length)
        env.close()
    jam.flush()
    return list(jam.episodes(run="odd").order_by("started_at"))


def through_hdf5(jam: Jamboree, folder: Path) -> Callable[..., list[str]]:
    to_hdf5(jam.episodes(), folder)
    return lambda other, **options: from_hdf5(other, folder, **options)


def through_datasets(jam: Jamboree, folder: Path) -> Callable[..., list[str]]:
    to_datasets(jam.episodes(), folder, streaming=True)
    return lambda other, **options: from_datasets(other, folder, **options)


def through_rlds(jam: Jamboree, folder: Path) -> Callable[..., list[str]]:
    episodes = list(to_rlds(jam.episodes()))
    return lambda other, **options: from_rlds(other, episodes, **options)


WAYS = {"hdf5": through_hdf5, "datasets": through_datasets, "rlds": through_rlds}


def without_nesting(values: Any) -> Any:
    """As `datasets` has it: the leaves of a dict, beside each other."""
    camera, joints, say = values["camera"], values["joints"], values["say/it"]
    return {"camera": camera, "joints_0": joints[0], "joints_1": joints[1], "say/it": say}


def without_objects(values: Any) -> Any:
    """Texts as a list: the bytes of an array of objects are addresses."""
    return map_leaves(lambda part: part.tolist() if part.dtype == object else part, values)


@pytest.mark.parametrize("way", WAYS)
def test_values_come_back_with_their_dtypes(
    way: str, jam: Jamboree, other: Jamboree, recorded: list[Episode], tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    ids = WAYS[way](jam, tmp_path)(
        other, run="back", tags={"level": 1}, progress=lambda *now: told.append(now)
    )

    assert told == [(3, 3)]
    by_id = {other.episode(id).summary.tags["imported_episode"]: other.episode(id) for id in ids}
    for one in recorded:
        back, there = by_id[one.id], one.data()
        here = back.data()
        observations = there.observations
        if way == "datasets" and isinstance(observations, dict):
            observations = without_nesting(observations)
        assert is_same(without_objects(here.observations), without_objects(observations))
        assert is_same(here.actions, there.actions)
        assert is_same(here.rewards, there.rewards)
        assert is_same(here.terminations, there.terminations)
        assert is_same(here.truncations, there.truncations)
        assert (back.status, back.summary.run) == (one.status, "back")
        assert back.summary.episode_return == one.summary.episode_return
        assert back.summary.tags["imported_from"] == way
        assert back.summary.tags["level"] == 1
        if way != "rlds":
            assert is_same(here.timestamps[1:], there.timestamps[1:])


def test_an_episode_without_steps_comes_back_from_hdf5_also_of_an_agent_that_annotates(
    jam: Jamboree, other: Jamboree, tmp_path: Path
) -> None:
    env = jam.record(CountingEnv())
    env.reset()
    env.annotate(value=0.5, q_values=np.ones(2))
    env.step(ACTION)
    env.reset()
    env.close()
    ids = through_hdf5(jam, tmp_path)(other)
    assert [len(other.episode(id)) for id in ids] == [1, 0]
    assert other.episode(ids[0]).data().annotations["q_values"].tolist() == [[1.0, 1.0]]


def test_a_key_that_looks_like_a_place_in_a_tuple_stays_a_key(
    jam: Jamboree, other: Jamboree, tmp_path: Path
) -> None:
    observations = [{"_index_a": np.ones(2), "_index_0": np.zeros(1)}] * 2
    scripted = ScriptedEnv(observations)
    scripted.observation_space = spaces.Dict(
        {"_index_a": spaces.Box(0, 1, (2,), np.float64), "_index_0": spaces.Box(0, 1, (1,))}
    )
    env = jam.record(scripted)
    play(env, [ACTION])
    env.close()
    (id,) = through_hdf5(jam, tmp_path)(other)
    assert other.episode(id).data().observations.keys() == observations[0].keys()


def test_hdf5_keeps_more_than_the_values(
    jam: Jamboree, other: Jamboree, recorded: list[Episode], tmp_path: Path
) -> None:
    back = other.episode(through_hdf5(jam, tmp_path)(other)[0])

    summary, known = back.summary, recorded[0].summary
    assert (summary.seed, summary.started_at, summary.run) == (7, known.started_at, tmp_path.name)
    assert summary.tags["lr"] == 0.5
    assert back.data().infos == INFOS
    steps = back.steps()
    assert steps.annotated.tolist() == [True, False, True]
    assert steps.annotations["value"][[0, 2]].tolist() == [0.0, 2.0]


def test_datasets_keeps_infos_of_steps_and_annotations(
    jam: Jamboree, other: Jamboree, recorded: list[Episode], tmp_path: Path
) -> None:
    ids = through_datasets(jam, tmp_path)(other)
    back = next(one for one in map(other.episode, ids) if one.summary.steps == STEPS)

    assert back.data().infos == INFOS
    assert back.steps().annotated.tolist() == [True, False, True]


@pytest.mark.parametrize("way", ["hdf5", "datasets"])
def test_a_second_import_adds_nothing_and_another_run_is_another(
    way: str, jam: Jamboree, other: Jamboree, recorded: list[Episode], tmp_path: Path
) -> None:
    read = WAYS[way](jam, tmp_path)

    first = read(other, run="back")
    assert read(other, run="back") == first
    assert len(other.episodes()) == len(recorded)
    assert not set(read(other, run="again")) & set(first)


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("way", ["hdf5", "rlds"])
def test_an_import_that_was_cut_goes_on(
    way: str, jam: Jamboree, other: Jamboree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = jam.record(CountingEnv(length=600), run="long")
    play(env, [ACTION] * 600)
    env.close()
    jam.flush()
    read = WAYS[way](jam, tmp_path)
    monkeypatch.setattr(part_appends, "MAX_BATCHES_PER_APPEND", 1)
    append, calls = other._connection.append_whole, []

    def once(appends: Any) -> Any:
        calls.append(appends)
        if len(calls) > 1:
            raise Killed
        return append(appends)

    monkeypatch.setattr(other._connection, "append_whole", once)
    with pytest.raises(Killed):
        read(other, run="back")
    monkeypatch.setattr(other._connection, "append_whole", append)
    assert 0 < len(other.episodes(run="back").first()) < 600

    (id,) = read(other, run="back")

    assert (other.episode(id).status, len(other.episode(id))) == ("terminated", 600)
    assert is_same(
        other.episode(id).data().observations, jam.episodes().first().data().observations
    )
    assert len(other.episodes()) == 1


# -- broken files, and files of others --------------------------------------------------------


def test_half_a_file_is_named_and_what_came_before_stays_whole(
    jam: Jamboree,
    other: Jamboree,
    recorded: list[Episode],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jamboree_gym.integrations.hdf5.PART_EPISODES", 1)
    read = through_hdf5(jam, tmp_path)
    part = tmp_path / "part-00001.hdf5"
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])

    with pytest.raises(DecodeError, match="episode_1 cannot be read"):
        read(other, run="back")
    assert [one.status for one in other.episodes()] == [recorded[0].status]

    part.write_bytes(whole)
    assert len(read(other, run="back")) == len(other.episodes()) == 3


def test_half_a_parquet_file_is_named(
    jam: Jamboree, other: Jamboree, recorded: list[Episode], tmp_path: Path
) -> None:
    read = through_datasets(jam, tmp_path)
    (file,) = tmp_path.glob("train-*.parquet")
    file.write_bytes(file.read_bytes()[:-200])

    with pytest.raises(DecodeError, match=r"train-.*\.parquet cannot be read"):
        read(other)
    assert not len(other.episodes())


def test_rows_that_are_missing_are_named(
    jam: Jamboree, other: Jamboree, recorded: list[Episode], tmp_path: Path
) -> None:
    read = through_datasets(jam, tmp_path)
    (file,) = tmp_path.glob("train-*.parquet")
    pq.write_table(pq.read_table(file).slice(1), file)

    with pytest.raises(DecodeError, match="some of its steps are missing"):
        read(other)


def test_arrays_that_some_episodes_lack_need_a_new_pyarrow(
    jam: Jamboree, other: Jamboree, recorded: list[Episode], tmp_path: Path
) -> None:
    """Before 26, it cannot read a column of arrays in which one is missing."""
    env = jam.record(CountingEnv(length=2), run="odd")
    play(env, [ACTION] * 2)
    env.close()
    jam.flush()
    if int(pa.__version__.partition(".")[0]) >= 26:
        assert len(through_datasets(jam, tmp_path)(other)) == 4
    else:
        with pytest.raises(DecodeError, match=r"\n.*install 'pyarrow>=26', or export"):
            through_datasets(jam, tmp_path)(other)


def test_a_file_of_others_says_what_it_lacks(other: Jamboree, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "main_data.hdf5", "w") as file:
        file.create_group("episode_0").create_dataset("rewards", data=[1.0])
    pq.write_table(pa.table({"text": ["a"], "action": [1]}), tmp_path / "train-0.parquet")

    refused: dict[str, Callable[[], Any]] = {
        "it lacks episode_id, .*observations, actions": lambda: from_hdf5(other, tmp_path),
        "no column episode_id, index, .*next_observation": lambda: from_datasets(other, tmp_path),
    }
    for message, read in refused.items():
        with pytest.raises(DecodeError, match=message) as caught:
            read()
        assert len(str(caught.value).splitlines()) == 2
    for read_nothing in (from_hdf5, from_datasets):
        with pytest.raises(EpisodeNotFound, match="give a folder of to_"):
            read_nothing(other, tmp_path / "none")
    assert not len(other.episodes())


def rlds(**changed: Any) -> dict[str, Any]:
    """An episode as another program has it: texts in bytes, one key more, no id."""
    steps = [
        {
            "observation": {"state": np.float32([k]), "task": b"go"},
            "action": np.int32(k),
            "reward": np.float32(k),
            "is_last": k == 2,
            "is_terminal": False,
            "discount": np.float32(1),
            "language": b"go",
        }
        for k in range(3)
    ]
    return {"steps": iter(steps), **changed}


def test_rlds_of_others_is_taken_and_what_is_left_out_is_said(
    other: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = from_rlds(other, iter([rlds(), rlds(invalid=True)]), run="theirs")

    data = other.episode(first).data()
    assert is_same(data.actions, np.array([0, 1], np.int32))
    assert data.observations["state"].dtype == np.float32
    assert data.observations["task"].tolist() == ["go"] * 3
    assert [other.episode(id).status for id in (first, second)] == ["truncated", "abandoned"]
    assert "the steps have language" in caplog.text


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "lacks steps"),
        ([{"observation": 1, "action": 1}], "lacks reward, is_last, is_terminal"),
        (list(rlds()["steps"])[:2], "its last step, and no other, has to be is_last"),
    ],
)
def test_rlds_that_is_no_episode_is_refused(
    steps: list[Any], message: str, other: Jamboree
) -> None:
    with pytest.raises(DecodeError, match=f"episode 0 of RLDS.*{message}"):
        from_rlds(other, [{"steps": steps}], run="theirs")
    assert not len(other.episodes())


def test_another_episode_of_the_same_id_is_an_error(other: Jamboree) -> None:
    from_rlds(other, [rlds(episode_id="a")], run="theirs")
    shorter = rlds(episode_id="a")
    shorter["steps"] = list(shorter["steps"])[1:]

    with pytest.raises(InvalidRecord, match="was imported with 2 steps and has 1"):
        from_rlds(other, [shorter], run="theirs")


def test_two_episodes_of_one_name_are_not_taken_for_one(jam: Jamboree, other: Jamboree) -> None:
    for _ in range(2):  # as long as each other
        play(jam.record(CountingEnv(3), run="r"), [ACTION] * 3)
    first, second = to_rlds(jam.episodes())
    second["episode_id"] = first["episode_id"]

    with pytest.raises(DecodeError, match="two episodes of rlds are called"):
        from_rlds(other, [first, second], run="r")
    assert len(from_rlds(other, [first], run="r")) == 1
    assert len(other.episodes()) == 1


def test_what_is_wrong_is_refused_before_anything_is_stored(other: Jamboree) -> None:
    wrong: list[tuple[type[JamboreeError], dict[str, Any]]] = [
        (InvalidArgument, {"run": "\ud800"}),
        (InvalidRecord, {"run": "r", "tags": {"a": object()}}),
    ]
    for error, options in wrong:
        with pytest.raises(error):
            from_rlds(other, [rlds()], **options)
    assert not len(other.episodes())
