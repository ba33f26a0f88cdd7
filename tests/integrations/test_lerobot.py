"""A LeRobot data set, held to its written layout; and by LeRobot itself where there is one.

Name a Python that has `lerobot` by JAMBOREE_LEROBOT_PYTHON. It is not part of `test`: it demands
versions of torch and PyAV that are older than ours.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces
from paying_env import PayingEnv, actions, record
from PIL import Image
from recorded_envs import ACTION, CountingEnv, DiscreteEnv, ScriptedEnv
from warm import run_warm

from jamboree_gym import Jamboree
from jamboree_gym.errors import ExportError, InvalidArgument
from jamboree_gym.integrations.lerobot import dataset, to_lerobot
from jamboree_gym.reading import bulk_read as blocks_module

READER = Path(__file__).with_name("read_lerobot.py")


class SeeingEnv(PayingEnv):
    """Observes an image that is as bright as there were steps, and its count."""

    def __init__(self, length: int = 3) -> None:
        super().__init__(length)
        self.observation_space = spaces.Dict(
            camera=spaces.Box(0, 255, (4, 5, 3), np.uint8),
            agent_pos=spaces.Box(-9, 999, (2,), np.float32),
        )

    def observe(self) -> Any:
        image = np.full((4, 5, 3), self.count % 200, np.uint8)
        image[1, 2] = [self.count % 200, 7, 250]
        return {"camera": image, "agent_pos": super().observe()}


@pytest.fixture(params=[8 << 20, 1000], ids=["at once", "in parts"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long episodes are read at once, and in parts, and files are small."""
    monkeypatch.setattr(blocks_module, "MAX_BYTES", request.param)
    if request.param == 1000:
        monkeypatch.setattr(dataset, "FILE_BYTES", 1000)
        monkeypatch.setattr(dataset, "GROUP_BYTES", 1000)


def frames(folder: Path) -> pd.DataFrame:
    return ds.dataset(folder / "data").to_table().to_pandas()


def meta(folder: Path, name: str) -> Any:
    return json.loads((folder / "meta" / name).read_text())


@pytest.mark.usefixtures("parts")
def test_a_frame_has_the_action_that_is_taken_from_its_observation(
    jam: Jamboree, tmp_path: Path
) -> None:
    lengths = (3, 300, 0, 1)
    for number, steps in enumerate(lengths):
        record(jam, PayingEnv(10**9), actions(steps, number), run=f"{number}")
    folder = to_lerobot(jam.episodes(), tmp_path, fps=50, task="count")

    found = frames(folder)
    count = np.stack(found["observation.state"])[:, 0]
    taken = np.stack(found["action"])
    assert count.tolist() == [k for n in lengths for k in range(n)]
    assert np.array_equal(taken[:, 0], np.float32(count / 100))
    assert np.array_equal(found["next.reward"], taken[:, 0])
    assert np.flatnonzero(found["next.done"]).tolist() == [2, 302, 303]
    assert found["frame_index"].tolist() == count.tolist()
    assert found["index"].tolist() == [*range(304)]
    assert found["episode_index"].tolist() == [0] * 3 + [1] * 300 + [2]
    assert np.array_equal(found["timestamp"], np.float32(count / 50))
    assert set(found["task_index"]) == {0}


@pytest.mark.usefixtures("parts")
def test_what_is_said_of_the_data_set_is_true(jam: Jamboree, tmp_path: Path) -> None:
    for steps in (3, 300, 1):
        record(jam, SeeingEnv(steps), actions(steps))
    folder = to_lerobot(
        jam.episodes(), tmp_path, fps=10, names={"observation.agent_pos": "observation.state"}
    )

    info, found = meta(folder, "info.json"), frames(folder)
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 304, 1)
    assert set(info["features"]) == set(found.columns)
    assert info["features"]["observation.images.camera"] == {
        "dtype": "image",
        "shape": [4, 5, 3],
        "names": ["height", "width", "channels"],
    }
    image = Image.open(io.BytesIO(found["observation.images.camera"][2]["bytes"]))
    assert np.array_equal(np.asarray(image), SeeingEnv.observe(at(2))["camera"])
    assert pd.read_parquet(folder / "meta" / "tasks.parquet").loc[""]["task_index"] == 0

    episodes = ds.dataset(folder / "meta" / "episodes").to_table().to_pandas()
    assert episodes["length"].tolist() == [3, 300, 1]
    assert episodes["dataset_to_index"].tolist() == [3, 303, 304]
    for _, row in episodes.iterrows():
        place = {name: row[f"data/{name}"] for name in ("chunk_index", "file_index")}
        there = pq.read_table(folder / info["data_path"].format(**place))["episode_index"]
        assert row["episode_index"] in there.to_pylist()


