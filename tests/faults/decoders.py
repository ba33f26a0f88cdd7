"""Every decoder of stored bytes, each with bytes that were really written, and how to change them.

A checksum stops chance. It does not stop whoever can write into the store: so wherever there is one
around what a decoder reads, it is made right again after the change.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import gymnasium as gym
import msgspec
import numpy as np
import pyarrow as pa
from gymnasium import spaces
from gymnasium.spaces import GraphInstance
from mutations import Mutate, mutate_bytes, mutate_json, mutate_msgpack

from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.arrays.values import decode_value, encode_mapping, encode_value
from jamboree_gym.delivery.step_outbox import StepOutbox
from jamboree_gym.encoding.batch_format import (
    BATCH_BODY,
    CODEC_RECORDS,
    CODEC_STEPS,
    Batch,
    Head,
    decode_batch,
    decode_records,
    encode_batch,
    encode_note,
    encode_records,
)
from jamboree_gym.encoding.bulk_decoder import RowCollector, decode_batches, plain_batch, read_tail
from jamboree_gym.encoding.column_batch import PREFIX
from jamboree_gym.encoding.rows import Rows
from jamboree_gym.encoding.summary_codec import (
    Beginning,
    decode_episode_note,
    decode_summaries,
    decode_summary,
    encode_episode_note,
)
from jamboree_gym.environment.env_state import put_state, take_state
from jamboree_gym.environment.provenance import decode_provenance, describe
from jamboree_gym.environment.spaces import layout_of_space, space_from_json, space_to_json
from jamboree_gym.errors import DecodeError, EmbeddedServerError, JamboreeError
from jamboree_gym.handlers.rendered_frames import RenderHandler
from jamboree_gym.handlers.sidecar import SidecarHandler
from jamboree_gym.handlers.snapshots import SnapshotHandler
from jamboree_gym.journal.journal import Journal, JournalOwner
from jamboree_gym.keys import digest
from jamboree_gym.reading.finding.ordering import by_start
from jamboree_gym.reading.row_arrays import to_transitions
from jamboree_gym.records import EpisodeOrigin, EpisodeSummary
from jamboree_gym.servers import control
from jamboree_gym.store.log import Append, LogSlice
from jamboree_gym.store.mongo.documents import chunk_documents, stored_batches
from jamboree_gym.tables.arrow_table import to_table
from jamboree_gym.tables.summary_table import to_summary_table

__all__ = ["BLOBS", "DECODERS", "Decoder", "memory_ran_out", "mutate_batch", "seal_batch"]

WRITER = b"\x01writer\xff"
_HEADER = struct.Struct("<2sBBIQ8sdd")


@dataclass(frozen=True)
class Decoder:
    """A way into the code for bytes from outside.

    Attributes:
        name: What it reads.
        seeds: Such bytes as they are really written, without the checksums around them.
        mutate: Changes them.
        read: Puts the checksums around them, decodes them, and looks at all that comes of it.
        may_be_large: Whether a few bytes may ask for a gigabyte, as those of a `Box` do.
    """

    name: str
    seeds: Sequence[bytes]
    mutate: Mutate
    read: Callable[[bytes], object]
    may_be_large: bool = False

    def check(self, content: bytes) -> bool:
        """Read something; whether it was taken.

        Raises:
            AssertionError: Memory ran out: something in the bytes said how much to ask for.
            Exception: Anything but an error of ours.
        """
        try:
            self.read(content)
        except JamboreeError as error:
            if memory_ran_out(error) and not self.may_be_large:
                raise AssertionError("memory ran out") from error
            return False
        return True


def memory_ran_out(error: BaseException | None) -> bool:
    """Whether an error, or what it was made of, is one of memory."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


# -- what is really written -----------------------------------------------------------------


def _sample(space: spaces.Space[Any], seed: int) -> Any:
    space.seed(seed)
    return space.sample()


