"""What a machine cannot run is left out by name, and the run says so; CI leaves nothing out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import left_out
import pytest

TESTS = """
import pytest

@pytest.mark.parametrize("kind", ["valkey9", "redis7"])
def test_on_each_kind(kind): pass

@pytest.mark.redis7
def test_on_one_kind(): pass

def test_on_none(): pass
"""
# Whatever else this Python lacks is not looked for.
CONFTEST = """
import left_out

pytest_plugins = ["left_out"]
left_out.NEEDS = [need for need in left_out.NEEDS if need.marker == "redis7"]
"""
LEFT_OUT = (
    "left out: 2 tests of Redis 7's own dialect"
    " (no redis-server on PATH: apt-get install redis-server)"
)

# Other plugins take longer to load than the tests.
ONLY_XDIST = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin"}

Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.once  # it says itself what must not be missing


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the tests above with programs and a CI of the test's own."""
    shutil.copy(left_out.__file__, tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)

    def run(
        *arguments: str, programs: tuple[str, ...] = (), ci: str = ""
    ) -> subprocess.CompletedProcess[str]:
        (tmp_path / "bin").mkdir()
        for program in programs:
            (tmp_path / "bin" / program).symlink_to(sys.executable)
        return subprocess.run(
            [sys.executable, "-m", "pytest", "--rootdir", str(tmp_path), *arguments],
            env=os.environ
            | {"PATH": str(tmp_path / "bin"), "CI": ci, "PYTEST_ADDOPTS": "", **ONLY_XDIST},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "workers"])
def test_without_redis_server_its_tests_are_left_out_and_one_line_says_so(
    run: Run, arguments: tuple[str, ...]
) -> None:
    ended = run(*arguments)
    assert ended.returncode == 0, ended.stdout
    assert "2 passed" in ended.stdout
    assert "skipped" not in ended.stdout
    assert [line for line in ended.stdout.splitlines() if "left out" in line] == [LEFT_OUT]


@pytest.mark.parametrize(
    "arguments",
    [(), pytest.param(("-n", "2"), marks=pytest.mark.long)],
    ids=["one process", "workers"],
)
def test_with_redis_server_nothing_is_left_out(run: Run, arguments: tuple[str, ...]) -> None:
    ended = run(*arguments, programs=("redis-server",), ci="true")
    assert ended.returncode == 0, ended.stderr
    assert "4 passed" in ended.stdout
    assert "left out" not in ended.stdout


def test_what_was_not_asked_for_is_not_left_out(run: Run) -> None:
    assert "left out" not in run("-k", "none").stdout


def test_in_ci_a_run_without_redis_server_ends_at_once(run: Run) -> None:
    ended = run("-n", "2", ci="true")
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    assert "passed" not in ended.stdout
    assert "no test out" in ended.stderr
    assert "apt-get install redis-server" in ended.stderr


def test_in_ci_what_the_command_names_is_left_out(run: Run) -> None:
    ended = run("-m", "not redis7", ci="true")
    assert ended.returncode == 0, ended.stderr
    assert "2 passed" in ended.stdout
