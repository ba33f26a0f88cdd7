"""What a backup waits for: the signal to stop, a change in Redis, and how much waits there."""

from __future__ import annotations

import os
import selectors
import socket
import threading
from typing import NamedTuple

from jamboree_gym.backup.eviction.policy import RetentionPolicy, memory_limit
from jamboree_gym.encoding.batch_format import Head
from jamboree_gym.store.redis.doorbell import Doorbell
from jamboree_gym.store.redis.link import AccessRefused
from jamboree_gym.store.redis.store import RedisStore

__all__ = ["Pending", "Pressure", "StopSignal", "read_pending", "wait_for_change"]

MUCH_WAITS_BYTES = 16 << 20
SHARE_OF_ROOM = 1 / 4  # of what was free below the limit after the last copy
CHECK_S = 1.0
CHECK_LIMITED_S = 0.25  # where the server's memory has a limit


class StopSignal(threading.Event):
    """An event that can also be waited for together with sockets. `close` it in the end."""

    def __init__(self) -> None:
        super().__init__()
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._pair_lock = threading.Lock()
        self._pid = 0

    def set(self) -> None:
        """Stop."""
        super().set()
        self._tell()

    def fileno(self) -> int:
        """A descriptor that is readable once the event is set."""
        with self._pair_lock:
            if self._pair is None:
                self._pair, self._pid = socket.socketpair(), os.getpid()
            descriptor = self._pair[0].fileno()
        if self.is_set():
            self._tell()
        return descriptor

    def close(self) -> None:
        """Free the descriptors; the event can still be set and asked."""
        with self._pair_lock:
            pair, self._pair = self._pair, None
        for end in pair or ():
            end.close()

    def _tell(self) -> None:
        with self._pair_lock:
            if self._pair is not None and self._pid == os.getpid():  # a forked child shares it
                self._pair[1].send(b"!")


def wait_for_change(doorbell: Doorbell, stop: StopSignal, timeout_s: float) -> bool:
    """Wait until the bell rings, at most so long, or until `stop`; return whether it rang."""
    if doorbell.has_rung:
        return True
    with selectors.DefaultSelector() as selector:
        selector.register(stop, selectors.EVENT_READ)
        for one in doorbell.sockets:
            selector.register(one, selectors.EVENT_READ)
        return any(key.fileobj is not stop for key, _ in selector.select(timeout_s))


class Pressure:
    """Whether so much waits in Redis that it must be copied soon, judged by the server's memory.

    That is the case after some megabytes, and earlier if the server's memory has a limit: Redis can
    evict only what the backup holds.

    Attributes:
        check_s: How often to ask while something waits, seconds.
    """

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._policy = RetentionPolicy()
        self._used_bytes = 0
        self.check_s = CHECK_S

    def begin_copy(self) -> None:
        """All that is there now is being copied; what comes from here on waits.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        self._used_bytes = self._store.eviction.memory().used_bytes

    def end_copy(self, policy: RetentionPolicy) -> None:
        """The copy is done, and Redis has evicted what this policy allows.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        memory = self._store.eviction.memory()
        self._policy, self._used_bytes = policy, min(self._used_bytes, memory.used_bytes)
        self.check_s = CHECK_S if memory_limit(policy, memory) is None else CHECK_LIMITED_S

    def is_high(self) -> bool:
        """Whether to copy now.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        memory = self._store.eviction.memory()
        grown = memory.used_bytes - self._used_bytes
        limit = memory_limit(self._policy, memory)
        is_near = limit is not None and grown > (limit - self._used_bytes) * SHARE_OF_ROOM
        return grown >= MUCH_WAITS_BYTES or (is_near and grown > 0)


class Pending(NamedTuple):
    """What the backup does not hold yet.

    Attributes:
        place: Where the backup is that acknowledges; None where none has yet.
        logs: Number of logs with changes that it has not acknowledged.
        records: Number of records and rows of these logs that it lacks; of a damaged log 0.
    """

    place: str | None
    logs: int
    records: int


def read_pending(store: RedisStore) -> Pending:
    """Ask Redis what the backup does not hold yet.

    While one backup takes the place of another, logs count as acknowledged that only the other one
    holds. Until that is over, all logs are pending.
    """
    # First: if another backup comes after this, the answer is that of the one before.
    place, is_settled = store.backup_state.acknowledging()
    logs = [key for key, _ in store.acknowledgements.unbacked()]
    least = 0
    if not is_settled:
        try:
            logs = list(store.log_keys())
        except AccessRefused:  # a user who only reads has no SCAN
            least = 1
    heads = store.reader.heads(logs) if logs else {}
    known = [one for one in heads.values() if isinstance(one, Head)]
    records = sum(one.count - (one.acked if is_settled else 0) for one in known)
    return Pending(place, max(len(logs), least), records)
