"""`jamboree-gym up`, `down` and `status`, run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pymongo import MongoClient

import jamboree_gym
from jamboree_gym.store.embedded import server_status, stop_servers

ROOT = str(Path(jamboree_gym.__file__).parents[1])
PROGRAM = "from jamboree_gym.cli import main; main()"


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="jg-") as parent:
        made = Path(parent) / "home"
        yield made
        stop_servers(made)


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": ROOT, "COLUMNS": "120", "NO_COLOR": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_up_prints_urls_that_work_and_down_stops(home: Path) -> None:
    up = run("up", "--stay", "--show-password", "--home", home)
    urls = dict(line.split() for line in up.stdout.splitlines())
    with redis.Redis.from_url(urls["redis"]) as client, MongoClient(urls["mongo"]) as mongo:
        assert client.ping()
        assert mongo.admin.command("ping")["ok"]
    assert server_status(home).clients == 0

    assert run("down", "--home", home).stdout == "stopped\n"
    assert run("down", "--home", home).stdout == "nothing was running\n"
    assert not server_status(home).running


def test_up_masks_the_password(home: Path) -> None:
    up = run("up", "--home", home)
    assert up.returncode == 0
    assert "mongodb://jamboree:***@127.0.0.1:" in up.stdout


def test_home_may_come_from_the_environment(home: Path) -> None:
    assert str(home) in run("up", JAMBOREE_HOME=str(home)).stdout
    assert run("down", JAMBOREE_HOME=str(home)).stdout == "stopped\n"


def test_status_shows_what_runs(home: Path) -> None:
    idle = run("status", "--home", home).stdout
    assert "not running" in idle
    assert not home.exists()

    run("up", "--stay", "--home", home)
    found = server_status(home)
    shown = run("status", "--home", home).stdout
    for pid in (found.supervisor_pid, found.redis_pid, found.mongo_pid):
        assert f"pid {pid}" in shown
    assert "when told to" in shown


@pytest.mark.parametrize("command", ["up", "down", "status"])
def test_help_has_an_example(command: str) -> None:
    shown = run(command, "--help").stdout
    assert f"Example: jamboree-gym {command}" in shown


def test_error_is_two_lines_and_exit_code_1(home: Path) -> None:
    home.write_text("a file")
    failed = run("up", "--home", home)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.startswith(f"error: cannot keep the embedded servers in {home}")
    assert len(failed.stderr.splitlines()) == 2
    home.unlink()


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_extra_it_names_the_pip_command(tmp_path: Path, package: str) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(
        f"raise ModuleNotFoundError('No module named {package}', name={package!r})"
    )
    failed = run("status", PYTHONPATH=os.pathsep.join([str(tmp_path), ROOT]))
    assert failed.returncode == 2
    assert failed.stderr == "the command line needs: pip install 'jamboree-gym[cli]'\n"
