"""What a killed process has left comes whole, and once; what was deleted does not come.

As `test_journal_kill.py`, of moments that chance hardly finds.
"""

from __future__ import annotations

import mmap
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Server
from processes import NoteHandler, read_line, wait_until
from warm import start_warm

from jamboree_gym import Jamboree
from jamboree_gym.backup.copy import LogCopier
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.backups.opening import open_backup
from jamboree_gym.store.log import IndexEntry
from jamboree_gym.store.redis.store import RedisStore

pytestmark = pytest.mark.faults

OpenJamboree = Callable[..., Jamboree]
Process = subprocess.Popen[str]

# Delivers nothing by itself; notes in shared memory, which outlives it, how many calls returned.
BEGIN = """
import mmap, os, sys, threading
import numpy as np
from processes import NoteHandler
from recorded_envs import CountingEnv
from jamboree_gym import Jamboree
from jamboree_gym.journal import segments

url, namespace, path, *arguments = sys.argv[1:]
with open(path, "r+b") as file:
    returned = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
jam = Jamboree(url, namespace=namespace, flush_interval_s=3600)

def record(run, count, first=0, env=None):
    if env is None:
        env = jam.record(CountingEnv(length=10**9), run=run)
        env.reset()
    for number in range(first, first + count):
        env.step(np.array([number, 0], np.float32))
        returned[0] += 1
    return env
"""


class Child:
    """A process to be killed, and what it noted."""

    def __init__(self, source: str, path: Path, url: str, namespace: str, *rest: object) -> None:
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._memory = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
        self.process: Process = start_warm(BEGIN + source, url, namespace, path, *rest)

    @property
    def returned(self) -> int:
        """Number of calls that have returned."""
        return self._memory[0]

    def says(self, expected: str) -> None:
        """Wait for a line."""
        assert read_line(self.process) == f"{expected}\n"

    def go_on(self) -> None:
        """Send it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """Kill it as `kill -9` does."""
        self.process.kill()
        self.process.communicate()


StartChild = Callable[..., Child]


@pytest.fixture
def start_child(valkey: Server, namespace: str, tmp_path: Path) -> Iterator[StartChild]:
    """Starts children that note what has returned."""
    started: list[Child] = []

    def start(source: str, *rest: object, url: str = valkey.url) -> Child:
        path = tmp_path / f"returned-{len(started)}"
        started.append(Child(source, path, url, namespace, *rest))
        return started[-1]

    yield start
    for child in started:
        child.kill()


def numbers(jam: Jamboree, run: str) -> list[int]:
    """The first part of each action of the run's only episode."""
    (summary,) = jam.episodes(run=run).summaries()
    assert summary.status == "interrupted"
    data = jam.episode(summary.id).data()
    assert summary.steps == len(data)
    return [int(action[0]) for action in data.actions]


def records(jam: Jamboree) -> list[int]:
    """What was saved in each record; none is there twice."""
    found = NoteHandler(jam, "killed").many(10**6)
    assert [record["index"] for record in found] == list(range(len(found)))
    return [record["n"] for record in found]


# -- a kill while a block is taken ----------------------------------------------------------------

KILLED_AT_A_BLOCK = """
taken, take = [], segments.Segments._free_place

def kill_in_time(*arguments_):
    place = take(*arguments_)
    taken.append(place)
    if len(taken) == int(arguments[0]):
        os.kill(os.getpid(), 9)
    return place

segments.Segments._free_place = kill_in_time
handler = NoteHandler(jam, "killed")
number = 0
while True:
    handler.save({"n": number, "text": "x" * 3000})
    number += 1
    returned[0] = number
"""


@pytest.mark.parametrize("taken", range(3, 7))
def test_a_process_killed_while_it_takes_a_block_loses_no_record(
    start_child: StartChild, open_jamboree: OpenJamboree, taken: int
) -> None:
    child = start_child(KILLED_AT_A_BLOCK, taken)
    assert child.process.wait(60) == -signal.SIGKILL, child.process.communicate()[1]
    assert child.returned > 0
    assert records(open_jamboree()) == list(range(child.returned))


# One thread has the first block of a file and has not written into it; another uses the second.
KILLED_IN_ANOTHERS_FILE = """
segments.FILE_BYTES = 2 * segments.SMALLEST_BYTES
record("before", 5)
take = segments.Segments._free_place

def let_another_record(*arguments_):
    place = take(*arguments_)
    if place[1] == 0:
        segments.Segments._free_place = take
        thread = threading.Thread(target=record, args=("another's", 50))
        thread.start()
        thread.join()
        os.kill(os.getpid(), 9)
    return place

segments.Segments._free_place = let_another_record
for number in range(3):
    record(f"after {number}", 1)
"""


