"""Round trips to a cluster, with the methods of a link to one server.

Each command goes to the server that has the slot of its key. What lies in no bucket is sent first,
and answered, before what lies in buckets: so blobs are there before the batches that refer to them,
and a lease is looked at before the log of its writer is read. If it is refused, the rest is not
sent.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, cast

import redis
from redis.exceptions import ConnectionError, NoScriptError, RedisError

from jamboree_gym.errors import JamboreeError, StoreUnavailable
from jamboree_gym.store.redis.cluster.calls import (
    block_s,
    is_in_no_bucket,
    joined,
    keys_of,
    parts_of,
    refusal_of,
    slot_of,
)
from jamboree_gym.store.redis.cluster.nodes import Nodes
from jamboree_gym.store.redis.cluster.round_trip import RoundTrip
from jamboree_gym.store.redis.doorbell import Doorbell
from jamboree_gym.store.redis.link import Call, RedisLink, refused_to_all
from jamboree_gym.store.tls_advice import CLUSTER_WORDS

__all__ = ["ClusterLink"]

# No command waits for streams of several slots. They are asked again after such pauses; if nothing
# comes for a while, the servers ring a bell when there is something. If they may not, the longest
# pause comes again and again.
SHORTEST_PAUSE_S = 0.002
LONGEST_PAUSE_S = 0.03
LONGER = 1.5
LISTEN_S = 0.25  # then look whether the link was closed
MAX_SPARE_BELLS = 4


class ClusterLink(RedisLink):
    """Sends commands to the servers of a cluster; safe to use from several threads."""

    is_cluster: ClassVar[bool] = True

    def __init__(self, nodes: Nodes) -> None:
        super().__init__(nodes.new_client())
        self.where = f"cluster {', '.join(nodes.hosts)}"
        self._nodes = nodes
        self._may_move = True
        self._words = CLUSTER_WORDS
        self._cluster: redis.RedisCluster | None = None
        self._spare_bells: list[tuple[Sequence[str], Doorbell]] = []  # nobody waits for them now

    @property
    def losses(self) -> int:
        """As for one server, for all of them."""
        return self._losses + self._nodes.losses

    @property
    def client(self) -> redis.Redis:
        """A `RedisCluster` of redis-py, for users; it is connected when it is first asked for."""
        if self._cluster is None:
            self._cluster = self.run(self._nodes.new_cluster_client)
        return cast(redis.Redis, self._cluster)

    def address(self) -> str:
        """Where the primaries are."""
        return ", ".join(self.run(lambda: [node.where for node in self._nodes.primaries()]))

    def servers(self) -> Sequence[redis.Redis]:
        """A client for each primary."""
        return [node.client for node in self._nodes.primaries()]

    def watched_by_server(self, keys: Sequence[str]) -> Sequence[tuple[Any, list[list[str]]]]:
        """As for one server: one command may name keys of one slot."""
        by_slot: dict[int, list[str]] = {}
        for key in keys:
            by_slot.setdefault(slot_of(key), []).append(key)
        found: dict[Any, list[list[str]]] = {}
        for slot, some in by_slot.items():
            found.setdefault(self._nodes.of_slot(slot).client.connection_pool, []).append(some)
        return list(found.items())

    def keys(self, pattern: str) -> list[str]:
        """Keys that match a pattern, in no order.

        If a slot has moved meanwhile, its keys may have been seen nowhere: then it looks again.
        """
        while True:
            changes = self._nodes.changes
            found = super().keys(pattern)
            self._nodes.doubt()
            self.run(self._nodes.primaries)
            if self._nodes.changes == changes:
                return found

    def close(self) -> None:
        """Close all connections, also those that another thread reads from. Twice is quiet."""
        super().close()
        self._nodes.close()
        self._close_bells(but=0)
        if self._cluster is not None:
            self._cluster.close()

    def after_fork_in_child(self) -> None:
        """Leave the connections to the parent process."""
        self._nodes.after_fork_in_child()
        self._spare_bells = []

    def forget_connections(self) -> None:
        """Connect anew from now on, and ask who has which slot."""
        self._losses += 1
        self._nodes.forget_connections()

    def translated(self, error: RedisError, *, key: str = "") -> JamboreeError:
        """What a caller is told."""
        where, refusal = f"Redis at {self.where}", refusal_of(error)
        if refusal in ("CLUSTERDOWN", "MASTERDOWN"):
            return StoreUnavailable(
                f"{where} does not serve all its slots now ({str(error).rstrip('.')}); it "
                "continues by itself when all primaries answer: look at CLUSTER INFO there"
            )
        if refusal == "TRYAGAIN":
            return StoreUnavailable(
                f"{where} is moving a slot to another server; it continues by itself when all keys "
                "of the slot are there"
            )
        if refusal:
            return StoreUnavailable(
                f"{where}: its servers do not agree on who has a slot ({error}); it continues by "
                "itself when they do: look at CLUSTER NODES there"
            )
        return super().translated(error, key=key)

    def _send(
        self,
        calls: Sequence[Call],
        *,
        check: bool = False,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[Any]:
        """One round trip; one more for what is in no bucket, and for each redirection.

        Nothing is done `meanwhile`.
        """
        answers: list[Any] = [None] * len(calls)
        with RoundTrip(self._nodes, check=check, check_open=self._check_open) as trip:
            routed = [at for at, call in enumerate(calls) if call[0] != "WAITAOF"]
            if routed and (wait_s := block_s(calls[routed[0]])):
                at = routed.pop(0)
                answers[at] = self._waited(trip, calls[at], wait_s)
            first = [at for at in routed if is_in_no_bucket(calls[at])]
            then = [at for at in routed if not is_in_no_bucket(calls[at])]
            for some in filter(None, (first, then)):
                found = self._delivered(trip, [calls[at] for at in some])
                for at, answer in zip(some, found, strict=True):
                    answers[at] = answer
                if some is first and (refusal := refused_to_all(found)) is not None:
                    raise refusal  # what needs it must not be there without it
            for at, call in enumerate(calls):
                if call[0] == "WAITAOF":
                    answers[at] = _least(trip.on_each(call))
        if trip.has_moved:  # what was known of the former server need not be true of this one
            self._losses += 1
        return answers

    def _delivered(self, trip: RoundTrip, calls: Sequence[Call]) -> list[Any]:
        parts = [parts_of(call) for call in calls]
        answers = iter(trip.deliver([part for some in parts for part in some]))
        found = []
        for call, some in zip(calls, parts, strict=True):
            found.append(joined(call, [next(answers) for _ in some]))
        for answer in found:
            if isinstance(answer, NoScriptError):  # it was loaded, and forgotten again and again
                raise answer
        return found

    def _waited(self, trip: RoundTrip, call: Call, wait_s: float) -> Any:
        """What `XREAD` finds in several slots within a time."""
        until, pause_s, bell, is_armed = time.monotonic() + wait_s, SHORTEST_PAUSE_S, None, False
        keys = keys_of(call)
        try:
            while True:
                (found,) = self._delivered(trip, [call])
                left_s = until - time.monotonic()
                if found or left_s <= 0:
                    return found
                self._check_open()
                if is_armed and bell is not None:
                    self._listen(bell, until)
                    is_armed = False
                    continue
                if pause_s >= LONGEST_PAUSE_S:
                    bell = bell or self._bell(keys)
                    bell.arm()  # and then look once more: what came before does not ring
                    is_armed = bool(bell.sockets)
                if not is_armed:
                    time.sleep(min(pause_s, left_s))
                    pause_s = min(pause_s * LONGER, LONGEST_PAUSE_S)
        finally:
            if bell is not None:
                self._spare_bells.append((keys, bell))
                self._close_bells(but=0 if self._is_closed else MAX_SPARE_BELLS)

    def _bell(self, keys: Sequence[str]) -> Doorbell:
        """One that knows these keys already, or a new one."""
        for spare in list(self._spare_bells):
            if spare[0] == keys:
                with suppress(ValueError):  # another thread was faster
                    self._spare_bells.remove(spare)
                    return spare[1]
        return Doorbell(self, lambda: keys)

    def _close_bells(self, *, but: int) -> None:
        while len(self._spare_bells) > but:
            with suppress(IndexError):  # likewise
                self._spare_bells.pop(0)[1].close()

    def _listen(self, bell: Doorbell, until: float) -> None:
        """Return when the bell rings, or when the time is up."""
        if bell.has_rung:
            return
        with selectors.DefaultSelector() as selector:
            for one in bell.sockets:
                selector.register(one, selectors.EVENT_READ)
            while (left_s := until - time.monotonic()) > 0:
                if selector.select(min(left_s, LISTEN_S)):
                    return
                self._check_open()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ConnectionError("closed")


def _least(answers: Sequence[Any]) -> Any:
    """What WAITAOF says of all servers: how many have it on disk at least; or an error."""
    for answer in answers:
        if isinstance(answer, RedisError):
            return answer
    return [min(numbers) for numbers in zip(*answers, strict=True)]
