"""Names of runs and ids of episodes for the completion of a shell, without loading redis-py.

redis-py takes longer to load than a shell may take to complete a word. So this speaks to the server
itself. It answers with what it gets within a tenth of a second, and never raises for a server.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from jamboree_gym.keys import Keyspace

__all__ = ["quick_episode_ids", "quick_run_names"]

TIMEOUT_S = 0.1
RUNS = 20  # whose episodes are looked at, those written last
IDS = 200  # of each run and bucket, roughly
MAX_BUCKETS = 256


def quick_run_names(url: str, namespace: str) -> list[str]:
    """Names of the runs, the one written last at the front; none if the server does not answer."""
    with suppress(OSError, ValueError, hiredis.HiredisError), _Conversation(url) as ask:
        return _runs(ask, Keyspace(namespace))
    return []


def quick_episode_ids(url: str, namespace: str, beginning: str) -> list[str]:
    """Some ids that begin like this, of the runs that were written last."""
    with suppress(OSError, ValueError, hiredis.HiredisError), _Conversation(url) as ask:
        keyspace = Keyspace(namespace)
        buckets = keyspace.buckets(_bucket_count(ask, keyspace))
        runs = _runs(ask, keyspace)[:RUNS]
        pattern = "".join(one for one in beginning if one.isalnum()) + "*"
        found = ask(
            [
                ("HSCAN", bucket.summaries(run), "0", "MATCH", pattern, "COUNT", str(IDS))
                for run in runs
                for bucket in buckets
            ]
        )
        pages = [page[1] for page in found if isinstance(page, list)]
        return sorted((one.decode() for page in pages for one in page[::2]), reverse=True)
    return []


def _bucket_count(ask: _Conversation, keyspace: Keyspace) -> int:
    (number,) = ask([("HGET", keyspace.layout[0], "buckets")])
    count = int(number) if isinstance(number, bytes) else 0
    return count if 0 < count <= MAX_BUCKETS else 0


def _runs(ask: _Conversation, keyspace: Keyspace) -> list[str]:
    buckets = keyspace.buckets(_bucket_count(ask, keyspace))
    answers = ask([("ZRANGE", one.runs, "0", "-1", "WITHSCORES") for one in buckets])
    newest: dict[str, float] = {}
    for flat in answers:
        if isinstance(flat, list):
            for name, at in zip(flat[::2], flat[1::2], strict=True):
                run = name.decode(errors="replace")
                newest[run] = max(float(at), newest.get(run, 0.0))
    return sorted(newest, key=lambda run: -newest[run])


class _Conversation:
    """One connection, closed at its end. Not for TLS, and not by Sentinels."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        options = parse_qs(parts.query)
        if parts.scheme == "unix":
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            where: Any = unquote(parts.path)
        elif parts.scheme == "redis":
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            where = (parts.hostname or "localhost", parts.port or 6379)
        else:
            raise ValueError("no such connection")
        try:
            self._socket.settimeout(TIMEOUT_S)
            self._socket.connect(where)
            self._reader = hiredis.Reader()
            database = options.get("db", [parts.path.strip("/") if parts.scheme == "redis" else ""])
            self._enter(parts.username, parts.password, database[0])
        except BaseException:
            self._socket.close()
            raise

    def _enter(self, user: str | None, password: str | None, database: str) -> None:
        calls: list[Any] = []
        if password:
            names = (unquote(user),) if user else ()
            calls.append(("AUTH", *names, unquote(password)))
        if database.isdigit() and int(database):
            calls.append(("SELECT", database))
        if calls:
            self(calls)

    def __call__(self, calls: Sequence[Any]) -> list[Any]:
        """The answers to some commands, in one round trip."""
        self._socket.sendall(b"".join(hiredis.pack_command(call) for call in calls))
        answers: list[Any] = []
        while len(answers) < len(calls):
            answer = self._reader.gets()
            if answer is False:
                received = self._socket.recv(1 << 16)
                if not received:
                    raise ConnectionResetError
                self._reader.feed(received)
            else:
                answers.append(answer)
        return answers

    def __enter__(self) -> _Conversation:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()
