"""The disk under Redis' append-only file is full, and has room again later."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REDIS_PROGRAMS, Server
from full_disk import fill, free, redis_of_its_own
from lengths import quick_and_long
from processes import NoteHandler, wait_until
from recorded_envs import ACTION, CountingEnv

from jamboree_gym import Jamboree
from jamboree_gym.errors import StoreFull, StoreUnavailable, UnsavedRecords

pytestmark = [pytest.mark.faults, pytest.mark.once]

OpenJamboree = Callable[..., Jamboree]
ROOM = 20_000  # in the middle of some append
WHAT_TO_DO = "free disk space there"


@pytest.fixture
def directory(short_directory: Path, namespace: str) -> Path:
    return short_directory / namespace


@pytest.fixture(params=quick_and_long(sorted(REDIS_PROGRAMS), quick=["valkey9"]))
def server(request: pytest.FixtureRequest, directory: Path) -> Iterator[Server]:
    with redis_of_its_own(request.param, directory) as started:
        yield started


def wait_until_written(jam: Jamboree) -> None:
    """Return once the server has handed all it acknowledged to the system.

    With `appendfsync everysec` it keeps back what comes while a sync takes its time.
    """

    def kept_back() -> int:
        persistence: Any = jam.redis.info("persistence")
        return int(persistence["aof_buffer_length"])

    wait_until(lambda: kept_back() == 0)


@pytest.mark.long  # the two below have a full disk, too
def test_a_run_goes_on_beside_a_full_disk_and_nothing_is_lost_or_repeated(
    server: Server,
    directory: Path,
    open_jamboree: OpenJamboree,
    as_processes: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "jamboree_gym")
    jam, reader = open_jamboree(server.url, flush_interval_s=0.05), open_jamboree(server.url)
    env = jam.record(CountingEnv(length=100))
    notes = NoteHandler(jam, "n")
    steps = 0

    def play() -> None:
        nonlocal steps
        for _ in range(100):
            if steps % 100 == 0:
                env.reset()
            env.step(ACTION)
            notes.save({"n": steps})
            steps += 1

    play()
    jam.flush()
    fill(server, directory, room=ROOM)
    wait_until(lambda: play() or caplog.records)
    for _ in range(10):
        play()
    with pytest.raises(UnsavedRecords, match=WHAT_TO_DO) as caught:
        jam.flush(timeout_s=0.5)
    assert isinstance(caught.value.__cause__, StoreFull)
    assert len(reader.episode(reader.episodes().ids()[0]).data()) == 100  # reading goes on
    free(server)
    wait_until(lambda: jam._connection.writer.unsaved == 0)
    play()
    jam.flush()
    wait_until_written(reader)
    server.kill()  # what is on disk now is all there is
    server.start()

    with_data = [episode.data() for episode in open_jamboree(server.url).episodes()]
    assert sum(map(len, with_data)) == steps
    assert all(np.array_equal(data.observations[:, 0], np.arange(101)) for data in with_data)
    found = NoteHandler(reader, "n").many(10**6)
    assert [note["n"] for note in found] == list(range(steps))
    warnings = [one.getMessage() for one in caplog.records if "takes no more" in one.getMessage()]
    assert len(warnings) == 1
    assert WHAT_TO_DO in warnings[0]
    assert "waits in memory" in warnings[0]


@pytest.mark.parametrize("server", sorted(REDIS_PROGRAMS), indirect=True)
def test_a_save_in_sync_mode_says_that_the_disk_is_full_and_arrives_later(
    server: Server, directory: Path, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(server.url, write="sync")
    notes = NoteHandler(jam, "n")
    notes.save({"n": 0})
    fill(server, directory, room=ROOM)
    number = 0
    with pytest.raises(StoreFull, match=WHAT_TO_DO):  # noqa: PT012 - which save, nobody knows
        while True:
            number += 1
            notes.save({"n": number, "blob": bytes(1000)})
    free(server)
    wait_until(lambda: jam._connection.writer.unsaved == 0)
    wait_until_written(jam)
    server.kill()
    server.start()

    assert [note["n"] for note in notes.many(10**6)] == list(range(number + 1))


@pytest.fixture
def strict_server(directory: Path) -> Iterator[Server]:
    with redis_of_its_own("valkey9", directory, "--appendfsync", "always") as started:
        yield started


def test_a_server_that_ends_over_a_full_disk_has_all_that_it_acknowledged(
    strict_server: Server, directory: Path, open_jamboree: OpenJamboree
) -> None:
    """With `appendfsync always` Redis gives up rather than acknowledge what is not on disk."""
    jam = open_jamboree(strict_server.url)
    env = jam.record(CountingEnv(length=10**9))
    env.reset()
    jam.flush()
    fill(strict_server, directory, room=ROOM)
    steps = 0
    while strict_server.process.poll() is None:
        env.step(ACTION)
        steps += 1
    with pytest.raises(UnsavedRecords) as caught:
        jam.flush(timeout_s=0)
    assert isinstance(caught.value.__cause__, StoreUnavailable)
    strict_server.start()
    jam.flush()

    data = jam.episode(env.episode_id).data()
    assert np.array_equal(data.observations[:, 0], np.arange(steps + 1))