def at(count: int) -> SeeingEnv:
    env = SeeingEnv()
    env.count = count
    return env


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("fps", [0, -1, float("inf")])
def test_a_pace_that_is_none_is_refused(jam: Jamboree, tmp_path: Path, fps: float) -> None:
    with pytest.raises(InvalidArgument, match="give the number of steps per second"):
        to_lerobot(jam.episodes(), tmp_path / "out", fps=fps)
    assert not (tmp_path / "out").exists()


def test_statistics_are_those_of_all_frames(jam: Jamboree, tmp_path: Path) -> None:
    for steps in (3, 300, 1):
        record(jam, SeeingEnv(steps), actions(steps))
    folder = to_lerobot(jam.episodes(), tmp_path, fps=10)

    stats, found = meta(folder, "stats.json"), frames(folder)
    for name, values in (
        ("action", np.stack(found["action"]).astype(float)),
        ("next.done", found["next.done"].to_numpy(float)[:, None]),
    ):
        assert stats[name]["mean"] == pytest.approx(values.mean(0).tolist())
        assert stats[name]["std"] == pytest.approx(values.std(0).tolist())
        assert stats[name]["min"] == values.min(0).tolist()
        assert stats[name]["max"] == values.max(0).tolist()
        assert stats[name]["count"] == [304]
    images = np.stack([at(k).observe()["camera"] for n in (3, 300, 1) for k in range(n)]) / 255
    seen = stats["observation.images.camera"]
    assert np.array(seen["mean"]).shape == (3, 1, 1)
    assert np.ravel(seen["mean"]) == pytest.approx(images.mean((0, 1, 2)))
    assert np.ravel(seen["std"]) == pytest.approx(images.std((0, 1, 2)))


def test_numbers_are_features_of_one_number(jam: Jamboree, tmp_path: Path) -> None:
    record(jam, DiscreteEnv(), [2, 0, 1])
    folder = to_lerobot(jam.episodes(), tmp_path, fps=10)

    assert frames(folder)["action"].tolist() == [2, 0, 1]
    assert meta(folder, "info.json")["features"]["action"]["shape"] == [1]


def test_called_again_it_adds_what_is_new(jam: Jamboree, tmp_path: Path) -> None:
    record(jam, PayingEnv(3), actions(3))
    to_lerobot(jam.episodes(), tmp_path, fps=10, task="first")
    first = (tmp_path / "data/chunk-000/file-000.parquet").stat().st_ino
    record(jam, PayingEnv(2), actions(2))
    to_lerobot(jam.episodes(), tmp_path, fps=10, task="second")
    to_lerobot(jam.episodes(), tmp_path, fps=10)

    found = frames(tmp_path)
    assert (tmp_path / "data/chunk-000/file-000.parquet").stat().st_ino == first
    assert found["index"].tolist() == [*range(5)]
    assert found["task_index"].tolist() == [0, 0, 0, 1, 1]
    assert meta(tmp_path, "info.json")["splits"] == {"train": "0:2"}


def test_a_folder_has_one_pace(jam: Jamboree, tmp_path: Path) -> None:
    record(jam, PayingEnv(3), actions(3))
    to_lerobot(jam.episodes(), tmp_path, fps=50)
    record(jam, PayingEnv(2), actions(2))

    for _ in ("as it is written", "as older releases wrote it"):
        with pytest.raises(InvalidArgument, match=r"fps=30.*have 50 steps per second"):
            to_lerobot(jam.episodes(), tmp_path, fps=30)
        assert meta(tmp_path, "info.json")["fps"] == 50
        path = tmp_path / "meta/episodes/chunk-000/file-000.parquet"
        table = pq.read_table(path)
        noted = {name: text for name, text in table.schema.metadata.items() if b"fps" not in name}
        pq.write_table(table.replace_schema_metadata(noted), path)
    to_lerobot(jam.episodes(), tmp_path, fps=50)
    assert len(frames(tmp_path)) == 5


def test_names_that_do_not_fit_are_refused(jam: Jamboree, tmp_path: Path) -> None:
    record(jam, PayingEnv(2), actions(2))
    with pytest.raises(InvalidArgument, match=r"names=\{'observation.stat': .*there are observ"):
        to_lerobot(jam.episodes(), tmp_path / "a", fps=5, names={"observation.stat": "state"})
    with pytest.raises(ExportError, match="two features would be called 'action'"):
        to_lerobot(jam.episodes(), tmp_path / "b", fps=5, names={"observation.state": "action"})


