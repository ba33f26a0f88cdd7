"""The retention policy: what Redis may evict; its checks, its encoding, and where it is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from jamboree_gym.arrays.values import decode_value, encode_mapping
from jamboree_gym.errors import DecodeError, InvalidArgument, InvalidRecord
from jamboree_gym.keys import MONGO_SETTINGS
from jamboree_gym.reading.finding.filters import EpisodeFilter
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.redis.eviction import Memory
from jamboree_gym.store.redis.store import RedisStore
from jamboree_gym.store.urls import backup_name

__all__ = [
    "RETENTION_SETTING",
    "RetentionPolicy",
    "known_policy",
    "load_policy",
    "memory_limit",
    "store_policy",
]

SHARE_OF_MAXMEMORY = 0.8
POLICY_VERSION = 1
RETENTION_SETTING = "retention"
_TEXTS = ("run", "env_id", "status", "parent")
_NUMBERS = ("min_return", "max_return", "min_steps", "max_steps", "since", "until")
_RULES = (*_TEXTS, "tags", *_NUMBERS)


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """What Redis may evict once MongoDB has acknowledged it.

    Attributes:
        max_redis_bytes: While the server uses more memory than this, the oldest data is evicted;
            None = no limit but that of the server.
        max_age_s: Data older than this is evicted, seconds; None = age does not matter.
        keep: Rules for episodes that stay, with the arguments of `jam.episodes(...)`. Matching one
            rule is enough.
    """

    max_redis_bytes: int | None = None
    max_age_s: float | None = None
    keep: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        for name in ("max_redis_bytes", "max_age_s"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 <= value < math.inf):
                raise InvalidArgument(f"{name}={value!r}: choose 0 or more, or None")
        if isinstance(self.keep, str) or not isinstance(self.keep, Sequence):
            raise InvalidArgument(f"keep={self.keep!r}: give a list of dicts, [{{'run': 'best'}}]")
        object.__setattr__(self, "keep", tuple(_checked_rule(rule) for rule in self.keep))

    def __str__(self) -> str:
        """The limits, a line each, and the rules."""
        lines = []
        if self.max_redis_bytes is not None:
            lines.append(
                f"the oldest goes while Redis uses more than {self.max_redis_bytes:,} bytes"
            )
        if self.max_age_s is not None:
            lines.append(f"what is older than {_duration(self.max_age_s)} goes")
        if not lines:
            lines.append("all stays in Redis, below 80 % of its maxmemory")
        return "\n".join([*lines, *(f"episodes stay with {dict(rule)}" for rule in self.keep)])

    def filters(self) -> list[EpisodeFilter]:
        """One filter for each rule; an episode that matches any of them stays."""
        return [EpisodeFilter(**rule) for rule in self.keep]


def store_policy(store: RedisStore, backup: BackupStore, policy: RetentionPolicy) -> None:
    """Store a policy in both stores: MongoDB still has it after Redis was emptied."""
    content = _encode_policy(policy)
    backup.put_setting(RETENTION_SETTING, content)
    store.eviction.put_policy(content)


def load_policy(store: RedisStore, backup: BackupStore) -> RetentionPolicy:
    """The policy of Redis; that of MongoDB if Redis has none because it was emptied.

    Raises:
        DecodeError: It is damaged.
    """
    if store.eviction.policy() is not None:
        return known_policy(store)
    content = backup.setting(RETENTION_SETTING)
    where = f"{MONGO_SETTINGS} {RETENTION_SETTING} in {backup_name(backup.where)}"
    policy = RetentionPolicy() if content is None else _decode_policy(content, where=where)
    store.eviction.put_policy(_encode_policy(policy))
    return policy


def known_policy(store: RedisStore) -> RetentionPolicy:
    """The policy that Redis holds; an empty one if Redis was emptied.

    Raises:
        DecodeError: It is damaged.
    """
    content = store.eviction.policy()
    if content is None:
        return RetentionPolicy()
    return _decode_policy(content, where=store.keyspace.retention)


def memory_limit(policy: RetentionPolicy, memory: Memory) -> int | None:
    """Number of bytes above which the oldest data is evicted; None = no limit."""
    limits = [] if policy.max_redis_bytes is None else [policy.max_redis_bytes]
    if memory.max_bytes is not None:
        limits.append(int(memory.max_bytes * SHARE_OF_MAXMEMORY))
    return min(limits, default=None)


def _encode_policy(policy: RetentionPolicy) -> bytes:
    return encode_mapping(
        {
            "version": POLICY_VERSION,
            "max_redis_bytes": policy.max_redis_bytes,
            "max_age_s": policy.max_age_s,
            "keep": [dict(rule) for rule in policy.keep],
        }
    )


def _decode_policy(content: bytes, *, where: str) -> RetentionPolicy:
    """Inverse of `_encode_policy`.

    Raises:
        DecodeError: The content is damaged, or a newer release wrote it.
    """
    found = decode_value(content, where=where)
    if not isinstance(found, dict) or found.get("version") != POLICY_VERSION:
        raise DecodeError(f"{where}: not a retention policy that this release knows")
    try:
        return RetentionPolicy(found["max_redis_bytes"], found["max_age_s"], tuple(found["keep"]))
    except (InvalidArgument, KeyError, TypeError) as error:
        raise DecodeError(f"{where}: not a retention policy: {error}") from error


def _checked_rule(rule: Any) -> dict[str, Any]:
    """A rule that can be stored and that names at least one condition."""
    if not isinstance(rule, Mapping) or not rule:
        raise InvalidArgument(f"keep: {rule!r} is not a dict that names any of {', '.join(_RULES)}")
    for name, value in rule.items():
        if name not in _RULES:
            raise InvalidArgument(f"keep: there is no {name!r}; choose among {', '.join(_RULES)}")
        if name in _TEXTS and not isinstance(value, str):
            raise InvalidArgument(f"keep: {name}={value!r} is no text")
        if name in _NUMBERS and not (_is_number(value) and value == value):
            raise InvalidArgument(f"keep: {name}={value!r} is no number")
        if name == "tags":
            _check_tags(value)
    checked: dict[str, Any] = {
        name: float(value) if name in _NUMBERS else value for name, value in rule.items()
    }
    EpisodeFilter(**checked)  # refuses an unknown status
    return checked


def _check_tags(tags: Any) -> None:
    if not isinstance(tags, Mapping) or not tags:
        raise InvalidArgument(f"keep: tags={tags!r} is not a dict of tags and their values")
    try:
        encode_mapping(tags)
    except InvalidRecord as error:
        raise InvalidArgument(f"keep: tags: {error}; give values that can be stored") from error


def _duration(seconds: float) -> str:
    """Seconds in the largest unit of which they are a whole number, or nearly."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:.4g} {unit}"
    return f"{seconds:.4g} s"


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
