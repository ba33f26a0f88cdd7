"""Recorded steps in Hugging Face's `datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from paying_env import PayingEnv, actions, record
from recorded_envs import ACTION, CountingEnv, ScriptedEnv

from jamboree_gym import Jamboree
from jamboree_gym.errors import ExportError
from jamboree_gym.integrations.datasets import to_datasets
from jamboree_gym.reading import bulk_read as blocks_module
from jamboree_gym.reading import parquet as table_parts


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


@pytest.fixture(params=[8 << 20, 1000], ids=["at once", "in parts"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long episodes are read at once, and in parts, each episode into a file of its own."""
    monkeypatch.setattr(blocks_module, "MAX_BYTES", request.param)
    if request.param == 1000:
        monkeypatch.setattr(table_parts, "PART_BYTES", 1)


def load(jam: Jamboree, folder: Path, **options: Any) -> Any:
    return to_datasets(jam.episodes(), folder / "steps", cache_dir=folder / "cache", **options)


@pytest.mark.usefixtures("parts")
def test_an_action_is_the_one_taken_from_the_observation(jam: Jamboree, tmp_path: Path) -> None:
    ids = [record(jam, PayingEnv(n), actions(n, i)) for i, n in enumerate((3, 300, 1))]

    steps = load(jam, tmp_path).with_format("numpy")[:]
    count, episode = steps["observation"][:, 0], steps["episode_id"]
    assert count.tolist() == [k for n in (3, 300, 1) for k in range(n)]
    assert (steps["next_observation"][:, 0] == count + 1).all()
    assert np.array_equal(steps["action"][:, 0], np.float32(count / 100))
    assert [ids[round(100 * i)] for i in steps["action"][:, 1].tolist()] == list(episode)
    assert (steps["reward"] == steps["action"][:, 0]).all()
    assert np.flatnonzero(steps["terminated"]).tolist() == [2, 302, 303]


def test_arrays_keep_dtype_and_shape(jam: Jamboree, tmp_path: Path) -> None:
    values = [
        {"image": np.full((2, 3), k, np.uint8), "cube": np.ones((2, 1, 2)) * k, "text": f"{k}"}
        for k in range(4)
    ]
    record(jam, ScriptedEnv(observations=values), [ACTION] * 3)

    steps = load(jam, tmp_path)
    assert steps.features["observation_image"] == datasets.Array2D((2, 3), "uint8")
    assert steps.features["next_observation_cube"] == datasets.Array3D((2, 1, 2), "float64")
    assert steps.features["action"] == datasets.List(datasets.Value("float32"), length=2)
    row = steps.with_format("numpy")[2]
    assert row["observation_image"].tolist() == [[2, 2, 2], [2, 2, 2]]
    assert row["next_observation_cube"].tolist() == values[3]["cube"].tolist()
    assert row["observation_text"] == "2"


def test_it_streams_and_opens_anywhere(jam: Jamboree, tmp_path: Path) -> None:
    record(jam, PayingEnv(5), actions(5))
    streamed = load(jam, tmp_path, streaming=True)

    assert isinstance(streamed, datasets.IterableDataset)
    assert [row["observation"][0] for row in streamed] == [*range(5)]
    opened = datasets.load_dataset(
        str(tmp_path / "steps"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert opened["reward"][:] == [row["reward"] for row in streamed]
    assert opened.features["observation"] == datasets.List(datasets.Value("float32"), length=2)


def test_called_again_it_adds_what_is_new(jam: Jamboree, tmp_path: Path) -> None:
    env = jam.record(CountingEnv())
    env.reset()
    env.annotate(value=0.5)
    env.step(ACTION)
    env.close()
    assert load(jam, tmp_path).num_rows == 1
    record(jam, ScriptedEnv(infos=[{}, {"a": 1}]), [ACTION])

    steps = load(jam, tmp_path)
    assert steps["annotation_value"][:] == [0.5, None]
    assert steps["info_a"][:] == [None, 1]


def test_what_datasets_does_not_take_is_named(jam: Jamboree, tmp_path: Path) -> None:
    record(jam, ScriptedEnv(observations=[{"heard": [1]}, {"heard": [1, 2]}]), [ACTION])
    with pytest.raises(ExportError, match=r'observation\["heard"\] has no fixed shape'):
        load(jam, tmp_path)
    record(jam, ScriptedEnv(observations=[np.zeros((1,) * 6)] * 2), [ACTION])
    with pytest.raises(ExportError, match="5 dimensions at most"):
        to_datasets(jam.episodes()[1:], tmp_path / "other")
    jam.episodes()[:0].to_parquet(tmp_path / "table")
    with pytest.raises(ExportError, match="something else"):
        to_datasets(jam.episodes(), tmp_path / "table")
