"""A simulated Redis Cluster: some primaries, each with a part of the slots, and their replicas.

Each part is a `RedisModel`. What a server of a cluster answers before it executes a command (MOVED,
ASK, TRYAGAIN, CROSSSLOT, CLUSTERDOWN) is what Valkey 9 answers; `test_cluster_model.py` compares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby, pairwise
from typing import Any
from zlib import crc32

import redis
import redis_model
from redis.crc import key_slot
from redis_keyspace import Args, Keyspace, Refused, copy_of, name_of
from redis_model import Calls, RedisModel, Wire
from redis_scripts import Scripts

from jamboree_gym.store.redis.cluster.nodes import SLOTS, Address, Nodes

__all__ = ["ClusterModel", "Move", "Part", "Server", "nodes_of", "slot_of"]

PRIMARIES = 3
SHARE = SLOTS // PRIMARIES  # of the slots; the last primary has what is left, too
STEPS_OF_A_MOVE = 5  # fewer than the tries of the package in `PATIENCE_S`
NODE_TIMEOUT_S = 5.0  # after that the others know that a primary is away
NO_KEYS = ("ASKING", "CLIENT", "CLUSTER", "CONFIG", "DBSIZE", "FLUSHALL", "INFO", "KEYS")
NO_KEYS += ("PING", "SCAN", "SCRIPT", "TIME", "WAITAOF")
ALL_KEYS = ("DEL", "EXISTS", "MGET")
CROSS_SLOT = "CROSSSLOT Keys in request don't hash to the same slot"
DOWN = "CLUSTERDOWN The cluster is down"
NOT_SERVED = "CLUSTERDOWN Hash slot not served"
TRY_AGAIN = "TRYAGAIN Multiple keys request during rehashing of slot"
NOT_HERE = "ERR Attempted to access a non local key in a cluster node"


@cache
def slot_of(key: bytes) -> int:
    """The slot of a key."""
    return int(key_slot(key))


def keys_of(call: Args) -> Sequence[bytes]:
    """The keys that a command names."""
    name = name_of(call[0])
    if name in NO_KEYS:
        return ()
    if name in ("EVALSHA", "EVAL"):
        return call[3 : 3 + int(call[2])]
    if name in ALL_KEYS:
        return call[1:]
    if name == "XREAD":
        some = call[[one.upper() for one in call].index(b"STREAMS") + 1 :]
        return some[: len(some) // 2]
    return call[2:3] if name == "MEMORY" else call[1:2]


class Part(RedisModel):
    """What one primary holds, whichever of its two servers that is now.

    Attributes:
        at: Its number.
        cluster: All parts.
        primary: The server that is the primary.
        asks: Whether the command that is executed came after ASKING.
    """

    def __init__(self, at: int, now: Callable[[], float], cluster: ClusterModel) -> None:
        self.at = at
        self.cluster = cluster
        self._away_since: float | None = None
        super().__init__(now)
        self._scripts = Scripts(_OfScripts(self), lambda: self.is_full)
        self._is_asked = self.asks = False
        self.servers = tuple(Server(self, (f"10.0.{at}.{n}", 7000 + at)) for n in range(2))
        self.primary = self.servers[0]

    @property
    def is_away(self) -> bool:
        """Whether the primary takes no connections."""
        return self._away_since is not None

    @is_away.setter
    def is_away(self, value: bool) -> None:
        self._away_since = self.cluster.seconds() if value else None

    @property
    def is_known_to_be_away(self) -> bool:
        """Whether the others have noticed it."""
        since = self._away_since
        return since is not None and self.cluster.seconds() >= since + NODE_TIMEOUT_S

    def _answer(self, call: Args) -> Any:
        name, is_asked = name_of(call[0]), self._is_asked
        self._is_asked = name == "ASKING"
        if name == "ASKING":
            return redis_model.OK
        if name == "CLUSTER":
            return self.cluster.slots()
        self.keyspace.drop_expired()
        refusal = self.refusal(keys_of(call), is_asked=is_asked)
        if refusal:
            self.cluster.refused[refusal.partition(" ")[0]] += 1
            raise Refused(refusal)
        self.asks = is_asked
        return super()._answer(call)

    def refusal(self, keys: Sequence[bytes], *, is_asked: bool) -> str:
        """Why a command with these keys is not executed here; empty if it is."""
        if not keys:
            return ""
        slots = {slot_of(key) for key in keys}
        if len(slots) > 1:
            return CROSS_SLOT
        (slot,) = slots
        owner, move = self.cluster.owner_of(slot), self.cluster.moves.get(slot)
        if owner is None:
            return NOT_SERVED
        if self.cluster.is_down:
            return DOWN
        missing = sum(key not in self.keyspace.values for key in keys)
        if move is not None and move.source is self and missing:
            return TRY_AGAIN if missing < len(keys) else f"ASK {slot} {move.to.primary.where}"
        if move is not None and move.to is self and is_asked:
            return TRY_AGAIN if missing and len(set(keys)) > 1 else ""
        return "" if owner is self else f"MOVED {slot} {owner.primary.where}"

    def _info(self) -> bytes:
        return super()._info() + b"cluster_enabled:1\r\n"

    def fail_over(self, loss_s: float) -> None:
        """Its replica takes its place. If nothing is lost, connections stay as they are."""
        self.primary = next(one for one in self.servers if one is not self.primary)
        if loss_s:
            super().fail_over(loss_s)
        else:
            self._scripts.forget()

    def give(self, key: bytes, to: Part) -> None:
        """A key moves to another part. A failover takes it back from neither.

        So what has moved is not lost as a whole: see README.md.
        """
        value = self.keyspace.values.pop(key)
        expires = self.keyspace.expires.pop(key, None)
        for _, _, (values, times) in self._on_disk:
            values.pop(key, None)
            times.pop(key, None)
        for values, times in [
            (to.keyspace.values, to.keyspace.expires),
            *(state for _, _, state in to._on_disk),
        ]:
            values[key] = copy_of(value)
            if expires is not None:
                times[key] = expires


class _OfScripts(Keyspace):
    """What scripts reach: no key of another part, nor one that is missing while its slot moves."""

    def __init__(self, part: Part) -> None:
        self._part = part

    def run(self, call: Args) -> Any:
        """Answer one command of a script."""
        if self._part.refusal(keys_of(call), is_asked=self._part.asks):
            raise Refused(NOT_HERE)
        return self._part.keyspace.run(call)


class Server:
    """One process of a part: its primary or its replica.

    Attributes:
        address: Host and port.
    """

    def __init__(self, part: Part, address: Address) -> None:
        self.address = address
        self._part = part

    @property
    def where(self) -> str:
        """Host and port as a text."""
        return f"{self.address[0]}:{self.address[1]}"

    @property
    def life(self) -> int:
        """Changes when its connections break."""
        return self._part.life

    @property
    def is_away(self) -> bool:
        """Whether it takes no connections; a replica always does."""
        return self is self._part.primary and self._part.is_away

    def execute(self, calls: Calls) -> list[Any]:
        """The answers to some calls."""
        self._part.cluster.go_on()
        if self is self._part.primary:
            return self._part.execute(calls)
        return [self._of_replica(call) for call in calls]

    def _of_replica(self, call: Args) -> Any:
        keys = keys_of(call)
        if not keys:
            return self._part.execute([call])[0]
        slot = slot_of(keys[0])
        owner = self._part.cluster.owner_of(slot)
        refusal = f"MOVED {slot} {owner.primary.where}" if owner else NOT_SERVED
        return redis_model.as_redis_py(Refused(refusal))


@dataclass(frozen=True, slots=True)
class Move:
    """A slot that moves from one part to another, key by key.

    Attributes:
        is_halted: Whether no more keys move until somebody says so.
        order: In which the keys move.
        at_once: How many move before each round trip.
    """

    source: Part
    to: Part
    is_halted: bool = False
    order: int = 0
    at_once: int = 1


class ClusterModel:
    """All parts of a cluster.

    Args:
        now: The servers' time, epoch seconds.
        seconds: A clock that nobody sets.
        needs_all: Whether no server serves while one is known to be away
            (`cluster-require-full-coverage`).

    Attributes:
        parts: Of each primary.
        moves: Slots that are moving.
        refused: How often a command was refused, by the first word of the answer.
    """

    def __init__(
        self, now: Callable[[], float], seconds: Callable[[], float], *, needs_all: bool = True
    ) -> None:
        self.seconds = seconds
        self.moves: dict[int, Move] = {}
        self.refused = Counter[str]()
        self._needs_all = needs_all
        self._moved: dict[int, Part | None] = {}
        self.parts = tuple(Part(at, now, self) for at in range(PRIMARIES))
        self._servers = {one.address: one for part in self.parts for one in part.servers}

    @property
    def changes(self) -> int:
        """How many commands have written something."""
        return sum(part.keyspace.changes for part in self.parts)

    @property
    def is_down(self) -> bool:
        """Whether no server serves."""
        return self._needs_all and any(part.is_known_to_be_away for part in self.parts)

    @property
    def addresses(self) -> list[Address]:
        """Those that a URL names: of the servers that were the primaries first."""
        return [part.servers[0].address for part in self.parts]

    def at(self, address: Address) -> Server:
        """The server at an address."""
        return self._servers[address]

    def owner_of(self, slot: int) -> Part | None:
        """The part that has a slot."""
        first = self.parts[min(slot // SHARE, PRIMARIES - 1)]
        return self._moved.get(slot, first)

    def slots(self) -> list[Any]:
        """What `CLUSTER SLOTS` says."""
        edges = sorted(
            {SLOTS, *(SHARE * at for at in range(PRIMARIES))}
            | {edge for slot in self._moved for edge in (slot, slot + 1)}
        )
        found = []
        for owner, some in groupby(pairwise(edges), key=lambda span: self.owner_of(span[0])):
            all_of_them = list(some)
            if owner is not None:
                host, port = owner.primary.address
                where = [host.encode(), port, b"id", []]
                found.append([all_of_them[0][0], all_of_them[-1][1] - 1, where])
        return found

    # -- slots that move --------------------------------------------------------------------

    def give(self, slot: int, to: Part | None) -> None:
        """From now on another part has a slot, or none has it."""
        self._moved[slot] = to

    def move(self, slot: int, to: Part, *, is_halted: bool = False, order: int = 0) -> None:
        """Begin to move a slot."""
        source = self.owner_of(slot)
        if source is not None and source is not to and slot not in self.moves:
            at_once = max(1, len(self.keys_in(source, slot)) // STEPS_OF_A_MOVE)
            self.moves[slot] = Move(source, to, is_halted, order, at_once)

    def go_on(self) -> None:
        """Of each slot that moves, some more keys do."""
        for slot, move in list(self.moves.items()):
            for _ in range(0 if move.is_halted else move.at_once):
                if slot in self.moves:
                    self.move_key(slot)

    def move_key(self, slot: int) -> None:
        """Move one key of a slot; if there is none left, the slot is where it should be."""
        move = self.moves[slot]
        keys = self.keys_in(move.source, slot)
        key = min(keys, key=lambda key: crc32(key, move.order), default=None)
        if key is not None:
            move.source.give(key, move.to)
        else:
            del self.moves[slot]
            self.give(slot, move.to)

    def end_move(self, slot: int) -> None:
        """A slot that moves is where it should be."""
        while slot in self.moves:
            self.move_key(slot)

    def end_moves(self) -> None:
        """All of them are."""
        for slot in list(self.moves):
            self.end_move(slot)

    def keys_in(self, part: Part, slot: int) -> list[bytes]:
        """The keys of a slot that a part has."""
        return [key for key in part.keyspace.values if slot_of(key) == slot]


class _SimulatedNodes(Nodes):
    """The servers as the package knows them, with connections to the simulated ones."""

    def __init__(self, model: ClusterModel, wire: Wire | None) -> None:
        super().__init__(model.addresses, {}, has_tls=False)
        self._model, self._wire = model, wire

    def new_client(self, address: Address | None = None) -> redis.Redis:
        """A client of one server."""
        found = address or self._addresses[0]
        return redis_model.client_of(self._model.at(found), self._wire, address=found)


def nodes_of(model: ClusterModel, wire: Wire | None = None) -> Nodes:
    """What `nodes_from_url` gives, for the simulated cluster."""
    return _SimulatedNodes(model, wire)
