"""Long results on a terminal go through a pager, and only there."""

from __future__ import annotations

import os
import signal

import pytest
from conftest import Server
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


def test_a_pipe_has_no_pager(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGER", "sed s/^/paged:/")
    monkeypatch.setenv("LINES", "2")
    before = signal.getsignal(signal.SIGINT)  # a run in the background of a shell ignores it
    assert len(store.lines("ls")) == 4
    assert signal.getsignal(signal.SIGINT) is before
