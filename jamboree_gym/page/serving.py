"""Runs the page: for the command until Ctrl-C, for a notebook in a thread."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import threading
import webbrowser
from contextlib import suppress
from html import escape
from typing import Final

import uvicorn

from jamboree_gym.errors import InvalidArgument, JamboreeError
from jamboree_gym.jamboree import Jamboree
from jamboree_gym.page.access import PARAMETER, AccessRules, is_loopback, new_token
from jamboree_gym.page.app import build_page

__all__ = ["PORT", "PageServer"]

PORT: Final = 7432
M_MMAP_THRESHOLD: Final = -3  # of glibc's malloc.h
LARGE_BYTES: Final = 128 << 10
START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 5.0


class CuttingServer(uvicorn.Server):
    """A server that leaves no connection open when it ends.

    uvicorn forgets those of answers that do not end in time: their sockets would stay open until
    the garbage collector finds them, and it would warn of each.

    Args:
        config: Of uvicorn.
        closing: Set when it ends, for answers that go on: each open tab has one.
    """

    def __init__(self, config: uvicorn.Config, closing: asyncio.Event) -> None:
        super().__init__(config)
        self._closing = closing

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, as uvicorn does, and cut who still listens."""
        self._closing.set()
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            if (transport := getattr(connection, "transport", None)) is not None:
                transport.abort()
        await asyncio.sleep(0)  # the loop closes them in its next round


class PageServer:
    """The page of a store, served until it is closed.

    Example:
        >>> page = jam.ui()
        >>> page.url
        'http://127.0.0.1:7432/'
        >>> page.close()

    Args:
        jam: The store. It stays open when the page is closed.
        host: Address to bind.
        port: Its port; None = 7432, or another one if that is taken; 0 = any free one.
        allow_actions: Whether flags can be set on the page.
        needs_token: Whether the URL has a random token, without which nothing is shown; None =
            wherever other machines can reach the page.

    Raises:
        InvalidArgument: The address cannot be bound; says why.
    """

    def __init__(
        self,
        jam: Jamboree,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        allow_actions: bool = False,
        needs_token: bool | None = None,
    ) -> None:
        if needs_token is None:
            needs_token = not is_loopback(host)
        rules = AccessRules(host, new_token() if needs_token else None)
        self._socket = _bound(host, port)
        self._token = rules.token
        self._host, self._port = host, int(self._socket.getsockname()[1])
        closing = asyncio.Event()
        config = uvicorn.Config(
            build_page(jam, rules, closing, allow_actions=allow_actions),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=1,
            ws="none",
        )
        self._server = CuttingServer(config, closing)
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where the page is; with the token, if it has one."""
        shown = "127.0.0.1" if self._host in ("0.0.0.0", "::", "") else self._host
        shown = f"[{shown}]" if ":" in shown else shown
        asked = f"?{PARAMETER}={self._token}" if self._token else ""
        return f"http://{shown}:{self._port}/{asked}"

    def run(self) -> None:
        """Serve until Ctrl-C, in a process that does nothing else."""
        _return_large_arrays()
        self._server.run([self._socket])

    def start(self) -> PageServer:
        """Serve in a thread.

        Raises:
            JamboreeError: It does not start.
        """
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="jamboree-page", daemon=True
        )
        self._thread.start()
        waited = threading.Event()
        for _ in range(int(START_TIMEOUT_S / 0.01)):
            if self._server.started:
                return self
            if not self._thread.is_alive():
                break
            waited.wait(0.01)
        self.close()
        raise JamboreeError("the page did not start: the lines above say why")

    def open(self) -> None:
        """Show it in a browser."""
        webbrowser.open(self.url)

    def close(self) -> None:
        """Stop serving. A second call does nothing."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)
        self._socket.close()

    def __enter__(self) -> PageServer:
        """Use as a context manager: `close` at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Where it is, without the token."""
        return f"<page at {self.url.partition('?')[0]}>"

    def _repr_html_(self) -> str:
        url = escape(self.url)
        return f'<a href="{url}" target="_blank" rel="noopener">{escape(repr(self)[1:-1])}</a>'


def _return_large_arrays() -> None:
    """Have each large array given back to the system when it is freed.

    By default glibc keeps the memory of such arrays for each thread: here tens of MiB.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def _bound(host: str, port: int | None) -> socket.socket:
    """A listening socket; if the usual port is taken and none was asked for, on a free one."""
    for one in (PORT, 0) if port is None else (port,):
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host or None, one, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            found = socket.socket(family, kind, protocol)
        except OSError as error:
            raise InvalidArgument(f"host={host!r} cannot be bound: {error}") from error
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen()  # who reads the URL may come before the server does
        except OSError as error:
            found.close()
            if port is None and one:
                continue
            raise InvalidArgument(
                f"port {one} of {host} cannot be bound: {error.strerror or error}\n"
                "choose another one with --port; 0 takes any that is free"
            ) from error
        return found
    raise AssertionError("the last port raises or returns")
