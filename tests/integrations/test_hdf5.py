"""Episodes in HDF5 files, read back by h5py and by Minari."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium import spaces
from minari.dataset.minari_storage import MinariStorage
from minari.serialization import serialize_space
from paying_env import PayingEnv, actions, record
from recorded_envs import ACTION, CountingEnv, ScriptedEnv
from warm import run_warm

from jamboree_gym import Jamboree
from jamboree_gym.errors import ExportError
from jamboree_gym.integrations import hdf5
from jamboree_gym.integrations.hdf5 import from_hdf5, to_hdf5
from jamboree_gym.reading import bulk_read as blocks_module


def through_minari(path: Path, env: Any) -> list[dict[str, Any]]:
    """The episodes of a file as Minari's own storage reads them."""
    with h5py.File(path) as file:
        count = len(file)
    known = {
        "data_format": "hdf5",
        "total_episodes": count,
        "total_steps": 0,
        "observation_space": serialize_space(env.observation_space),
        "action_space": serialize_space(env.action_space),
    }
    (path.parent / "metadata.json").write_text(json.dumps(known))
    return list(MinariStorage.read(path.parent).get_episodes(range(count)))


@pytest.fixture(params=[8 << 20, 1000], ids=["at once", "in parts"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long episodes are read at once, and in parts."""
    monkeypatch.setattr(blocks_module, "MAX_BYTES", request.param)


@pytest.mark.usefixtures("parts")
def test_minari_finds_the_action_that_is_taken_from_an_observation(
    jam: Jamboree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5, "PART_EPISODES", 2)
    for number, steps in enumerate((3, 300, 1)):
        record(jam, PayingEnv(steps), actions(steps, number))

    episodes = through_minari(to_hdf5(jam.episodes(), tmp_path), PayingEnv())
    assert len(list(tmp_path.glob("part-*"))) == 2
    for number, (steps, episode) in enumerate(zip((3, 300, 1), episodes, strict=True)):
        assert episode["observations"][:, 0].tolist() == [*range(steps + 1)]
        assert episode["actions"].tolist() == [one.tolist() for one in actions(steps, number)]
        assert episode["rewards"].tolist() == episode["actions"][:, 0].tolist()
        assert np.flatnonzero(episode["terminations"]).tolist() == [steps - 1]
        assert not episode["truncations"].any()


class NestedEnv(CountingEnv):
    def __init__(self) -> None:
        super().__init__(length=4)
        self.observation_space = spaces.Dict(
            camera=spaces.Box(0, 255, (2, 3), np.uint8),
            pair=spaces.Tuple([spaces.Discrete(99), spaces.Text(9)]),
        )

    def observe(self) -> Any:
        text = f"seen {self.count}"
        return {"camera": np.full((2, 3), self.count, np.uint8), "pair": (self.count, text)}


@pytest.mark.usefixtures("parts")
def test_dicts_tuples_and_texts_come_back(jam: Jamboree, tmp_path: Path) -> None:
    record(jam, NestedEnv(), [ACTION] * 4)

    (episode,) = through_minari(to_hdf5(jam.episodes(), tmp_path), NestedEnv())
    seen = episode["observations"]
    assert seen["camera"].tolist() == [np.full((2, 3), k).tolist() for k in range(5)]
    assert seen["camera"].dtype == np.uint8
    assert seen["pair"][0].tolist() == [*range(5)]
    assert seen["pair"][1] == [f"seen {k}" for k in range(5)]


@pytest.mark.usefixtures("parts")
def test_infos_annotations_and_what_is_known_of_the_episode(jam: Jamboree, tmp_path: Path) -> None:
    infos = [{"a": 1, "big": 2**53 + 1}, {"a": 2, "b": "x", "c": {"d/e": 0.5}, "": 3}]
    infos.append({"no": [1]})
    env = jam.record(ScriptedEnv(infos=infos), run="told", tags={"lr": 0.1})
    env.reset(seed=7)
    env.annotate(value=0.25)
    env.step(ACTION)
    env.step(ACTION)
    env.close()

    with h5py.File(to_hdf5(jam.episodes(), tmp_path)) as file:
        group = file["episode_0"]
        told = {name: values[:] for name, values in group["infos"].items()}
        assert told["a"][:2].tolist() == [1, 2]
        assert np.isnan(told["a"][2])
        assert [text.decode() for text in told["b"]] == ["", "x", ""]
        assert told["c.d%2Fe"][1] == 0.5
        assert told["%"][1] == 3
        assert told.keys() == {"a", "b", "c.d%2Fe", "%"}
        assert group["annotations/value"][0] == 0.25
        assert np.isnan(group["annotations/value"][1])
        assert group["truncations"][:].tolist() == [False, True]
        known = dict(group.attrs)
        assert known["episode_id"] == jam.episodes().first().id
        assert (known["seed"], known["run"], known["status"]) == (7, "told", "abandoned")
        assert json.loads(known["tags"]) == {"lr": 0.1}
        assert group["timestamps"][0] > known["started_at"]


def test_called_again_it_adds_what_is_new(jam: Jamboree, tmp_path: Path) -> None:
    with h5py.File(to_hdf5(jam.episodes(), tmp_path)) as file:
        assert len(file) == 0
    record(jam, PayingEnv(3), actions(3))
    running = jam.record(PayingEnv(2))
    running.reset()
    running.step(ACTION)
    to_hdf5(jam.episodes(), tmp_path)
    first = (tmp_path / "part-00000.hdf5").stat().st_ino
    running.close()
    seen: list[tuple[int, int]] = []
    path = to_hdf5(jam.episodes(), tmp_path, progress=lambda *done: seen.append(done))

    with h5py.File(path) as file:
        assert [file[name]["rewards"].shape for name in file] == [(3,), (1,)]
        assert [file[name].attrs["id"] for name in file] == [0, 1]
    assert (tmp_path / "part-00000.hdf5").stat().st_ino == first
    assert seen == [(2, 2)]


KILLED = """
import os, sys
from jamboree_gym import Jamboree
from jamboree_gym.integrations import hdf5
hdf5.PART_EPISODES = 1
def die(done, total):
    if done == 3:
        os.kill(os.getpid(), 9)
with Jamboree(sys.argv[1], namespace=sys.argv[2]) as jam:
    hdf5.to_hdf5(jam.episodes(), sys.argv[3], progress=die)
"""


def test_a_killed_one_is_gone_on_with(jam: Jamboree, tmp_path: Path) -> None:
    for steps in (4, 3, 6, 2, 5):
        record(jam, PayingEnv(steps), actions(steps))
    jam.flush()
    url = jam._connection.redis_url
    assert run_warm(KILLED, url, jam._connection.keyspace.namespace, tmp_path).returncode == -9

    with h5py.File(tmp_path / "main_data.hdf5") as file:
        assert 0 < len(file) < 5
    left = to_hdf5(jam.episodes()[:0], tmp_path)
    with h5py.File(left) as file:
        assert len(file) == len(list(tmp_path.glob("part-*")))
    with h5py.File(to_hdf5(jam.episodes(), tmp_path)) as file:
        lengths = [len(file[f"episode_{k}/rewards"]) for k in range(5)]
    assert lengths == [4, 3, 6, 2, 5]
    assert list(tmp_path.glob(".*new*")) == []


@pytest.mark.parametrize("seed", [7, 2**63, 2**64, 2**100])
def test_a_seed_and_tags_of_any_kind_come_back(jam: Jamboree, tmp_path: Path, seed: int) -> None:
    tags = {"lr": np.float32(0.1), "size": np.int64(3), "shape": (1, 2), "who": "é"}
    env = jam.record(CountingEnv(), run="a", tags=tags)
    env.reset(seed=seed)
    env.step(ACTION)
    env.close()

    path = to_hdf5(jam.episodes(run="a"), tmp_path)
    with h5py.File(path) as file:
        assert file["episode_0"].attrs.get("seed") == (seed if seed < 2**64 else None)
    (id,) = from_hdf5(jam, path, run="b")
    found = jam.episode(id).summary
    assert (found.seed, type(found.seed)) == (seed, type(seed))
    assert {name: found.tags[name] for name in tags} == tags
    assert type(found.tags["size"]) is np.int64


def test_tags_that_hdf5_has_no_room_for_are_named(jam: Jamboree, tmp_path: Path) -> None:
    id = record(jam, PayingEnv(1), actions(1), tags={"config": "x" * 70_000})

    with pytest.raises(ExportError, match=f"the tags of episode '{id}' are too long for HDF5"):
        to_hdf5(jam.episodes(), tmp_path)


def test_what_hdf5_does_not_take_is_named(jam: Jamboree, tmp_path: Path) -> None:
    record(jam, ScriptedEnv(observations=[{"heard": [1]}, {"heard": [1, 2]}]), [ACTION])

    with pytest.raises(ExportError, match=r'observations\["heard"\] of episode'):
        to_hdf5(jam.episodes(), tmp_path)
    with h5py.File(tmp_path / "part-00007.hdf5", "w"):
        pass
    with pytest.raises(ExportError, match="something else"):
        to_hdf5(jam.episodes(), tmp_path)
