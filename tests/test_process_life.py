"""What objects are told when the process forks and when it ends."""

from __future__ import annotations

import pytest
from processes import run_python

FORK = """
import os
from jamboree_gym.process_life import follow_forks

class Follower:
    def __init__(self, name):
        self.name = name
        follow_forks(self)

    def after_fork_in_child(self):
        print(self.name, flush=True)
        if self.name == "faulty":
            raise ZeroDivisionError

first, faulty, gone, last = map(Follower, ["first", "faulty", "gone", "last"])
del gone
if os.fork():
    os.wait()
"""

END = """
import multiprocessing, sys
from jamboree_gym.process_life import AtExit

class Owner:
    def __init__(self, name, priority):
        self.name = name
        self.at_exit = AtExit(self.finish, worker_priority=priority)

    def finish(self):
        print(self.name, flush=True)

def work():
    pass

later, sooner = Owner("later", 1), Owner("sooner", 2)
done, gone = Owner("done", 3), Owner("gone", 4)
done.at_exit.cancel()
del gone
if sys.argv[1] == "worker":
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    worker.join()
    later.at_exit.cancel()
    sooner.at_exit.cancel()
"""


@pytest.mark.once
def test_in_a_fork_all_that_is_there_is_told_in_order_although_one_fails() -> None:
    done = run_python(FORK)

    assert done.stdout.split() == ["first", "faulty", "last"]
    assert "Follower after a fork" in done.stderr
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.once
@pytest.mark.parametrize("process", ["this", "worker"])
def test_at_the_end_what_is_there_and_not_done_is_finished_the_newest_first(process: str) -> None:
    done = run_python(END, process)

    assert done.stderr == ""
    assert done.stdout.split() == ["sooner", "later"]


TWO_FORKS_UNDER_ONE_PROCESS_ID = """
import os
from jamboree_gym.store.redis.buckets import new_epoch
os.getpid = lambda: 1
for _ in range(2):
    if not (child := os.fork()):
        print(new_epoch(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
print(new_epoch())
"""


def test_no_epoch_is_named_twice_although_a_process_id_comes_again() -> None:
    done = run_python(TWO_FORKS_UNDER_ONE_PROCESS_ID)
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) == 3
