"""All steps of the episodes that are over, in a folder of Parquet files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from recorded_envs import ACTION, CountingEnv, ScriptedEnv, play
from warm import run_warm

from jamboree_gym import Jamboree
from jamboree_gym.errors import ColumnConflict, ExportError
from jamboree_gym.reading import bulk_read as blocks_module
from jamboree_gym.reading import parquet as table_parts
from jamboree_gym.reading.part_folder import aside_of


def counted(jam: Jamboree, steps: int, **options: Any) -> str:
    """Record an episode of so many steps; its id."""
    return played(jam, CountingEnv(length=10**9), steps, **options)


def told(jam: Jamboree, infos: list[dict[str, Any]]) -> str:
    return played(jam, ScriptedEnv(infos=infos), len(infos) - 1)


def scripted(jam: Jamboree, values: list[Any]) -> str:
    return played(jam, ScriptedEnv(observations=values), len(values) - 1)


def played(jam: Jamboree, env: Any, steps: int, **options: Any) -> str:
    env = jam.record(env, **options)
    play(env, [ACTION] * steps)
    env.close()
    return str(env.episode_id)


def read(folder: Path) -> pa.Table:
    return ds.dataset(folder).to_table().replace_schema_metadata()


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part for each read, and a read for every few steps."""
    monkeypatch.setattr(table_parts, "PART_BYTES", 1)
    monkeypatch.setattr(blocks_module, "MAX_BYTES", 1000)


def test_the_folder_holds_the_table(jam: Jamboree, tmp_path: Path) -> None:
    for steps in (5, 300, 0, 1):
        counted(jam, steps)
    jam.episodes().to_parquet(tmp_path / "steps")

    table = jam.episodes().table()
    assert read(tmp_path / "steps").equals(table)
    assert table.num_rows == 306
    assert parts(tmp_path / "steps") == ["part-00000.parquet"]


@pytest.mark.usefixtures("small")
def test_an_episode_is_in_one_part_however_long(jam: Jamboree, tmp_path: Path) -> None:
    ids = [counted(jam, steps) for steps in (3, 700, 5)]
    jam.episodes().to_parquet(tmp_path)

    found = [pq.read_table(tmp_path / name)["episode_id"].unique() for name in parts(tmp_path)]
    assert sorted(id for part in found for id in part.to_pylist()) == sorted(ids)
    assert len(found) > 1
    assert read(tmp_path).equals(jam.episodes().table())


@pytest.mark.usefixtures("small")
def test_episodes_that_differ_have_the_columns_of_all(jam: Jamboree, tmp_path: Path) -> None:
    told(jam, [{}, {"a": 1, "b": "x", "d": 2**53 + 1}])
    counted(jam, 300)
    told(jam, [{}, {"a": 0.5, "c": 1, "d": 0.5}])
    told(jam, [{}, {"b": [1]}])
    jam.episodes().to_parquet(tmp_path)

    assert len(parts(tmp_path)) > 2
    assert read(tmp_path).equals(jam.episodes().table())


@pytest.mark.usefixtures("small")
def test_what_fits_into_no_column_is_remembered_from_call_to_call(
    jam: Jamboree, tmp_path: Path
) -> None:
    told(jam, [{}, {"a": [1], "b": 1}])
    jam.episodes().to_parquet(tmp_path)
    told(jam, [{}, {"a": 1, "b": 2}])
    jam.episodes().to_parquet(tmp_path)

    assert read(tmp_path)["info_b"].to_pylist() == [1, 2]
    assert "info_a" not in read(tmp_path).column_names


@pytest.mark.usefixtures("small")
def test_called_again_it_adds_what_is_new_and_rewrites_nothing(
    jam: Jamboree, tmp_path: Path
) -> None:
    counted(jam, 5)
    jam.episodes().to_parquet(tmp_path)
    first = (tmp_path / "part-00000.parquet").stat().st_ino
    counted(jam, 7)
    seen: list[tuple[int, int]] = []
    jam.episodes().to_parquet(tmp_path, progress=lambda done, total: seen.append((done, total)))

    assert read(tmp_path).equals(jam.episodes().table())
    assert (tmp_path / "part-00000.parquet").stat().st_ino == first
    assert seen[-1] == (2, 2)
    assert {done for done, _ in seen} <= {1, 2}  # the first one was there from the beginning


