"""What the proxy of the fault suite does to a connection."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from conftest import Server
from processes import wait_until
from proxy import Ending, Proxy, direct
from pymongo import MongoClient

pytestmark = [pytest.mark.faults, pytest.mark.once, pytest.mark.one_server]

PONG = b"+PONG\r\n"
Connect = Callable[[], socket.socket]


@pytest.fixture(params=["tcp", "unix"])
def proxy(request: pytest.FixtureRequest, valkey: Server, tmp_path: Path) -> Iterator[Proxy]:
    with Proxy(valkey.url, tmp_path if request.param == "unix" else None) as opened:
        yield opened


@pytest.fixture
def connect(proxy: Proxy) -> Iterator[Connect]:
    """Opens connections to the proxy."""
    with ExitStack() as opened:

        def open_one() -> socket.socket:
            parts = urlsplit(proxy.url)
            family = socket.AF_UNIX if parts.scheme == "unix" else socket.AF_INET
            client = opened.enter_context(socket.socket(family))
            client.settimeout(60)
            client.connect(parts.path if parts.scheme == "unix" else (parts.hostname, parts.port))
            return client

        yield open_one


def ping(client: socket.socket) -> None:
    client.sendall(b"PING\r\n")


def received(client: socket.socket, count: int = len(PONG)) -> bytes:
    """The next bytes, or fewer where the connection ends."""
    data = b""
    while len(data) < count and (piece := client.recv(count - len(data))):
        data += piece
    return data


def test_what_is_sent_arrives_and_is_counted(proxy: Proxy, connect: Connect) -> None:
    first, second = connect(), connect()
    for client in (first, second, first):
        ping(client)
        assert received(client) == PONG

    assert proxy.accepted == 2
    wait_until(lambda: (proxy.up.passed, proxy.down.passed) == (3 * 6, 3 * 7))


def test_a_large_value_passes_unchanged(proxy: Proxy, namespace: str) -> None:
    value = bytes(range(256)) * 40_000
    with redis.Redis.from_url(proxy.url) as client:
        client.set(namespace, value)
        assert client.getdel(namespace) == value


def test_latency_keeps_each_answer_back(proxy: Proxy, connect: Connect) -> None:
    client = connect()
    proxy.down.latency_s = 0.1
    began = time.monotonic()
    ping(client)

    assert received(client) == PONG
    assert time.monotonic() - began >= 0.1


def test_a_slow_lane_takes_as_long_as_its_bytes(proxy: Proxy, connect: Connect) -> None:
    client = connect()
    proxy.down.bytes_per_s = 100
    began = time.monotonic()
    ping(client)

    assert received(client) == PONG
    assert time.monotonic() - began >= 0.06


@pytest.mark.parametrize("count", range(7))
def test_a_cut_lets_just_so_many_bytes_down(proxy: Proxy, connect: Connect, count: int) -> None:
    client, other = connect(), connect()
    ping(other)
    assert received(other) == PONG
    proxy.down.cut_after(count)
    ping(client)

    assert received(client) == PONG[:count]
    assert proxy.down.passed == len(PONG) + count
    ping(other)  # once, and this one connection
    assert received(other) == PONG


@pytest.mark.parametrize("count", range(7))
def test_a_cut_lets_just_so_many_bytes_up(proxy: Proxy, connect: Connect, count: int) -> None:
    client = connect()
    proxy.up.cut_after(count)
    ping(client)

    assert received(client) == b""
    assert proxy.up.passed == count


@pytest.mark.parametrize(("ending", "seen"), [("fin", None), ("rst", ConnectionResetError)])
def test_a_cut_ends_all_connections_as_it_is_told(
    valkey: Server, ending: Ending, seen: type[Exception] | None
) -> None:
    with Proxy(valkey.url) as proxy, socket.socket() as client:
        client.connect(("127.0.0.1", urlsplit(proxy.url).port))
        ping(client)
        assert received(client) == PONG
        proxy.cut(ending)
        if seen is None:
            assert client.recv(1) == b""
        else:
            with pytest.raises(seen):
                client.recv(1)


def test_a_closed_direction_leaves_the_other_open(proxy: Proxy, connect: Connect) -> None:
    client = connect()
    ping(client)
    assert received(client) == PONG
    proxy.down.end()
    assert client.recv(1) == b""
    passed = proxy.up.passed
    ping(client)

    wait_until(lambda: proxy.up.passed == passed + 6)


def test_what_a_black_hole_took_arrives_once_it_is_none(proxy: Proxy, connect: Connect) -> None:
    old = connect()
    ping(old)
    assert received(old) == PONG
    proxy.hold()
    new = connect()
    for client in (old, new):
        ping(client)
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(60)
    proxy.release()

    assert received(old) == received(new) == PONG


def test_refused_connections_leave_the_open_ones_alone(proxy: Proxy, connect: Connect) -> None:
    client = connect()
    ping(client)
    assert received(client) == PONG
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect()
    ping(client)
    assert received(client) == PONG
    proxy.accept()
    ping(again := connect())
    assert received(again) == PONG


def test_a_server_that_dies_ends_the_connection(durable_valkey: Server, tmp_path: Path) -> None:
    with Proxy(durable_valkey.url, tmp_path) as proxy, redis.Redis.from_url(proxy.url) as client:
        client.ping()
        durable_valkey.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        durable_valkey.start()
        assert client.ping()


def test_it_stands_before_mongodb_too(mongo: Server, namespace: str) -> None:
    with Proxy(mongo.url) as proxy, MongoClient[Any](direct(proxy)) as client:
        client[namespace].notes.insert_one({"n": bytes(100_000)})
        assert proxy.up.passed > 100_000
        proxy.cut("rst")
        assert client[namespace].notes.count_documents({}) == 1
