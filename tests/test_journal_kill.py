"""Recording processes are killed at any moment: each call that has returned is there afterwards.

How many is said by the environment variable JAMBOREE_KILLED_WRITERS; `make faults` kills 500.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Server
from journal_children import OPEN, Notes
from journals import journal_of
from killed_writers import KINDS, Scene, Tally, kill, kill_without_redis
from lengths import examples, quick_and_long
from processes import NoteHandler, read_line, wait_until
from recorded_envs import ACTION, CountingEnv, play
from warm import start_warm

from jamboree_gym import Jamboree
from jamboree_gym.journal.dead import dead_owners

pytestmark = pytest.mark.faults

OpenJamboree = Callable[..., Jamboree]
QUICK_KINDS = {"single", "block", "saves"}  # the others write as one of these does
KILLED = int(os.environ.get("JAMBOREE_KILLED_WRITERS", len(KINDS)))


@pytest.fixture
def scene(namespace: str, tmp_path: Path, open_jamboree: OpenJamboree) -> Iterator[Scene]:
    made = Scene(namespace, tmp_path / "home", tmp_path, open_jamboree)
    yield made
    made.close()


def check(tally: Tally) -> None:
    assert tally.noted > 0
    assert tally.is_right, tally


@pytest.mark.parametrize(
    "number",
    quick_and_long(
        range(KILLED), quick=[n for n in range(KILLED) if KINDS[n % len(KINDS)] in QUICK_KINDS]
    ),
)
@pytest.mark.timeout(240)
def test_a_killed_process_loses_nothing_that_a_call_returned_from(
    valkey: Server, scene: Scene, number: int
) -> None:
    check(kill(scene, KINDS[number % len(KINDS)], valkey))


@pytest.mark.parametrize(
    ("kind", "how"),
    quick_and_long(
        [(kind, how) for kind in KINDS for how in ("killed", "stopped")],
        quick=[("single", "killed")],
    ),
)
@pytest.mark.timeout(240)
def test_a_process_that_is_killed_while_redis_is_away_loses_nothing(
    durable_valkey: Server, scene: Scene, kind: str, how: str
) -> None:
    check(kill_without_redis(scene, kind, durable_valkey, how=how))


def test_what_a_close_without_redis_leaves_comes_with_the_next(
    own_valkey: Server, namespace: str, tmp_path: Path, open_jamboree: OpenJamboree
) -> None:
    source = OPEN + (
        "from recorded_envs import ACTION, CountingEnv, play\n"
        "play(jam.record(CountingEnv(length=5), run='r'), [ACTION] * 5)\n"
        "print('played', flush=True)\n"
        "sys.stdin.readline()\n"
        "try:\n"
        "    jam.close(0.5)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, flush=True)\n"
    )
    home = tmp_path / "home"
    Notes(tmp_path / "w", is_new=True)
    process = start_warm(source, own_valkey.url, namespace, home, 3600, tmp_path / "w")
    assert read_line(process) == "played\n"
    own_valkey.kill()
    said, _ = process.communicate("\n", timeout=60)
    assert said == "UnsavedRecords\n"
    own_valkey.start()
    jam = open_jamboree(own_valkey.url, home=home)
    assert [(one.steps, one.status) for one in jam.episodes().summaries()] == [(5, "terminated")]
    assert not list(journal_of(home).iterdir())


# -- forks --------------------------------------------------------------------------------------

FORK = """
import os, sys, time, warnings
from recorded_envs import ACTION, CountingEnv
from jamboree_gym import Jamboree

warnings.simplefilter("ignore", DeprecationWarning)
url, namespace, home = sys.argv[1:]
jam = Jamboree(url, namespace=namespace, home=home, flush_interval_s=3600)
env = jam.record(CountingEnv(length=1000), run="parent")
env.reset()
for _ in range(3):
    env.step(ACTION)
outbox = env.handler.writing  # as a handler of one's own has it in the child, too
pid = os.fork()
if pid == 0:
    outbox.packed_action = outbox.pack_action(ACTION * 0)
    for _ in range(50):  # of the parent's episode: no business of the child
        outbox.add_step(ACTION, 0.0, False, False, None)
    env.step(ACTION * 0)
    own = jam.record(CountingEnv(length=1000), run="child")
    own.reset()
    for _ in range(4):
        own.step(ACTION)
    print("child", os.getpid(), flush=True)
    time.sleep(60)
else:
    sys.stdin.readline()
    for _ in range(2):
        env.step(ACTION)
    print("parent", flush=True)
    time.sleep(60)
