"""Commands for a cluster: their slots, and those that have to be cut into one for each slot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    RedisError,
    TryAgainError,
)

from jamboree_gym.store.redis.link import Call

__all__ = [
    "block_s",
    "is_in_no_bucket",
    "joined",
    "key_of",
    "keys_of",
    "parts_of",
    "refusal_of",
    "slot_of",
]

# Newer redis-py has a class for each; older gives the whole text.
_REFUSALS: dict[type[RedisError], str] = {
    MovedError: "MOVED",  # before its base class
    AskError: "ASK",
    TryAgainError: "TRYAGAIN",
    MasterDownError: "MASTERDOWN",  # before its base class
    ClusterDownError: "CLUSTERDOWN",
}


def slot_of(key: str | bytes) -> int:
    """The slot of a key."""
    return int(key_slot(key.encode() if isinstance(key, str) else key))


def key_of(call: Call) -> str:
    """The first key that a command names."""
    name = call[0]
    if name == "EVALSHA":
        return str(call[3])
    if name == "XREAD":
        return _streams(call)[0][0]
    return str(call[2] if name == "MEMORY" else call[1])


def keys_of(call: Call) -> Sequence[str]:
    """The streams that `XREAD` names."""
    return _streams(call)[0]


def is_in_no_bucket(call: Call) -> bool:
    """Whether its key is a blob, a lease, or the number of buckets, for example."""
    return not key_of(call).startswith("{")


def parts_of(call: Call) -> list[Call]:
    """The same as commands of one slot each; none of several waits for anything."""
    if call[0] == "MGET" and len(call) > 2:
        return [("GET", key) for key in call[1:]]
    if call[0] == "XREAD":
        keys, places = _streams(call)
        if len(keys) > 1:
            count = call[1:3] if call[1] == "COUNT" else ()
            return [("XREAD", *count, "STREAMS", *pair) for pair in zip(keys, places, strict=True)]
    return [call]


def joined(call: Call, answers: Sequence[Any]) -> Any:
    """The answer to a command, out of those to its parts; an error if there is one."""
    if len(answers) == 1:
        return answers[0]
    for answer in answers:
        if isinstance(answer, RedisError):
            return answer
    if call[0] == "MGET":
        return list(answers)
    return dict(pair for answer in answers for pair in _pairs(answer)) or None


def block_s(call: Call) -> float:
    """How long a command waits for several streams; 0 for all others."""
    if call[0] != "XREAD" or "BLOCK" not in call or len(_streams(call)[0]) == 1:
        return 0.0
    return float(call[call.index("BLOCK") + 1]) / 1000


def refusal_of(answer: Any) -> str:
    """How a server of a cluster says that it has not executed a command; empty if it does not."""
    if not isinstance(answer, RedisError):
        return ""
    for kind, name in _REFUSALS.items():
        if isinstance(answer, kind):
            return name
    name = str(answer).partition(" ")[0]
    return name if name in _REFUSALS.values() else ""


def _streams(call: Call) -> tuple[Sequence[str], Sequence[str]]:
    """The streams that `XREAD` names, and the places in them."""
    names = call[call.index("STREAMS") + 1 :]
    return names[: len(names) // 2], names[len(names) // 2 :]


def _pairs(answer: Any) -> Iterable[Any]:
    """The streams with entries: with RESP 3 a dict, with RESP 2 a list of pairs."""
    return answer.items() if isinstance(answer, dict) else answer or ()
