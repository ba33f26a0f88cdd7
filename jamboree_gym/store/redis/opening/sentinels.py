"""A client for the primary of a service that Sentinels watch; it follows a failover.

Each new connection asks the Sentinels which server is the primary now, and then that server whether
it is one. A failover ends the connections to the old primary, so new ones are made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote

import redis
from redis.connection import SSLConnection
from redis.exceptions import AuthenticationError, ConnectionError, RedisError
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
)

from jamboree_gym.errors import InvalidUrl
from jamboree_gym.store.redis.opening.options import (
    addresses_in,
    options_in,
    unreadable_url,
    usual_options,
)
from jamboree_gym.store.urls import is_cut_short

__all__ = [
    "SENTINEL_SCHEMES",
    "PrimaryPool",
    "SentinelReport",
    "address_of",
    "client_by_sentinels",
]

SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
SENTINEL_PORT = 26379
SENTINEL_CONNECT_TIMEOUT_S = 1.0  # they are asked one after the other
SENTINEL_ANSWER_TIMEOUT_S = 2.0
_URL = re.compile(
    r"(?P<scheme>rediss?)\+sentinel://(?P<login>[^/?#]*@)?(?P<hosts>[^/?#@]+)"
    r"(?:/(?P<service>[^/?#]*))?(?:/(?P<database>[^/?#]*))?(?P<query>\?[^#]*)?"
)
_CONNECTING = re.compile(r"^Error -?\d+ connecting to \S+ ")  # the address, which is named already
_NO = ("false", "no", "0")


@dataclass(frozen=True, slots=True)
class SentinelReport:
    """What one Sentinel says of a service.

    Attributes:
        where: Host and port of the Sentinel.
        primary: Host and port of the primary; None if there is none now.
        services: All services that it watches.
        quorum: How many Sentinels have to agree that the primary is down.
        others: How many other Sentinels it knows.
        error: Why it did not answer; None if it did.
    """

    where: str
    primary: tuple[str, int] | None = None
    services: Sequence[str] = ()
    quorum: int = 0
    others: int = 0
    error: RedisError | None = None


class PrimaryPool(SentinelConnectionPool):
    """Connections to the primary of a service, whichever server that is."""

    sentinel_manager: _Sentinels

    @property
    def where(self) -> str:
        """The service and its Sentinels; never a user or a password."""
        return f"{self.service_name} (Sentinels {', '.join(self.sentinel_manager.hosts)})"

    def primary(self) -> str:
        """Host and port of the primary.

        Raises:
            ConnectionError: The Sentinels do not answer, do not know the service, or have no
                primary now.
        """
        return _shown(*self.sentinel_manager.discover_master(self.service_name))

    def reports(self) -> list[SentinelReport]:
        """What each Sentinel of the URL says, in their order there."""
        found = [
            self.sentinel_manager.report(one, self.service_name)
            for one in self.sentinel_manager.sentinels
        ]
        return sorted(found, key=lambda one: self.sentinel_manager.hosts.index(one.where))


def address_of(client: redis.Redis) -> str:
    """Host and port of the server that a client uses now, or its socket path.

    Raises:
        ConnectionError: There is no primary now.
    """
    pool = client.connection_pool
    if isinstance(pool, PrimaryPool):
        return pool.primary()
    options = pool.connection_kwargs
    return str(options.get("path") or f"{options.get('host')}:{options.get('port', 6379)}")


def client_by_sentinels(url: str) -> redis.Redis:
    """A client by a URL `redis+sentinel://user:password@host:port,host:port/service/database`.

    `sentinel_username` and `sentinel_password` among its options are the login of the Sentinels.
    `rediss+sentinel` means TLS for both, and for Redis alone with `sentinel_ssl=false`.

    Raises:
        InvalidUrl: It cannot be read.
    """
    scheme = url.partition("://")[0]
    found = None if is_cut_short(url) else _URL.fullmatch(url)
    if found is not None and not found["service"]:
        raise InvalidUrl(
            "redis_url names no service of the Sentinels; use "
            f"{scheme}://host:{SENTINEL_PORT},host:{SENTINEL_PORT}/mymaster"
        )
    if found is not None:
        try:
            return _client(found)
        except (TypeError, ValueError, RedisError):
            pass  # its message may quote the URL, and would stay with an error raised here
    raise unreadable_url(scheme)


def _client(url: re.Match[str]) -> redis.Redis:
    hosts = addresses_in(url["hosts"], SENTINEL_PORT)
    options, has_tls = options_in(url)
    sentinels = _Sentinels(hosts, _options_of_sentinels(options, has_tls=has_tls))
    pool = PrimaryPool(  # type: ignore[no-untyped-call]
        unquote(url["service"]),
        sentinels,
        connection_class=_PrimaryWithTls if has_tls else _Primary,
        **usual_options() | options,
    )
    client = redis.Redis.from_pool(pool)
    # Refuses options, and connects to nothing; kept as in `client.py`.
    vars(client)["never_used"] = pool.connection_class(**pool.connection_kwargs)
    return client


def _options_of_sentinels(options: dict[str, Any], *, has_tls: bool) -> dict[str, Any]:
    """Options of the connections to Sentinels; those that concern only them leave `options`."""
    found: dict[str, Any] = usual_options() | {
        "socket_connect_timeout": SENTINEL_CONNECT_TIMEOUT_S,
        "socket_timeout": SENTINEL_ANSWER_TIMEOUT_S,
    }
    for name in ("username", "password"):
        found[name] = options.pop(f"sentinel_{name}", None)
    wants_tls = str(options.pop("sentinel_ssl", "true")).lower() not in _NO
    if has_tls and wants_tls:
        found |= {name: value for name, value in options.items() if name.startswith("ssl_")}
        found["ssl"] = True
    return found


class _Sentinels(Sentinel):
    """The Sentinels of a URL. The one that has answered last is asked first.

    Attributes:
        hosts: Host and port of each, as messages name them.
    """

    def __init__(self, hosts: Sequence[tuple[str, int]], options: Mapping[str, Any]) -> None:
        super().__init__(hosts, sentinel_kwargs=dict(options))  # type: ignore[no-untyped-call]
        self.sentinels: list[redis.Redis]
        self.hosts = sorted({_shown(*one) for one in hosts})

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """As redis-py's; says which of its three reasons an error has."""
        found = []
        for sentinel in self.sentinels:
            report = self.report(sentinel, service_name)
            if report.primary is not None:
                others = [one for one in self.sentinels if one is not sentinel]
                self.sentinels = [sentinel, *others]  # at once: other threads look, too
                return report.primary
            found.append(report)
        raise _no_primary(service_name, found)

    def report(self, sentinel: redis.Redis, service_name: str) -> SentinelReport:
        """What one of them says; its connection is closed after that, as it is seldom asked."""
        options = sentinel.connection_pool.connection_kwargs
        where = _shown(options["host"], options["port"])
        try:
            services = cast("Mapping[str, Any]", sentinel.sentinel_masters())
        except RedisError as error:
            return SentinelReport(where, error=error)
        finally:
            sentinel.connection_pool.disconnect(inuse_connections=False)
        state = services.get(service_name)
        if state is None:
            return SentinelReport(where, services=sorted(services))
        is_well = self.check_master_state(state, service_name)  # type: ignore[no-untyped-call]
        return SentinelReport(
            where,
            (str(state["ip"]), int(state["port"])) if is_well else None,
            sorted(services),
            int(state["quorum"]),
            int(state["num-other-sentinels"]),
        )


