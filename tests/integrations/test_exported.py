"""Folders of exports: what cannot be written to, and what has changed since."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from conftest import Server
from paying_env import PayingEnv, actions, record
from processes import read_line, wait_until
from stored import at, keys_like
from warm import start_warm

from jamboree_gym import Jamboree
from jamboree_gym.errors import ExportError

# Takes two steps, says the episode's id, and takes a third one for a line.
RECORDER = """
import sys
import gymnasium as gym
from jamboree_gym import Jamboree

with Jamboree(sys.argv[1], namespace=sys.argv[2]) as jam:
    env = jam.record(gym.make("CartPole-v1"), run="r")
    env.reset(seed=1)
    env.step(0)
    env.step(1)
    jam.flush()
    print(env.episode_id, flush=True)
    sys.stdin.readline()
    env.step(0)
    env.close()
"""


def exports() -> dict[str, Callable[[Any, Path], Any]]:
    from jamboree_gym.integrations.hdf5 import to_hdf5
    from jamboree_gym.integrations.lerobot import to_lerobot
    from jamboree_gym.integrations.minari import to_minari

    return {
        "parquet": lambda query, folder: query.to_parquet(folder),
        "hdf5": to_hdf5,
        "lerobot": lambda query, folder: to_lerobot(query, folder, fps=50),
        "stopped/minari-v0": lambda query, folder: to_minari(query, "stopped/minari-v0"),
    }


@pytest.mark.faults
def test_the_next_export_names_what_it_lacks(
    jam: Jamboree,
    valkey: Server,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    process = start_warm(RECORDER, valkey.url, namespace)
    id = read_line(process).strip()
    process.send_signal(signal.SIGSTOP)
    for key in keys_like(jam.redis, jam._connection.keyspace.lease("*")):
        jam.redis.pexpire(at(jam, key), 1)  # what happens by itself, only sooner
    wait_until(lambda: jam.episode(id).status == "interrupted")
    query = jam.episodes(run="r")
    for _ in range(2):
        for name, export in exports().items():
            export(query, tmp_path / name)
    assert caplog.messages == []

    process.send_signal(signal.SIGCONT)
    process.communicate("go on\n")
    assert jam.episode(id).status == "abandoned"
    for name, export in exports().items():
        caplog.clear()
        export(query, tmp_path / name)
        (warning,) = caplog.messages
        assert warning.startswith("1 episodes in ")
        assert name in warning
        assert id in warning
    assert ds.dataset(tmp_path / "parquet").count_rows() == 2
    caplog.clear()
    query.to_parquet(tmp_path / "another")
    assert ds.dataset(tmp_path / "another").count_rows() == 3
    assert caplog.messages == []


FORMATS = ("parquet", "hdf5", "lerobot", "arrow")


def export_to(name: str, query: Any, path: Path) -> None:
    if name == "minari":
        exports()["stopped/minari-v0"](query, path)
    elif name == "arrow":
        query.to_arrow(path)
    else:
        exports()[name](query, path)


@pytest.mark.parametrize("name", FORMATS)
def test_a_place_that_cannot_be_written_to_is_named(
    jam: Jamboree, tmp_path: Path, name: str
) -> None:
    record(jam, PayingEnv(2), actions(2))
    (tmp_path / "file").write_text("of somebody")

    with pytest.raises(ExportError, match=r"cannot be written: .*\ncall again when") as told:
        export_to(name, jam.episodes(), tmp_path / "file" / "inside")
    assert len(str(told.value).splitlines()) == 2


@pytest.mark.parametrize("name", [*FORMATS, "minari"])
@pytest.mark.parametrize("room", [2000, 20_000])
def test_on_a_full_disk_an_export_says_so_and_is_continued(
    jam: Jamboree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, room: int
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    record(jam, PayingEnv(900), actions(900))
    jam.flush()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(ExportError, match="cannot be written: ") as told:
            export_to(name, jam.episodes(), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(str(told.value).splitlines()) == 2

    export_to(name, jam.episodes(), tmp_path / "out")
    assert not list(tmp_path.rglob(".*new*"))
