"""What answers in the place of a supervisor, and says what no supervisor says."""

from __future__ import annotations

import os
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from embedded_home import new_home

from jamboree_gym.errors import EmbeddedServerError
from jamboree_gym.servers.control import decode_reply
from jamboree_gym.servers.embedded import EmbeddedServers, server_status
from jamboree_gym.servers.home import Home, SupervisorRecord

ANSWERS = {
    "no url": b'{"ok": true}',
    "a number": b'{"ok": true, "url": 5}',
    "nothing as url": b'{"ok": true, "url": null}',
    "a list": b'{"ok": true, "url": ["unix:///a.sock"]}',
    "a url of something else": b'{"ok": true, "url": "http://localhost"}',
    "no reason": b'{"ok": false}',
    "a reason that is none": b'{"ok": false, "error": 5}',
    "half a yes": b'{"ok": "no", "url": "unix:///a.sock"}',
    "no object": b"[1]",
    "no JSON": b"what?",
    "no text": b"\xff",
    "deep": b"[" * 9000,
    "long": b'"' + b"x" * 2**21,
}


@pytest.fixture
def home() -> Iterator[Path]:
    with new_home() as made:
        yield made


@pytest.fixture
def answering(home: Path) -> Iterator[Callable[[bytes], None]]:
    """Has something of ours at the place of a home's supervisor say this, whatever is asked."""
    home.mkdir(mode=0o700)
    said = [b""]

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(ConnectionError):
                while self.rfile.readline():
                    self.wfile.write(said[0] + b"\n")

    control = str(home / "control.sock")
    with socketserver.ThreadingUnixStreamServer(control, Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        Home.at(home).write_record(SupervisorRecord(os.getpid(), "here", control))
        yield partial(said.__setitem__, 0)
        server.shutdown()


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_is_none_says_what_to_do(
    home: Path, answering: Callable[[bytes], None], answer: str
) -> None:
    answering(ANSWERS[answer])
    with pytest.raises(EmbeddedServerError) as redis_refused:
        EmbeddedServers.join(home, timeout_s=1)
    answering(b'{"ok": true, "url": "unix:///ours.sock"}')
    with EmbeddedServers.join(home, timeout_s=1) as servers:
        answering(ANSWERS[answer])
        with pytest.raises(EmbeddedServerError) as mongo_refused:
            servers.mongo_url()

    for refused in (redis_refused, mongo_refused):
        assert len(str(refused.value).splitlines()) <= 2
        assert "supervisor" in str(refused.value)


@pytest.mark.parametrize(
    "field",
    [
        b'"clients": "3"',
        b'"redis_pid": [1]',
        b'"last_error": 5',
        b'"stays": 1',
        b'"idle_exit_s": "soon"',
        b'"home": 1, "supervisor_pid": null',
    ],
)
def test_a_status_of_other_kinds_is_an_error(
    home: Path, answering: Callable[[bytes], None], field: bytes
) -> None:
    answering(b'{"ok": true, ' + field + b"}")

    with pytest.raises(EmbeddedServerError, match="gave an unexpected answer"):
        server_status(home)


def test_a_launch_that_tells_nonsense_is_an_error() -> None:
    with pytest.raises(EmbeddedServerError, match="gave an unexpected answer"):
        decode_reply(b"Traceback (most recent call last)\n")