KILLED = """
import os, sys
from jamboree_gym import Jamboree
from jamboree_gym.reading import bulk_read as blocks
from jamboree_gym.integrations.lerobot import dataset
dataset.FILE_BYTES = blocks.MAX_BYTES = 1
def die(done, total):
    if done == 3:
        os.kill(os.getpid(), 9)
with Jamboree(sys.argv[1], namespace=sys.argv[2]) as jam:
    dataset.to_lerobot(jam.episodes(), sys.argv[3], fps=10, progress=die)
"""


@pytest.mark.long
def test_a_killed_one_is_gone_on_with(jam: Jamboree, tmp_path: Path) -> None:
    for steps in (4, 3, 6, 2, 5):
        record(jam, PayingEnv(steps), actions(steps))
    jam.flush()
    url = jam._connection.redis_url
    assert run_warm(KILLED, url, jam._connection.keyspace.namespace, tmp_path).returncode == -9

    assert 0 < len(list(tmp_path.glob("data/*/*"))) < 5
    found = frames(to_lerobot(jam.episodes(), tmp_path, fps=10))
    assert found["index"].tolist() == [*range(20)]
    assert found["frame_index"].tolist() == [k for n in (4, 3, 6, 2, 5) for k in range(n)]


@pytest.mark.parametrize(
    ("observation", "action", "leaf"),
    [
        ({"map": np.zeros((3, 3))}, ACTION, r'observation\["map"\].*float64 \(3, 3\)'),
        (np.zeros((3, 8, 8), np.uint8), ACTION, r"observation of .*uint8 \(3, 8, 8\)"),
        ({"said": "text"}, ACTION, r'observation\["said"\].*no fixed shape'),
        ({"a/b": 1.0}, ACTION, r'observation\["a/b"\].*without /'),
        (np.zeros(2), {"left": ACTION}, r'action\["left"\].*one vector'),
        (np.zeros(0), ACTION, r"observation of .*float64 \(0,\)"),
        (np.zeros(2), np.zeros(0), r"action of .*one vector"),
        ({"a": {"b": 1.0}, "a.b": 2.0}, ACTION, r'\["a.b"\].*would be .observation.a.b.'),
    ],
)
def test_what_lerobot_does_not_take_is_named(
    jam: Jamboree, tmp_path: Path, observation: Any, action: Any, leaf: str
) -> None:
    record(jam, ScriptedEnv(observations=[observation] * 2), [action])

    with pytest.raises(ExportError, match=leaf):
        to_lerobot(jam.episodes(), tmp_path, fps=10)


def test_episodes_of_other_features_are_not_added(jam: Jamboree, tmp_path: Path) -> None:
    record(jam, CountingEnv(), [ACTION])
    to_lerobot(jam.episodes(), tmp_path, fps=10)
    record(jam, ScriptedEnv(observations=[np.zeros(3)] * 2), [ACTION])

    with pytest.raises(ExportError, match=r"observation.state is .*float32.*float64"):
        to_lerobot(jam.episodes(), tmp_path, fps=10)


if "JAMBOREE_LEROBOT_PYTHON" in os.environ:

    def test_lerobot_itself_reads_it(
        jam: Jamboree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dataset, "FILE_BYTES", 1)
        for number, steps in enumerate((3, 20)):
            record(jam, SeeingEnv(steps), actions(steps, number))
        to_lerobot(jam.episodes(), tmp_path, fps=10, task="count")

        command = [os.environ["JAMBOREE_LEROBOT_PYTHON"], str(READER), str(tmp_path)]
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
        output = subprocess.run(command, capture_output=True, check=True, env=env).stdout
        found = json.loads(output)
        counts = [k for n in (3, 20) for k in range(n)]
        assert (found["length"], found["episodes"]) == (23, 2)
        for count, item in zip(counts, found["items"], strict=True):
            assert item["observation.agent_pos"][0] == count
            assert item["action"][0] == item["next.reward"] == np.float32(count / 100)
            image = np.float32(at(count).observe()["camera"].transpose(2, 0, 1)) / np.float32(255)
            assert np.allclose(item["observation.images.camera"], image)
            assert item["task"] == "count"
        assert [item["next.done"] for item in found["items"]] == [k in (2, 22) for k in range(23)]
        nexts = [min(k + 1, n - 1) for n in (3, 20) for k in range(n)]
        assert found["pairs"] == [
            [float(np.float32(k / 100)) for k in pair] for pair in zip(counts, nexts, strict=True)
        ]
        assert found["stats"]["next.reward"]["count"] == [23]