"""


def test_a_forked_child_writes_into_no_file_of_its_parent_and_does_not_keep_it_alive(
    valkey: Server, namespace: str, tmp_path: Path, open_jamboree: OpenJamboree
) -> None:
    home = tmp_path / "home"
    process = start_warm(FORK, valkey.url, namespace, home)
    _, child = read_line(process).split()
    process.stdin.write("\n")
    process.stdin.flush()
    assert read_line(process) == "parent\n"
    process.kill()
    process.wait(60)
    try:
        jam = open_jamboree(home=home)
        (parent,) = jam.episodes(run="parent").summaries()
        assert (parent.steps, parent.status) == (5, "interrupted")
        data = jam.episode(parent.id).data()
        assert np.all(data.actions == ACTION)
        assert data.observations[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
        assert jam.runs().names() == ["parent"]  # the child lives
        assert len(list(journal_of(home).glob("*.lock"))) == 1
    finally:
        os.kill(int(child), signal.SIGKILL)
    process.communicate()  # the child holds its pipes
    wait_until(lambda: dead_owners(journal_of(home)))
    jam = open_jamboree(home=home)
    (own,) = jam.episodes(run="child").summaries()
    assert (own.steps, own.status) == (4, "interrupted")
    assert not list(journal_of(home).iterdir())


# -- no room ------------------------------------------------------------------------------------

NO_ROOM = """
import logging, resource, sys
from recorded_envs import ACTION, CountingEnv, play
from jamboree_gym import Jamboree

