"""Rings when one of some keys changes, so that nobody has to look again and again."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from jamboree_gym.store.redis.link import RedisLink

__all__ = ["Doorbell"]

log = logging.getLogger(__name__)


class Doorbell:
    """A connection to which Redis says once that a key was changed, expired, or flushed.

    Redis calls that client tracking. Some servers and users cannot have it; the bell then never
    rings, and who waits for it has to look from time to time.

    Args:
        link: Says how to connect; the bell opens a connection of its own.
        find_keys: Gives the keys in question.
    """

    def __init__(self, link: RedisLink, find_keys: Callable[[], Sequence[str]]) -> None:
        self._link = link
        self._find_keys = find_keys
        self._connection: Any = None
        self._is_refused = False

    @property
    def socket(self) -> socket.socket | None:
        """It is readable once the bell has rung, or its connection broke; None if not armed."""
        found = getattr(self._connection, "_sock", None)
        return found if isinstance(found, socket.socket) else None

    def arm(self) -> None:
        """Listen from now on; what rang before does not count any more."""
        self.close()
        if self._is_refused:
            return
        keys = self._find_keys()
        pool = self._link.client.connection_pool
        self._connection = pool.connection_class(**{**pool.connection_kwargs, "protocol": 3})
        try:
            self._connection.connect()
            self._ask("CLIENT", "TRACKING", "ON")
            # From this on Redis knows what we want to hear of. One command: what rings while others
            # are still answered would be lost.
            self._ask("EXISTS", *keys)
        except (NoPermissionError, ResponseError) as error:
            log.debug("Redis at %s does not track keys: %s", self._link.where, error)
            self._is_refused = True
            self.close()
        except (RedisError, OSError) as error:
            log.debug("no bell at Redis at %s: %s", self._link.where, error)
            self.close()

    def close(self) -> None:
        """Listen no longer."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(RedisError, OSError):
                connection.disconnect()

    def _ask(self, *call: str) -> None:
        self._connection.send_command(*call)
        self._connection.read_response()
