"""An open Jamboree that nobody uses: its processes sleep. Counted are their wake-ups, not seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from embedded_home import new_home, wait_until

from jamboree_gym.servers.embedded import EmbeddedServers, server_status

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc counts wake-ups")

WATCHED_S = 3.0


@pytest.fixture
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


def wake_ups_a_second(*pids: int | None) -> list[float]:
    """Of each process, while nothing happens."""
    before = list(map(wake_ups, pids))
    time.sleep(WATCHED_S)  # there is nothing to wait for: that is the point
    return [(wake_ups(pid) - one) / WATCHED_S for pid, one in zip(pids, before, strict=True)]


def test_a_supervisor_sleeps_while_its_servers_run(home: Path) -> None:
    with EmbeddedServers.join(home) as servers:
        servers.mongo_url()
        wait_until(lambda: server_status(home).mongo_pid is not None)
        (supervisor,) = wake_ups_a_second(servers.status().supervisor_pid)
        assert supervisor < 2
