"""A bell that rings when a key in Redis has changed: for the backup, and for followers."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError, ResponseError

from jamboree_gym.store.redis.cluster.calls import refusal_of
from jamboree_gym.store.redis.link import RedisLink

__all__ = ["Doorbell"]

log = logging.getLogger(__name__)


class Doorbell:
    """Connections to which Redis says once that a key was changed, expired, or flushed.

    Redis calls that client tracking. Some servers and users cannot have it; the bell then never
    rings, and who waits for it has to look from time to time.

    Args:
        link: Says how to connect; the bell opens a separate connection to each server.
        find_keys: Gives the keys in question.

    Attributes:
        has_rung: Whether it rang while it was armed: then `sockets` may not show it.
    """

    def __init__(self, link: RedisLink, find_keys: Callable[[], Sequence[str]]) -> None:
        self._link = link
        self._find_keys = find_keys
        self._connections: dict[Any, Any] = {}  # by the connection pool of the server
        self._is_refused = self.has_rung = False

    @property
    def sockets(self) -> list[socket.socket]:
        """One is readable once the bell has rung, or its connection broke; none if not armed."""
        found = [getattr(one, "_sock", None) for one in self._connections.values()]
        return [one for one in found if isinstance(one, socket.socket)]

    def arm(self) -> None:
        """Listen from now on; what rang before does not count any more.

        The connections stay: a server keeps what it knows of a closed one until the key changes.
        """
        self.has_rung = False
        try:
            if not self._is_refused:
                self._listen_again(self._find_keys())
                return
        except ResponseError as error:
            log.debug("Redis at %s does not track keys: %s", self._link.where, error)
            self._is_refused = not refusal_of(error)
        except (RedisError, OSError) as error:
            log.debug("no bell at Redis at %s: %s", self._link.where, error)
        self.close()

    def _listen_again(self, keys: Sequence[str]) -> None:
        """On the connections that there are; if one is broken, on new ones."""
        if self._connections:
            try:
                self._listen(keys)
            except ResponseError:
                raise
            except (RedisError, OSError) as error:
                log.debug("the bell at Redis at %s is connected anew: %s", self._link.where, error)
                self.close()
            else:
                return
        self._listen(keys)

    def _listen(self, keys: Sequence[str]) -> None:
        """Tell each server what we want to hear of."""
        watched = self._link.watched_by_server(keys)
        for pool in self._connections.keys() - {pool for pool, _ in watched}:
            self._connections.pop(pool).disconnect()
        for pool, groups in watched:
            connection = self._connections.get(pool) or self._connected(pool)
            for some in groups:  # from this on Redis knows the keys
                connection.send_command("EXISTS", *some)
            self.has_rung |= _rings_among(connection, len(groups))

    def _connected(self, pool: Any) -> Any:
        connection = pool.connection_class(**{**pool.connection_kwargs, "protocol": 3})
        self._connections[pool] = connection
        connection.connect()
        connection.send_command("CLIENT", "TRACKING", "ON")
        connection.read_response()
        return connection

    def close(self) -> None:
        """Listen no longer."""
        connections, self._connections = self._connections, {}
        for one in connections.values():
            with suppress(RedisError, OSError):
                one.disconnect()


def _rings_among(connection: Any, answers: int) -> bool:
    """Read so many answers; whether it rang after the first. What rang before that is old."""
    has_rung, left = False, answers
    while left:
        is_answer = isinstance(connection.read_response(push_request=True), int)
        has_rung |= left < answers and not is_answer
        left -= is_answer
    return has_rung or connection.can_read()  # it may be read already
