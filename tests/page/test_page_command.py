"""`jamboree-gym ui`, as a process."""

from __future__ import annotations

import json
import signal
import urllib.request

import gymnasium as gym
from conftest import Server
from served_page import play
from typer.testing import CliRunner
from warm import start_warm

from jamboree_gym import Jamboree
from jamboree_gym.cli import app

PROGRAM = """
import sys

sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
from jamboree_gym.cli import main

main()
"""


def test_the_page_is_served_until_ctrl_c(jam: Jamboree, valkey: Server, namespace: str) -> None:
    play(jam.record(gym.make("CartPole-v1"), run="shown"), 1)
    jam.flush()
    arguments = ("ui", "--namespace", namespace, "--redis-url", valkey.url)
    process = start_warm(PROGRAM, *arguments, "--port", "0", "--no-open")
    url = process.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{url}api/runs") as answer:
        assert [one["name"] for one in json.load(answer)["runs"]] == ["shown"]
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "Traceback" not in said


def test_a_port_that_cannot_be_bound_is_said(valkey: Server, namespace: str) -> None:
    arguments = ["ui", "--namespace", namespace, "--redis-url", valkey.url, "--no-open"]
    done = CliRunner().invoke(app, [*arguments, "--port", "0", "--host", "256.0.0.1"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "256.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr
