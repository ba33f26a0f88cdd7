"""docs/architecture.md says which files a common step passes: here it is traced, and compared."""

from __future__ import annotations

import ast
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium as gym
import pytest
from processes import wait_until

import jamboree_gym
from jamboree_gym import Jamboree
from jamboree_gym.compiled import compiled_core

PACKAGE = Path(jamboree_gym.__file__).parent
PAGE = (PACKAGE.parent / "docs" / "architecture.md").read_text()
NEVER_S = 3600.0
MOST_FILES = 12
COMPILED = {"arrays/packing.py"}  # where the compiled core is built, it does all that a step needs
QUICK_ROOMS = ("delivery", "encoding", "journal", "recording", "store/redis")


class Trace:
    """The modules of the package whose functions are called, on this thread and the writer's."""

    def __init__(self) -> None:
        self.is_on = False
        self.files = set[str]()

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if self.is_on and event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            self.files.add(Path(frame.f_code.co_filename).relative_to(PACKAGE).as_posix())

    def on_new_thread(self, frame: FrameType, event: str, argument: object) -> None:
        """Threads call this first: it leaves all but the writer's alone."""
        is_writer = threading.current_thread().name == "jamboree-writer"
        sys.setprofile(self if is_writer else None)


@pytest.fixture
def trace(no_garbage: None) -> Iterator[Trace]:
    trace = Trace()
    threading.setprofile(trace.on_new_thread)
    yield trace
    threading.setprofile(None)  # type: ignore[arg-type] # as Python documents it


def way_on_the_page() -> list[str]:
    """The files in the first column of the two tables."""
    section = PAGE.split("## One step")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def guards_on_the_page() -> set[str]:
    (found,) = re.findall(r"asks these guards:(.*?)\n\n", PAGE, re.DOTALL)
    return set(re.findall(r"`([^`]+\.py)`", found))


def test_the_page_names_no_more_files_than_fit_in_a_head() -> None:
    way = way_on_the_page()
    assert len(set(way)) == len(way) <= MOST_FILES
    assert all((PACKAGE / name).is_file() for name in way)


@pytest.mark.one_server  # the page names the files of one; a cluster adds its own
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_a_common_step_passes_the_files_that_the_page_names(
    env_id: str, trace: Trace, open_jamboree: Callable[..., Jamboree]
) -> None:
    jam = open_jamboree(flush_interval_s=NEVER_S)
    env: gym.Env[Any, Any] = jam.record(gym.make(env_id))
    env.reset(seed=1)
    outbox = env.handler.writing
    action = env.action_space.sample()

    def record_and_deliver(steps: int) -> None:
        for _ in range(steps):
            env.step(action)
        sys.setprofile(None)
        jam._connection.writer.hurry()
        wait_until(lambda: outbox.is_settled)

    record_and_deliver(3)
    trace.is_on = True
    sys.setprofile(trace)
    record_and_deliver(3)
    wait_until(lambda: guards_on_the_page() <= trace.files)  # the writer asks some at its end
    trace.is_on = False

    compiled = set() if compiled_core() is None else COMPILED
    way = {name for name in way_on_the_page() if not name.endswith(".lua")}
    assert trace.files - guards_on_the_page() == way - compiled


def aliases_called(source: str) -> list[str]:
    """Calls as `list[int]()`, which take ten times as long as `[]`; once in an object is enough."""
    return [
        ast.unparse(node)
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef) and function.name != "__init__"
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript)
        if ast.unparse(node.func.value) in ("list", "dict", "set", "deque", "defaultdict")
    ]


@pytest.mark.parametrize("room", QUICK_ROOMS)
def test_no_step_and_no_delivery_makes_a_generic_alias(room: str) -> None:
    assert aliases_called("def f(): return list[int]()") == ["list[int]()"]
    sources = {path: path.read_text() for path in (PACKAGE / room).rglob("*.py")}

    assert not {path: found for path in sources if (found := aliases_called(sources[path]))}
