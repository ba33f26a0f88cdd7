"""Which tests `make cluster` runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import on_a_cluster
import pytest

TESTS = """
import pytest

@pytest.fixture
def valkey(): pass

@pytest.fixture
def jam(valkey): pass

@pytest.mark.parametrize("write", ["sync", "fsync"])
def test_that_shares_it(jam, write): pass

@pytest.mark.one_server
def test_about_one_server(jam): pass

def test_without_a_redis(): pass
"""

SHARING = ["test_that_shares_it[sync]", "test_that_shares_it[fsync]"]


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ([], [*SHARING, "test_about_one_server", "test_without_a_redis"]),
        (["--on-a-cluster", "valkey9"], SHARING),
        (["--on-a-cluster", "redis7"], SHARING[:1]),  # it has no WAITAOF
    ],
)
def test_those_that_share_a_redis_but_for_those_about_one_server(
    tmp_path: Path, options: list[str], chosen: list[str]
) -> None:
    shutil.copy(on_a_cluster.__file__, tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = one_server\n")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["on_a_cluster"]\n')
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *options]
    quick = {"PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run(
        command, env=os.environ | quick, cwd=tmp_path, capture_output=True, text=True
    )
    found = [line for line in ended.stdout.splitlines() if "::" in line]
    assert [line.partition("::")[2] for line in found] == chosen, ended.stderr
