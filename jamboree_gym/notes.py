"""An episode's summary and origin <-> bytes.

The note of an episode's head holds both; the listing of its run holds the summary alone, so that
showing 100,000 episodes is one round trip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from jamboree_gym.codec import decode_note, encode_note
from jamboree_gym.errors import DecodeError
from jamboree_gym.records import EpisodeOrigin, EpisodeSummary
from jamboree_gym.values import decode_value, encode_mapping, encode_value

__all__ = [
    "decode_episode_note",
    "decode_summary",
    "encode_episode_note",
    "encode_origin",
    "encode_summary",
]

_PCG64 = "PCG64"

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Any]).decode


def encode_summary(summary: EpisodeSummary) -> bytes:
    """One entry of a listing. The id is not in it, because it is the entry's name."""
    values = [
        summary.env_id,
        summary.run,
        summary.status,
        summary.steps,
        summary.episode_return,
        summary.started_at,
        summary.elapsed_s,
        _optional(summary.seed),
        encode_mapping(summary.tags) if summary.tags else None,
        summary.vector_index,
        bytes.fromhex(summary.writer),
    ]
    return encode_note(_pack(values))


def decode_summary(content: bytes, *, episode_id: str, where: str) -> EpisodeSummary:
    """Inverse of `encode_summary`.

    Raises:
        DecodeError: It is damaged.
    """
    values = _decoded(decode_note(content, where=where), 11, where)
    *parts, seed, tags, vector_index, writer = values
    seed = None if seed is None else decode_value(seed, where=where)
    tags = {} if tags is None else decode_value(tags, where=where)
    return EpisodeSummary(episode_id, *[*parts, seed, tags, vector_index, writer.hex()])


def encode_origin(origin: EpisodeOrigin) -> bytes:
    """What does not change while the episode goes on.

    Raises:
        InvalidRecord: Something in it cannot be kept; names it.
    """
    values = [
        _optional(origin.seed),
        None if origin.rng_state is None else _encode_rng(origin.rng_state),
        _optional(origin.options),
        origin.provenance,
        origin.follows,
    ]
    return _pack(values)


def encode_episode_note(summary: bytes, origin: bytes) -> bytes:
    """The note of an episode's head, from its encoded summary and its encoded origin."""
    return encode_note(_pack([summary, origin]))


def decode_episode_note(
    note: bytes, *, episode_id: str, where: str
) -> tuple[EpisodeSummary, EpisodeOrigin]:
    """Inverse of `encode_episode_note`.

    Raises:
        DecodeError: It is damaged.
    """
    summary, origin = _decoded(decode_note(note, where=where), 2, where)
    seed, rng_state, options, provenance, follows = _decoded(origin, 5, where)
    return (
        decode_summary(summary, episode_id=episode_id, where=where),
        EpisodeOrigin(
            None if seed is None else decode_value(seed, where=where),
            None if rng_state is None else _decode_rng(rng_state, where),
            None if options is None else decode_value(options, where=where),
            provenance,
            follows,
        ),
    )


def _encode_rng(state: Mapping[str, Any]) -> bytes | list[Any]:
    """State of a generator; that of PCG64, which is Gymnasium's, in a form that is quickly made."""
    if state["bit_generator"] != _PCG64:
        return encode_value(dict(state))
    inner = state["state"]
    big = (inner["state"].to_bytes(16), inner["inc"].to_bytes(16))
    return [*big, state["has_uint32"], state["uinteger"]]


def _decode_rng(state: Any, where: str) -> Any:
    if isinstance(state, bytes):
        return decode_value(state, where=where)
    try:
        inner, inc, has_uint32, uinteger = state
        return {
            "bit_generator": _PCG64,
            "state": {"state": int.from_bytes(inner), "inc": int.from_bytes(inc)},
            "has_uint32": has_uint32,
            "uinteger": uinteger,
        }
    except (TypeError, ValueError) as error:
        raise DecodeError(f"{where}: not the state of a generator: {error}") from error


def _optional(value: Any) -> bytes | None:
    return None if value is None else encode_value(value)


def _decoded(content: bytes, length: int, where: str) -> list[Any]:
    try:
        values = _unpack(content)
    except (msgspec.MsgspecError, ValueError) as error:
        raise DecodeError(f"{where}: {error}") from error
    if len(values) != length:
        raise DecodeError(f"{where}: {len(values)} fields instead of {length}")
    return values
