"""What the backup's documents look like, and the names of databases, as pure functions."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from jamboree_gym.codec import FORMAT_VERSION, Head, digest

__all__ = [
    "MAX_PART_BYTES",
    "chunk_documents",
    "chunk_id",
    "database_name",
    "hosts_of",
    "is_whole",
    "log_document",
    "whole_frames",
]

MAX_PART_BYTES = 12 * 2**20  # a document of MongoDB holds 16 MB
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")
_RESERVED_DATABASES = ("admin", "config", "local")


def log_document(key: str, head: Head) -> dict[str, Any]:
    """A log: its head."""
    content = head.encode()
    return {
        "_id": key,
        "format": FORMAT_VERSION,
        "revision": head.revision,
        "count": head.count,
        "head": content,
        "crc": zlib.crc32(content),
    }


def is_whole(content: bytes, crc: int) -> bool:
    """Whether the checksum of a document fits."""
    return zlib.crc32(content) == crc


def chunk_documents(key: str, start: int, frame: bytes) -> Iterator[dict[str, Any]]:
    """A frame: one document, or one for each 12 MB."""
    for part, offset in enumerate(range(0, len(frame), MAX_PART_BYTES)):
        content = frame[offset : offset + MAX_PART_BYTES]
        yield {
            "_id": chunk_id(key, start, part),
            "key": key,
            "start": start,
            "part": part,
            "content": content,
            "crc": zlib.crc32(content),
        }


def chunk_id(key: str, start: int, part: int = 0) -> str:
    """Sorts by key, index, part; `#` and `$` are neighbours that no quoted key holds."""
    return f"{key}#{start:016d}#{part:04d}"


def whole_frames(documents: Iterable[Any]) -> Iterator[tuple[str, int, bytes | None]]:
    """Key, start and bytes of each frame, None for the bytes where a part is damaged or missing.

    Args:
        documents: Documents of chunks, sorted by id.
    """
    for (key, start), group in groupby(documents, key=lambda one: (one["key"], one["start"])):
        parts = list(group)
        whole = all(
            one["part"] == number and is_whole(one["content"], one["crc"])
            for number, one in enumerate(parts)
        )
        yield key, start, b"".join(one["content"] for one in parts) if whole else None


def hosts_of(url: str) -> str:
    """The hosts of a URL; never a user or a password, however badly they are quoted."""
    return url.partition("://")[2].rpartition("@")[2].partition("/")[0].partition("?")[0]


def database_name(namespace: str) -> str:
    """A namespace as MongoDB allows it: lower-case letters, digits, `_` and `-`, 63 bytes at most.

    MongoDB refuses two databases whose names differ in case only, and keeps some for itself.
    """
    safe = "".join(c if c in _NAME_CHARACTERS else "_" for c in namespace)
    if safe == namespace and len(safe) <= 48 and safe not in _RESERVED_DATABASES:
        return safe
    return f"{safe[:40]}-{digest(namespace.encode())}"
