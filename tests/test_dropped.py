"""A Jamboree that nobody refers to any more closes itself, and loses nothing."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
from conftest import Server
from lengths import quick_and_long
from processes import NoteHandler, threads_here, wait_until
from recorded_envs import ACTION, CountingEnv
from warm import run_warm

from jamboree_gym import Jamboree

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <Jamboree:ResourceWarning")

OpenJamboree = Callable[..., Jamboree]


@pytest.fixture(autouse=True, scope="module")
def quick_collector() -> None:
    """What is there before these tests is not looked at again by each `gc.collect()` in them."""
    gc.collect()
    gc.freeze()


OPENED_AND_DROPPED = """
import gc, os, sys, threading, warnings
from contextlib import suppress
from jamboree_gym import Jamboree
from processes import NoteHandler, wait_until
from recorded_envs import ACTION, CountingEnv

warnings.simplefilter("ignore", ResourceWarning)
url, namespace, count = sys.argv[1], sys.argv[2], int(sys.argv[3])

def opened_here():
    targets = []
    for descriptor in os.listdir("/dev/fd"):
        with suppress(OSError):  # the one that lists the others
            targets.append(os.readlink(f"/dev/fd/{descriptor}"))
    return sorted(targets + [thread.name for thread in threading.enumerate()])

before = opened_here()
most = 0
for number in range(count):
    write = "buffered" if number % 3 else "sync"
    dropped = Jamboree(url, namespace=namespace, write=write, flush_interval_s=3600)
    handler = NoteHandler(dropped, "n")
    handler.save({"n": number})
    if number % 2:
        assert handler.last() is not None
    if number % 50 == 0:
        env = dropped.record(CountingEnv(), run=str(number))
        env.reset()
        env.step(ACTION)
        del env
    del dropped, handler
    most = max(most, len(opened_here()))

def all_closed():
    gc.collect()  # the thread that closes may have held the last one when this was asked before
    return opened_here() == before

try:
    wait_until(all_closed, timeout_s=30)
except TimeoutError:
    sys.exit(f"opened: {opened_here()}, before: {before}")
print(most - len(before))
"""


@pytest.mark.parametrize("count", quick_and_long([50, 600], quick=[50]))
def test_many_that_are_dropped_leave_no_descriptor_and_no_thread_and_lose_nothing(
    valkey: Server, jam: Jamboree, count: int
) -> None:
    ended = run_warm(OPENED_AND_DROPPED, valkey.url, jam._connection.keyspace.namespace, count)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert int(ended.stdout) < 200
    records = NoteHandler(jam, "n").many(10**6)
    assert sorted(record["n"] for record in records) == list(range(count))
    assert [episode.summary.steps for episode in jam.episodes()] == [1] * (count // 50)


def test_the_thread_that_closes_is_there_only_while_it_closes(
    valkey: Server, namespace: str
) -> None:
    before = threads_here()
    jam = Jamboree(valkey.url, namespace=namespace)
    assert threads_here() <= before
    writer = jam._connection.writer
    del jam
    wait_until(lambda: writer._closing and threads_here() <= before)


def test_one_that_is_dropped_is_told_of(valkey: Server, namespace: str) -> None:
    with pytest.warns(ResourceWarning, match=f"unclosed <Jamboree '{namespace}' on"):
        Jamboree(valkey.url, namespace=namespace)


@pytest.mark.parametrize("holder", ["wrapper", "handler", "episode", "query", "backup"])
def test_whatever_refers_to_it_keeps_it_open(jam: Jamboree, valkey: Server, holder: str) -> None:
    namespace = jam._connection.keyspace.namespace
    other = Jamboree(valkey.url, namespace=namespace)
    here = weakref.ref(other._connection)
    env = other.record(CountingEnv(length=50), run="r")
    env.reset()
    held = {
        "wrapper": env,
        "handler": NoteHandler(other, "n"),
        "episode": other.episode(env.episode_id),
        "query": other.episodes(),
        "backup": other.backup,
    }[holder]
    del other, env
    gc.collect()
    assert here() is not None
    if holder == "wrapper":
        held.step(ACTION)
        assert len(held.handler.recent(9)) == 1
    del held
    gc.collect()
    assert here() is None


def test_one_in_a_cycle_delivers_when_the_collector_finds_it(valkey: Server, jam: Jamboree) -> None:
    dropped = Jamboree(
        valkey.url, namespace=jam._connection.keyspace.namespace, flush_interval_s=3600
    )
    NoteHandler(dropped, "n").save({"n": 1})
    dropped.cycle = dropped  # type: ignore[attr-defined]
    del dropped
    gc.collect()

    wait_until(lambda: NoteHandler(jam, "n").count() == 1)


def test_what_was_dropped_just_before_the_end_of_the_process_is_saved(
    valkey: Server, jam: Jamboree
) -> None:
    source = """
import sys
from jamboree_gym import Jamboree
from processes import NoteHandler
for number in range(5):
    NoteHandler(Jamboree(sys.argv[1], namespace=sys.argv[2], flush_interval_s=3600), "n").save(
        {"n": number}
    )
kept = NoteHandler(Jamboree(sys.argv[1], namespace=sys.argv[2], flush_interval_s=3600), "n")
kept.save({"n": 5})
"""
    ended = run_warm(source, valkey.url, jam._connection.keyspace.namespace)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(record["n"] for record in NoteHandler(jam, "n").many(9)) == list(range(6))


def test_what_a_forked_child_and_a_worker_drop_is_saved(valkey: Server, jam: Jamboree) -> None:
    source = """
import multiprocessing, sys, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from jamboree_gym import Jamboree
from processes import NoteHandler

def work(url, namespace, number):
    NoteHandler(Jamboree(url, namespace=namespace, flush_interval_s=3600), "n").save({"n": number})

if __name__ == "__main__":
    jam = Jamboree(sys.argv[1], namespace=sys.argv[2], flush_interval_s=3600)
    NoteHandler(jam, "n").save({"n": 0})
    process = multiprocessing.get_context("fork").Process(target=work, args=(*sys.argv[1:], 1))
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""
    ended = run_warm(source, valkey.url, jam._connection.keyspace.namespace)

    assert ended.returncode == 0, ended.stderr
    assert sorted(record["n"] for record in NoteHandler(jam, "n").many(9)) == [0, 1]