logging.basicConfig()
url, namespace, home = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
with Jamboree(url, namespace=namespace, home=home, flush_interval_s=3600) as jam:
    for _ in range(3):
        play(jam.record(CountingEnv(length=5000), run="r"), [ACTION] * 5000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    play(jam.record(CountingEnv(length=5000), run="r"), [ACTION] * 5000)
"""


def test_on_a_full_disk_recording_goes_on_in_memory_and_one_warning_says_so(
    valkey: Server, namespace: str, tmp_path: Path, open_jamboree: OpenJamboree
) -> None:
    home = tmp_path / "home"
    process = start_warm(NO_ROOM, valkey.url, namespace, home)
    _, errors = process.communicate(timeout=60)
    assert process.wait() == 0, errors
    assert errors.count("no room for the journal in") == 1, errors
    assert [one.steps for one in open_jamboree().episodes().summaries()] == [5000] * 4
    assert not list(journal_of(home).iterdir())


ROOM_AGAIN = """
import os, resource, signal, sys
from processes import NoteHandler
from recorded_envs import ACTION, CountingEnv, play
from jamboree_gym import Jamboree

url, namespace, home = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
jam = Jamboree(url, namespace=namespace, home=home, flush_interval_s=3600)
notes = NoteHandler(jam, "a")
notes.save({"n": 0})
play(jam.record(CountingEnv(length=2), run="r"), [ACTION] * 2)
jam.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
play(jam.record(CountingEnv(length=9), run="r"), [ACTION] * 3)
notes.save({"n": 1})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_comes_when_the_disk_has_room_again_outlives_its_process(
    valkey: Server, namespace: str, tmp_path: Path, open_jamboree: OpenJamboree
) -> None:
    home = tmp_path / "home"
    process = start_warm(ROOM_AGAIN, valkey.url, namespace, home)
    process.communicate(timeout=60)
    wait_until(lambda: dead_owners(journal_of(home)))
    jam = open_jamboree(home=home)
    assert [one.steps for one in jam.episodes().summaries()] == [2, 3]
    assert [one["n"] for one in NoteHandler(jam, "a").many(9)] == [0, 1]
    assert not list(journal_of(home).iterdir())


# -- files --------------------------------------------------------------------------------------


def test_the_files_do_not_get_more_and_a_clean_close_removes_them(
    open_jamboree: OpenJamboree, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    most = 0
    with open_jamboree(home=home) as jam:
        env = jam.record(CountingEnv(length=100), run="r")
        for _ in range(200):
            play(env, [ACTION] * 100)
            most = max(most, len(list(journal_of(home).iterdir())))
    assert most < 40
    assert not list(journal_of(home).iterdir())


STORM = """
import random, signal, struct, sys, mmap
from recorded_envs import ACTION, CountingEnv
from jamboree_gym import Jamboree

url, namespace, home, path, many = sys.argv[1:]
with open(path, "r+b") as file:
    counts = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
jam = Jamboree(url, namespace=namespace, home=home, flush_interval_s=3600)
env = jam.record(CountingEnv(length=int(1e9)), run="r")
is_raised = False
def interrupt(number, frame):
    global is_raised
    is_raised = True
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
def step(episode):  # Python 3.13 lets an interrupt of a loop escape from a `try` around it
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.0012))
    while not is_raised:
        env.step(ACTION)
        counts[episode + 1] += 1
for episode in range(int(many)):
    env.reset()
    counts[0] = episode + 1
    is_raised = False
    try:
        step(episode)
    except KeyboardInterrupt:
        pass
print("done", flush=True)
signal.pause()
"""


def test_a_storm_of_ctrl_c_before_the_kill_costs_no_row(
    valkey: Server, namespace: str, tmp_path: Path, open_jamboree: OpenJamboree
) -> None:
    many, home, path = examples(3000), tmp_path / "home", tmp_path / "counts"
    path.write_bytes(bytes(8 * (many + 1)))
    process = start_warm(STORM, valkey.url, namespace, home, path, many)
    assert read_line(process) == "done\n"
    process.kill()
    process.communicate()
    counts = np.frombuffer(path.read_bytes(), np.int64)
    jam = open_jamboree(home=home)
    summaries = jam.episodes().summaries()
    assert len(summaries) == counts[0] == many
    for summary, count in zip(summaries, counts[1:].tolist(), strict=True):
        kept = len(jam.episode(summary.id).data()) if summary.steps else 0
        assert count <= kept <= count + 1
        assert kept == summary.steps
    assert {one.status for one in summaries} <= {"abandoned", "interrupted"}


@pytest.mark.parametrize("many", quick_and_long([8, 64], quick=[8]))
def test_many_processes_that_are_killed_at_once_lose_nothing(
    valkey: Server, scene: Scene, many: int
) -> None:
    writers = scene.start("saves", valkey.url, many=many)
    for writer in writers:
        writer.wait_for(20)
    for writer in writers:
        writer.process.kill()
    for writer in writers:
        writer.kill()
    check(scene.look("saves", valkey.url, writers))


OPENER = """
import sys
from jamboree_gym import Jamboree
url, namespace, home = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
Jamboree(url, namespace=namespace, home=home).close()
"""


@pytest.mark.parametrize("is_killed", quick_and_long([False, True], quick=[True]))
def test_processes_that_open_the_store_at_once_deliver_once(
    valkey: Server, scene: Scene, tmp_path: Path, open_jamboree: OpenJamboree, is_killed: bool
) -> None:
    """With `is_killed` while they deliver: who comes next completes it."""
    writers = scene.start("saves", valkey.url, interval_s=3600)
    for writer in writers:
        writer.kill_after(2000)
    openers = [start_warm(OPENER, valkey.url, scene.namespace, scene.home) for _ in range(3)]
    for opener in openers:
        assert read_line(opener) == "ready\n"
    for opener in openers:
        opener.stdin.write("\n")
        opener.stdin.flush()
    if is_killed:
        jam = open_jamboree(home=tmp_path / "another")
        wait_until(lambda: NoteHandler(jam, "killed").count() > 0)
        for opener in openers:
            opener.kill()
    for opener in openers:
        opener.communicate(timeout=60)
    check(scene.look("saves", valkey.url, writers))


DELETED = """
import sys
from recorded_envs import ACTION, CountingEnv
from jamboree_gym import Jamboree
url, namespace, home = sys.argv[1:]
jam = Jamboree(url, namespace=namespace, home=home, flush_interval_s=3600)
env = jam.record(CountingEnv(length=10**9), run="r")
env.reset()
for _ in range(3000):
    env.step(ACTION)
jam.flush()
print(env.episode_id, flush=True)
sys.stdin.readline()
for _ in range(3):
    env.step(ACTION)
print("stepped", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_what_was_delivered_and_deleted_by_another_process_does_not_come_back(
    own_valkey: Server,
    namespace: str,
    tmp_path: Path,
    open_jamboree: OpenJamboree,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    home = tmp_path / "home"
    process = start_warm(DELETED, own_valkey.url, namespace, home)
    episode_id = read_line(process).strip()
    other = open_jamboree(own_valkey.url, home=tmp_path / "other")
    if how == "deleted":
        other.episode(episode_id).delete()
    else:
        other.redis.flushall()
    process.stdin.write("\n")
    process.stdin.flush()
    assert read_line(process) == "stepped\n"
    process.kill()
    process.communicate()
    jam = open_jamboree(own_valkey.url, home=home)
    assert jam.episodes().ids() == []
    assert not list(journal_of(home).iterdir())
    (error,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert episode_id in error.getMessage()
    assert "its first 3001 rows are no longer in Redis" in error.getMessage()
