"""Episodes that someone else has written into the store."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
from stored import at

from jamboree_gym import Jamboree
from jamboree_gym.arrays.values import encode_value
from jamboree_gym.encoding.batch_format import decode_head
from jamboree_gym.encoding.summary_codec import encode_episode_note, encode_summary
from jamboree_gym.keys import digest
from jamboree_gym.reading.episode import Episode
from jamboree_gym.records import EpisodeOrigin


def forge_origin(jam: Jamboree, episode: Episode, **changes: Any) -> Episode:
    """Store another origin for an episode, through the codec of the store itself."""
    jam.flush()
    key = jam._connection.keyspace.episode(episode.id)
    head = jam.redis.lindex(at(jam, key), 0)
    old = decode_head(head, where=key).note
    origin = replace(episode.origin, **changes)
    note = encode_episode_note(encode_summary(episode.summary), encoded(origin))
    jam.redis.lset(at(jam, key), 0, head.removesuffix(old) + note)
    return jam.episode(episode.id)


def encoded(origin: EpisodeOrigin) -> bytes:
    """As the store has it, whatever is in it."""
    values = [origin.seed, origin.rng_state, origin.options]
    packed = [None if value is None else encode_value(value) for value in values]
    fork = None if origin.parent is None else [origin.parent, origin.fork_step]
    return msgspec.msgpack.encode([*packed, origin.provenance, origin.follows, fork])


def forge_provenance(jam: Jamboree, episode: Episode, change: Callable[[Any], Any]) -> Episode:
    """Store another provenance for an episode."""
    provenance = episode.provenance
    change(provenance)
    return forge_blob(jam, episode, json.dumps(provenance).encode())


def forge_blob(jam: Jamboree, episode: Episode, content: bytes) -> Episode:
    """Store these bytes as the provenance of an episode."""
    jam._connection.redis_store.blobs.put(digest(content), content)
    return forge_origin(jam, episode, provenance=digest(content))
