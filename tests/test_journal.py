"""What a process has left in its journal comes to Redis as if the process had delivered it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Shared
from gymnasium import spaces
from journals import copy_journal, journal_of
from processes import NoteHandler
from recorded_envs import ACTION, CountingEnv, DiscreteEnv, NestedEnv, ScriptedEnv, play

from jamboree_gym import Jamboree
from jamboree_gym.delivery import writer as writer_module
from jamboree_gym.encoding.summary_codec import encode_origin, encode_summary
from jamboree_gym.journal import segments as segments_module
from jamboree_gym.journal.segments import Segments

OpenJamboree = Callable[..., Jamboree]
HOUR_S = 3600.0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of the process that is killed."""
    return tmp_path / "home"


@pytest.fixture
def next_home(tmp_path: Path) -> Path:
    """Where its journal is found; as a copy, of a writer of another Redis."""
    return tmp_path / "next"


@pytest.fixture
def other(other_valkey: Shared) -> str:
    """URL of that Redis."""
    return other_valkey.url


@pytest.fixture
def recording(open_jamboree: OpenJamboree, home: Path, monkeypatch: pytest.MonkeyPatch) -> Jamboree:
    """Delivers nothing by itself, however much it is."""
    monkeypatch.setattr(writer_module, "HURRY_BYTES", sys.maxsize)
    return open_jamboree(home=home, flush_interval_s=HOUR_S)


# -- values -------------------------------------------------------------------------------------


class DictEnv(CountingEnv):
    """Observes a dict, and tells something else each time."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Dict(
            {"camera": spaces.Box(0, 255, (4, 3), np.uint8), "level": spaces.Discrete(9)}
        )

    def observe(self) -> Any:
        return {"camera": np.full((4, 3), self.count, np.uint8), "level": self.count}

    def info(self) -> dict[str, Any]:
        return [{}, {"n": self.count, "array": np.arange(self.count)}][self.count % 2]


class TextEnv(CountingEnv):
    """Observes a text."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Text(100)

    def observe(self) -> Any:
        return "a" * self.count


class SequenceEnv(CountingEnv):
    """Observes more each time."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Sequence(spaces.Box(-1, 1, (2,), np.float32))

    def observe(self) -> Any:
        return tuple(np.full(2, n / 8, np.float32) for n in range(self.count))


def scripted(*observations: Any, rewards: list[Any] | None = None) -> gym.Env[Any, Any]:
    return ScriptedEnv([*observations], rewards)


def ended_by_limit() -> gym.Env[Any, Any]:
    return CountingEnv(ending="truncated")


VALUES: dict[str, tuple[Callable[[], gym.Env[Any, Any]], list[Any]]] = {
    "arrays": (CountingEnv, [ACTION] * 3),
    "one that is not over": (CountingEnv, [ACTION] * 2),
    "only a reset": (CountingEnv, []),
    "truncated": (ended_by_limit, [ACTION] * 3),
    "a dict, and infos": (DictEnv, [ACTION] * 3),
    "texts": (TextEnv, [ACTION] * 3),
    "sequences": (SequenceEnv, [ACTION] * 3),
    "nested": (NestedEnv, []),
    "Python and NumPy actions": (DiscreteEnv, [0, np.int64(1), 2]),
    "NumPy and Python actions": (DiscreteEnv, [np.int64(2), 1]),
    "big-endian actions": (CountingEnv, [ACTION.astype(">f8"), ACTION.astype(">f8")]),
    "another layout": (
        lambda: scripted(np.zeros(2, np.float32), np.zeros(3), "a text", {"a": 1}, np.zeros(3)),
        [ACTION, ACTION.astype(np.float64), 1, "left"],
    ),
    "float32 numbers": (
        lambda: scripted(*[np.float32(n / 3) for n in range(3)], rewards=[np.float32(0.1), 1]),
        [np.float32(0.1), np.float32(0.2)],
    ),
    "arrays of no size": (lambda: scripted(*[np.zeros((0, 3))] * 3), [np.zeros(0), np.zeros(0)]),
    "rows larger than a block": (
        lambda: scripted(*[np.full(300_000, n, np.float64) for n in range(3)]),
        [ACTION] * 2,
    ),
    "infos larger than a block": (
        lambda: ScriptedEnv(infos=[{"n": n, "large": b"x" * 3_000_000} for n in range(3)]),
        [ACTION] * 2,
    ),
    "many rows": (lambda: CountingEnv(length=5000), [ACTION] * 5000),
}


def equal(one: Any, other: Any) -> bool:
    """Whether two values of episodes are the same, to the dtype."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, np.ndarray):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        if one.dtype == object:
            return all(map(equal, one.ravel(), other.ravel()))
        return one.tobytes() == other.tobytes()
    return type(one) is type(other) and bool(one == other)


FIELDS = (
    *("observations", "actions", "rewards", "terminations", "truncations", "timestamps"),
    *("infos", "annotations"),
)


