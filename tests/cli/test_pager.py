"""Long results on a terminal go through a pager, and only there."""

from __future__ import annotations

import os
import signal
import uuid

import pytest
from conftest import Server
from recorded_envs import ACTION, CountingEnv, play
from recorded_store import Store, record_store


@pytest.fixture(scope="module")
def store(valkey: Server, mongo: Server) -> Store:
    return record_store(valkey.url, mongo.url)


def on_a_terminal(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, lines: str, pager: str
) -> tuple[str, int]:
    """What stands on a terminal with so many lines after `ls`, and its exit code."""
    monkeypatch.setenv("PAGER", pager)
    monkeypatch.setenv("LINES", lines)
    ours, theirs = os.openpty()
    process = store.start("ls", stdin=theirs, stdout=theirs)
    assert process.communicate(timeout=60)[1] == ""
    os.close(theirs)
    with os.fdopen(ours) as terminal:
        shown = ""
        try:
            while part := terminal.readline():
                shown += part
        except OSError:  # the other end is closed
            pass
    return shown, process.returncode


def test_what_is_too_long_goes_through_the_pager(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pager = "sh -c 'sed s/^/paged:/; exit 3'"
    shown, code = on_a_terminal(store, monkeypatch, lines="4", pager=pager)
    assert (shown.count("paged:"), code) == (5, 0)
    for lines, other in (("40", pager), ("4", "cat"), ("4", "no-such-pager"), ("4", "")):
        shown, code = on_a_terminal(store, monkeypatch, lines=lines, pager=other)
        assert (shown.count("paged:"), shown.count("CartPole-v1"), code) == (0, 3, 0)


def test_a_pager_that_ends_early_is_no_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, code = on_a_terminal(store, monkeypatch, lines="4", pager="head -n 1")
    assert (len(shown.splitlines()), code) == (1, 0)


def test_a_terminal_of_another_encoding_gets_what_it_can_show(
    valkey: Server, mongo: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Store(valkey.url, mongo.url, f"test-{uuid.uuid4().hex[:12]}")
    with made.open() as jam:
        play(jam.record(CountingEnv(), run="\u6771\u4eac"), [ACTION])
    for name, value in {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(made, "start", made.start_python)
    shown, code = on_a_terminal(made, monkeypatch, lines="2", pager="sed s/^/paged:/")
    assert (shown.count("paged:"), r"\u6771\u4eac" in shown, code) == (2, True, 0)


def test_a_pipe_has_no_pager(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGER", "sed s/^/paged:/")
    monkeypatch.setenv("LINES", "2")
    before = signal.getsignal(signal.SIGINT)  # a run in the background of a shell ignores it
    assert len(store.lines("ls")) == 4
    assert signal.getsignal(signal.SIGINT) is before
