"""Who may ask: checks host, origin and token of each request; sets the headers of each answer."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Access", "AccessRules", "is_loopback", "new_token"]

COOKIE: Final = "jamboree-page-{port}"  # a browser sends a cookie to all ports of a host
PARAMETER: Final = "token"
_READING: Final = ("GET", "HEAD")
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
        "frame-ancestors 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def new_token() -> str:
    """A random token for the URL of a page."""
    return secrets.token_urlsafe(24)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what is bound to a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Who may ask.

    Attributes:
        host: What the server is bound to.
        token: What the URL or the cookie of each request must hold; None = nothing.
        names: Host names that a request may be sent to, beside addresses and `localhost`.
    """

    host: str
    token: str | None = None
    names: frozenset[str] = field(default_factory=lambda: _own_names())

    def takes_host(self, header: str) -> bool:
        """Whether a request to this host is meant for us.

        A page of another site can point its own name at a loopback address (DNS rebinding), and
        then read our answers. Such a request names that host.
        """
        name = _name_of(header)
        if name is None:
            return False
        if is_loopback(name):
            return True
        if is_loopback(self.host):
            return False
        return name in self.names or name == self.host or _is_address(name)

    def takes_token(self, given: Iterable[str | None]) -> bool:
        """Whether one of these is the token."""
        if self.token is None:
            return True
        wanted = self.token.encode()
        return any(hmac.compare_digest(one.encode(), wanted) for one in given if one)


class Access:
    """ASGI middleware that refuses who may not ask."""

    def __init__(self, app: ASGIApp, rules: AccessRules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._refusal(scope) or self._app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        if not self._rules.takes_host(headers.get("host", "")):
            return _refused("this page is not served under that host name")
        if not _is_from_here(scope["method"], headers):
            return _refused("another site asked for this")
        request = Request(scope)
        query = request.query_params.multi_items()
        in_url = request.query_params.get(PARAMETER)
        cookie = COOKIE.format(port=scope["server"][1])
        if not self._rules.takes_token((in_url, request.cookies.get(cookie))):
            return _refused("open the whole URL that jamboree-gym ui has printed: it has a token")
        if in_url is not None and scope["method"] in _READING and self._rules.token is not None:
            return self._without_token(scope["path"], query, cookie)
        return None

    def _without_token(self, path: str, query: list[tuple[str, str]], cookie: str) -> Response:
        """The same page, with the token in a cookie, so that no history and no log keeps it."""
        rest = urlencode([(name, value) for name, value in query if name != PARAMETER])
        where = "/" + path.lstrip("/\\")  # `//host` would be another site
        answer = RedirectResponse(f"{where}?{rest}" if rest else where, status_code=303)
        answer.set_cookie(cookie, self._rules.token or "", httponly=True, samesite="strict")
        return answer


def _refused(why: str) -> Response:
    return PlainTextResponse(f"403: {why}\n", status_code=403)


def _is_from_here(method: str, headers: dict[str, str]) -> bool:
    """Whether a page of ours, or a person who typed the address, sent the request."""
    site = headers.get("sec-fetch-site")
    if site in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
        return False
    origin = headers.get("origin")
    if origin is None:
        return method in _READING
    return urlsplit(origin).netloc == headers.get("host")


def _name_of(header: str) -> str | None:
    """The host of a Host header, without its port."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _own_names() -> frozenset[str]:
    name = socket.gethostname().lower()
    return frozenset({name, f"{name}.local"})
