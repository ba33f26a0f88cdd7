"""`jamboree-gym top`: on a terminal it goes on, elsewhere it is one table."""

from __future__ import annotations

import os
import signal
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

import gymnasium as gym
import pytest
from conftest import Server
from recorded_store import ODD, Store, record_store

from jamboree_gym.cli.live_screen import _is_pressed

SCREEN, USUAL_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"


@pytest.fixture(scope="module")
def store(valkey: Server, mongo: Server) -> Store:
    return record_store(valkey.url, mongo.url)


class Terminal:
    """A process of `top` on a terminal of its own."""

    def __init__(self, store: Store, *arguments: object) -> None:
        self.ours, theirs = os.openpty()
        self.before = termios.tcgetattr(theirs)
        self.process = store.start(
            "top", "--every-s", "0.1", *arguments, stdin=theirs, stdout=theirs
        )
        self.theirs = theirs
        self.seen = b""

    def until(self, text: bytes) -> None:
        """Read until a text comes."""
        deadline = time.monotonic() + 60
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            self.seen += os.read(self.ours, 65536)

    def ended(self) -> int:
        """Its exit code, when the terminal is as it was."""
        self.until(USUAL_SCREEN)
        assert self.process.communicate(timeout=60)[1] == ""
        assert termios.tcgetattr(self.theirs)[:4] == self.before[:4]
        return int(self.process.returncode)


@contextmanager
def on_a_terminal(store: Store) -> Iterator[Terminal]:
    terminal = Terminal(store)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.ours)
        os.close(terminal.theirs)


def test_a_q_ends_also_what_is_drawn_without_a_pause() -> None:
    reading, writing = os.pipe()
    try:
        assert not _is_pressed(reading, 0.0)
        os.write(writing, b"xq")
        assert _is_pressed(reading, 0.0)
    finally:
        os.close(reading)
        os.close(writing)


def test_without_a_terminal_it_is_one_table(store: Store) -> None:
    lines = store.lines("top")
    assert {line[0] for line in lines} == {"ppo", "odd\\x1b[2J\\n\\t"}
    assert {len(line) for line in lines} == {7}


def test_what_is_running_stands_at_the_top(store: Store) -> None:
    with store.open() as jam:
        env = jam.record(gym.make("CartPole-v1"), run="zzz-alive")
        env.reset(seed=1)
        env.step(0)
        jam.flush()
        (found,) = store.objects("top")
        env.close()
        jam.episodes(run="zzz-alive").last().delete()
    first = found["runs"][0]
    assert (first["name"], first["state"]) == ("zzz-alive", "running")
    assert found["steps_per_s"] > 0
    assert found["backup"]["pending_logs"] > 0


@pytest.mark.parametrize("how", ["q", "ctrl-c", "kill"])
def test_it_is_drawn_anew_and_leaves_the_terminal_as_it_was(store: Store, how: str) -> None:
    with on_a_terminal(store) as terminal:
        terminal.until(SCREEN)
        terminal.until(b"ppo")
        terminal.until(b"odd\\x1b[2J")
        terminal.seen = b""
        terminal.until(b"runs alive")
        if how == "q":
            os.write(terminal.ours, b"xq")
        else:
            end = signal.SIGINT if how == "ctrl-c" else signal.SIGTERM
            terminal.process.send_signal(end)
        assert terminal.ended() == {"q": 0, "ctrl-c": 130, "kill": 143}[how]
        assert ODD.encode() not in terminal.seen


def test_its_end_is_quiet_where_the_reader_has_gone(store: Store) -> None:
    reading, writing = os.pipe()
    process = store.start("top", stdout=writing)
    os.close(writing)
    os.close(reading)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 141
