"""The servers of the simulated cluster answer as those of a real one: when they refuse, and why."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import cluster_model
import pytest
import redis
import redis_model
from cluster_model import ClusterModel, Move
from cluster_servers import PASSWORD, Cluster
from lengths import examples
from processes import wait_until
from redis_model import RedisModel

pytestmark = pytest.mark.once

CALLS = 8000
SEED_NAME = "JAMBOREE_SIMULATED_SEED"
SEED = int(os.environ.get(SEED_NAME) or 1)
AGAIN = f"again: {SEED_NAME}={SEED}"
DEL_AND_SET = "redis.call('DEL', KEYS[1]); return redis.call('SET', KEYS[1], 'x')"
ASK_FOR = "return redis.call('EXISTS', ARGV[1])"


class Both:
    """A real cluster and a simulated one, to which the same happens.

    Servers are named by number: those that were the primaries first.
    """

    def __init__(self, real: Cluster, namespace: str, exits: ExitStack) -> None:
        self.real = real
        self.model = ClusterModel(redis_model.now, redis_model.now)
        self.primaries = [real.owner_of(5461 * at) for at in range(3)]
        self._clients = [
            (exits.enter_context(real.admin(one)), redis_model.client_of(self.model.at(address)))
            for one, address in zip(self.primaries, self.model.addresses, strict=True)
        ]
        self.tags = [f"{{{namespace}:{at}}}" for at in range(3)]
        self.slots = [cluster_model.slot_of(tag.encode()) for tag in self.tags]

    def ask(self, at: int, calls: Sequence[Sequence[Any]]) -> tuple[Any, Any]:
        """What both answer to some calls that come down one connection."""
        real, model = self._clients[at]
        return self._answers(real, calls), self._answers(model, calls)

    def _answers(self, client: redis.Redis, calls: Sequence[Sequence[Any]]) -> list[Any]:
        connection = client.connection_pool.get_connection()
        connection.send_packed_command(connection.pack_commands(calls))
        found = [self._answer(connection) for _ in calls]
        client.connection_pool.release(connection)
        return found

    def _answer(self, connection: Any) -> Any:
        try:
            return connection.read_response()
        except redis.RedisError as error:
            text = str(error).split(" script:")[0]
            for at, (real, address) in enumerate(
                zip(self.primaries, self.model.addresses, strict=True)
            ):
                text = re.sub(f"{re.escape(real)}$|{address[0]}:{address[1]}$", f"node {at}", text)
            return type(error).__name__, text

    def begin_to_move(self, slot: int, to: int) -> None:
        """Keys of a slot may move from now on."""
        source, target = self.owner_of(slot), self.primaries[to]
        if source != target and slot not in self.model.moves:
            self.model.move(slot, self.model.parts[to], is_halted=True)
            self.real.tell(target, "SETSLOT", slot, "IMPORTING", self.real.id_of(source))
            self.real.tell(source, "SETSLOT", slot, "MIGRATING", self.real.id_of(target))

    def move_key(self, slot: int) -> None:
        """One key moves, if there is any."""
        for move, key in self._left(slot)[:1]:
            (host, port), login = self.primaries[move.to.at].split(":"), ("AUTH", PASSWORD)
            move.source.give(key, move.to)
            source, _ = self._clients[move.source.at]
            keys = ("REPLACE", *login, "KEYS", key)  # somebody may have put it there by ASKING
            source.execute_command("MIGRATE", host, port, "", 0, 5000, *keys)

    def _left(self, slot: int) -> list[tuple[Move, bytes]]:
        move = self.model.moves.get(slot)
        keys = sorted(self.model.keys_in(move.source, slot)) if move else []
        return [(move, key) for key in keys if move]

    def end_move(self, slot: int) -> None:
        """All keys of a slot are where they should be."""
        while self._left(slot):
            self.move_key(slot)
        move = self.model.moves.get(slot)
        if move is not None:
            self.model.end_move(slot)
            self.give(slot, move.to.at)

    def give(self, slot: int, to: int) -> None:
        """A slot moves to another primary, and all have heard of it."""
        address = self.primaries[to]
        self.real.move_slot(slot, address)
        wait_until(lambda: len({self._epoch_of(address, one) for one in self.primaries}) == 1)
        wait_until(lambda: {self._owner(slot, one) for one in self.primaries} == {address})

    def _epoch_of(self, address: str, told_by: str) -> str:
        """While servers know different ones, an older owner may get the slot back for a moment."""
        nodes = self.real.tell(told_by, "NODES").decode().splitlines()
        return next(one.split()[6] for one in nodes if f" {address}@" in one)

    def _owner(self, slot: int, told_by: str) -> str:
        for begin, end, (host, port, *_), *_ in self.real.tell(told_by, "SLOTS"):
            if begin <= slot <= end:
                return f"{host.decode()}:{port}"
        return ""

    def owner_of(self, slot: int) -> str:
        """Who has a slot."""
        owner = self.model.owner_of(slot)
        assert owner is not None
        return self.primaries[owner.at]


@pytest.fixture
def both(cluster: Cluster, namespace: str) -> Iterator[Both]:
    with ExitStack() as exits:
        made = Both(cluster, namespace, exits)
        first = [made.model.owner_of(slot) for slot in made.slots]
        yield made
        for slot, owner in zip(made.slots, first, strict=True):
            made.end_move(slot)
            if owner is not None and made.model.owner_of(slot) is not owner:
                made.give(slot, owner.at)


def call(rng: random.Random, tag: str, other: str) -> Sequence[Any]:
    """A command of which keys are here, there or nowhere."""
    keys = [f"{tag}{name}" for name in rng.sample("abcd", 3)]
    draws: list[Callable[[], Sequence[Any]]] = [
        lambda: ("SET", keys[0], "x"),
        lambda: ("GET", keys[0]),
        lambda: ("DEL", *keys[: rng.randint(1, 2)]),
        lambda: ("EXISTS", *keys[: rng.randint(1, 3)]),
        lambda: ("MGET", keys[0], *rng.choice([(), (keys[0],), (keys[1],), (other,)])),
        lambda: ("EVAL", DEL_AND_SET, 1, keys[0]),
        lambda: ("EVAL", DEL_AND_SET, 2, *keys[:2]),
        lambda: ("EVAL", ASK_FOR, 1, keys[0], keys[1]),
        lambda: ("EVALSHA", "0" * 40, 2, *keys[:2]),
    ]
    return rng.choice(draws)()


def test_servers_refuse_the_same_commands_while_slots_move(both: Both) -> None:
    rng, kinds = random.Random(SEED), set[str]()
    for _ in range(examples(CALLS)):
        at = rng.randrange(3)
        tag, slot = both.tags[at], both.slots[at]
        if rng.random() < 0.05:
            both.begin_to_move(slot, rng.randrange(3))
        elif rng.random() < 0.1:
            both.move_key(slot)
        elif rng.random() < 0.02:
            both.end_move(slot)
        calls = [call(rng, tag, f"{both.tags[at - 1]}a")]
        if rng.random() < 0.3:
            calls.insert(0, ("ASKING",))
        real, model = both.ask(rng.randrange(3), calls)
        assert model == real, (AGAIN, calls, both.model.moves)
        kinds |= {one[0] for one in real if isinstance(one, tuple)}
    refusals = {"MovedError", "AskError", "TryAgainError", "NoScriptError"}
    assert kinds >= refusals | {"ClusterCrossSlotError"}, AGAIN


def test_servers_name_the_same_owners_and_refuse_a_slot_that_nobody_has(both: Both) -> None:
    slot = both.slots[0]
    both.begin_to_move(slot, 0)
    both.begin_to_move(slot, 1)
    both.end_move(slot)

    def owners(answer: Any) -> list[Any]:
        names = [one.split(":") for one in both.primaries] + both.model.addresses
        known = {(host, int(port)): at % 3 for at, (host, port) in enumerate(names)}
        return [
            (begin, end, known[where[0].decode(), int(where[1])])
            for begin, end, where, *_ in sorted(answer)
        ]

    def is_known() -> bool:
        """Servers tell each other of the move."""
        (real,), (model,) = both.ask(2, [("CLUSTER", "SLOTS")])
        return owners(model) == owners(real)

    wait_until(is_known)
    owner = both.owner_of(slot)
    both.real.tell(owner, "DELSLOTS", slot)
    has_had = both.model.owner_of(slot)
    both.model.give(slot, None)
    real, model = both.ask(both.primaries.index(owner), [("GET", f"{both.tags[0]}a")])
    assert model == real == [("ClusterDownError", "Hash slot not served")]
    both.model.give(slot, has_had)
    both.real.tell(owner, "ADDSLOTS", slot)


def test_nobody_serves_when_a_primary_is_known_to_be_away() -> None:
    now = [0.0]
    model = ClusterModel(lambda: 0.0, lambda: now[0])
    at_first, at_last = model.parts[0], model.parts[2]
    client = redis_model.client_of(at_last.primary)
    key = next(key for key in map(str, range(99)) if model.owner_of(slot(key)) is at_last)
    at_first.is_away = True
    assert client.get(key) is None
    now[0] = cluster_model.NODE_TIMEOUT_S
    with pytest.raises(redis.exceptions.ClusterDownError, match="The cluster is down"):
        client.get(key)
    at_first.is_away = False
    assert client.get(key) is None


def slot(key: str) -> int:
    return cluster_model.slot_of(key.encode())


def test_a_failover_gives_the_slots_to_another_server() -> None:
    model = ClusterModel(redis_model.now, redis_model.now)
    part = model.parts[0]
    before = part.primary
    key = next(key for key in map(str, range(99)) if model.owner_of(slot(key)) is part)
    part.fail_over(0.5)
    assert isinstance(part, RedisModel)
    with pytest.raises(redis.exceptions.MovedError, match=part.primary.where):
        redis_model.client_of(before).get(key)
    assert redis_model.client_of(part.primary).get(key) is None
