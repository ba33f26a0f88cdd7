"""Bytes of the store: batches, heads, blobs.

A log is one Redis list. Element 0 is its *head*, each further element is one *batch*: consecutive
records that are encoded together. Both are little-endian structs followed by a body and carry a
format version. Redis and the backup hold the same bytes. A batch and a note carry a CRC-32. The
rest of a head carries a part of its SHA-1, because server-side scripts write it, without CRC-32.

No pickle anywhere: decoding builds numbers, strings, containers and NumPy arrays, nothing else.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha1
from typing import Any

import msgspec

from jamboree_gym.arrays.values import decode_value
from jamboree_gym.errors import DecodeError

__all__ = [
    "CODEC_RECORDS",
    "CODEC_STEPS",
    "ARRAY_REWARDS",
    "BATCH_BODY",
    "BATCH_VERSIONS",
    "HEAD_VERSION",
    "Batch",
    "Head",
    "decode_batch",
    "decode_head",
    "decode_note",
    "decode_own_records",
    "decode_records",
    "encode_batch",
    "encode_batches",
    "encode_note",
    "encode_records",
    "encoded_records",
    "batch_span",
    "blank_header",
    "checked_body",
    "first_bytes",
    "head_span",
    "is_whole",
    "times_of",
    "without_index",
]

HEAD_VERSION = 2
CODEC_RECORDS = 1
CODEC_STEPS = 2
BATCH_VERSIONS = {CODEC_RECORDS: 1, CODEC_STEPS: 2}
"""Version of a batch, by its codec. Rows of version 1 were Arrow: `store.migrations`."""
ARRAY_REWARDS = 3
"""Version of rows whose rewards are arrays: releases that do not know them say so."""

_BATCH_MAGIC = b"JB"
_HEAD_MAGIC = b"JH"
# magic, version, codec, count, start, writer, t_first, t_last | crc
_BATCH = struct.Struct("<2sBBIQ8sdd")
# magic, version, codec, first, held, newest, count, acked, revision, t_last, born | check
_HEAD = struct.Struct("<2sBBQQQQQQdd")
_HEAD_CHECK_BYTES = 8
_CRC = struct.Struct("<I")
BATCH_BODY = _BATCH.size + _CRC.size
_MSGPACK_ARRAY32 = b"\xdd"
_LAST_INDEX = 2**53  # the server's scripts count in float64
_cut_records = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_CRC_HELD = 5120  # zlib releases the interpreter lock for more bytes than this


class Batch(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A decoded batch.

    Attributes:
        start: Index of its first record in the log.
        count: Number of records, at least 1.
        t_first: Timestamp of the first record, epoch seconds.
        t_last: Timestamp of the last record, epoch seconds.
        codec: `CODEC_RECORDS` or `CODEC_STEPS`: how `body` is to be read.
        writer: Eight bytes that tell one writer from another.
        body: The encoded records.
    """

    start: int
    count: int
    t_first: float
    t_last: float
    codec: int
    writer: bytes
    body: memoryview

    @property
    def stop(self) -> int:
        """Index after its last record."""
        return self.start + self.count

    @property
    def blob(self) -> bytes:
        """All of it as it is stored, with its header."""
        content = self.body.obj
        if not isinstance(content, bytes):
            raise TypeError("a batch's body is a view of the batch")
        return content


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """What the log knows of itself; the server-side scripts keep it.

    Attributes:
        codec: Codec of the log's batches.
        first: Lowest index that is still readable; rises by `pop`.
        held: Batches that end at or below this index are in the backup only.
        newest: Index with which the newest append began.
        count: Index that the next record will get.
        acked: Records below this index are held by the backup.
        revision: Number of changes so far; a backup of an older revision is stale.
        t_last: Timestamp of the newest record, epoch seconds; -inf when there is none.
        born: Timestamp of the very first record: tells a log from one that was deleted, and had
            the same key; -inf when there is none.
        note: What the client keeps with the log (an episode's summary), encoded.
    """

    codec: int
    first: int
    held: int
    newest: int
    count: int
    acked: int
    revision: int
    t_last: float
    born: float
    note: bytes

    def encode(self) -> bytes:
        """The head as it lies in the store."""
        numbers = (self.first, self.held, self.newest, self.count, self.acked, self.revision)
        fixed = _HEAD.pack(_HEAD_MAGIC, HEAD_VERSION, self.codec, *numbers, self.t_last, self.born)
        return fixed + _head_check(fixed) + self.note

    def acknowledged(self) -> Head:
        """The head as the backup holds it: all records are acknowledged."""
        return replace(self, acked=self.count)