def check_same(recording: Jamboree, found: Jamboree) -> None:
    """Compare all episodes of two stores. (A writer of this process counts as alive.)"""
    recording.flush()
    expected, got = recording.episodes().summaries(), found.episodes().summaries()
    assert [one.id for one in got] == [one.id for one in expected]
    for one, another in zip(expected, got, strict=True):
        assert encode_summary(another) == encode_summary(one)
        origins = recording.episode(one.id).origin, found.episode(one.id).origin
        assert encode_origin(origins[0]) == encode_origin(origins[1])
        if another.steps:
            data, left = recording.episode(one.id).data(), found.episode(one.id).data()
            for name in FIELDS:
                assert equal(getattr(data, name), getattr(left, name)), name


@pytest.mark.parametrize("values", VALUES)
def test_what_is_left_is_what_would_have_been_delivered(
    recording: Jamboree,
    open_jamboree: OpenJamboree,
    home: Path,
    next_home: Path,
    other: str,
    values: str,
) -> None:
    make, actions = VALUES[values]
    env = recording.record(make(), run="a run", tags={"lr": 0.5, "text": "ä"})
    play(env, actions, seed=7)
    copy_journal(recording, home, next_home, other)
    found = open_jamboree(other, home=next_home)
    check_same(recording, found)
    assert not list(journal_of(next_home).iterdir())


@pytest.mark.parametrize("flushed_after", range(4))
def test_an_episode_that_is_there_in_part_is_continued(
    recording: Jamboree,
    open_jamboree: OpenJamboree,
    home: Path,
    next_home: Path,
    other: str,
    flushed_after: int,
) -> None:
    env = recording.record(CountingEnv(length=3), run="r")
    env.reset()
    copy_journal(recording, home, next_home, other)
    with open_jamboree(other, home=next_home):
        pass
    for step in range(3):
        env.step(ACTION)
        if step + 1 == flushed_after:
            copy_journal(recording, home, next_home, other)
            with open_jamboree(other, home=next_home):
                pass
            recording.flush()
    copy_journal(recording, home, next_home, other)
    check_same(recording, open_jamboree(other, home=next_home))


def test_what_the_agent_says_survives(
    recording: Jamboree, open_jamboree: OpenJamboree, home: Path, next_home: Path, other: str
) -> None:
    env = recording.record(CountingEnv(length=5), run="r")
    env.reset()
    for said in ({}, {"value": 0.5}, {"value": np.float32(1)}, {"value": 1.0, "text": "so"}, {}):
        if said:
            env.annotate(**said)
        env.step(ACTION)
    copy_journal(recording, home, next_home, other)
    check_same(recording, open_jamboree(other, home=next_home))


def test_a_fork_keeps_its_parent(
    recording: Jamboree, open_jamboree: OpenJamboree, home: Path, next_home: Path, other: str
) -> None:
    env = recording.record(gym.make("CartPole-v1"), run="r")
    play(env, [0, 1, 0], seed=1)
    parent = env.episode_id
    copy_journal(recording, home, next_home, other)
    open_jamboree(other, home=next_home)
    fork = recording.episode(parent).fork(2)
    fork.step(1)
    fork_id = fork.episode_id
    copy_journal(recording, home, next_home, other)
    found = open_jamboree(other, home=next_home)
    check_same(recording, found)
    assert found.episode(fork_id).summary.parent == parent
    assert found.episode(fork_id).origin.fork_step == 2
    assert len(found.episode(fork_id).data()) == len(recording.episode(fork_id).data())


def test_episodes_of_a_vector_environment_survive(
    recording: Jamboree, open_jamboree: OpenJamboree, home: Path, next_home: Path, other: str
) -> None:
    envs = recording.record(
        gym.vector.SyncVectorEnv([lambda n=n: CountingEnv(length=3 + n) for n in range(3)]), run="r"
    )
    envs.reset(seed=1)
    for _ in range(20):
        envs.step(np.stack([ACTION] * 3))
    copy_journal(recording, home, next_home, other)
    check_same(recording, open_jamboree(other, home=next_home))


def test_records_come_once_although_nobody_heard_that_they_arrived(
    recording: Jamboree, open_jamboree: OpenJamboree, home: Path, tmp_path: Path, other: str
) -> None:
    handler = NoteHandler(recording, "left")
    handler.save_many({"n": n} for n in range(600))
    homes = [tmp_path / str(n) for n in range(3)]
    copy_journal(recording, home, homes[0], other)
    shutil.copytree(homes[0], homes[1])
    for one in homes[:2]:
        with open_jamboree(other, home=one) as found:
            records = NoteHandler(found, "left").many(10_000)
        assert [record["n"] for record in records] == list(range(600))


def test_a_file_stays_whose_free_block_has_just_been_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread lets go of the last other block of that file in the same moment."""
    segments = Segments(tmp_path / "w")
    large = [segments.block(1 << 20) for _ in range(20)]
    del large  # so much is unused that files are removed
    small = [segments.block(100)]
    write_header = segments_module._write_header

    def let_go(content: memoryview, kind: int) -> None:
        small.clear()
        write_header(content, kind)

    monkeypatch.setattr(segments_module, "_write_header", let_go)
    given = segments.block(100)
    monkeypatch.undo()
    given.words[100] = 12345
    assert any(
        path.read_bytes().find((12345).to_bytes(4, "little")) >= 0 for path in tmp_path.iterdir()
    )
