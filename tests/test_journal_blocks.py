"""What a vector environment leaves in the blocks of its journal, killed at any point of a step."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Shared
from journal_children import NumberedEnvs
from journals import copy_journal, journal_of
from recorded_envs import ACTION, CountingEnv, play

from jamboree_gym import Jamboree
from jamboree_gym.delivery.step_buffer import RowBuffer
from jamboree_gym.delivery.step_outbox import StepOutbox
from jamboree_gym.journal.segments import KIND_VECTOR, VERSION_WORD, read_blocks
from jamboree_gym.journal.vector_block import VectorBlock

OpenJamboree = Callable[..., Jamboree]
STEPS = 150  # several blocks
ACTIONS = np.full(16, 7)


class Killed(BaseException):
    """Stands for a kill."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of the process that is killed."""
    return tmp_path / "home"


@pytest.fixture
def recording(open_jamboree: OpenJamboree, home: Path) -> Jamboree:
    """Delivers nothing by itself."""
    return open_jamboree(home=home, flush_interval_s=3600.0)


@pytest.fixture
def recover(
    recording: Jamboree,
    open_jamboree: OpenJamboree,
    home: Path,
    tmp_path: Path,
    other_valkey: Shared,
) -> Callable[[], Jamboree]:
    """What another process finds, were this one killed now."""

    def recovered() -> Jamboree:
        copy_journal(recording, home, tmp_path / "left", other_valkey.url)
        return open_jamboree(other_valkey.url, home=tmp_path / "left")

    return recovered


def begun(jam: Jamboree, steps: int = STEPS) -> Any:
    envs = jam.record(NumberedEnvs(), run="r")
    envs.reset()
    for _ in range(steps):
        envs.step(ACTIONS)
    return envs


def everything_in(jam: Jamboree) -> dict[str, Any]:
    """By episode: its rows, bit by bit, what is known of it, and how it began."""
    found = {}
    for episode in jam.episodes(run="r"):
        data, summary = episode.data(), episode.summary
        rows = (data.observations, data.actions, data.rewards, data.timestamps, data.terminations)
        content = [array.tobytes() for array in rows]
        known = (summary.steps, summary.episode_return, summary.vector_index, summary.started_at)
        found[episode.id] = content, list(data.infos), known, repr(episode.origin)
    return found


def test_all_that_has_returned_is_found(
    recording: Jamboree, recover: Callable[[], Jamboree], home: Path
) -> None:
    begun(recording)
    kinds = [block.kind for path in files_of(recording, home) for block in read_blocks(path)]
    assert kinds.count(KIND_VECTOR) > 1
    found = everything_in(recover())
    recording.flush()
    assert found == everything_in(recording)
    assert len(found) > 16


def test_all_is_found_of_a_block_whose_schema_is_not_the_first_of_the_journal(
    recording: Jamboree, recover: Callable[[], Jamboree]
) -> None:
    play(recording.record(CountingEnv(), run="r"), [ACTION] * 3)
    begun(recording)
    found = everything_in(recover())
    recording.flush()
    assert found == everything_in(recording)


def files_of(jam: Jamboree, home: Path) -> list[Path]:
    return list(journal_of(home).glob(f"{jam._connection.writer_name}.[0-9]*"))


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    "place",
    [
        pytest.param((VectorBlock, "open_spans"), marks=pytest.mark.long),
        pytest.param((RowBuffer, "enter_block"), marks=pytest.mark.long),
        (VectorBlock, "publish"),
    ],
)
def test_of_a_step_that_is_half_written_all_or_nothing_is_found(
    recording: Jamboree,
    recover: Callable[[], Jamboree],
    monkeypatch: pytest.MonkeyPatch,
    place: tuple[type, str],
    moment: str,
) -> None:
    """It is one with which episodes begin in the block."""
    envs = begun(recording)
    while not envs.env.over.any():
        envs.step(ACTIONS)
    begins = int(envs.env.over.sum())
    before = {steps.key: steps.rows_put for steps in outboxes(recording)}
    owner, name = place
    real = getattr(owner, name)

    def killed(*arguments: Any) -> None:
        if moment == "after":
            real(*arguments)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, killed)
        # What a killed process does not do: abandon all episodes.
        patched.setattr(envs._recorder, "lose_track", lambda *_: None)
        with pytest.raises(Killed):
            envs.step(ACTIONS)
    jam = recover()
    found = {one.id: one.steps + 1 for one in jam.episodes(run="r").summaries()}
    known = {key[key.index("{") + 1 : -1]: rows for key, rows in before.items()}
    is_complete = (name, moment) == ("publish", "after")
    surplus = sum(found.values()) - sum(known[one] for one in found if one in known)
    assert found.keys() >= known.keys()
    assert surplus == (16 if is_complete else 0)
    assert len(found) == len(known) + begins * is_complete
    for episode in jam.episodes(run="r"):
        assert np.all(np.diff(episode.data().observations[:, 0]) == 1)