def _head_check(fixed: bytes) -> bytes:
    """Eight hexadecimal digits, as the scripts make them."""
    return sha1(fixed, usedforsecurity=False).hexdigest()[:_HEAD_CHECK_BYTES].encode()


def encode_batch(
    codec: int,
    start: int,
    count: int,
    writer: bytes,
    t_first: float,
    t_last: float,
    body: bytes,
    version: int | None = None,
) -> bytes:
    """Put header and checksum around the body of a batch; `version` None: the codec's own."""
    version = version or BATCH_VERSIONS[codec]
    header = _BATCH.pack(_BATCH_MAGIC, version, codec, count, start, writer, t_first, t_last)
    return b"".join((header, _CRC.pack(_crc32(body, zlib.crc32(header))), body))


def blank_header(codec: int, writer: bytes, version: int | None = None) -> bytes:
    """The header of a batch, up to the checksum; number, count and times are still missing."""
    return _BATCH.pack(_BATCH_MAGIC, version or BATCH_VERSIONS[codec], codec, 0, 0, writer, 0, 0)


def encode_batches(
    codec: int,
    starts: Sequence[int],
    counts: Sequence[int],
    writer: bytes,
    times: Sequence[tuple[float, float]],
    bodies: Sequence[bytes],
    version: int | None = None,
) -> list[bytes]:
    """As `encode_batch`, of many; `times` are those of the first and of the last record of each."""
    version, pack = version or BATCH_VERSIONS[codec], _BATCH.pack
    headers = [
        pack(_BATCH_MAGIC, version, codec, count, start, writer, t_first, t_last)
        for start, count, (t_first, t_last) in zip(starts, counts, times, strict=True)
    ]
    checksums = map(_crc32, bodies, map(zlib.crc32, headers))
    parts = zip(headers, map(_CRC.pack, checksums), bodies, strict=True)
    return list(map(b"".join, parts))


def _crc32(content: bytes, value: int) -> int:
    """As `zlib.crc32`, without letting go of the interpreter lock where it is soon done.

    To get it back from a busy environment, the writer's thread would wait longer.
    """
    if not _CRC_HELD < len(content) <= _CRC_HELD * 16:
        return zlib.crc32(content, value)
    view = memoryview(content)
    for at in range(0, len(content), _CRC_HELD):
        value = zlib.crc32(view[at : at + _CRC_HELD], value)
    return value


def decode_batch(blob: bytes, *, where: str) -> Batch:
    """Read and check one batch.

    Args:
        blob: The bytes as stored.
        where: Key of the log, for the error message.

    Raises:
        DecodeError: Too short, not a batch, an unknown version, a wrong checksum, or no records.
    """
    if len(blob) < BATCH_BODY:
        raise DecodeError(f"{where}: a batch of {len(blob)} bytes is shorter than its header")
    magic, version, codec, count, start, writer, t_first, t_last = _BATCH.unpack_from(blob)
    view = memoryview(blob)
    body = view[BATCH_BODY:]
    (stored,) = _CRC.unpack_from(blob, _BATCH.size)
    problem = ""
    if magic != _BATCH_MAGIC:
        problem = f"not a batch, it begins with {magic!r}"
    elif version != BATCH_VERSIONS.get(codec) and (codec, version) != (CODEC_STEPS, ARRAY_REWARDS):
        problem = _of_version(version, codec)
    elif zlib.crc32(body, zlib.crc32(view[: _BATCH.size])) != stored:
        problem = f"checksum does not match, the batch of {count} is damaged"
    elif count == 0 or start > _LAST_INDEX:
        problem = f"a batch of {count} is never stored there"
    if problem:
        raise DecodeError(f"{where} at index {start}: {problem}")
    return Batch(start, count, t_first, t_last, codec, writer, body)


def _of_version(version: int, codec: int) -> str:
    """What to say of a version that this release does not read."""
    known = BATCH_VERSIONS.get(codec, 0)
    if 0 < version < known:
        return (
            f"the batch is of format version {version}, which an older release wrote; "
            "bring the store up to date: jamboree-gym migrate"
        )
    return (
        f"format version {version} is unknown to this release, which reads "
        f"{known if codec != CODEC_STEPS else ARRAY_REWARDS}; upgrade jamboree-gym"
    )


def is_whole(blob: bytes) -> bool:
    """Whether the checksum of a batch fits."""
    body, header = blob[BATCH_BODY:], blob[: _BATCH.size]
    return (
        zlib.crc32(body, zlib.crc32(header)).to_bytes(4, "little") == blob[_BATCH.size : BATCH_BODY]
    )


def checked_body(blob: bytes, codec: int) -> tuple[int, int, bytes]:
    """Start, count and body of a batch of this codec, checked as `decode_batch` does.

    For those who read many: it makes no `Batch`, and does not say what is wrong.

    Returns:
        Start, count and body; a count of 0 if anything is wrong.
    """
    if len(blob) < BATCH_BODY or not is_whole(blob):
        return 0, 0, b""
    magic, version, its_codec, count, start, _, _, _ = _BATCH.unpack_from(blob)
    is_known = version == BATCH_VERSIONS[codec] or (codec, version) == (CODEC_STEPS, ARRAY_REWARDS)
    if magic != _BATCH_MAGIC or not is_known or its_codec != codec:
        return 0, 0, b""
    return (start, count, blob[BATCH_BODY:]) if start <= _LAST_INDEX else (0, 0, b"")


def first_bytes(codec: int, count: int, version: int | None = None) -> bytes:
    """What a batch of this codec begins with, if it has so many records, the first of a log."""
    version = version or BATCH_VERSIONS[codec]
    return _BATCH.pack(_BATCH_MAGIC, version, codec, count, 0, b"", 0.0, 0.0)[:16]


def batch_span(blob: bytes) -> tuple[int, int, float, float]:
    """Start, stop and the first and last time that the header of a whole batch tells of."""
    _, _, _, count, start, _, t_first, t_last = _BATCH.unpack_from(blob)
    return start, start + count, t_first, t_last


def without_index(blob: bytes) -> bytes:
    """A whole batch without its index, and without the checksum that follows from it.

    A batch that was moved to another index is still the same one: `has_same_records` in Lua.
    """
    return blob[4:8] + blob[16:40] + blob[BATCH_BODY:]


def head_span(blob: bytes) -> tuple[int, int, float]:
    """First, count and the newest time that a whole head tells of.

    Raises:
        struct.error: It is too short for that.
    """
    _, _, _, first, _, _, count, _, _, t_last, _ = _HEAD.unpack_from(blob)
    return first, count, t_last


