"""The servers of a cluster: which of them has a slot, and connections to each."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import redis
from redis.cluster import ClusterNode
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    ConnectionError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
)

from jamboree_gym.errors import UnsupportedServer
from jamboree_gym.store.redis.link import RedisLink

__all__ = ["SLOTS", "Address", "Node", "Nodes"]

SLOTS = 16384
SHOWN_REASONS = 2  # of servers that do not answer

Address = tuple[str, int]
"""Host and port."""


class Node(RedisLink):
    """One server of a cluster.

    Attributes:
        host: Its name or address.
        failed_at: When it last did not answer, by the monotonic clock.
    """

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.host = str(client.connection_pool.connection_kwargs["host"])
        self.failed_at = -math.inf

    def take(self, *, check: bool) -> Any:
        """A connection; on `check` one that the server has not closed meanwhile."""
        return self._connection(check)

    def put_back(self, connection: Any) -> None:
        """Keep a connection for the next one who takes it."""
        self._idle.append(connection)

    def drop(self, connection: Any) -> None:
        """Close a connection."""
        self._drop(connection)

    def ask(self, *call: str) -> Any:
        """The answer to one command; raises where there is none."""
        (answer,) = self._send([call])
        if isinstance(answer, RedisError):
            raise answer
        return answer


class Nodes:
    """The primaries of a cluster. It asks for them when it is first used, and once they changed.

    Args:
        addresses: Where some of its servers are.
        options: Options of all connections.
        has_tls: Whether these use TLS.

    Attributes:
        hosts: Host and port of each of these addresses, as messages name them.
        changes: How often a slot was found at another server than before.
    """

    def __init__(
        self, addresses: Sequence[Address], options: Mapping[str, Any], *, has_tls: bool
    ) -> None:
        self.hosts = sorted({_shown(one) for one in addresses})
        self.changes = 0
        self._addresses = list(dict.fromkeys(addresses))
        self._options = options
        self._connection_class = redis.SSLConnection if has_tls else redis.Connection
        self._nodes: dict[Address, Node] = {}
        self._owners: list[Node | None] = []  # of each slot; empty as long as nobody has asked
        self._is_known = False
        self._lock = threading.Lock()

    @property
    def losses(self) -> int:
        """Those of all servers: see `RedisLink.losses`."""
        return sum([node.losses for node in self._all()])

    def new_client(self, address: Address | None = None) -> redis.Redis:
        """A client of one server; without an address, of the first. It connects to nothing."""
        host, port = address or self._addresses[0]
        options = {**self._options, "host": host, "port": port}
        pool = redis.ConnectionPool(connection_class=self._connection_class, **options)
        return redis.Redis.from_pool(pool)

    def new_cluster_client(self) -> redis.RedisCluster:
        """A client of the whole cluster, for users. It connects.

        Raises:
            ConnectionError: No server answers.
        """
        options = {name: value for name, value in self._options.items() if name != "retry"}
        if self._connection_class is redis.SSLConnection:
            options["ssl"] = True
        nodes = [ClusterNode(*one) for one in self._addresses]  # type: ignore[no-untyped-call]
        try:
            return redis.RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options)
        except RedisClusterException as error:  # which is no RedisError
            raise ConnectionError(str(error)) from error

    # -- who has what -----------------------------------------------------------------------

    def of_slot(self, slot: int) -> Node:
        """The primary that has a slot.

        Raises:
            ClusterDownError: None has it.
            ConnectionError: No server answers.
        """
        owner = self._known()[slot]
        if owner is None:
            self.doubt()
            raise ClusterDownError(f"no server has the slot {slot}")
        return owner

    def primaries(self) -> list[Node]:
        """All primaries that have a slot."""
        return [one for one in dict.fromkeys(self._known()) if one is not None]

    def at(self, host: str, port: int) -> Node:
        """The server at an address."""
        address = host, port
        found = self._nodes.get(address)
        if found is None:  # of two threads, one wins
            found = self._nodes.setdefault(address, Node(self.new_client(address)))
        return found

    def moved(self, slot: int, to: Node) -> None:
        """A server said that another one has a slot now: that one is asked for all slots."""
        self.changes += 1
        owners = list(self._owners)
        owners[slot] = to
        self._owners = owners
        self._is_known = False
        to.failed_at = -math.inf
        self._learn(first=to)
        if self._owners[slot] is not to:  # it knows its own slots best
            self._owners[slot] = to

    def doubt(self) -> None:
        """Ask again before the next use: a server does not answer."""
        self._is_known = False

    def _known(self) -> Sequence[Node | None]:
        if not self._is_known:
            self._learn()
        return self._owners

    def _learn(self, *, first: Node | None = None) -> None:
        """Ask one server after the other until one knows who has which slot."""
        with self._lock:
            if self._is_known:  # another thread has asked meanwhile
                return
            best: list[Node | None] = [None] * SLOTS
            silent: dict[str, RedisError] = {}
            for node in self._to_ask(first):
                try:
                    owners = self._owners_by(node, node.ask("CLUSTER", "SLOTS"))
                except (AuthenticationError, NoPermissionError):
                    raise
                except ResponseError as error:
                    raise _no_cluster(node, error) from error
                except (ConnectionError, TimeoutError) as error:
                    node.failed_at = time.monotonic()
                    silent[node.where] = error
                    continue
                best = min(best, owners, key=lambda some: some.count(None))
                if None not in best:
                    break
            if best.count(None) == SLOTS:
                if silent:
                    raise ConnectionError(f"no node answers ({_reasons(silent)})")
                raise ClusterDownError("no server has any slot")
            if self._owners and best != self._owners:
                self.changes += 1
            self._owners, self._is_known = best, True

    def _to_ask(self, first: Node | None) -> Iterator[Node]:
        """All that are known, in the order in which they should be asked."""
        known = [one for one in dict.fromkeys(self._owners) if one is not None]
        seeds = [self.at(*address) for address in self._addresses]
        found = list(dict.fromkeys([*known, *seeds]))
        if first is not None:
            yield first
        yield from sorted((one for one in found if one is not first), key=_failed_at)

    def _owners_by(self, asked: Node, answer: Any) -> list[Node | None]:
        """What `CLUSTER SLOTS` says: the owner of each slot."""
        owners: list[Node | None] = [None] * SLOTS
        for begin, end, (host, port, *_), *_ in answer:
            # A server that does not know its own address says nothing in its place.
            name = "" if host is None else host.decode()
            node = self.at(name if name not in ("", "?") else asked.host, int(port))
            owners[begin : end + 1] = [node] * (end + 1 - begin)
        return owners

    # -- connections ------------------------------------------------------------------------

    def forget_connections(self) -> None:
        """Connect anew from now on, and ask again who has what."""
        self.doubt()
        for node in self._all():
            node.forget_connections()

    def close(self) -> None:
        """Close all connections. Twice is quiet."""
        for node in self._all():
            node.close()

    def after_fork_in_child(self) -> None:
        """Leave the connections to the parent process."""
        self._lock = threading.Lock()
        for node in self._all():
            node.after_fork_in_child()

    def _all(self) -> Iterable[Node]:
        return list(self._nodes.values())


def _no_cluster(node: Node, error: ResponseError) -> Exception:
    if "cluster support disabled" in str(error):
        return UnsupportedServer(
            f"Redis at {node.where} is no node of a cluster: use redis://{node.where}, or start it "
            "with cluster-enabled yes"
        )
    return error


def _failed_at(node: Node) -> float:
    return node.failed_at


def _reasons(silent: Mapping[str, RedisError]) -> str:
    shown = [f"{where}: {_reason(error)}" for where, error in silent.items()][:SHOWN_REASONS]
    more = len(silent) - len(shown)
    return "; ".join([*shown, *([f"and {more} more"] if more else [])])


def _reason(error: RedisError) -> str:
    """Without the address, which is named already."""
    text = str(error)
    return text.partition(". ")[2].rstrip(".") or text if text.startswith("Error ") else text


def _shown(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
