"""The Python in README.md and docs/ runs as it stands, each page in a fresh interpreter."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jamboree_gym.store.embedded import stop_servers

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NEEDS = {
    "README.md": "torch",
    "formats.md": "torch",
    "read.md": "vaex",
    "recent.md": "torch",
    "replay-buffers.md": "torch",
    "train.md": "torch",
}


def code_of(page: Path) -> str:
    return "\n".join(BLOCK.findall(page.read_text()))


def with_marks() -> Iterator[object]:
    for page in PAGES:
        if code_of(page):
            marks = [getattr(pytest.mark, NEEDS[page.name])] if page.name in NEEDS else []
            yield pytest.param(page, marks=marks, id=str(page.relative_to(ROOT)))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    yield home
    stop_servers(home)


@pytest.mark.timeout(300)  # a busy machine takes its time
@pytest.mark.parametrize("page", list(with_marks()))
def test_the_code_of_a_page_runs(page: Path, home: Path, tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text(code_of(page))
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "JAMBOREE_HOME": str(home), "JAMBOREE_BACKUP": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []
