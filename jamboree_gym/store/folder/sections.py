"""The sections of a segment: each holds one thing, with checksums. Pure functions.

A section is a header of 28 bytes, a description (MessagePack), and the content. The header, the
description and the content have a CRC-32 each. So the lengths in a whole header can be relied on,
and what a section is about is known without reading its content, and also if that is damaged.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

__all__ = [
    "FORMAT_VERSION",
    "SEGMENT_HEADER",
    "Damage",
    "Section",
    "Kind",
    "check_segment_header",
    "encode_section",
    "encode_index",
    "index_at",
    "is_cut_off",
    "indexed_sections",
    "scan",
]

FORMAT_VERSION = 1
_SEGMENT = struct.Struct("<8sI")  # magic, version | crc
_CRC = struct.Struct("<I")
_SEGMENT_MAGIC = b"JAMBOREE"
# magic, kind, zero, length of the description, its crc, length of the content, its crc | crc
_SECTION = struct.Struct("<4sB3sIIII")
_SECTION_MAGIC = b"JFRM"  # files keep it, from when a section had another name
_SECTION_BYTES = _SECTION.size + _CRC.size
_TRAILER = struct.Struct("<Q4s")  # where the index begins, magic | crc
_TRAILER_MAGIC = b"JEND"
_TRAILER_BYTES = _TRAILER.size + _CRC.size
_WINDOW_BYTES = 256 << 10  # read at once while scanning
_ZEROS = bytes(3)


class Kind(IntEnum):
    """What a section holds, and its description.

    Attributes:
        HEAD: The head of a log: key, birth, run or nil, revision, number of records.
        BATCH: A batch of a log: key, birth, start, stop, first and last time.
        BLOB: Immutable content: its digest.
        SETTING: A setting of the namespace: its name.
        DELETION: A log was deleted: key, birth, when (epoch seconds). No content.
        CLEARING: Batches of a log count no more: key, birth, from which start on. No content.
        INDEX: The end of a segment that does not grow any more: nothing. The content lists all
            its sections before.
    """

    HEAD = 1
    BATCH = 2
    BLOB = 3
    SETTING = 4
    DELETION = 5
    CLEARING = 6
    INDEX = 7


# Of each kind; those of unknown kinds are anything.
_DESCRIPTIONS: dict[int, Any] = {
    Kind.HEAD: tuple[str, float, str | None, int, int],
    Kind.BATCH: tuple[str, float, int, int, float, float],
    Kind.BLOB: tuple[str],
    Kind.SETTING: tuple[str],
    Kind.DELETION: tuple[str, float, float],
    Kind.CLEARING: tuple[str, float, int],
    Kind.INDEX: tuple[()],
}


class Section(NamedTuple):
    """A section in a segment, without its content; `at` is where it begins there."""

    kind: int
    about: Any
    at: int
    content_at: int
    length: int
    crc: int

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.content_at + self.length


class Damage(NamedTuple):
    """A part of a segment that is no section, between sections, or before the first."""

    at: int
    end: int


Read = Callable[[int, int], bytes]
"""Reads from a place so many bytes, or less at the end."""


def _with_crc(packed: bytes) -> bytes:
    return packed + _CRC.pack(zlib.crc32(packed))


SEGMENT_HEADER = _with_crc(_SEGMENT.pack(_SEGMENT_MAGIC, FORMAT_VERSION))


def check_segment_header(header: bytes) -> int | None:
    """The format version that the first bytes of a segment say; None if they are damaged."""
    if len(header) < len(SEGMENT_HEADER):
        return None
    magic, version = _SEGMENT.unpack_from(header)
    if magic != _SEGMENT_MAGIC or header != _with_crc(header[: _SEGMENT.size]):
        return None
    return int(version)


def encode_section(kind: Kind, about: list[Any], content: bytes = b"") -> bytes:
    """The bytes of a section."""
    described = msgspec.msgpack.encode(about)
    lengths = (len(described), zlib.crc32(described), len(content), zlib.crc32(content))
    header = _with_crc(_SECTION.pack(_SECTION_MAGIC, kind, _ZEROS, *lengths))
    return b"".join((header, described, content))


def scan(read: Read, start: int, size: int) -> Iterator[Section | Damage]:
    """The sections of a segment of this size, from a place on where one begins.

    It ends where the last whole section ends. What follows is a section that is still being
    written, or whose writer died.
    """
    window = _Window(read)
    at = start
    while (found := _section_at(window, at)) is not None or size - at >= _SECTION_BYTES:
        if found is None:
            after = _next_section(window, at + 1, size)
            if after is None:
                return
            yield Damage(at, after.at)
            found = after
        if found.end > size:
            return
        yield found
        at = found.end


def is_cut_off(read: Read, at: int, size: int) -> bool:
    """Whether what follows the last section is the beginning of another one, or nothing but zeros.

    So a writer has died there, and nothing was acknowledged.
    """
    window = _Window(read)
    header = window.get(at, min(_SECTION_BYTES, size - at))
    if not any(header):
        return not any(any(window.get(part, 1 << 16)) for part in range(at, size, 1 << 16))
    if len(header) < _SECTION_BYTES:
        return _SECTION_MAGIC.startswith(header[: len(_SECTION_MAGIC)])
    if not _is_header(header):
        return False
    _, _, _, about_length, _, length, _ = _SECTION.unpack_from(header)
    return bool(at + _SECTION_BYTES + about_length + length > size)


def _is_header(header: bytes) -> bool:
    is_ours = len(header) == _SECTION_BYTES and header.startswith(_SECTION_MAGIC)
    return is_ours and header == _with_crc(header[: _SECTION.size])


class _Window:
    """Reads a file in larger pieces."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._at = 0
        self._content = b""

    def get(self, at: int, length: int) -> bytes:
        """So many bytes, or less at the end."""
        first = at - self._at
        if first < 0 or first + length > len(self._content):
            self._content, self._at, first = self._read(at, max(length, _WINDOW_BYTES)), at, 0
        return self._content[first : first + length]


