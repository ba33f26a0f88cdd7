"""docs/architecture.md says which files a read passes, and in which forms: here it is traced."""

from __future__ import annotations

import re
import sys
import uuid
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import FrameType

import pytest
from conftest import Server
from warm import run_warm

import jamboree_gym
from jamboree_gym import Jamboree

PACKAGE = Path(jamboree_gym.__file__).parent
SECTION = (PACKAGE.parent / "docs" / "architecture.md").read_text().split("## One read")[1]
SECTION = SECTION.split("\n## ")[0]
STEPS = 5
RUNS = ("CartPole-v1", "Pendulum-v1")
RECORDS = f"""
import sys
import gymnasium as gym
from jamboree_gym import Jamboree
with Jamboree(sys.argv[1], namespace=sys.argv[2], backup=False) as jam:
    for env_id in {RUNS}:
        with jam.record(gym.make(env_id), run=env_id) as env:
            env.reset(seed=1)
            for _ in range({STEPS}):
                env.step(env.action_space.sample())
"""


Row = tuple[list[str], str]
"""A row of a table: its files, and the form of the data there."""


class Trace:
    """What the package does on this thread: each call, and the form of each answer."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.answers: list[tuple[str, str]] = []

    def __call__(self, frame: FrameType, event: str, answer: object) -> None:
        if event in ("call", "return") and frame.f_code.co_filename.startswith(str(PACKAGE)):
            file = Path(frame.f_code.co_filename).relative_to(PACKAGE).as_posix()
            self.calls.append((file, event))
            self.answers.append((file, form_of(answer) if event == "return" else ""))

    def order_of(self, files: list[str], since: int) -> list[str]:
        """These files, in the order in which they are called first."""
        called = [file for file, event in self.calls[since:] if event == "call"]
        return [file for file in dict.fromkeys(called) if file in files]

    def first(self, rows: list[Row], since: int) -> Iterator[list[int]]:
        """For each row, when its files first return data of its form."""
        for files, form in rows:
            yield [self.answers.index((file, form), since) for file in files]


def form_of(answer: object) -> str:
    """The class of an answer; of a list, a tuple or a dict that of its first item."""
    while isinstance(answer, list | tuple | dict) and answer and not hasattr(answer, "_fields"):
        answer = next(iter(answer.values() if isinstance(answer, dict) else answer))
    return type(answer).__name__


def files_in(text: str) -> list[str]:
    return re.findall(r"`([\w/]+\.py)`", text)


def questions_on_the_page() -> list[list[str]]:
    """The files that the question passes: of the query, and of the steps."""
    passed = re.findall(r"The question passes\s(.*?)\sanswer\s", SECTION, re.DOTALL)
    return [files_in(sentence) for sentence in passed]


def tables_on_the_page() -> list[list[Row]]:
    """What the answers pass: of the query, and of the steps. An empty form is that above it."""
    tables = []
    for table in re.findall(r"(?:^\|.*\n)+", SECTION, re.MULTILINE):
        rows = list[Row]()
        for line in table.splitlines()[2:]:
            _, files, _, told, _ = line.split("|")
            named = re.findall(r"`(\w+)`", told)
            rows.append((files_in(files), named[0] if named else rows[-1][1]))
        tables.append(rows)
    return tables


def way_on_the_page() -> set[str]:
    way = {file for rows in tables_on_the_page() for files, _ in rows for file in files}
    return way | {file for files in questions_on_the_page() for file in files}


def asked_on_the_page() -> set[str]:
    (found,) = re.findall(r"A read also asks these files\.(.*?)\n\n", SECTION, re.DOTALL)
    return set(files_in(found))


def once_on_the_page() -> set[str]:
    """Of these, what a process asks once for each schema: another read may have done that."""
    (found,) = re.findall(r"once for each schema, in (.*?)\.\n\n", SECTION, re.DOTALL)
    return set(files_in(found + "."))


@pytest.fixture(scope="module")
def recorded(valkey: Server) -> str:
    """A namespace with two runs that another process has recorded."""
    namespace = f"test-{uuid.uuid4().hex[:12]}"
    assert run_warm(RECORDS, valkey.url, namespace).stderr == ""
    return namespace


@pytest.mark.usefixtures("no_garbage")
@pytest.mark.one_server  # the page names the files of one; a cluster adds its own
@pytest.mark.parametrize("run", RUNS)
def test_a_read_passes_the_files_and_forms_that_the_page_names(
    run: str, recorded: str, open_jamboree: Callable[..., Jamboree]
) -> None:
    jam, trace = open_jamboree(namespace=recorded, backup=False), Trace()

    sys.setprofile(trace)
    data = jam.episodes(run=run)[0].data()
    sys.setprofile(None)
    assert len(data) == STEPS

    found = trace.answers.index(("reading/query.py", "Episode"))
    for asked, rows, since in zip(
        questions_on_the_page(), tables_on_the_page(), (0, found), strict=True
    ):
        assert trace.order_of(asked, since) == asked
        times = list(trace.first(rows, since))
        assert [sorted(row) for row in times] == times
        assert sorted(times) == times
        assert all(before[-1] < after[0] for before, after in pairwise(times))

    assert not way_on_the_page() & asked_on_the_page()
    passed = {file for file, _ in trace.calls} | once_on_the_page()
    assert passed == way_on_the_page() | asked_on_the_page()


def test_the_forms_are_numbered_in_their_order() -> None:
    numbers = [int(one) for one in re.findall(r"\| (\d+)\. `", SECTION)]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.usefixtures("no_garbage")
@pytest.mark.one_server
def test_a_read_of_the_newest_steps_is_few_calls(
    recorded: str, open_jamboree: Callable[..., Jamboree]
) -> None:
    jam, trace = open_jamboree(namespace=recorded, backup=False), Trace()
    episode = jam.episodes(run=RUNS[1])[0]
    assert len(episode.recent(3)) == len(episode.recent(3)) == 3  # what is read once is known

    sys.setprofile(trace)
    episode.recent(3)
    sys.setprofile(None)

    calls = [file for file, event in trace.calls if event == "call"]
    assert len(calls) < 130