def _no_primary(service: str, reports: Sequence[SentinelReport]) -> ConnectionError:
    errors = [one.error for one in reports if one.error is not None]
    refused = [one for one in reports if isinstance(one.error, AuthenticationError)]
    services = {name for one in reports for name in one.services}
    if refused and len(errors) == len(reports):
        text = f"Sentinel {refused[0].where}: {str(refused[0].error).rstrip('.')}"
        return AuthenticationError(f"{text}; its login is sentinel_username, sentinel_password")
    if len(errors) == len(reports):
        reasons = "; ".join(f"{one.where}: {_reason(one.error)}" for one in reports)
        return MasterNotFoundError(f"no Sentinel answers ({reasons})")
    if service not in services:
        known = ", ".join(map(repr, sorted(services))) or "nothing"
        return MasterNotFoundError(f"the Sentinels watch {known}, and no {service!r}")
    return MasterNotFoundError(
        "it has no primary now; the Sentinels choose one of its replicas, and then it continues by "
        "itself"
    )


def _reason(error: RedisError | None) -> str:
    text = _CONNECTING.sub("", str(error)).rstrip(".")
    return "is no Sentinel" if text.lower().startswith("unknown command") else text


class _Primary(SentinelManagedConnection):
    """A connection that is made to a primary only: a Sentinel may not know yet that it is none."""

    def connect_to(self, address: tuple[str, int]) -> None:
        """Connect, and ask the server for its role; every user may."""
        super().connect_to(address)  # type: ignore[no-untyped-call]
        self.send_command("HELLO")  # type: ignore[no-untyped-call]
        said: Any = self.read_response()
        named = said if isinstance(said, dict) else dict(zip(said[::2], said[1::2], strict=True))
        if named.get(b"role") != b"master":
            self.disconnect()  # type: ignore[no-untyped-call]
            raise ConnectionError(f"{_shown(*address)} is a replica now")


class _PrimaryWithTls(_Primary, SSLConnection):
    """The same with TLS."""


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
