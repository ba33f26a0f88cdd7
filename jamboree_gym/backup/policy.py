"""The retention policy: what Redis may evict; its checks and its encoding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from jamboree_gym.arrays.values import decode_value, encode_mapping
from jamboree_gym.errors import DecodeError, InvalidArgument, InvalidRecord
from jamboree_gym.reading.filters import EpisodeFilter

__all__ = ["RetentionPolicy", "decode_policy", "encode_policy"]

POLICY_VERSION = 1
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

    def filters(self) -> list[EpisodeFilter]:
        """One filter for each rule; an episode that matches any of them stays."""
        return [EpisodeFilter(**rule) for rule in self.keep]


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


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def encode_policy(policy: RetentionPolicy) -> bytes:
    """Encode a policy for storage."""
    return encode_mapping(
        {
            "version": POLICY_VERSION,
            "max_redis_bytes": policy.max_redis_bytes,
            "max_age_s": policy.max_age_s,
            "keep": [dict(rule) for rule in policy.keep],
        }
    )


def decode_policy(content: bytes, *, where: str) -> RetentionPolicy:
    """Inverse of `encode_policy`.

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