def test_a_process_killed_while_a_thread_takes_the_first_block_of_a_file_loses_no_others_rows(
    start_child: StartChild, open_jamboree: OpenJamboree
) -> None:
    child = start_child(KILLED_IN_ANOTHERS_FILE)
    assert child.process.wait(60) == -signal.SIGKILL, child.process.communicate()[1]
    jam = open_jamboree()
    assert numbers(jam, "before") == list(range(5))
    assert numbers(jam, "another's") == list(range(50))


# -- what must not come back ----------------------------------------------------------------------

DELETER = """
env = record("r", 20)
handler = NoteHandler(jam, "killed")
handler.save_many({"n": number} for number in range(20))
if "delivered" in arguments:
    jam.flush()
if "deletes" in arguments:
    jam.episode(env.episode_id).delete()
    handler.delete()
print("done", flush=True)
sys.stdin.readline()
record("r", 20, 20, env)
print("stepped", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("does_go_on", [False, True])
@pytest.mark.parametrize("state", ["delivered", "waiting"])
def test_what_a_process_has_deleted_stays_deleted_when_it_is_killed(
    start_child: StartChild, open_jamboree: OpenJamboree, state: str, does_go_on: bool
) -> None:
    child = start_child(DELETER, state, "deletes")
    child.says("done")
    if does_go_on:
        child.go_on()
        child.says("stepped")
    child.kill()
    jam = open_jamboree()
    assert jam.episodes().ids() == []
    assert records(jam) == []


def test_records_that_another_process_has_deleted_do_not_come_back(
    start_child: StartChild, open_jamboree: OpenJamboree
) -> None:
    child = start_child(DELETER, "delivered")
    child.says("done")
    jam = open_jamboree()
    NoteHandler(jam, "killed").delete()
    child.kill()
    jam = open_jamboree()
    assert records(jam) == []
    assert numbers(jam, "r") == list(range(20))


# Takes an answer for five records in three batches, and is killed when it has noted some of them.
KILLED_WHILE_IT_NOTES = """
from jamboree_gym.delivery import outbox

class CountedPlace(tuple):
    def __iter__(self):
        noted.append(self)
        if len(noted) > int(arguments[0]):
            os.kill(os.getpid(), 9)
        return super().__iter__()

noted, confirm = [], outbox.confirm_records
outbox.MAX_BATCH_RECORDS = 2
outbox.confirm_records = lambda places: confirm([CountedPlace(place) for place in places])
handler = NoteHandler(jam, "killed")
handler.save_many({"n": number} for number in range(5))
print("saved", flush=True)
sys.stdin.readline()
jam.flush()
"""


@pytest.mark.parametrize("noted", range(5))
def test_records_do_not_come_back_whose_writer_was_killed_while_it_noted_that_they_arrived(
    start_child: StartChild, open_jamboree: OpenJamboree, noted: int
) -> None:
    child = start_child(KILLED_WHILE_IT_NOTES, noted)
    child.says("saved")
    jam = open_jamboree()
    child.go_on()
    assert child.process.wait(60) == -signal.SIGKILL, child.process.communicate()[1]
    assert records(jam) == list(range(5))
    NoteHandler(jam, "killed").delete()
    assert records(open_jamboree()) == []


# Is killed when its first record has arrived, before it notes that; more were to be sent next.
KILLED_BEFORE_THE_NEXT = """
from jamboree_gym.delivery import outbox

def save_more_and_die(self, result):
    handler.save_many({"n": number} for number in range(1, 5))
    self.seal()
    os.kill(os.getpid(), 9)

outbox.RecordOutbox.settle = save_more_and_die
handler = NoteHandler(jam, "killed")
handler.save({"n": 0})
print("saved", flush=True)
sys.stdin.readline()
jam.flush()
"""


def test_records_that_were_never_sent_are_not_deleted_with_those_that_had_arrived(
    start_child: StartChild, open_jamboree: OpenJamboree
) -> None:
    child = start_child(KILLED_BEFORE_THE_NEXT)
    child.says("saved")
    jam = open_jamboree()
    child.go_on()
    assert child.process.wait(60) == -signal.SIGKILL, child.process.communicate()[1]
    assert records(jam) == [0]
    NoteHandler(jam, "killed").delete()
    assert records(open_jamboree()) == [1, 2, 3, 4]


# -- without an answer ----------------------------------------------------------------------------

# Says when what it has to deliver has left it.
UNANSWERED = """
from redis.connection import AbstractConnection

