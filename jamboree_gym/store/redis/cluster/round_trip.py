"""One round trip to several servers of a cluster, and what follows from their redirections."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from hiredis import pack_command
from redis.exceptions import ConnectionError, NoScriptError, RedisError, TimeoutError

from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.cluster.calls import key_of, refusal_of, slot_of
from jamboree_gym.store.redis.cluster.nodes import Node, Nodes
from jamboree_gym.store.redis.link import Call, answer_of, without_numbers

__all__ = ["RoundTrip"]

FEW_REDIRECTIONS = 3
MOST_REDIRECTIONS = 16
PATIENCE_S = 2.0  # with keys of which a part has moved to another server
PAUSE_S = 0.01
_ASKING = pack_command(("ASKING",))


@dataclass(slots=True)
class _Sent:
    """A call on its way: its place among all, its slot, and the server that is asked.

    `asks` says that the server has the slot not yet, but perhaps this key.
    """

    at: int
    call: Call
    slot: int
    node: Node
    asks: bool = False


class RoundTrip:
    """Sends calls to the servers that have their slots: to all of these, before it reads.

    To be used with `with`: what one server is sent goes down one connection.

    Args:
        nodes: The servers.
        check: Whether to make sure before that no server has closed its connection.
        check_open: Raises if the link was closed meanwhile.

    Attributes:
        has_moved: Whether a slot was found at another server than before.
    """

    def __init__(self, nodes: Nodes, *, check: bool, check_open: Callable[[], None]) -> None:
        self.has_moved = False
        self._nodes = nodes
        self._check = check
        self._check_open = check_open
        self._connections: dict[Node, Any] = {}

    def __enter__(self) -> RoundTrip:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for node, connection in self._connections.items():
            if kind is None:
                node.put_back(connection)
            else:
                node.drop(connection)  # half-read answers must never meet the next caller

    def deliver(self, calls: Sequence[Call]) -> list[Any]:
        """The answers to some calls of one slot each; a server's refusal stands in its place."""
        answers: list[Any] = [None] * len(calls)
        slots = [slot_of(key_of(call)) for call in calls]
        waiting = [
            _Sent(at, call, slot, self._nodes.of_slot(slot))
            for at, (call, slot) in enumerate(zip(calls, slots, strict=True))
        ]
        until, redirections = time.monotonic() + PATIENCE_S, 0
        while waiting:
            self._exchange(waiting, answers)
            is_patient = time.monotonic() < until
            refused = [one for one in waiting if _is_refused(answers[one.at], is_patient)]
            redirections += 1
            if not refused or (redirections > MOST_REDIRECTIONS and not is_patient):
                break
            must_wait = self._prepare_again(refused, answers)
            if must_wait or redirections > FEW_REDIRECTIONS:  # the servers do not agree yet
                self._check_open()
                time.sleep(PAUSE_S)
            waiting = refused
        return answers

    def on_each(self, call: Call) -> list[Any]:
        """The answers to a call that goes down each connection on which something was sent."""
        packed = pack_command(without_numbers(call))
        for node, connection in self._connections.items():
            self._write(node, connection, packed)
        return [self._read(node, connection) for node, connection in self._connections.items()]

    def _exchange(self, sent: Sequence[_Sent], answers: list[Any]) -> None:
        by_node: dict[Node, list[_Sent]] = {}
        for one in sent:
            by_node.setdefault(one.node, []).append(one)
        for node, some in by_node.items():
            packed = b"".join(
                [
                    (_ASKING if one.asks else b"") + pack_command(without_numbers(one.call))
                    for one in some
                ]
            )
            self._write(node, self._connection(node), packed)
        for node, some in by_node.items():
            connection = self._connections[node]
            for one in some:
                if one.asks:
                    self._read(node, connection)
                answers[one.at] = self._read(node, connection)
                if refusal_of(answers[one.at]) == "CLUSTERDOWN":  # others may know better
                    node.failed_at = time.monotonic()
                    self._nodes.doubt()

    def _prepare_again(self, refused: Iterable[_Sent], answers: Sequence[Any]) -> bool:
        """Find out where refused calls have to go; whether they have to wait before that."""
        without_scripts: dict[Node, None] = {}
        must_wait = False
        for one in refused:
            answer = answers[one.at]
            refusal, one.asks = refusal_of(answer), False
            if refusal == "MOVED":
                self.has_moved = True
                one.node = self._place_in(answer, one.node)
                if self._nodes.of_slot(one.slot) is not one.node:
                    self._nodes.moved(one.slot, one.node)
            elif refusal == "ASK":
                one.node, one.asks = self._place_in(answer, one.node), True
            elif refusal == "TRYAGAIN":
                one.node, must_wait = self._nodes.of_slot(one.slot), True
            else:
                without_scripts[one.node] = None
                one.node = self._nodes.of_slot(one.slot)
        for node in without_scripts:
            self._load_scripts(node)
        return must_wait

    def _place_in(self, redirection: RedisError, asked: Node) -> Node:
        """The server that `MOVED 3999 host:port` names; without a host, it is that of the asked."""
        host, _, port = str(redirection).rpartition(" ")[2].rpartition(":")
        return self._nodes.at(host or asked.host, int(port))

    def _load_scripts(self, node: Node) -> None:
        calls: list[Call] = [("SCRIPT", "LOAD", one.source) for one in scripts.ALL]
        loads = [pack_command(call) for call in calls]
        connection = self._connection(node)
        self._write(node, connection, b"".join(loads))
        answers = [self._read(node, connection) for _ in loads]
        for answer in answers:
            if isinstance(answer, RedisError):
                raise answer

    # -- connections ------------------------------------------------------------------------

    def _connection(self, node: Node) -> Any:
        found = self._connections.get(node)
        if found is None:
            found = self._connections[node] = self._asking(
                node, lambda: node.take(check=self._check)
            )
        return found

    def _write(self, node: Node, connection: Any, packed: bytes) -> None:
        self._asking(node, lambda: connection.send_packed_command([packed]))

    def _read(self, node: Node, connection: Any) -> Any:
        return self._asking(node, lambda: answer_of(connection))

    def _asking(self, node: Node, action: Callable[[], Any]) -> Any:
        """Do it; who has the slots is asked of another server than one that fails."""
        try:
            return action()
        except (ConnectionError, TimeoutError):
            node.failed_at = time.monotonic()
            raise


def _is_refused(answer: Any, is_patient: bool) -> bool:
    """Whether a call was not executed, and may be if it is sent again."""
    if isinstance(answer, NoScriptError):
        return True
    refusal = refusal_of(answer)
    return refusal in ("MOVED", "ASK") or (refusal == "TRYAGAIN" and is_patient)