def _section_at(window: _Window, at: int) -> Section | None:
    """The section that begins at a place; None if there is none. Its content may be missing."""
    header = window.get(at, _SECTION_BYTES)
    if not _is_header(header):
        return None
    _, kind, _, about_length, about_crc, length, crc = _SECTION.unpack_from(header)
    about_at = at + _SECTION_BYTES
    described = window.get(about_at, about_length)
    if len(described) < about_length or zlib.crc32(described) != about_crc:
        return None
    try:
        about = msgspec.msgpack.decode(described, type=_DESCRIPTIONS.get(kind, Any))
    except (msgspec.DecodeError, ValueError):
        return None
    return Section(kind, about, at, about_at + about_length, length, crc)


def _next_section(window: _Window, at: int, size: int) -> Section | None:
    """The first whole section that begins at a place or behind it."""
    while size - at >= _SECTION_BYTES:
        content = window.get(at, min(_WINDOW_BYTES, size - at))
        first = content.find(_SECTION_MAGIC)
        if first < 0:
            at += max(1, len(content) - len(_SECTION_MAGIC) + 1)
            continue
        found = _section_at(window, at + first)
        if found is not None and found.end <= size:
            return found
        at += first + 1
    return None


# -- the index at the end of a segment ------------------------------------------------------------


def encode_index(sections: list[Section], at: int) -> bytes:
    """What ends a segment: the list of its sections, which begins `at`, and where that is."""
    index = encode_section(Kind.INDEX, [], msgspec.msgpack.encode(sections))
    return index + _with_crc(_TRAILER.pack(at, _TRAILER_MAGIC))


def index_at(read: Read, size: int) -> int | None:
    """Where the index of a segment of this size begins; None if it has none, or not a whole one."""
    trailer = read(max(0, size - _TRAILER_BYTES), _TRAILER_BYTES)
    if len(trailer) < _TRAILER_BYTES or trailer != _with_crc(trailer[: _TRAILER.size]):
        return None
    at, magic = _TRAILER.unpack_from(trailer)
    return int(at) if magic == _TRAILER_MAGIC and at < size else None


def indexed_sections(read: Read, at: int, size: int) -> list[Section] | None:
    """The sections of a segment that its index lists; None if the index is damaged."""
    found = _section_at(_Window(read), at)
    if found is None or found.kind != Kind.INDEX or found.end + _TRAILER_BYTES != size:
        return None
    content = read(found.content_at, found.length)
    if zlib.crc32(content) != found.crc:
        return None
    try:
        sections = msgspec.msgpack.decode(content, type=list[Section])
        for section in sections:
            msgspec.convert(section.about, _DESCRIPTIONS.get(section.kind, Any))
    except (msgspec.DecodeError, ValueError):
        return None
    return sections