TREE = spaces.Dict(
    camera=spaces.Box(0, 255, (2, 2, 3), np.uint8),
    joints=spaces.Tuple([spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3, start=-1)]),
    flags=spaces.MultiBinary(3),
    nothing=spaces.Box(0, 1, (0, 2), np.float64),
)
ODD = spaces.Dict(
    seen=spaces.Sequence(spaces.Discrete(5)),
    say=spaces.Text(8),
    map=spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Discrete(3)),
    either=spaces.OneOf([spaces.Discrete(2), spaces.MultiBinary(3)]),
    big=spaces.Box(-1, 1, (3,), np.dtype(">f4")),
)
PLAIN = spaces.Box(-1, 1, (2,), np.float32)
SPACES = [(PLAIN, spaces.Discrete(3)), (TREE, TREE), (ODD, ODD), (PLAIN, spaces.MultiDiscrete([3]))]
INFO = {
    "lives": 3,
    "x": np.float32(0.5),
    "pose": np.arange(4.0),
    "texts": np.array(["a", "bc"]),
    "when": np.datetime64("2024-01-01", "s"),
    "nested": {"a": (1, 2), "b": {3: {1, 2}}, "c": 1 + 2j, "d": 2**80, "e": None, "f": b"\x00"},
    "graph": GraphInstance(np.zeros((2, 2), np.float32), None, None),
}


def _episode(
    observed: spaces.Space[Any], acted: spaces.Space[Any], number: int, **origin: Any
) -> Append:
    """An append of an episode, as the recorder makes it."""
    schema = StepSchema(layout_of_space(observed), layout_of_space(acted))
    summary = EpisodeSummary(
        f"e{number}",
        "Env-v0",
        "run",
        "running",
        0,
        0.0,
        100.0,
        0.0,
        [None, 7, 2**70][number % 3],
        {"lr": 0.1, "net": [64, 64]} if number % 2 else {},
        number if number % 2 else None,
        WRITER.hex(),
        origin.get("parent"),
    )
    provenance = describe(gym.make("CartPole-v1"))
    known = EpisodeOrigin(summary.seed, provenance=digest(provenance), **origin)
    box = StepOutbox(
        "log",
        WRITER,
        lambda _: math.inf,
        begun=Beginning.of(summary, known),
        schema=schema,
        lane=Journal(None, JournalOwner(WRITER.hex(), "", 0, "ns")).lane(),
        keep=5,
        blobs={digest(provenance): provenance},
    )
    told = encode_value(INFO) if number % 2 else None
    box.add_reset(_sample(observed, 0), told)
    for k in range(9):
        if k == 5:
            box.seal()
        action = _sample(acted, k)
        if number == 0 and k == 2 and isinstance(action, np.integer):
            action = int(action)  # the batch has to tell that it was a Python number
        box.set_action(action)
        said = {"value": 0.5 * k, "logits": np.zeros(3)} if number == 1 and k % 2 else None
        box.add_step(_sample(observed, k + 1), k, k == 8, False, told if k % 3 == 0 else None, said)
    box.end("terminated")
    box.seal()
    append = box.next_append()
    if append is None:
        raise RuntimeError("an episode that makes no append")
    return append


STATE = np.random.default_rng(3).bit_generator.state
ORIGINS: list[dict[str, Any]] = [
    {"rng_state": None, "options": None},
    {"rng_state": STATE, "options": {"low": -0.1}, "follows": "e0"},
    {"rng_state": np.random.Generator(np.random.Philox(1)).bit_generator.state, "options": None},
    {"rng_state": STATE, "options": None, "parent": "e1", "fork_step": 4},
]
APPENDS = [
    _episode(*pair, number, **origin)
    for number, (pair, origin) in enumerate(zip(SPACES, ORIGINS, strict=True))
]
BLOBS = {name: blob for append in APPENDS for name, blob in append.blobs.items()}
SCHEMAS = {name: blob for name, blob in BLOBS.items() if blob.startswith(b'{"action": ')}
BATCHES = [batch for append in APPENDS for batch in append.batches]
PROVENANCES = [blob for name, blob in BLOBS.items() if name not in SCHEMAS]


def find_schema(name: str) -> StepSchema:
    """As a store finds them."""
    if name not in SCHEMAS:
        raise DecodeError(f"{name} is missing")
    return StepSchema.from_blob(SCHEMAS[name], where=name)


