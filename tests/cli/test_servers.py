"""`jamboree-gym up`, `down` and `status`, run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from conftest import quick_disk
from pymongo import MongoClient
from recorded_store import WARM_PROGRAM
from typer.testing import CliRunner
from warm import start_warm

import jamboree_gym
from jamboree_gym.cli import build_app
from jamboree_gym.servers.embedded import EmbeddedServers, server_status, stop_servers

ROOT = str(Path(jamboree_gym.__file__).parents[1])
PROGRAM = "from jamboree_gym.cli import main; main()"
PLAIN = {"COLUMNS": "120", "NO_COLOR": "1"}


@contextmanager
def new_home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="jg-", dir=quick_disk()) as parent:
        home = Path(parent) / "home"
        yield home
        stop_servers(home)


@pytest.fixture
def home() -> Iterator[Path]:
    with new_home() as made:
        yield made


@pytest.fixture(scope="module")
def printed_by_up() -> Iterator[dict[str, str]]:
    """What `up --stay --show-password` printed, a process of its own that has ended."""
    with new_home() as home:
        up = run("up", "--stay", "--show-password", "--home", home)
        assert up.returncode == 0, up.stderr
        yield {"home": str(home), **dict(line.split() for line in up.stdout.splitlines())}


@pytest.fixture
def running_home(printed_by_up: dict[str, str]) -> Path:
    """One whose servers run, and stay."""
    return Path(printed_by_up["home"])


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own."""
    variables = {**os.environ, **PLAIN, **environment}
    process = start_warm(WARM_PROGRAM, *arguments, environment=variables)
    out, said = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, said)


def run_python(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """One that is begun as a shell does it."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": ROOT} | PLAIN | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def shown(*arguments: str | Path, **environment: str) -> str:
    """What a command prints, run in this process, which is quicker."""
    done = CliRunner().invoke(build_app(), [*map(str, arguments)], env=PLAIN | environment)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_up_prints_urls_that_work_after_its_end(
    printed_by_up: dict[str, str], running_home: Path
) -> None:
    urls = printed_by_up
    with redis.Redis.from_url(urls["redis"]) as client, MongoClient(urls["mongo"]) as mongo:
        assert client.ping()
        assert mongo.admin.command("ping")["ok"]
    assert server_status(running_home).clients == 0


def test_down_stops_what_runs(home: Path) -> None:
    EmbeddedServers.join(home).close()
    assert run("down", "--home", home).stdout == "stopped\n"
    assert shown("down", "--home", home) == "nothing was running\n"
    assert not server_status(home).running


def test_up_masks_the_password(running_home: Path) -> None:
    assert "mongodb://jamboree:***@127.0.0.1:" in shown("up", "--home", running_home)


def test_home_may_come_from_the_environment(home: Path, running_home: Path) -> None:
    assert str(running_home) in shown("up", JAMBOREE_HOME=str(running_home))
    EmbeddedServers.join(home).close()
    assert shown("down", JAMBOREE_HOME=str(home)) == "stopped\n"


def test_status_shows_what_runs(home: Path, running_home: Path) -> None:
    (home / "valkey").mkdir(parents=True)
    assert "not running" in shown("status", "--home", home)
    assert [one.name for one in home.iterdir()] == ["valkey"]

    found = server_status(running_home)
    status = shown("status", "--home", running_home)
    for pid in (found.supervisor_pid, found.redis_pid, found.mongo_pid):
        assert f"pid {pid}" in status
    assert "when told to" in status


def test_error_is_two_lines_and_exit_code_3(home: Path) -> None:
    home.write_text("a file")
    failed = run("up", "--home", home)
    assert failed.returncode == 3
    assert failed.stdout == ""
    assert failed.stderr.startswith(f"error: cannot keep the embedded servers in {home}")
    assert len(failed.stderr.splitlines()) == 2
    home.unlink()


def test_without_the_extra_it_names_the_pip_command(tmp_path: Path) -> None:
    (tmp_path / "typer").mkdir()
    (tmp_path / "typer" / "__init__.py").write_text(
        "raise ModuleNotFoundError('No module named typer', name='typer')"
    )
    failed = run_python("status", PYTHONPATH=os.pathsep.join([str(tmp_path), ROOT]))
    assert failed.returncode == 2
    assert failed.stderr == "the command line needs: pip install 'jamboree-gym[cli]'\n"
