"""TLS in front of a server that speaks none, as stunnel does it."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

CHUNK_BYTES = 1 << 16
ANSWER_TIMEOUT_S = 20.0


def tls_context(certificate: str, key: str, authority: str, *, demands: bool) -> ssl.SSLContext:
    """What a front shows to its clients, and demands of them.

    Args:
        certificate: The file of its own certificate.
        key: The file of the key to that.
        authority: The file of the authority that has signed the certificates of clients.
        demands: Whether a client has to show one.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED if demands else ssl.CERT_NONE
    return context


class TlsFront:
    """Listens on a loopback port with TLS, hands what is said there to a unix socket, and back.

    It runs in a thread of its own until `stop`.
    """

    def __init__(self, port: int, socket: str, context: ssl.SSLContext):
        self._socket = socket
        self._clients: list[asyncio.StreamWriter] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tls-front")
        self._thread.start()
        self._server: asyncio.Server = self._in_loop(
            asyncio.start_server(self._connected, "127.0.0.1", port, ssl=context)
        )

    def stop(self) -> None:
        """Cut all connections, and listen no more."""
        self._in_loop(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _in_loop(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(ANSWER_TIMEOUT_S)

    async def _stop(self) -> None:
        self._server.close()
        for client in self._clients:
            client.transport.abort()  # `close` would wait for the client's goodbye
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0)  # what they have closed is let go of in the loop's next round

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client that has shown what is demanded, until either side hangs up."""
        self._clients.append(writer)
        behind, ahead = await asyncio.open_unix_connection(self._socket)
        await asyncio.gather(hand_on(reader, ahead), hand_on(behind, writer))


async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hand on what is read until there is no more, then hang up on the other side."""
    with suppress(OSError):
        while said := await reader.read(CHUNK_BYTES):
            writer.write(said)
            await writer.drain()
    writer.close()
