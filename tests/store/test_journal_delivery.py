"""The embedded supervisor delivers what a killed client had not delivered."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from embedded_home import SUPERVISOR, new_home, processes_of, wait_until
from killed_writers import Scene, kill_with_servers
from lengths import quick_and_long
from processes import read_line
from warm import start_warm

from jamboree_gym import Jamboree

pytestmark = pytest.mark.faults

CHILD = """
import sys
from recorded_envs import ACTION, CountingEnv
from jamboree_gym import Jamboree

home, *options = sys.argv[1:]
jam = Jamboree(home=home, backup=False, flush_interval_s=3600, **dict(zip(["namespace"], options)))
env = jam.record(CountingEnv(length=100), run="killed")
env.reset()
for _ in range(250):
    if env.step(ACTION)[2]:
        env.reset()
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("JAMBOREE_IDLE_EXIT_S", "20")
    with new_home() as made:
        yield made


def check(jam: Jamboree, times: int = 1) -> None:
    """All that so many children have recorded is there, and nothing twice."""
    found = jam.episodes(run="killed").summaries()
    assert [(one.status, one.steps) for one in found] == [
        ("terminated", 100),
        ("terminated", 100),
        ("interrupted", 50),
    ] * times


def test_nobody_has_to_open_the_store_for_what_a_killed_client_has_left(home: Path) -> None:
    with Jamboree(home=home, backup=False) as jam:  # was here before: it delivers nothing
        child = start_warm(CHILD, home)
        read_line(child)  # it has recorded
        writer = next(path.stem for path in (home / "journal").glob("*.lock"))
        child.send_signal(signal.SIGKILL)
        child.communicate()

        wait_until(lambda: not list((home / "journal").glob(f"{writer}.*")))

        check(jam)


@pytest.mark.long  # the others kill one
def test_several_clients_may_be_killed_at_once_and_again_each_in_its_namespace(home: Path) -> None:
    names = ["one", "two", "three"]
    with ExitStack() as stack:
        opened = [
            stack.enter_context(Jamboree(home=home, backup=False, namespace=name)) for name in names
        ]
        for times in (1, 2):
            children = [start_warm(CHILD, home, name) for name in names]
            for child in children:
                read_line(child)
            for child in children:
                child.send_signal(signal.SIGKILL)
            for child in children:
                child.communicate()

            wait_until(lambda: not list((home / "journal").iterdir()))

            for jam in opened:
                check(jam, times)


@pytest.mark.parametrize(
    ("killed", "kind"),
    quick_and_long(
        [("supervisor", "single"), ("all", "single"), ("all", "vector")],
        quick=[("supervisor", "single")],
    ),
)
def test_who_opens_the_store_next_delivers_if_the_supervisor_is_killed_with_its_client(
    home: Path, tmp_path: Path, killed: str, kind: str
) -> None:
    with ExitStack() as stack:

        def open_one(url: None, **options: Any) -> Jamboree:
            return stack.enter_context(Jamboree(url, **options))

        def to_kill() -> list[psutil.Process]:
            found = processes_of(home)
            return found if killed == "all" else [one for one in found if _is_supervisor(one)]

        scene = Scene("jamboree", home, tmp_path, open_one)
        stack.callback(scene.close)
        tally = kill_with_servers(scene, kind, to_kill)

    assert tally.noted
    assert tally.is_right, tally


def _is_supervisor(process: psutil.Process) -> bool:
    return SUPERVISOR in process.cmdline()
