"""MongoDB is killed with -9 and started again, over and over, while everything is backed up to it.

How often is said by the environment variable JAMBOREE_KILLED_MONGO; `make faults` does it 50 times.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Server
from full_disk import mongo_of_its_own
from processes import NoteHandler
from proxy import Proxy, direct
from recorded_envs import ACTION, CountingEnv
from stored import at, batches_of_all

from jamboree_gym import Jamboree
from jamboree_gym.errors import StoreUnavailable

pytestmark = [
    pytest.mark.faults,
    pytest.mark.long,  # store/test_embedded_backup.py kills one, test_backup.py loses one
    pytest.mark.once,
]

KILLS = int(os.environ.get("JAMBOREE_KILLED_MONGO", "2"))
EPISODE_STEPS = 20
MOST_BYTES = 100_000  # go to MongoDB between a start and the next kill
ENOUGH_LOGS = 50  # wait for MongoDB


class BackingUp(threading.Thread):
    """Calls `backup.flush` all the time."""

    def __init__(self, jam: Jamboree) -> None:
        super().__init__(name="backing up")
        self.jam = jam
        self.done = threading.Event()
        self.failures = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        """Until it is done, or something else is wrong than that MongoDB is away."""
        try:
            while not self.done.is_set():
                self._flush()
        except BaseException as error:  # noqa: BLE001 - for the test's thread
            self.error = error

    def _flush(self) -> None:
        try:
            self.jam.backup.flush()
        except StoreUnavailable:
            self.failures += 1

    def stop(self) -> None:
        """Once, and raise what was wrong."""
        self.done.set()
        self.join()
        if self.error is not None:
            raise self.error


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.timeout(120 + 10 * KILLS)
def test_a_killed_mongodb_loses_nothing_and_keeps_nothing_twice(
    valkey: Server,
    namespace: str,
    tmp_path: Path,
    opened: ExitStack,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mongo = opened.enter_context(mongo_of_its_own(tmp_path / "mongo"))
    proxy = opened.enter_context(Proxy(mongo.url))  # counts what goes there
    jam = opened.enter_context(Jamboree(valkey.url, direct(proxy), namespace=namespace))
    env, notes = jam.record(CountingEnv(length=EPISODE_STEPS)), NoteHandler(jam, "n")
    backing_up, episodes = BackingUp(jam), 0
    opened.callback(backing_up.done.set)
    backing_up.start()
    for _ in range(KILLS):
        enough = proxy.up.passed + random.randint(1, MOST_BYTES)
        while proxy.up.passed < enough and backing_up.error is None:
            if jam.backup.status().pending_logs > ENOUGH_LOGS:
                backing_up.done.wait(0.01)  # it is not done: leaves it the interpreter
                continue
            env.reset()
            for _ in range(EPISODE_STEPS):
                env.step(ACTION)
            notes.save({"n": episodes})
            episodes += 1
        mongo.kill()
        mongo.start()
    backing_up.stop()

    jam.backup.flush()
    assert jam.backup.status().pending_logs == jam.backup.status().pending_records == 0
    report = jam.backup.verify()
    assert report, report.different
    assert report.logs == episodes + 1
    before = batches_of_all(jam)
    for key in jam.redis.scan_iter(f"*{namespace}:*"):
        jam.redis.delete(at(jam, key))
    assert jam.backup.restore() == episodes + 1
    assert batches_of_all(jam) == before
    assert [one.steps for one in jam.episodes().summaries()] == [EPISODE_STEPS] * episodes
    assert [note["n"] for note in notes.many(10**6)] == list(range(episodes))
    with capsys.disabled():
        print(
            f"\nMongoDB killed {KILLS} times: {episodes} episodes, "
            f"{backing_up.failures} calls of flush that failed"
        )
