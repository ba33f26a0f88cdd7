"""The Python in README.md and docs/ runs as it stands.

Where a page begins with commands, these run, too. `make test` runs the quick pages in two
interpreters, of which one has torch. `make long` runs all, each in a fresh one.
"""

import inspect
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from embedded_home import new_home
from pages import CommandFailed, begin, run_commands, run_page

from jamboree_gym import Jamboree

pytestmark = [pytest.mark.once, pytest.mark.timeout(300)]  # a busy machine takes its time

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FIRST_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = {"docs/trainers.md"}  # tests/trainers/test_rllib.py runs it: it needs RLlib
NEEDS = {
    "README.md": "torch",
    "docs/decisions/stable-baselines3.md": "torch",
    "docs/envs/tensors.md": "torch",
    "docs/formats.md": "torch",
    "docs/read.md": "vaex",
    "docs/recent.md": "torch",
    "docs/replay-buffers.md": "torch",
    "docs/train.md": "torch",
}
# Left to `make long`: the README trains, too, and each format and buffer has a module of tests.
SLOW = {"docs/formats.md", "docs/replay-buffers.md", "docs/train.md"}
MOST_LINES_BEFORE_A_BLOCK = 9


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks_of(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text())


def scripts_of(page: Path) -> list[str]:
    """What a reader pastes: each block of the README, and a page of `docs/` from top to bottom."""
    blocks = blocks_of(page)
    return blocks if name_of(page) == "README.md" else ["\n".join(blocks)] if blocks else []


def needs_torch(page: Path) -> bool:
    return NEEDS.get(name_of(page)) == "torch"


def first_block(page: Path) -> tuple[str, str, str]:
    """What stands before the first block of code of a page, its language, and the code."""
    text = page.read_text()
    found = FIRST_BLOCK.search(text)
    return (text[: found.start()], found[1], found[2]) if found else (text, "", "")


def parameters(pages: list[Path]) -> list[Any]:
    """Code of the pages; that with torch is last, as one worker of xdist gets neighbours."""
    return [
        pytest.param(
            page,
            code,
            marks=[getattr(pytest.mark, NEEDS[name_of(page)])] if name_of(page) in NEEDS else [],
            id=f"{name_of(page)}-{number}",
        )
        for page in sorted(pages, key=needs_torch)
        for number, code in enumerate(scripts_of(page), start=1)
    ]


@contextmanager
def new_environment() -> Iterator[dict[str, str]]:
    with new_home() as home:  # its servers are killed: told to end, they take seconds
        yield {"JAMBOREE_HOME": str(home), "JAMBOREE_BACKUP": "1"}


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with new_environment() as variables:
        yield variables


@pytest.fixture(scope="module")
def other_environment() -> Iterator[dict[str, str]]:
    """Of a second home: some pages find there what they have recorded themselves, once."""
    with new_environment() as variables:
        yield variables


Run = Callable[..., None]


@pytest.fixture(scope="module")
def run(environment: dict[str, str]) -> Iterator[Run]:
    """Runs scripts and commands in one interpreter, and what needs torch in another."""
    spawn = multiprocessing.get_context("spawn")

    def interpreter() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, spawn, initializer=begin, initargs=(environment,))

    with interpreter() as one, interpreter() as other:  # each starts with its first script

        def run_it(script: Path, *, torch: bool = False) -> None:
            what = run_commands if script.suffix == ".sh" else run_page
            (other if torch else one).submit(what, script).result(timeout=250)

        yield run_it


@pytest.mark.parametrize(
    ("page", "code"), parameters([page for page in PAGES if name_of(page) not in SLOW | ELSEWHERE])
)
def test_the_code_of_a_page_runs(page: Path, code: str, run: Run, tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text(code)
    run(script, torch=needs_torch(page))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_begins_with_what_it_lets_you_do_and_with_a_block_that_runs(page: Path) -> None:
    before, language, _ = first_block(page)
    assert re.match(r"# .+\n\n\S", before)
    assert "\n## " not in before
    assert len(before.splitlines()) <= MOST_LINES_BEFORE_A_BLOCK
    # cli/test_shown_session.py runs the session in README.md, and compares.
    assert language == "console" if name_of(page) == "README.md" else language in ("python", "sh")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if first_block(page)[1] == "sh"], ids=name_of
)
def test_the_commands_at_the_beginning_of_a_page_run(page: Path, run: Run, tmp_path: Path) -> None:
    script = tmp_path / "page.sh"
    script.write_text(first_block(page)[2])
    run(script)


