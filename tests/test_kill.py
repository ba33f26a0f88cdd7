"""What is left of a process that ends without a word."""

from __future__ import annotations

import mmap
import random
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Server, StartRedis
from lengths import quick_and_long, rounds
from processes import NoteHandler, read_line, wait_until
from warm import run_warm, start_warm

from jamboree_gym import Jamboree

pytestmark = pytest.mark.faults

RECORDS = 12_000
FEWER = 1_500  # where each waits for its answer
LONG_ENOUGH = (10_000, 11_500)  # so many saves have returned when the process is killed
FLUSH_INTERVAL_S = 0.1
ROUNDS = rounds(4)

# The child notes in shared memory, which outlives it, the number of saves that have returned.
CHILD = """
import mmap, struct, sys, time
from processes import NoteHandler
from jamboree_gym import Jamboree

url, namespace, write, flush_interval_s, pause_s, records, path = sys.argv[1:]
with open(path, "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
jam = Jamboree(url, namespace=namespace, write=write, flush_interval_s=float(flush_interval_s))
handler = NoteHandler(jam, "killed")
handler.last()
for number in range(int(records)):
    now = time.time()
    handler.save({"n": number})
    struct.pack_into("q", memory, 0, number + 1)
    while time.time() < now + float(pause_s):
        pass
print("saved all", flush=True)
while True:
    time.sleep(1)
"""


class Saver:
    """The child, and what it noted."""

    def __init__(
        self, url: str, namespace: str, write: str, path: Path, *, pause_s: float = 0.0
    ) -> None:
        self.records = RECORDS if write == "buffered" else FEWER
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self.process = start_warm(
            CHILD, url, namespace, write, FLUSH_INTERVAL_S, pause_s, self.records, path
        )

    @property
    def saved(self) -> int:
        """Number of saves that have returned."""
        return int(struct.unpack_from("q", self._memory)[0])

    def wait_until_saved(self, count: int) -> None:
        """Return once so many saves have returned."""
        wait_until(lambda: self.saved >= count or self.process.poll() is not None)
        if self.process.poll() is not None:
            pytest.fail(f"the child ended by itself: {self.process.communicate()[1]}")

    def end(self, how: int = signal.SIGKILL) -> str:
        """Send a signal and wait for the end; what was written to standard error."""
        self.process.send_signal(how)
        _, errors = self.process.communicate(timeout=60)
        return errors


StartSaver = Callable[..., Saver]


@pytest.fixture
def start_saver(valkey: Server, namespace: str, tmp_path: Path) -> Iterator[StartSaver]:
    started: list[Saver] = []

    def start(write: str, *, url: str = valkey.url, pause_s: float = 0.0) -> Saver:
        path = tmp_path / f"{len(started)}"
        started.append(Saver(url, namespace, write, path, pause_s=pause_s))
        return started[-1]

    yield start
    for saver in started:
        if saver.process.poll() is None:
            saver.end()


def numbers_in(jam: Jamboree) -> list[int]:
    records = NoteHandler(jam, "killed").many(RECORDS)
    assert [record["index"] for record in records] == list(range(len(records)))
    return [record["n"] for record in records]


