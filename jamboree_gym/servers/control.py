"""The control protocol between a client and the supervisor: JSON lines on a unix socket."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

from jamboree_gym.errors import EmbeddedServerError, MissingExtra
from jamboree_gym.servers.own_files import check_entry, foreign

__all__ = [
    "ANSWER_GRACE_S",
    "PROTOCOL_VERSION",
    "ControlConnection",
    "decode",
    "decode_reply",
    "encode",
    "error_reply",
    "peer_pid",
    "raise_for",
    "unexpected",
    "url_in",
]

PROTOCOL_VERSION = 1
CONNECT_TIMEOUT_S = 2.0
# The supervisor knows the reason for a delay: let its answer arrive before the client gives up.
ANSWER_GRACE_S = 2.0
MAX_REPLY_BYTES = 1 << 20


def encode(message: dict[str, Any]) -> bytes:
    """Encode one message as a line, with the version of the protocol."""
    return json.dumps({"version": PROTOCOL_VERSION, **message}).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Decode the message in a line; ValueError if there is none."""
    try:
        message = json.loads(line.decode())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(message, dict):
        raise ValueError("a control message is a JSON object")
    return message


def error_reply(error: Exception) -> dict[str, Any]:
    """The reply that makes the client raise such an error."""
    kind = "missing_extra" if isinstance(error, MissingExtra) else "failed"
    return {"ok": False, "kind": kind, "error": str(error)}


def decode_reply(line: bytes) -> dict[str, Any]:
    """Decode the reply in a line; an `EmbeddedServerError` if it holds none."""
    try:
        return decode(line)
    except ValueError as error:
        raise unexpected(str(error)) from error


def unexpected(what: str) -> EmbeddedServerError:
    """The error for a reply that no supervisor of this version sends."""
    return EmbeddedServerError(
        f"the supervisor of the embedded servers gave an unexpected answer: {what}\n"
        "stop it with `jamboree-gym down`, then try again"
    )


def url_in(reply: dict[str, Any], scheme: str) -> str:
    """The URL in a reply; an `EmbeddedServerError` if there is none with this scheme."""
    url = reply.get("url")
    if not isinstance(url, str) or not url.startswith(f"{scheme}://"):
        raise unexpected(f"it has no URL that begins with {scheme}://")
    return url


def raise_for(reply: dict[str, Any]) -> None:
    """Raise the error that a reply reports, if it reports one."""
    if reply.get("ok") is True:
        return
    text = reply.get("error")
    if not isinstance(text, str):
        text = "the supervisor of the embedded servers gave no reason"
    raise MissingExtra(text) if reply.get("kind") == "missing_extra" else EmbeddedServerError(text)


class ControlConnection:
    """A client's end of the control socket. One request at a time; not thread-safe.

    Raises:
        OSError: Nobody listens at `path`.
        EmbeddedServerError: Another user listens there.
    """

    def __init__(self, path: str) -> None:
        _check_place(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(CONNECT_TIMEOUT_S)
        try:
            self._socket.connect(path)
            _check_peer(self._socket, path)
        except BaseException:
            self._socket.close()
            raise

    def ask(self, op: str, *, timeout_s: float, **options: Any) -> dict[str, Any]:
        """Send one request; return the fields of its reply.

        `op` is the name of the request, `timeout_s` the time limit for the supervisor's answer, and
        `options` are more fields.

        Raises:
            OSError: The supervisor is gone, or does not answer (`TimeoutError`).
            EmbeddedServerError: The request failed, or the answer does not come from a supervisor.
        """
        deadline = time.monotonic() + timeout_s + ANSWER_GRACE_S
        self._socket.settimeout(timeout_s + ANSWER_GRACE_S)
        self._socket.sendall(encode({"op": op, "timeout_s": timeout_s, **options}))
        reply = decode_reply(self._read_line(deadline))
        raise_for(reply)
        return reply

    def is_open(self) -> bool:
        """Whether the supervisor still keeps its end open. Ask only between two requests."""
        self._socket.setblocking(False)
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def wait_for_end(self, *, timeout_s: float) -> None:
        """Return once the supervisor has closed its end, which happens when its process ends."""
        self._socket.settimeout(timeout_s)
        with contextlib.suppress(ConnectionError):
            while self._socket.recv(4096):
                pass

    def close(self) -> None:
        """Close this end, without shutdown: a forked process may share the socket."""
        self._socket.close()

    def _read_line(self, deadline: float) -> bytes:
        received = b""
        while not received.endswith(b"\n"):
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            part = self._socket.recv(65536)
            if not part:
                raise ConnectionResetError("the supervisor closed the connection")
            received += part
            if len(received) > MAX_REPLY_BYTES:
                raise unexpected(f"it is longer than {MAX_REPLY_BYTES} bytes")
        return received


def _check_place(path: str) -> None:
    """Check the directory's owner and mode: a user who can write to it could put a socket there."""
    place = Path(path).parent.lstat()
    if place.st_uid != os.geteuid():
        raise foreign(Path(path).parent, place.st_uid)
    check_entry(Path(path))


def _check_peer(connection: socket.socket, path: str) -> None:
    """Check that the listener is this user; on other systems than Linux, the socket's owner."""
    if sys.platform != "linux":
        return
    _, uid, _ = _peer(connection)
    if uid != os.geteuid():
        raise EmbeddedServerError(
            f"another user (uid {uid}) listens at {path}: the embedded servers are not his\n"
            "remove that socket, or name a directory of your own: home=... or JAMBOREE_HOME=..."
        )


def peer_pid(connection: socket.socket) -> int:
    """The process that had connected to a unix socket of ours; 0 where the system does not say."""
    return _peer(connection)[0] if sys.platform == "linux" else 0


def _peer(connection: socket.socket) -> tuple[int, int, int]:
    """Process, user and group at the other end, as they were when it connected. Linux only."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    pid, uid, gid = struct.unpack("iII", found)
    return pid, uid, gid