def _record_batches() -> Iterator[bytes]:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    content = pa.compress(pixels.tobytes(), codec="zstd", asbytes=True)
    render = {"step": 0, "shape": [2, 4, 3], "dtype": "|u1", "codec": "zstd", "content": content}
    state = encode_value([["Env", b"\x00" * 16], STATE])
    packed = pa.compress(state, codec="zstd", asbytes=True)
    snapshot = {"step": 0, "size": len(state), "codec": "zstd", "content": packed}
    for records in ([{"value": 1}, dict(INFO)], [render], [snapshot]):
        body = encode_records([5.0 + n for n in range(len(records))], list(map(_kept, records)))
        count, times = len(records), {"t_first": 5.0, "t_last": 6.0}
        yield encode_batch(
            codec=CODEC_RECORDS, start=3, count=count, writer=WRITER, **times, body=body
        )


def _kept(record: Mapping[str, Any]) -> bytes:
    return encode_mapping(record)


RECORD_BATCHES = list(_record_batches())


# -- making checksums right again -----------------------------------------------------------


def seal_batch(batch: bytes) -> bytes:
    """The batch with a checksum that fits."""
    header = batch[: _HEADER.size]
    body = batch[BATCH_BODY:]
    return b"".join((header, struct.pack("<I", zlib.crc32(body, zlib.crc32(header))), body))


