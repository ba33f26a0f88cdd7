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

ARM_TRIES = 3

log = logging.getLogger(__name__)


class Doorbell:
    """Connections to which Redis says once that a key was changed, expired, or flushed.

    Redis calls that client tracking. Some servers and users cannot have it; the bell then never
    rings, and who waits for it has to look from time to time.

    Args:
        link: Says how to connect; the bell opens a separate connection to each server.
        find_keys: Gives the keys in question.
    """

    def __init__(self, link: RedisLink, find_keys: Callable[[], Sequence[str]]) -> None:
        self._link = link
        self._find_keys = find_keys
        self._connections: list[Any] = []
        self._is_refused = False

    @property
    def sockets(self) -> list[socket.socket]:
        """One is readable once the bell has rung, or its connection broke; none if not armed."""
        found = [getattr(one, "_sock", None) for one in self._connections]
        return [one for one in found if isinstance(one, socket.socket)]

    def arm(self) -> None:
        """Listen from now on; what rang before does not count any more."""
        self.close()
        if self._is_refused:
            return
        keys = self._find_keys()
        try:
            for _ in range(ARM_TRIES):
                if self._begin_to_listen(keys):
                    return
                self.close()
        except ResponseError as error:
            log.debug("Redis at %s does not track keys: %s", self._link.where, error)
            self._is_refused = not refusal_of(error)
            self.close()
        except (RedisError, OSError) as error:
            log.debug("no bell at Redis at %s: %s", self._link.where, error)
            self.close()

    def _begin_to_listen(self, keys: Sequence[str]) -> bool:
        """Tell each server what we want to hear of. False if it rang while others were told."""
        for pool, groups in self._link.watched_by_server(keys):
            connection = pool.connection_class(**{**pool.connection_kwargs, "protocol": 3})
            self._connections.append(connection)
            connection.connect()
            connection.send_command("CLIENT", "TRACKING", "ON")
            connection.read_response()
            # From this on Redis knows the keys. If one command names all, nothing rings before its
            # answer.
            for some in groups:
                connection.send_command("EXISTS", *some)
            for _ in groups:
                if not isinstance(connection.read_response(push_request=True), int):
                    return False
        return True

    def close(self) -> None:
        """Listen no longer."""
        connections, self._connections = self._connections, []
        for one in connections:
            with suppress(RedisError, OSError):
                one.disconnect()