def outboxes(jam: Jamboree) -> list[StepOutbox]:
    found = jam._connection.opened.outboxes.all()
    return [one for one in found if isinstance(one, StepOutbox)]


def test_an_episode_that_is_deleted_amid_a_block_does_not_come_back(
    recording: Jamboree, recover: Callable[[], Jamboree]
) -> None:
    envs = begun(recording, 20)
    deleted, *others = envs.episode_ids
    recording.episode(deleted).delete()
    for _ in range(60):
        envs.step(ACTIONS)
    left = everything_in(recover())
    recording.flush()
    assert left == everything_in(recording)
    assert deleted not in left
    assert set(others) <= left.keys()
    assert {known[2] for _, _, known, _ in left.values()} == set(range(16))  # the next of the same


def test_the_journal_says_which_rows_of_a_block_redis_has(
    recording: Jamboree, recover: Callable[[], Jamboree], caplog: pytest.LogCaptureFixture
) -> None:
    """In another Redis those are missing, and what comes after them is not taken for all."""
    envs = begun(recording, 20)
    recording.flush()
    goes_on = int((~envs.env.over).sum())
    envs.step(ACTIONS)
    recover()
    lost = [record.message for record in caplog.records if "no longer in Redis" in record.message]
    assert len(lost) == goes_on
    assert all(message.endswith("so the other 1 cannot be added") for message in lost)


def test_the_journal_of_the_release_before_is_delivered(
    recording: Jamboree,
    open_jamboree: OpenJamboree,
    home: Path,
    tmp_path: Path,
    other_valkey: Shared,
) -> None:
    """It had no blocks of vector environments, and nothing else was different."""
    play(recording.record(CountingEnv(length=100), run="r"), [ACTION] * 100)
    copy_journal(recording, home, tmp_path / "left", other_valkey.url)
    for path in journal_of(tmp_path / "left").iterdir():
        content = bytearray(path.read_bytes())
        if path.suffix == ".lock":
            content = bytearray(json.dumps(json.loads(content) | {"version": 1}).encode())
        else:
            for block in read_blocks(path):
                memoryview(content)[block.start : block.start + 64].cast("I")[VERSION_WORD] = 1
        path.write_bytes(content)
    jam = open_jamboree(other_valkey.url, home=tmp_path / "left")
    assert [one.steps for one in jam.episodes(run="r").summaries()] == [100]


def test_a_fork_leaves_the_blocks_to_its_parent(
    recording: Jamboree, recover: Callable[[], Jamboree]
) -> None:
    envs = begun(recording, 20)
    child = os.fork()
    if not child:
        for _ in range(30):
            envs.step(np.zeros(16, np.int64))
        os._exit(0)
    os.waitpid(child, 0)
    for _ in range(20):
        envs.step(ACTIONS)
    left = everything_in(recover())
    recording.flush()
    assert left == everything_in(recording)
    for rows, *_ in left.values():
        assert set(np.frombuffer(rows[1], np.int64).tolist()) <= {7}


def test_steps_with_infos_between_the_others_take_no_new_block_each_time(
    recording: Jamboree, home: Path
) -> None:
    begun(recording, 400)
    kinds = [block.kind for path in files_of(recording, home) for block in read_blocks(path)]
    assert kinds.count(KIND_VECTOR) <= 5