env = record("r", 1)
handler = NoteHandler(jam, "killed")
handler.save({"n": 0})
jam.flush()
print("delivered", flush=True)
sys.stdin.readline()
send, is_sent = AbstractConnection.send_packed_command, threading.Event()

def tell(*arguments, **keywords):
    send(*arguments, **keywords)
    is_sent.set()

AbstractConnection.send_packed_command = tell
if "steps" in arguments:
    record("r", 5, 1, env)
else:
    handler.save_many({"n": number} for number in range(1, 30))
threading.Thread(target=jam.flush, args=(60,), daemon=True).start()
is_sent.wait()
print("sent", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("kind", ["steps", "records"])
def test_what_was_delivered_to_a_silent_server_is_not_there_twice(
    start_child: StartChild, open_jamboree: OpenJamboree, own_valkey: Server, kind: str
) -> None:
    child = start_child(UNANSWERED, kind, url=own_valkey.url)
    child.says("delivered")
    own_valkey.process.send_signal(signal.SIGSTOP)
    child.go_on()
    child.says("sent")
    child.kill()
    own_valkey.process.send_signal(signal.SIGCONT)
    jam = open_jamboree(own_valkey.url)
    assert records(jam) == list(range(30 if kind == "records" else 1))
    assert numbers(jam, "r") == list(range(6 if kind == "steps" else 1))


# Begins an episode whose first row is sent, and goes on without an answer.
BEGUN_WITHOUT_AN_ANSWER = """
from redis.connection import AbstractConnection

record("delivered", 1)
jam.flush()
print("delivered", flush=True)
sys.stdin.readline()
send, is_sent = AbstractConnection.send_packed_command, threading.Event()

def tell(*arguments, **keywords):
    send(*arguments, **keywords)
    is_sent.set()

AbstractConnection.send_packed_command = tell
env = record("r", 1)
threading.Thread(target=jam.flush, args=(60,), daemon=True).start()
is_sent.wait()
record("r", 5, 1, env)
print("stepped", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("is_deleted", [False, True])
def test_an_episode_of_which_only_the_backup_has_the_first_row_goes_on_there(
    start_child: StartChild,
    open_jamboree: OpenJamboree,
    own_valkey: Server,
    mongo: Server,
    namespace: str,
    is_deleted: bool,
) -> None:
    """Redis has lost that row with its last second; nobody had told the dead process of it."""
    child = start_child(BEGUN_WITHOUT_AN_ANSWER, url=own_valkey.url)
    child.says("delivered")
    own_valkey.process.send_signal(signal.SIGSTOP)
    child.go_on()
    child.says("stepped")
    child.kill()
    own_valkey.process.send_signal(signal.SIGCONT)
    with (
        closing(RedisStore.from_url(own_valkey.url, Keyspace(namespace))) as store,
        closing(open_backup(mongo.url, namespace)) as backup,
    ):
        wait_until(lambda: "r" in store.listings.runs())
        copier = LogCopier(store, backup)
        copier.begin()
        assert list(copier.copy([*store.acknowledgements.unbacked()]))[-1:] == [2]
        (key,) = (one for one in list(backup.keys()) if one in newest(store))
        born = store.delete(key, entry=IndexEntry(store.keyspace.episode_id(key), b"", "r", 0.0))
        assert born is not None
        if is_deleted:
            backup.delete([(key, born)])
            store.deletions.forget(key, born, backup=backup.identity())
        else:
            store.link.call("DEL", store.buckets.of(key).deleted)
    jam = open_jamboree(own_valkey.url, mongo_url=mongo.url)
    assert len(jam.episodes(run="delivered").ids()) == 1
    if is_deleted:
        assert key not in map(jam._connection.keyspace.episode, jam.episodes().ids())
    else:
        assert numbers(jam, "r") == list(range(6))
    jam.backup.flush()
    assert jam.backup.verify()


def newest(store: RedisStore) -> set[str]:
    """Keys of the episodes of the run `r`."""
    return set(map(store.keyspace.episode, store.listings.summaries("r")))
