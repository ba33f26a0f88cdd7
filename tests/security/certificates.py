"""Authorities, certificates and servers that demand them."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import trustme


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


def accepts_connections(port: int) -> bool:
    """Whether somebody listens on a loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