def mutate_batch(rng: Random, batch: bytes) -> bytes:
    """Another body, or another header; often where the numbers or the msgpack of the body stand."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, batch[:BATCH_BODY]) + batch[BATCH_BODY:]
    head, body = batch[:BATCH_BODY], batch[BATCH_BODY:]
    split = _tail_of(head, body)
    choice = rng.random()
    if choice < 0.4:
        return head + body[:split] + mutate_msgpack(rng, body[split:])
    if choice < 0.6:
        return head + body[:8] + mutate_bytes(rng, body[8 : PREFIX.size]) + body[PREFIX.size :]
    if choice < 0.8:
        return head + body[: PREFIX.size] + mutate_bytes(rng, body[PREFIX.size :])
    return head + mutate_bytes(rng, body[:split]) + body[split:]


def _tail_of(head: bytes, body: bytes) -> int:
    """Where in the body of a batch its msgpack or its variable part begins."""
    if len(head) < BATCH_BODY or len(body) < PREFIX.size:
        return 0
    _, _, codec, count, *_ = _HEADER.unpack_from(head)
    name = body[:8].hex()
    if codec == CODEC_RECORDS or name not in SCHEMAS:
        return count * 8
    return PREFIX.size + count * find_schema(name).stored_row_bytes


# -- reading, and looking at what was read --------------------------------------------------


def _read_value(content: bytes) -> None:
    repr(decode_value(content, where="here"))


def _read_batch(content: bytes) -> None:
    batch = decode_batch(content, where="here")
    assert content == batch.blob
    assert batch.count > 0


def _read_sealed_batch(content: bytes) -> None:
    blob = seal_batch(content)
    batch = decode_batch(blob, where="here")
    if batch.codec == CODEC_RECORDS:
        for record in decode_records(batch, where="here"):
            assert type(record) is dict
            assert type(record["index"]) is int
            assert type(record["timestamp"]) is float
        return
    _look_at_rows(_rows_in_both_ways(batch))


def _rows_in_both_ways(batch: Batch) -> Rows:
    """By itself, and as batches of one size: what both of them take is the same."""
    read = _outcome(lambda: decode_batches([batch], find_schema, where="here"))
    alike = _outcome(lambda: _collected(batch))
    if isinstance(read, Rows):
        if isinstance(alike, Rows):
            _assert_same(alike, read)
        return read
    assert isinstance(read, JamboreeError)
    assert not isinstance(alike, Rows), "what is refused alone was taken"
    raise read


def _outcome(read: Callable[[], Rows | None]) -> Rows | JamboreeError | None:
    try:
        return read()
    except JamboreeError as error:
        return error


def _collected(batch: Batch) -> Rows | None:
    start, count, body = plain_batch(batch.blob)
    if not count or start:
        return None
    collector = RowCollector(find_schema(body[:8].hex()))
    return collector.rows() if collector.add_alike([batch.blob], count) else None


def _assert_same(one: Rows, other: Rows) -> None:
    assert len(one) == len(other)
    assert one.start == other.start
    assert _bits(one) == _bits(other)


def _bits(value: Any) -> Any:
    if isinstance(value, Rows):
        parts = [value.observations, value.actions, value.rewards, value.terminations]
        parts += [value.truncations, value.timestamps, value.annotated, value.annotations]
        return [_bits(part) for part in parts], repr(value.infos)
    if isinstance(value, dict):
        return {name: _bits(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_bits(part) for part in value]
    if not isinstance(value, np.ndarray) or value.dtype == object:
        return repr(value)
    native = value.astype(value.dtype.newbyteorder("="))  # as joined arrays are
    return native.dtype, native.shape, native.tobytes()


def _look_at_rows(rows: Rows) -> None:
    assert all(type(info) is dict for info in rows.infos)
    steps = to_transitions(rows)
    for step in steps:
        assert type(step.reward) is float
    to_table(steps)
    _bits(Rows.concatenate([rows, rows]))


def _read_slice(content: bytes) -> None:
    """Several batches, one behind the other, each cut off the content by its length."""
    batches, rest = [], content
    while len(rest) >= 4:
        (size,) = struct.unpack_from("<I", rest)
        batches.append(seal_batch(rest[4 : 4 + size]))
        rest = rest[4 + size :]
    head = Head(CODEC_STEPS, 0, 0, 0, 10, 0, 1, 100.0, 1.0, b"").encode()
    found = LogSlice.from_answer([head, batches], where="here")
    if found is not None and found.batches:
        _look_at_rows(decode_batches(found.batches, find_schema, where="here"))


def _mutate_slice(rng: Random, content: bytes) -> bytes:
    if rng.random() < 0.2:
        return mutate_bytes(rng, content)
    batches, rest = [], content
    while len(rest) >= 4:
        (size,) = struct.unpack_from("<I", rest)
        batches.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    if not batches:
        return mutate_bytes(rng, content)
    at = rng.randrange(len(batches))
    batches[at] = rng.choice([mutate_batch(rng, batches[at]), rng.choice(BATCHES), batches[0]])
    return b"".join(struct.pack("<I", len(one)) + one for one in batches)


def _read_summary(content: bytes) -> None:
    note = encode_note(content)
    summary = decode_summary(note, episode_id="e", where="here")
    assert type(summary.tags) is dict
    listed, _ = decode_summaries({"a": note, "b": APPENDS[0].entry.summary, "c": note})
    assert [one.id for one in by_start(listed) if one.id == "b"] == ["b"]
    to_summary_table(listed)
    assert type(summary.steps) is int
    assert 0 <= summary.steps < 2**63


def _read_episode_note(content: bytes) -> None:
    """An array of two: a summary without its checksum, and an origin."""
    try:
        summary, origin = msgspec.msgpack.decode(content, type=tuple[bytes, bytes])
        note = encode_episode_note(encode_note(summary), origin)
    except (msgspec.MsgspecError, ValueError):
        note = encode_note(content)
    found, origin = decode_episode_note(note, episode_id="e", where="here")
    assert isinstance(found, EpisodeSummary)
    assert isinstance(origin.options, (dict, type(None)))
    assert isinstance(origin.rng_state, (dict, type(None)))
    assert type(origin.provenance) is str
    assert isinstance(origin.follows, (str, type(None)))
    assert isinstance(origin.parent, (str, type(None)))


def _episode_notes() -> Iterator[bytes]:
    for append in APPENDS:
        summary, origin = msgspec.msgpack.decode(append.note[4:])
        yield msgspec.msgpack.encode([summary[4:], origin])


def _read_schema(content: bytes) -> None:
    schema = StepSchema.from_blob(content, where="here")
    assert StepSchema.from_blob(schema.blob, where="here") is schema
    with suppress(DecodeError):
        read_tail(bytes(BATCH_BODY + 40), schema, 1, where="here")
    assert schema.row_bytes >= 0


def _read_layouts(content: bytes) -> None:
    """JSON of layouts, written as schemas are, where it is JSON."""
    with suppress(ValueError, RecursionError, TypeError):
        content = json.dumps(json.loads(content.decode()), sort_keys=True).encode()
    _read_schema(content)


def _read_space(content: bytes) -> None:
    text = content.decode(errors="replace")
    assert isinstance(space_from_json(text), spaces.Space)


def _read_provenance(content: bytes) -> None:
    assert type(decode_provenance(content, where="here")) is dict


def _read_record(kind: type[SidecarHandler]) -> Callable[[bytes], None]:
    def read(content: bytes) -> None:
        batch = encode_batch(
            codec=CODEC_RECORDS,
            start=0,
            count=1,
            writer=WRITER,
            t_first=1.0,
            t_last=1.0,
            body=encode_records([1.0], [content]),
        )
        (record,) = decode_records(decode_batch(batch, where="here"), where="here")
        kind.__new__(kind)._decoded(record, where="here")  # it asks no store

    return read


def _record_contents(number: int) -> list[bytes]:
    batch = decode_batch(RECORD_BATCHES[number], where="here")
    return [bytes(batch.body[8 + 5 :])]


class _Counter(gym.Env[Any, Any]):
    """Tells its state, and believes no other."""

    observation_space = action_space = spaces.Discrete(9)

    def __init__(self) -> None:
        self.count = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return 0, {}

    def snapshot(self) -> bytes:
        return struct.pack("<q", self.count)

    def restore(self, snapshot: bytes) -> None:
        (self.count,) = struct.unpack("<q", snapshot)


STATE_ENV = gym.wrappers.TimeLimit(_Counter(), 9)
STATE_ENV.reset(seed=1)


def _read_state(content: bytes) -> None:
    put_state(STATE_ENV, content)


def _read_control(content: bytes) -> None:
    try:
        message = control.decode(content)
    except ValueError:  # as it promises, and as its callers expect
        return
    assert type(message) is dict
    with suppress(EmbeddedServerError):
        control.raise_for(message)


CONTROL = [
    control.encode({"op": "redis", "timeout_s": 4.0}),
    control.encode({"ok": True, "url": "unix:///tmp/x"}),
    control.encode({"ok": False, "kind": "failed", "error": "no disk"}),
]
SPACE_TEXTS = [space_to_json(space).encode() for pair in SPACES for space in pair]
EXACT = [
    *(date(2020, 2, 29), time(1, 2, fold=1), timedelta(-1, 5), UUID(int=7), Path("a/b")),
    *(Decimal("-1.5E+7"), Fraction(-1, 3), np.dtype(">f4"), np.float32),
]
HOLDERS = {
    "objects": np.array([[None, "a"], [1, b"x"]], object),
    "fields": np.zeros((2, 1), [("a", "<f4", (2,)), ("b", [("c", "u1"), ("d", "O")])]),
    "scalar": np.zeros((), "i4,f4")[()],
}
VALUES = [
    encode_value(INFO),
    encode_value([(1, "a"), {1: b"x"}, np.ones((2, 2)), STATE]),
    *map(encode_value, EXACT),
    encode_value(HOLDERS),
]
SLICES = [
    b"".join(struct.pack("<I", len(one)) + one for one in append.batches) for append in APPENDS
]
NOTES = list(_episode_notes())


def _read_chunks(content: bytes) -> None:
    documents = list(chunk_documents("log", 0.0, BATCHES[0]))
    changed = {**documents[0], "content": content, "crc": zlib.crc32(content)}
    for _, batch in stored_batches([changed]):
        _read_batch(batch.blob or b"")


DECODERS = [
    Decoder("value", VALUES, mutate_msgpack, _read_value),
    Decoder("batch", [*BATCHES, *RECORD_BATCHES], mutate_bytes, _read_batch),
    Decoder("rows", BATCHES, mutate_batch, _read_sealed_batch),
    Decoder("records", RECORD_BATCHES, mutate_batch, _read_sealed_batch),
    Decoder("slice", SLICES, _mutate_slice, _read_slice),
    Decoder("summary", [n.entry.summary[4:] for n in APPENDS], mutate_msgpack, _read_summary),
    Decoder("note", NOTES, mutate_msgpack, _read_episode_note),
    Decoder("schema", list(SCHEMAS.values()), mutate_bytes, _read_schema),
    Decoder("layouts", list(SCHEMAS.values()), mutate_json, _read_layouts),
    Decoder("space", SPACE_TEXTS, mutate_json, _read_space, may_be_large=True),
    Decoder("provenance", PROVENANCES[:1], mutate_json, _read_provenance),
    Decoder("render", _record_contents(1), mutate_msgpack, _read_record(RenderHandler)),
    Decoder("snapshot", _record_contents(2), mutate_msgpack, _read_record(SnapshotHandler)),
    Decoder("state", [take_state(STATE_ENV)], mutate_msgpack, _read_state),
    Decoder("control", CONTROL, mutate_json, _read_control),
    Decoder("chunks", BATCHES[:1], mutate_bytes, _read_chunks),
]
