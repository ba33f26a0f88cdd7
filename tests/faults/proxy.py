"""A proxy between a client and a server that makes the connection worse, as toxiproxy does.

It runs in a thread of the test. What it does to the bytes may be changed while connections run:

>>> with Proxy(server.url) as proxy, Jamboree(proxy.url) as jam:
...     proxy.down.latency_s = 0.2  # answers come late
...     proxy.up.hold()  # nothing of what the client sends arrives, until `release`
...     proxy.up.cut_after(100)  # after so many bytes more, once
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

__all__ = ["Ending", "Lane", "Proxy", "direct"]

CHUNK_BYTES = 1 << 16
SLICE_S = 0.01  # a slow lane sends what it may in so much time at once
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time: `close` sends RST, not FIN
_T = TypeVar("_T")

Ending = Literal["fin", "rst"]
"""How both sides learn that a connection was cut; a unix socket knows `fin` alone."""


@dataclass(eq=False)
class Connection:
    """A client's socket and the one to the server.

    Attributes:
        ending: How to cut it; None as long as it is not cut.
    """

    client: socket.socket
    server: socket.socket
    ending: Ending | None = None
    is_ending: bool = False

    def close(self) -> None:
        """Close both ends."""
        for end in (self.client, self.server):
            if self.ending == "rst" and end.family == socket.AF_INET and end.fileno() >= 0:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.close()


class Lane:
    """One direction, and what is done to all that goes there.

    Attributes:
        latency_s: So long every piece is kept back.
        bytes_per_s: No more than so many.
        passed: Number of bytes that were sent on, of all connections.
        largest_answer: The most that has come here since something went the other way.
    """

    def __init__(self, call: Callable[[Callable[[], None]], None]) -> None:
        self.latency_s = 0.0
        self.bytes_per_s = math.inf
        self.passed = 0
        self.largest_answer = 0
        self.answer = 0
        self.answered_by: Lane | None = None
        self._call = call
        self._cut_at = math.inf
        self._ending: Ending = "fin"
        self._flows = asyncio.Event()
        self._flows.set()
        self._sinks: set[socket.socket] = set()

    def cut_after(self, count: int, ending: Ending = "fin") -> None:
        """Cut the connection, once, as soon as so many bytes more have arrived.

        With 0 bytes: when the first one comes, which does not arrive.
        """
        self._ending = ending
        self._cut_at = self.passed + count

    @property
    def is_cut_pending(self) -> bool:
        """Whether the cut is still to come."""
        return self._cut_at < math.inf

    def forget_cut(self) -> None:
        """There will be none."""
        self._cut_at = math.inf

    def hold(self) -> None:
        """Let nothing arrive any more; the connections stay open."""
        self._call(self._flows.clear)

    def release(self) -> None:
        """Let it go on, with what was held."""
        self._call(self._flows.set)

    def end(self) -> None:
        """Close this direction of all connections; the other one stays open."""
        self._call(self._end)

    def _end(self) -> None:
        for sink in self._sinks:
            _end_writing(sink)

    async def carry(
        self, source: socket.socket, sink: socket.socket, connection: Connection
    ) -> None:
        """Bring what one socket receives to the other, to its end or until the cut."""
        loop = asyncio.get_running_loop()
        self._sinks.add(sink)
        try:
            while data := await loop.sock_recv(source, CHUNK_BYTES):
                self.answer += len(data)
                self.largest_answer = max(self.largest_answer, self.answer)
                if self.answered_by is not None:
                    self.answered_by.answer = 0
                if self.latency_s:
                    await asyncio.sleep(self.latency_s)
                await self._flows.wait()
                if connection.ending is not None:
                    return
                if self.passed + len(data) >= self._cut_at:
                    data, self._cut_at = data[: int(self._cut_at) - self.passed], math.inf
                    connection.ending = self._ending  # at once: no answer gets through
                await self._send(sink, data)
                if connection.ending is not None:
                    raise ConnectionAbortedError
            _end_writing(sink)
        finally:
            self._sinks.discard(sink)

    async def _send(self, sink: socket.socket, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        while data:
            size = len(data)
            if self.bytes_per_s < math.inf:
                size = max(1, int(self.bytes_per_s * SLICE_S))
                await asyncio.sleep(SLICE_S)
                await self._flows.wait()
            self.passed += len(data[:size])  # first: whoever has the bytes finds them counted
            await loop.sock_sendall(sink, data[:size])
            data = data[size:]


class Proxy:
    """Passes connections on to a server.

    Args:
        server_url: `unix:///path`, or any other scheme with host and port.
        directory: Clients connect to a unix socket there; None: to a loopback port.

    Attributes:
        url: For clients.
        up: From the client to the server.
        down: From the server to the client.
        accepted: Number of connections that were taken.
    """

    def __init__(self, server_url: str, directory: Path | None = None) -> None:
        parts = urlsplit(server_url)
        self._server: Any = parts.path if parts.scheme == "unix" else (parts.hostname, parts.port)
        self._own: Any = ("127.0.0.1", 0) if directory is None else str(directory / "proxy.sock")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._listener: socket.socket | None = None
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._has_server = True
        self.accepted = 0
        self.up, self.down = Lane(self._call), Lane(self._call)
        self.up.answered_by = self.down
        self._thread.start()
        self.accept()
        if directory is not None:
            self.url = f"unix://{self._own}"
        else:
            scheme = "redis" if parts.scheme == "unix" else parts.scheme
            self.url = f"{scheme}://127.0.0.1:{self._own[1]}"

    # -- the test's side --------------------------------------------------------------------

    def refuse(self) -> None:
        """Take no more connections; those that are open go on."""
        self._do(self._stop_listening())

    def accept(self) -> None:
        """Take connections, at the same address as before."""
        self._do(self._listen())

    def lose_server(self) -> None:
        """Cut all connections, and each new one at once, until there is a server again.

        As `refuse`, but nobody else can listen at the address meanwhile.
        """
        self._has_server = False
        self.cut()

    def find_server(self) -> None:
        """Pass connections on again."""
        self._has_server = True

    def hold(self) -> None:
        """Be a black hole: connections are taken, and nothing arrives on either side."""
        self.up.hold()
        self.down.hold()

    def release(self) -> None:
        """Let both directions go on, with what was held."""
        self.up.release()
        self.down.release()

    def cut(self, ending: Ending = "fin") -> None:
        """Cut all connections now."""
        self._do(self._cut(ending))

    def close(self) -> None:
        """End everything."""
        self.refuse()
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        """Close it at the end."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _do(self, what: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

    def _call(self, what: Callable[[], None]) -> None:
        async def call() -> None:
            what()

        self._do(call())

    # -- the loop's side --------------------------------------------------------------------

    async def _listen(self) -> None:
        if self._listener is not None:
            return
        if isinstance(self._own, str):
            Path(self._own).unlink(missing_ok=True)
        self._listener = _new_socket(self._own)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(self._own)
        self._own = self._listener.getsockname()
        self._listener.listen(64)
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
        self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        """Not in a task: one that is cancelled could lose the connection that it has just got."""
        try:
            client, _ = listener.accept()
        except OSError:  # it is gone again
            return
        client.setblocking(False)
        self.accepted += 1
        connection = Connection(client, _new_socket(self._server))
        task = asyncio.create_task(self._serve(connection))
        self._connections[task] = connection
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task).close()

    async def _serve(self, connection: Connection) -> None:
        """One connection, from its beginning to its end."""
        client, server = connection.client, connection.server
        lanes: list[asyncio.Task[None]] = []
        try:
            if not self._has_server:
                return
            await asyncio.get_running_loop().sock_connect(server, self._server)
            if client.family == socket.AF_INET:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            lanes.append(asyncio.create_task(self.up.carry(client, server, connection)))
            lanes.append(asyncio.create_task(self.down.carry(server, client, connection)))
            await asyncio.gather(*lanes)
        except (OSError, asyncio.CancelledError):
            pass  # one side is gone, or it was cut
        finally:
            connection.is_ending = True
            for task in lanes:
                task.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _cut(self, ending: Ending) -> None:
        tasks = list(self._connections)
        for task in tasks:
            self._connections[task].ending = ending
            if not self._connections[task].is_ending:
                task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _new_socket(address: Any) -> socket.socket:
    """A socket for this kind of address."""
    new = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    new.setblocking(False)
    return new


def _end_writing(sink: socket.socket) -> None:
    with suppress(OSError):  # the other side was quicker
        sink.shutdown(socket.SHUT_WR)


def direct(proxy: Proxy) -> str:
    """The URL of a proxy before MongoDB, of which clients do not ask where the server itself is."""
    return f"{proxy.url}/?directConnection=true"