def test_a_part_that_was_removed_is_written_again_and_no_other_is_replaced(
    jam: Jamboree, tmp_path: Path
) -> None:
    for steps in (5, 7, 9):
        counted(jam, steps)
        jam.episodes().to_parquet(tmp_path)
    (tmp_path / "part-00001.parquet").unlink()
    jam.episodes().to_parquet(tmp_path)

    ids = read(tmp_path)["episode_id"].to_pylist()
    assert sorted(set(ids)) == sorted(jam.episodes().ids())
    assert len(ids) == 5 + 7 + 9


def test_an_episode_that_goes_on_is_left_for_the_next_call(jam: Jamboree, tmp_path: Path) -> None:
    env = jam.record(CountingEnv(length=10))
    play(env, [ACTION] * 3)
    jam.episodes().to_parquet(tmp_path)
    assert read(tmp_path).num_rows == 0

    env.close()
    jam.episodes().to_parquet(tmp_path)
    assert read(tmp_path)["index"].to_pylist() == [0, 1, 2]


KILLED = """
import os, sys
from pathlib import Path
from jamboree_gym import Jamboree
from jamboree_gym.reading import parquet as table_parts
from jamboree_gym.reading import bulk_read as blocks_module
table_parts.PART_BYTES = blocks_module.MAX_BYTES = 1
def die(done, total):
    if done == 3:
        os.kill(os.getpid(), 9)
with Jamboree(sys.argv[1], namespace=sys.argv[2]) as jam:
    jam.episodes().to_parquet(Path(sys.argv[3]), progress=die)
"""


def test_a_killed_one_leaves_whole_parts_and_is_gone_on_with(jam: Jamboree, tmp_path: Path) -> None:
    for steps in (4, 3, 6, 2, 5):
        counted(jam, steps)
    jam.flush()
    url = jam._connection.redis_url
    assert run_warm(KILLED, url, jam._connection.keyspace.namespace, tmp_path).returncode == -9

    left = parts(tmp_path)
    assert 0 < len(left) < 5
    aside_of(tmp_path / "part-00009.parquet").touch()  # as if it had been killed there
    assert read(tmp_path).num_rows in (4, 7, 13)
    jam.episodes().to_parquet(tmp_path)
    assert read(tmp_path).equals(jam.episodes().table())
    assert [path.name for path in tmp_path.iterdir() if "new" in path.name] == []


def test_every_reader_finds_the_same(jam: Jamboree, tmp_path: Path) -> None:
    for _ in range(2):
        scripted(jam, [np.full((9, 10), i, np.uint8) for i in range(3)])
    jam.episodes().to_parquet(tmp_path)

    rewards = jam.episodes().table()["reward"].to_pylist()
    assert pd.read_parquet(tmp_path)["reward"].tolist() == rewards
    frame = pl.scan_parquet(tmp_path / "*.parquet").collect()
    assert frame["reward"].to_list() == rewards
    assert frame["observation"].to_numpy()[3].tolist() == np.full((9, 10), 1).tolist()
    found = duckdb.sql(f"select reward from '{tmp_path}/*.parquet'").fetchall()
    assert [reward for (reward,) in found] == rewards


def test_observations_that_no_one_column_holds_are_an_error_that_names_both_episodes(
    jam: Jamboree, tmp_path: Path
) -> None:
    one = scripted(jam, [np.full((9, 10), 1.0)] * 2)
    jam.episodes().to_parquet(tmp_path)
    other = scripted(jam, ["text"] * 2)

    with pytest.raises(ColumnConflict, match=f"'observation'.*{one}.*{other}"):
        jam.episodes().to_parquet(tmp_path)


def test_two_do_not_write_into_one_folder(jam: Jamboree, tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(ExportError, match="another process is writing"),
    ):
        jam.episodes().to_parquet(tmp_path)


def test_hidden_files_of_others_stay(jam: Jamboree, tmp_path: Path) -> None:
    theirs = [tmp_path / ".config.new", tmp_path / "deeper" / ".part-00000.parquet.new"]
    theirs[1].parent.mkdir()
    for path in theirs:
        path.write_text("mine")
    counted(jam, 3)
    jam.episodes().to_parquet(tmp_path)
    assert [path.read_text() for path in theirs] == ["mine", "mine"]


def test_files_of_something_else_are_not_written_beside(jam: Jamboree, tmp_path: Path) -> None:
    pq.write_table(pa.table({"episode_id": ["x"]}), tmp_path / "mine.parquet")
    (tmp_path / "file").touch()

    with pytest.raises(ExportError, match="something else"):
        jam.episodes().to_parquet(tmp_path)
    with pytest.raises(ExportError, match="is a file"):
        jam.episodes().to_parquet(tmp_path / "file")
    assert sorted(os.listdir(tmp_path)) == [".lock", "file", "mine.parquet"]