@pytest.mark.parametrize("round_", ROUNDS)
def test_a_process_killed_in_sync_mode_loses_nothing_that_was_acknowledged(
    start_saver: StartSaver, open_jamboree: Callable[..., Jamboree], round_: int
) -> None:
    saver = start_saver("sync")
    saver.wait_until_saved(random.Random(round_).randint(1, FEWER // 2))
    saver.end()
    found = numbers_in(open_jamboree())
    assert found == list(range(len(found)))
    assert saver.saved <= len(found) <= saver.saved + 1


@pytest.mark.parametrize("round_", ROUNDS)
def test_a_process_and_its_server_killed_in_fsync_mode_lose_nothing_that_was_acknowledged(
    start_own_redis: StartRedis,
    start_saver: StartSaver,
    open_jamboree: Callable[..., Jamboree],
    round_: int,
) -> None:
    server = start_own_redis("valkey9", "--appendfsync", "always")
    saver = start_saver("fsync", url=server.url)
    enough = random.Random(round_).randint(1, FEWER // 2)
    saver.wait_until_saved(enough)
    saver.process.kill()
    server.kill()
    saver.end()
    server.start()
    found = numbers_in(open_jamboree(server.url))
    assert found == list(range(len(found)))
    assert saver.saved <= len(found) <= saver.saved + 1


@pytest.mark.parametrize("round_", ROUNDS)
def test_a_process_killed_in_buffered_mode_loses_nothing_that_it_had_saved(
    start_saver: StartSaver, open_jamboree: Callable[..., Jamboree], round_: int
) -> None:
    saver = start_saver("buffered", pause_s=100e-6)
    saver.wait_until_saved(random.Random(round_).randint(*LONG_ENOUGH))
    saver.end()
    found = numbers_in(open_jamboree())
    assert found == list(range(len(found)))
    assert saver.saved <= len(found) <= saver.saved + 1


@pytest.mark.parametrize("write", quick_and_long(["buffered", "sync"], quick=["sync"]))
def test_a_process_killed_some_time_after_its_last_save_loses_nothing(
    start_saver: StartSaver, open_jamboree: Callable[..., Jamboree], write: str
) -> None:
    saver = start_saver(write)
    assert read_line(saver.process) == "saved all\n"
    jam = open_jamboree()
    wait_until(lambda: NoteHandler(jam, "killed").count() == saver.records)
    saver.end()
    assert numbers_in(jam) == list(range(saver.records))


# -- ends that are not so sudden --------------------------------------------------------------

OPEN = """
import sys, threading
from processes import NoteHandler
from jamboree_gym import Jamboree

def save():
    jam = Jamboree(sys.argv[1], namespace=sys.argv[2], flush_interval_s=60)
    handler = NoteHandler(jam, "killed")
    handler.save_many({"n": number} for number in range(1000))
    return handler
"""

ENDS = {
    "the script ends": "handler = save()",
    "nothing of it is referred to": "save()",
    "sys.exit": "handler = save(); sys.exit(3)",
    "an exception": "handler = save(); 1 / 0",
    "in a thread": "thread = threading.Thread(target=save); thread.start()",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_that_ends_without_close_loses_nothing(
    valkey: Server, namespace: str, open_jamboree: Callable[..., Jamboree], end: str
) -> None:
    ended = run_warm(OPEN + ENDS[end], valkey.url, namespace)
    assert numbers_in(open_jamboree()) == list(range(1000)), ended.stderr


SHORT_CLOSE = (
    "from jamboree_gym.connection import Connection; Connection.close.__defaults__ = (1.0,)\n"
)


def test_an_end_without_close_says_what_could_not_be_saved(
    own_valkey: Server, namespace: str
) -> None:
    source = OPEN + 'handler = save(); print("saved", flush=True); sys.stdin.read()'
    process = start_warm(SHORT_CLOSE + source, own_valkey.url, namespace)
    assert read_line(process) == "saved\n"
    own_valkey.kill()
    _, errors = process.communicate(timeout=60)
    assert "UnsavedRecords: 1000 records are not in Redis" in errors


@pytest.mark.parametrize("write", ["buffered", "sync"])
@pytest.mark.parametrize("round_", ROUNDS)
def test_ctrl_c_loses_nothing(
    start_saver: StartSaver, open_jamboree: Callable[..., Jamboree], write: str, round_: int
) -> None:
    saver = start_saver(write)
    enough = random.Random(round_).randint(1, saver.records // 2)
    saver.wait_until_saved(enough)
    assert "KeyboardInterrupt" in saver.end(signal.SIGINT)
    found = numbers_in(open_jamboree())
    assert found == list(range(len(found)))
    assert saver.saved <= len(found) <= saver.saved + 1
