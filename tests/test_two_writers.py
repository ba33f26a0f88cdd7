"""Two processes append to one log at once, and one of them sends everything three times."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from conftest import Server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import NoteHandler, read_line
from warm import run_warm, start_warm

from jamboree_gym import Jamboree

WORKER = """
import json, sys
from processes import NoteHandler
from jamboree_gym import Jamboree
from jamboree_gym.store.redis.appender import LogAppender

append_once = LogAppender.append

def append_thrice(self, appends, **options):
    append_once(self, appends, **options)
    append_once(self, appends, **options)
    return append_once(self, appends, **options)

url, namespace, name = sys.argv[1:]
if name == "thrice":
    LogAppender.append = append_thrice
jams = {write: Jamboree(url, namespace=namespace, write=write) for write in ("sync", "buffered")}
print("ready", flush=True)
for line in sys.stdin:
    task = json.loads(line)
    jam = jams[task["write"]]
    handler = NoteHandler(jam, task["log"])
    number = 0
    for size in task["sizes"]:
        handler.save_many({"writer": name, "n": number + i} for i in range(size))
        number += size
    jam.flush()
    print("done", flush=True)
for jam in jams.values():
    jam.close()
"""

Workers = dict[str, "subprocess.Popen[str]"]


@pytest.fixture
def workers(valkey: Server, namespace: str) -> Iterator[Workers]:
    started = {name: start_warm(WORKER, valkey.url, namespace, name) for name in ("once", "thrice")}
    for worker in started.values():
        assert read_line(worker) == "ready\n"
    yield started
    for worker in started.values():
        _, errors = worker.communicate()
        assert (worker.returncode, errors) == (0, "")


def write_at_once(workers: Workers, tasks: dict[str, dict[str, Any]]) -> None:
    for name, task in tasks.items():
        stdin = workers[name].stdin
        assert stdin is not None
        stdin.write(json.dumps(task) + "\n")
        stdin.flush()
    for worker in workers.values():
        assert read_line(worker) == "done\n"


sizes = st.lists(st.integers(1, 6), max_size=12)
modes = st.sampled_from(["sync", "buffered"])


def test_each_record_is_there_once_and_in_its_writers_order(
    workers: Workers, open_jamboree: Callable[..., Jamboree]
) -> None:
    jam = open_jamboree()
    logs = iter(range(10**6))

    @settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
    @given(once=sizes, thrice=sizes, once_mode=modes, thrice_mode=modes)
    def check(once: list[int], thrice: list[int], once_mode: str, thrice_mode: str) -> None:
        log = f"log {next(logs)}"
        tasks = {
            "once": {"log": log, "sizes": once, "write": once_mode},
            "thrice": {"log": log, "sizes": thrice, "write": thrice_mode},
        }
        write_at_once(workers, tasks)
        records = NoteHandler(jam, log).many(10_000)
        assert [record["index"] for record in records] == list(range(sum(once) + sum(thrice)))
        for name, model in (("once", range(sum(once))), ("thrice", range(sum(thrice)))):
            assert [record["n"] for record in records if record["writer"] == name] == list(model)
        times = [record["timestamp"] for record in records]
        assert times == sorted(set(times))

    check()


def test_two_processes_interleave_a_thousand_saves_each(
    workers: Workers, open_jamboree: Callable[..., Jamboree]
) -> None:
    for log in ("first", "second", "third", "fourth"):  # the machine may let them take long turns
        task = {"log": log, "sizes": [1] * 1000, "write": "sync"}
        write_at_once(workers, {"once": task, "thrice": task})
        records = NoteHandler(open_jamboree(), log).many(10_000)
        assert [record["index"] for record in records] == list(range(2000))
        writers = [record["writer"] for record in records]
        turns = sum(before != after for before, after in pairwise(writers))
        if turns > 10:
            break
    assert turns > 10
    for name in ("once", "thrice"):
        assert [r["n"] for r in records if r["writer"] == name] == list(range(1000))


FORK = """
import os, sys
from processes import NoteHandler
from jamboree_gym import Jamboree

jam = Jamboree(sys.argv[1], namespace=sys.argv[2], write=sys.argv[3])
handler = NoteHandler(jam, "forked")
for number in range(100):
    handler.save({"writer": "parent", "n": number})
pid = os.fork()
name = "parent" if pid else "child"
for number in range(100, 200):
    handler.save({"writer": name, "n": number})
if pid:
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
print(name, handler.last()["writer"] in ("parent", "child"))
"""


@pytest.mark.parametrize("write", ["sync", "buffered"])
def test_a_forked_child_goes_on_by_itself_and_repeats_nothing_of_its_parent(
    valkey: Server, namespace: str, open_jamboree: Callable[..., Jamboree], write: str
) -> None:
    ended = run_warm(
        "import warnings; warnings.simplefilter('ignore')\n" + FORK, valkey.url, namespace, write
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "child True\nparent True\n"
    records = NoteHandler(open_jamboree(), "forked").many(1000)
    assert [record["index"] for record in records] == list(range(300))
    for name, model in (("parent", range(200)), ("child", range(100, 200))):
        assert [record["n"] for record in records if record["writer"] == name] == list(model)
