"""Authorities, certificates and servers that demand them."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import trustme
from conftest import Server, free_port, mongo_answers
from processes import wait_until
from pymongo import MongoClient


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


def locked_mongo(directory: Path, password: str, *options: str) -> Server:
    """A MongoDB server with one user, `ann`; it asks for the login, and has these options."""
    port = free_port()
    command = [sys.executable, "-m", "secantus", "--port", str(port), "--log-level", "ERROR"]
    command += ["--storage-path", str(directory), "--cache-size", "64M"]
    server = Server(f"mongodb://127.0.0.1:{port}", command, mongo_answers).start()
    with MongoClient(server.url) as client:
        roles = [{"role": "root", "db": "admin"}]
        client.admin.command("createUser", "ann", pwd=password, roles=roles)
        client.admin.command("fsync")  # where the machine is slow, `stop` kills
    stop_soon(server, port)
    server.command += ["--auth", *options]
    server.is_ready = lambda url: accepts_connections(port)
    return server.start()


def stop_soon(server: Server, port: int) -> None:
    """Stop it in good order; told to stop, it waits two seconds for a last connection."""
    server.process.terminate()
    with suppress(TimeoutError):  # it may miss the signal: `stop` repeats it
        wait_until(lambda: not accepts_connections(port), timeout_s=2)
    server.stop()


def accepts_connections(port: int) -> bool:
    """Whether somebody listens on a loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
