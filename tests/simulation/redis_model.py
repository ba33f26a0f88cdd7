"""A simulated Redis server, and connections to it that redis-py takes for its own.

Below this line nothing is simulated: `RedisLink` packs its commands and sends them, redis-py reads
the answers. What becomes of a round trip (executed, lost, late) is decided by whoever is asked
before and after it: see `network.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, ClassVar, Protocol

import hiredis
import redis
from redis_keyspace import OK, Args, Keyspace, Refused, name_of
from redis_scripts import FULL, Scripts

__all__ = ["OK", "Calls", "Model", "RedisModel", "Wire", "as_redis_py", "client_of"]

Calls = Sequence[Args]
MAX_LOSS_S = 1.0  # appendfsync everysec
SNAPSHOT_EVERY_S = 0.2
# Copied for each client. It is made here, as redis-py draws a name for it: of the first seed of a
# process, all that is drawn later would be another.
_CLIENT = redis.Redis(connection_pool=redis.ConnectionPool(protocol=2))


class Model(Protocol):
    """A server to which connections lead.

    Attributes:
        is_away: Whether it takes no connections.
        life: Changes when its connections break.
    """

    @property
    def is_away(self) -> bool: ...

    @property
    def life(self) -> int: ...

    def execute(self, calls: Calls) -> list[Any]:
        """The answers to some calls; in place of a refused one, the error."""


class Wire(Protocol):
    """What stands between a client and the server."""

    def carry(self, model: Model, calls: Calls, execute: Callable[[], list[Any]]) -> list[Any]:
        """The answers of a server to some calls; raises where these are lost."""


class PlainWire:
    """Loses nothing."""

    def carry(self, model: Model, calls: Calls, execute: Callable[[], list[Any]]) -> list[Any]:
        """Execute them."""
        return execute()


class RedisModel:
    """One server.

    Args:
        now: Its time, epoch seconds.

    Attributes:
        now: Its clock.
        keyspace: What it holds.
        is_full: Whether it has used up its memory.
        is_away: Whether it takes no connections.
        life: How often it has been started; older connections are broken.
        parts: As of a cluster, of which this is one.
        moves: As of a cluster.
    """

    moves: ClassVar[Mapping[int, Any]] = {}

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.keyspace = Keyspace(now)
        self.is_full = False
        self.is_away = False
        self.life = 1
        self.parts: Sequence[RedisModel] = (self,)
        self._scripts = Scripts(self.keyspace, lambda: self.is_full)
        self._on_disk = [(now(), 0, self.keyspace.copied())]

    @property
    def changes(self) -> int:
        """How many commands have written something."""
        return self.keyspace.changes

    def end_move(self, slot: int) -> None:
        """As of a cluster."""

    def end_moves(self) -> None:
        """As of a cluster."""

    # -- commands ---------------------------------------------------------------------------

    def execute(self, calls: Calls) -> list[Any]:
        """The answers to some calls; in place of a refused one, the error."""
        answers = [self._one(call) for call in calls]
        self._write_to_disk()
        return answers

    def _one(self, call: Args) -> Any:
        try:
            return as_redis_py(self._answer(call))
        except Refused as error:
            return as_redis_py(error)

    def _answer(self, call: Args) -> Any:
        self.keyspace.drop_expired()
        name = name_of(call[0])
        if name == "EVALSHA":
            split = 3 + int(call[2])
            return self._scripts.run(call[1], call[3:split], call[split:])
        if name == "EVAL":
            split = 3 + int(call[2])
            return self._scripts.run(self._scripts.load(call[1]), call[3:split], call[split:])
        if name == "SCRIPT" and call[1].upper() == b"LOAD":
            return self._scripts.load(call[2])
        if name == "INFO":
            return self._info()
        if name == "CONFIG":
            return [b"appendfsync", b"everysec"]
        if name == "WAITAOF":
            self._write_to_disk(at_once=True)
            return [1, 0]
        if self.is_full and name in Keyspace.GROWS:
            raise Refused(FULL)
        return self.keyspace.run(call)

    def _info(self) -> bytes:
        used = sum(len(key) + 64 for key in self.keyspace.values)
        lines = ("redis_version:7.2.4", "server_name:valkey", "valkey_version:9.0.0")
        lines += ("aof_enabled:1", f"used_memory:{used}", "maxmemory:0")
        return "\r\n".join((*lines, "maxmemory_policy:noeviction", "")).encode()

    # -- its disk ---------------------------------------------------------------------------

    def _write_to_disk(self, *, at_once: bool = False) -> None:
        """Remember what could be found after a failure: one state for each fifth of a second."""
        now, changes = self.now(), self.keyspace.changes
        newest = self._on_disk[-1]
        if changes == newest[1]:
            return
        if at_once:
            self._on_disk = [(now, changes, self.keyspace.copied())]
        elif abs(now - newest[0]) >= SNAPSHOT_EVERY_S:
            self._on_disk.append((now, changes, self.keyspace.copied()))
            while len(self._on_disk) > 2 and abs(now - self._on_disk[1][0]) >= MAX_LOSS_S:
                del self._on_disk[0]

    def forget_older_states(self) -> None:
        """No failover goes back behind now."""
        self._on_disk = [(self.now(), self.keyspace.changes, self.keyspace.copied())]

    def fail_over(self, loss_s: float) -> None:
        """A server takes its place that lacks the writes of the last moment, at most a second.

        A state that was noted before a second ago is not one of those: what it lacks may be older.
        """
        now = self.now()
        kept = [one for one in self._on_disk if loss_s <= abs(now - one[0]) < MAX_LOSS_S]
        if kept:
            self.keyspace.put_back(kept[-1][2])
        self.forget_older_states()
        self.start_again()

    def start_again(self) -> None:
        """Every connection is broken, and no script is known."""
        self.life += 1
        self._scripts.forget()


class Connection(redis.Connection):
    """A connection of redis-py to the simulated server, without a socket."""

    _like: ClassVar[dict[str, Any]] = {}

    def __init__(self, *, model: Model, wire: Wire, **options: Any) -> None:
        if not self._like:  # redis-py reads its own version from the disk for each connection
            super().__init__(**options)
            self._like.update(vars(self))
        vars(self).update(self._like)
        self._model, self._wire = model, wire
        self._life = 0
        self._waiting: list[Any] = []
        self._reader = hiredis.Reader()

    def connect(self, *_: Any, **__: Any) -> None:
        """Open it, unless the server is away."""
        if self._life:
            return
        if self._model.is_away:
            raise redis.ConnectionError("connection refused")
        self._life = self._model.life

    def disconnect(self, *_: Any, **__: Any) -> None:
        """Close it."""
        self._life, self._waiting = 0, []

    def can_read(self, timeout: float = 0) -> bool:
        """Whether the server has closed it."""
        return self._is_broken

    @property
    def _is_broken(self) -> bool:
        return self._model.is_away or self._life != self._model.life

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Take a round trip."""
        self.connect()
        if self._is_broken:
            self.disconnect()
            raise redis.ConnectionError("connection reset by peer")
        for part in [command] if isinstance(command, (bytes, str)) else command:
            self._reader.feed(part)
        calls = list(iter(self._reader.gets, False))
        try:
            self._waiting = self._wire.carry(self._model, calls, lambda: self._model.execute(calls))
        except BaseException:
            self.disconnect()
            raise

    def read_response(self, *_: Any, **__: Any) -> Any:
        """The next answer."""
        answer = self._waiting.pop(0)
        if isinstance(answer, redis.RedisError):
            raise answer
        return answer


def as_redis_py(answer: Any) -> Any:
    """An answer as redis-py reads it: an error inside a list stands in its place."""
    if type(answer) is bytes or type(answer) is int:
        return answer
    if isinstance(answer, Refused):
        return redis.connection.DefaultParser.parse_error(str(answer))
    return [as_redis_py(one) for one in answer] if isinstance(answer, list) else answer


def client_of(
    model: Model, wire: Wire | None = None, *, address: tuple[str, int] = ("simulated", 6379)
) -> redis.Redis:
    """A client of redis-py whose connections lead to the simulated server."""
    pool = redis.ConnectionPool(
        connection_class=Connection,
        model=model,
        wire=wire or PlainWire(),
        host=address[0],
        port=address[1],
        protocol=2,
    )
    client = copy(_CLIENT)  # to make one takes as long as ten commands
    client.connection_pool = pool
    return client


def now() -> float:
    """The real time, for a server that is compared with a real one."""
    return time.time()