def decode_head(blob: bytes, *, where: str) -> Head:
    """Read the head of a log.

    Raises:
        DecodeError: Too short, not a head, an unknown version, or a wrong checksum.
    """
    if len(blob) < 3 or blob[:2] != _HEAD_MAGIC:
        raise DecodeError(f"{where}: the head of the log is damaged")
    if blob[2] < HEAD_VERSION:
        raise DecodeError(
            f"{where}: the log is of format version {blob[2]}, which an older release wrote; "
            "bring the store up to date: jamboree-gym migrate"
        )
    if blob[2] > HEAD_VERSION:
        raise DecodeError(
            f"{where}: format version {blob[2]} is unknown to this release, which reads "
            f"{HEAD_VERSION}; upgrade jamboree-gym"
        )
    body = _HEAD.size + _HEAD_CHECK_BYTES
    if len(blob) < body or _head_check(blob[: _HEAD.size]) != blob[_HEAD.size : body]:
        raise DecodeError(f"{where}: checksum does not match, the head of the log is damaged")
    _, _, codec, first, held, newest, count, acked, revision, t_last, born = _HEAD.unpack_from(blob)
    if not max(first, held, newest) <= count:
        raise DecodeError(f"{where}: the head of the log is damaged")
    if acked > count:  # of another log, as releases before epochs could write it
        acked = 0
    return Head(codec, first, held, newest, count, acked, revision, t_last, born, blob[body:])


def encode_note(content: bytes) -> bytes:
    """Put a checksum before a note (an encoded summary, a blob)."""
    return _CRC.pack(zlib.crc32(content)) + content


def decode_note(note: bytes, *, where: str) -> bytes:
    """Check and strip the checksum of a note.

    Raises:
        DecodeError: Too short, or a wrong checksum.
    """
    if len(note) < _CRC.size or _CRC.unpack_from(note)[0] != zlib.crc32(note[_CRC.size :]):
        raise DecodeError(f"{where}: checksum does not match, the note is damaged")
    return note[_CRC.size :]


def encode_records(timestamps: Sequence[float], records: Sequence[bytes]) -> bytes:
    """Body of a batch of free-form records: timestamps as float64, then one msgpack array."""
    times = struct.pack(f"<{len(timestamps)}d", *timestamps)
    return times + _joined(records)


def decode_records(batch: Batch, *, where: str) -> list[dict[str, Any]]:
    """Records of a batch, each with its `index` and `timestamp`.

    Raises:
        DecodeError: The body is not what its header says.
    """
    split = batch.count * 8
    if batch.codec != CODEC_RECORDS or len(batch.body) < split:
        raise DecodeError(f"{where} at index {batch.start}: not a batch of records")
    content, at = bytes(batch.body[split:]), f"{where} at index {batch.start}"
    return _numbered_records(content, batch.start, times_of(batch), where=at)


def times_of(batch: Batch) -> list[float]:
    """Timestamps of the records of a batch, epoch seconds."""
    return list(struct.unpack_from(f"<{batch.count}d", batch.body))


def encoded_records(batch: Batch) -> list[bytes]:
    """The records of a batch, as they were given to `encode_records`."""
    return list(map(bytes, _cut_records(batch.body[batch.count * 8 :])))


def decode_own_records(
    start: int, timestamps: Sequence[float], records: Sequence[bytes], *, where: str
) -> list[dict[str, Any]]:
    """Successive records that are in no batch, as `decode_records` returns them."""
    return _numbered_records(_joined(records), start, timestamps, where=where)


def _joined(records: Sequence[bytes]) -> bytes:
    """One msgpack array."""
    return b"".join((_MSGPACK_ARRAY32, struct.pack(">I", len(records)), *records))


def _numbered_records(
    content: bytes, start: int, timestamps: Sequence[float], *, where: str
) -> list[dict[str, Any]]:
    records = decode_value(content, where=where)
    if not isinstance(records, list) or len(records) != len(timestamps):
        raise DecodeError(f"{where}: expected {len(timestamps)} records")
    for index, (record, timestamp) in enumerate(zip(records, timestamps, strict=True), start):
        if record.__class__ is not dict or timestamp != timestamp:  # NaN
            raise DecodeError(f"{where}: record {index} is not one")
        record["index"] = index
        record["timestamp"] = timestamp
    return records