def test_a_command_that_fails_fails_the_test_of_its_page(run: Run, tmp_path: Path) -> None:
    for number, command in enumerate(("jamboree-gym show zzzzzz  # none", "make nothing")):
        script = tmp_path / f"{number}.sh"
        script.write_text(f"{command}\n")
        with pytest.raises(CommandFailed, match=command.partition("  ")[0]):
            run(script)


@pytest.mark.long
@pytest.mark.parametrize(
    ("page", "code"), parameters([page for page in PAGES if name_of(page) not in ELSEWHERE])
)
def test_the_code_of_a_page_runs_in_a_fresh_interpreter(
    page: Path, code: str, other_environment: dict[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "page.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=os.environ | other_environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_page_finds_nothing_of_the_page_before(run: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text(
        "import os, gymnasium, jamboree_envs\n"
        "gymnasium.register('Mine-v0', entry_point='x:X')\n"
        "os.environ['MINE'] = name = 'mine'\n"
    )
    second.write_text(
        "import os, gymnasium\n"
        "assert 'MINE' not in os.environ and 'name' not in globals()\n"
        "assert not [one for one in gymnasium.registry if one.startswith(('Mine', 'jamboree'))]\n"
        "import jamboree_envs\n"
        "gymnasium.make('jamboree/Balance-v0')\n"
        "raise ValueError('the second page')\n"
    )
    run(first)
    with pytest.raises(ValueError, match="the second page"):
        run(second)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_a_heading_lead_to_one(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text())
    missing = [
        f"{name}#{heading}"
        for name, heading in links
        if heading not in headings_of(page.parent / name if name else page)
    ]
    assert missing == []


def headings_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.once
@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_each_row_of_a_table_has_the_cells_of_its_header(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    tables = re.findall(r"(?:^[ ]*\|.*\n)+", text, flags=re.MULTILINE)
    for table in tables:
        rows = [re.sub(r"`[^`]*`", "", row) for row in table.splitlines()]
        assert re.fullmatch(r"[ |:-]+", rows[1]), table
        assert len({row.count("|") for row in rows}) == 1, table


@pytest.mark.once
def test_files_that_pages_name_are_there() -> None:
    folders = ("jamboree_gym", "envs", "tests", "benchmarks", "examples", ".ci")
    files = [f"/{path.relative_to(ROOT)}" for one in folders for path in (ROOT / one).rglob("*.*")]
    named = {
        name for page in PAGES for name in re.findall(r"`([\w./-]*\.(?:py|lua))`", page.read_text())
    }
    missing = [name for name in named if not any(file.endswith(f"/{name}") for file in files)]
    assert missing == []


def test_the_arguments_of_a_jamboree_are_in_the_table_with_their_defaults() -> None:
    table = section_of("record.md", "## The arguments of `Jamboree`")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", table, re.MULTILINE)
    parameters = inspect.signature(Jamboree).parameters
    assert [name for name, _ in rows] == [*parameters]
    for name, shown in rows:
        default = parameters[name].default
        if default is None:
            assert re.match(r"`JAMBOREE_\w+`", shown)
        else:
            assert eval(shown.strip("`"), {"time": time}) == default


def section_of(page: str, heading: str) -> str:
    return (ROOT / "docs" / page).read_text().split(heading)[1].split("\n## ")[0]


def test_ten_places_are_where_the_page_says() -> None:
    table = section_of("architecture.md", "## Ten places to know")
    found = re.findall(r"^\| [^|]* \| `([\w/]+\.py)`[^|]* \| `(\w+)` \|$", table, re.MULTILINE)
    assert len(found) == 10
    for file, name in found:
        code = (ROOT / "jamboree_gym" / file).read_text()
        assert re.search(rf"^(class|def) {name}\b", code, re.MULTILINE), (file, name)
