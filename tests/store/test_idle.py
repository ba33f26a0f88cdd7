"""An open Jamboree that nobody uses: its processes sleep. What is counted are wake-ups."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from backed_up import is_complete
from embedded_home import new_home, wait_until
from recorded_envs import ACTION, CountingEnv, play

from jamboree_gym import Jamboree
from jamboree_gym.servers.embedded import server_status

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc counts wake-ups")

WATCHED_S = 3.0


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with new_home() as made:
        yield made


def wake_ups(pid: int | None) -> int:
    """How often the threads of a process have gone to sleep so far."""
    threads = Path(f"/proc/{pid}/task")
    lines = [
        line
        for thread in os.listdir(threads)
        for line in (threads / thread / "status").read_text().splitlines()
    ]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary"))


@pytest.fixture(scope="module")
def idle_jam(home: Path) -> Iterator[Jamboree]:
    """It has recorded an episode, which is backed up, and records nothing now."""
    with Jamboree(home=home, backup=True, backup_interval_s=0.1) as jam:
        play(jam.record(CountingEnv(5)), [ACTION] * 5)
        jam.flush()
        wait_until(lambda: is_complete(jam))
        wait_until(lambda: commands_meanwhile(jam, 0.5) == 0)  # a last round found nothing
        yield jam


def commands(jam: Jamboree) -> int:
    """How many commands Redis has got so far."""
    return int(jam.redis.info("stats")["total_commands_processed"])


def commands_meanwhile(jam: Jamboree, seconds: float) -> int:
    """How many commands Redis gets from others while we wait."""
    before = commands(jam)
    time.sleep(seconds)
    return commands(jam) - before - 1


def test_an_idle_jamboree_sends_redis_nothing_and_hardly_wakes_any_process(
    idle_jam: Jamboree, home: Path
) -> None:
    status = server_status(home)
    pids = (status.supervisor_pid, status.redis_pid, status.backup_pid, status.mongo_pid)
    # Valkey's two timers, each 5 a second: they wake it together, until one has taken longer than a
    # millisecond once; pymongo's threads: 4; those of the MongoDB server: 14.
    most = (2, 12, 8, 19)
    for _ in range(10):  # on a busy machine, a process also sleeps in the middle of its work
        before = list(map(wake_ups, pids))
        sent = commands_meanwhile(idle_jam, WATCHED_S)
        found = [(wake_ups(pid) - one) / WATCHED_S for pid, one in zip(pids, before, strict=True)]
        if sent == 0 and all(one < allowed for one, allowed in zip(found, most, strict=True)):
            return
    pytest.fail(
        f"{sent} commands; wake-ups a second of supervisor, Valkey, backup, MongoDB: {found}, "
        f"not {most}"
    )


def test_what_comes_after_a_long_idle_time_is_copied(idle_jam: Jamboree) -> None:
    play(idle_jam.record(CountingEnv(5)), [ACTION] * 5)
    idle_jam.flush()
    assert not is_complete(idle_jam) or idle_jam.backup.verify()
    wait_until(lambda: is_complete(idle_jam))
