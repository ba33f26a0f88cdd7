"""Authorities, certificates and servers that demand them."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import pytest
import trustme
from conftest import REDIS_PROGRAMS, Server, free_port, mongo_answers, start_redis
from pymongo import MongoClient
from tls_front import TlsFront, tls_context


@dataclass(frozen=True)
class Certificates:
    """Files in one directory: two authorities, what the first has signed, and one certificate of
    the other.

    Attributes:
        directory: Where they are.
    """

    directory: Path

    @classmethod
    def made_in(cls, directory: Path) -> Certificates:
        """Make them."""
        ours, others = trustme.CA(), trustme.CA()
        ours.cert_pem.write_to_path(str(directory / "ours.pem"))
        others.cert_pem.write_to_path(str(directory / "others.pem"))
        leaves = {
            "server": ours.issue_cert("127.0.0.1", "localhost"),
            "elsewhere": ours.issue_cert("example.org"),
            "client": ours.issue_cert("client@example.org"),
            "stranger": others.issue_cert("client@example.org"),
        }
        for name, leaf in leaves.items():
            key, chain = leaf.private_key_pem, leaf.cert_chain_pems
            key.write_to_path(str(directory / f"{name}.key"))
            leaf.private_key_and_cert_chain_pem.write_to_path(str(directory / f"{name}.both"))
            (directory / f"{name}.pem").write_bytes(b"".join(part.bytes() for part in chain))
        return cls(directory)

    def path(self, name: str) -> str:
        """A file."""
        return str(self.directory / name)

    def in_url(self, name: str) -> str:
        """Its path as a part of a URL."""
        return quote(self.path(name))


class Ports(NamedTuple):
    """Where a Redis is reached.

    Attributes:
        tls: The loopback port with TLS.
        plain: The one without.
    """

    tls: int
    plain: int


@contextmanager
def redis7_with_tls(
    directory: Path, certificates: Certificates, certificate: str, *more: str, demands: bool
) -> Iterator[Ports]:
    """A Redis 7 that speaks TLS itself.

    Args:
        directory: Where its files go.
        certificates: What there is.
        certificate: Which one it shows.
        more: More options.
        demands: Whether a client has to show one that our authority has signed.
    """
    ports = Ports(free_port(), free_port())
    files = {"cert": f"{certificate}.pem", "key": f"{certificate}.key", "ca-cert": "ours.pem"}
    options = ["--bind", "127.0.0.1", "--port", str(ports.plain), "--tls-port", str(ports.tls)]
    options += ["--tls-auth-clients", "yes" if demands else "no"]
    for option, name in files.items():
        options += [f"--tls-{option}-file", certificates.path(name)]
    server = start_redis(REDIS_PROGRAMS["redis7"](), directory, *options, *more)
    try:
        yield ports
    finally:
        server.stop()


@contextmanager
def valkey_behind_tls(
    directory: Path, certificates: Certificates, certificate: str, *, demands: bool
) -> Iterator[Ports]:
    """The same of Valkey, which speaks no TLS itself: a front does."""
    ports = Ports(free_port(), free_port())
    options = ["--bind", "127.0.0.1", "--port", str(ports.plain)]
    server = start_redis(REDIS_PROGRAMS["valkey9"](), directory, *options)
    files = (certificates.path(f"{certificate}.{ending}") for ending in ("pem", "key"))
    context = tls_context(*files, certificates.path("ours.pem"), demands=demands)
    try:
        front = TlsFront(ports.tls, server.url.removeprefix("unix://"), context)
        yield ports
        front.stop()
    finally:
        server.stop()


TLS_SERVERS = {"redis7": redis7_with_tls, "valkey9": valkey_behind_tls}


PASSWORD = "C4NARY@:/#%?B1RD"
LOGIN = f"ann:{quote(PASSWORD, safe='')}@"


def locked_mongo(made: pytest.TempPathFactory, *options: str) -> Server:
    """A MongoDB server with one user, `ann`; it asks for the login, and has these options."""
    directory = made.mktemp("mongo")
    shutil.copytree(_data_with_ann(made), directory, dirs_exist_ok=True)
    server = _mongo_at(directory, "--auth", *options)
    server.is_ready = lambda url: accepts_connections(urlsplit(url).port)
    return server.start()


def _data_with_ann(made: pytest.TempPathFactory) -> Path:
    """What a server without a lock has left that made the user; made once, and only copied."""
    directory = made.getbasetemp() / "mongo-with-ann"
    if not directory.exists():
        server = _mongo_at(directory).start()
        try:
            with MongoClient(server.url) as client:
                roles = [{"role": "root", "db": "admin"}]
                client.admin.command("createUser", "ann", pwd=PASSWORD, roles=roles)
                client.admin.command("fsync")
        finally:
            server.kill()  # told to stop, it takes two seconds
    return directory


def _mongo_at(directory: Path, *options: str) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "secantus", "--port", str(port), "--log-level", "ERROR"]
    command += ["--storage-path", str(directory), "--cache-size", "64M", *options]
    return Server(f"mongodb://127.0.0.1:{port}", command, mongo_answers)


def accepts_connections(port: int | None) -> bool:
    """Whether somebody listens on a loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port or 0)).close()
    except OSError:
        return False
    return True
