"""`jamboree-gym ui`, as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from conftest import Server
from processes import HEAR_CTRL_C, PATHS
from served_page import play

from jamboree_gym import Jamboree

PROGRAM = HEAR_CTRL_C + "from jamboree_gym.cli import main; main()"

StartPage = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start_page(valkey: Server, namespace: str) -> Iterator[StartPage]:
    """Starts the command on the store of the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, "ui", "--namespace", namespace, *options]
        environment = {"JAMBOREE_REDIS_URL": valkey.url, "PYTHONPATH": os.pathsep.join(PATHS)}
        started.append(
            subprocess.Popen(
                command,
                env=os.environ | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_page_is_served_until_ctrl_c(start_page: StartPage, jam: Jamboree) -> None:
    import gymnasium as gym

    play(jam.record(gym.make("CartPole-v1"), run="shown"), 1)
    jam.flush()
    process = start_page("--port", "0", "--no-open")
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{url}api/runs") as answer:
        assert [one["name"] for one in json.load(answer)["runs"]] == ["shown"]
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "Traceback" not in said


def test_a_port_that_cannot_be_bound_is_said(start_page: StartPage, valkey: Server) -> None:
    process = start_page("--port", "0", "--host", "256.0.0.1", "--no-open")
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert "256.0.0.1" in said
    assert "Traceback" not in said
