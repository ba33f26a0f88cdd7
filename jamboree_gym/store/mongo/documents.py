"""The backup's documents, as pure functions.

A log has one document, with its head. If the batches of its first copy are small, this document
contains them, too. Each later batch has its own document. Every document has a format version and
a CRC-32; what reads one raises `DecodeError` if it is damaged, or has another format.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial, reduce
from itertools import groupby
from typing import Any, NamedTuple

from jamboree_gym.encoding.batch_format import Head, batch_span, decode_head
from jamboree_gym.errors import DecodeError
from jamboree_gym.keys import digest
from jamboree_gym.store.backups.records import NewLog, StoredBatch, StoredLog
from jamboree_gym.store.log import identity, or_error

__all__ = [
    "DOCUMENT_VERSION",
    "FoundLog",
    "birth_of",
    "blob_content",
    "blob_document",
    "check_format",
    "checked_content",
    "checked_batches",
    "checked_head",
    "chunk_documents",
    "chunk_span",
    "count_of",
    "crc_of",
    "fence_of",
    "found_log",
    "head_fields",
    "is_chunk_of",
    "is_older",
    "slot_field",
    "slot_of",
    "stored_batches",
    "stored_log",
    "log_document",
    "log_of_chunk",
]

DOCUMENT_VERSION = 2
MAX_PART_BYTES = 12 * 2**20  # MongoDB limits a document to 16 MB
_ID_WITH_TIME = re.compile(r":episode:\{([0-9a-f]{10})[0-9a-f]{22}\}$")  # see `EpisodeStamps`


class FoundLog(NamedTuple):
    """A log found in MongoDB; the error takes the place of damaged content."""

    key: str
    born: float
    run: str | None
    log: StoredLog | DecodeError

    @property
    def revision(self) -> int:
        """Its number of changes; -1 if it is damaged."""
        return self.log.head.revision if isinstance(self.log, StoredLog) else -1


def log_document(key: str, log: NewLog) -> dict[str, Any]:
    """The document of a log with all its batches."""
    document = {"_id": key, "run": log.run, **slot_field(key), **head_fields(log.head)}
    if log.batches:
        document["frames"] = list(log.batches)
        document["frames_crc"] = crc_of(log.batches)
    return document


def slot_of(key: str) -> str | None:
    """When the id of an episode was made, in quarters of a second; None if the id does not say."""
    found = _ID_WITH_TIME.search(key)
    return None if found is None else found[1]


def slot_field(key: str) -> dict[str, str]:
    """The field by which an episode's document is found among those of the same time."""
    slot = slot_of(key)
    return {} if slot is None else {"slot": slot}


def head_fields(head: Head) -> dict[str, Any]:
    """The fields of a log's document that come from its head."""
    content = head.encode()
    return {
        "format": DOCUMENT_VERSION,
        "born": head.born,
        "revision": head.revision,
        "count": head.count,
        "head": content,
        "crc": zlib.crc32(content),
    }


def stored_log(document: Any, *, where: str) -> StoredLog:
    """Inverse of `log_document`."""
    at = f"{where}: {document['_id']}"
    check_format(document, at)
    head = checked_head(document, ("born", "revision", "count"), at=at)
    return StoredLog(head, checked_batches(document, at=at))


def found_log(document: Any, *, where: str) -> FoundLog:
    """A log that has its own document."""
    log = or_error(partial(stored_log, document, where=where))
    return FoundLog(document["_id"], birth_of(document), document.get("run"), log)


def checked_head(fields: Mapping[str, Any], repeated: Sequence[str], *, at: str) -> Head:
    """The head among the fields of a log; some of its numbers are `repeated` beside it."""
    content = fields.get("head")
    if not isinstance(content, bytes) or zlib.crc32(content) != fields.get("crc"):
        raise DecodeError(f"{at}: checksum does not match, the head of the log is damaged")
    head = decode_head(content, where=at)
    numbers = {name: fields.get(name) for name in repeated}
    if numbers != {name: getattr(head, name) for name in numbers}:
        raise DecodeError(f"{at}: its document contradicts the head of the log, it is damaged")
    return head


def checked_batches(fields: Mapping[str, Any], *, at: str) -> list[bytes]:
    """The batches among the fields of a log."""
    batches = fields.get("frames", [])
    are_bytes = isinstance(batches, list) and all(isinstance(batch, bytes) for batch in batches)
    if not are_bytes or (batches and crc_of(batches) != fields.get("frames_crc")):
        raise DecodeError(f"{at} at index 0: checksum does not match, the batches are damaged")
    return list(batches)


def chunk_documents(key: str, born: float, batch: bytes) -> Iterator[dict[str, Any]]:
    """The documents of a batch: one, or one for each 12 MB."""
    start, stop, t_first, t_last = batch_span(batch)
    for part, offset in enumerate(range(0, len(batch), MAX_PART_BYTES)):
        content = batch[offset : offset + MAX_PART_BYTES]
        yield {
            "_id": f"{identity(key, born)}#{start:016d}#{part:04d}",
            "key": key,
            "format": DOCUMENT_VERSION,
            "start": start,
            "stop": stop,
            "t_first": t_first,
            "t_last": t_last,
            "part": part,
            "content": content,
            "crc": zlib.crc32(content),
        }


def chunk_span(document: Any, *, where: str) -> tuple[int, int, float, float]:
    """Start, stop, first and last time of the batch in a document."""
    indices = [document.get(name) for name in ("start", "stop")]
    times = [document.get(name) for name in ("t_first", "t_last")]
    if not all(type(one) is int for one in indices) or not all(type(t) is float for t in times):
        raise DecodeError(f"{where}: the document {document['_id']} is damaged")
    return (*indices, *times)


def is_chunk_of(id: str, key: str, born: float) -> bool:
    """Whether a document of `chunks` belongs to exactly this log; others may have the same key."""
    return log_of_chunk(id) == identity(key, born)


def log_of_chunk(id: str) -> str:
    """The log of a document of `chunks`, as its identity."""
    return id.rsplit("#", 2)[0]


def birth_of(document: Any) -> float:
    """Birth of the log of a document; -inf if it is damaged."""
    born = document.get("born")
    return born if isinstance(born, float) else -math.inf


def count_of(document: Any) -> int:
    """Number of records that the document of a log counts; -1 if it is damaged."""
    count = document.get("count")
    return count if isinstance(count, int) else -1


def fence_of(document: Any) -> int:
    """How often batches were removed that the log's head did not count."""
    fence = document.get("fence")
    return fence if isinstance(fence, int) else 0


def is_older(document: Any, found: Any) -> bool:
    """Whether a log's own document is older than what a bundle has of the log.

    A backup that was stopped stores what it has read, while another one has stored more.
    """
    revision = document.get("revision")
    is_known = isinstance(revision, int) and birth_of(document) == found.born
    return is_known and bool(revision < found.revision)


def stored_batches(documents: Iterable[Any]) -> Iterator[tuple[str, StoredBatch]]:
    """Log (as `identity`) and content of each batch, from documents of `chunks` sorted by id."""
    for (log, start), group in groupby(documents, key=_log_and_start):
        parts = list(group)
        is_whole = all(_is_part(one, number) for number, one in enumerate(parts))
        blob = b"".join(one["content"] for one in parts) if is_whole else None
        yield log, StoredBatch(start, blob)


def _is_part(document: Any, number: int) -> bool:
    content = document.get("content")
    return (
        document.get("format") == DOCUMENT_VERSION
        and document.get("part") == number
        and isinstance(content, bytes)
        and document.get("crc") == zlib.crc32(content)
    )


def _log_and_start(document: Any) -> tuple[str, int]:
    _, start, _ = document["_id"].rsplit("#", 2)
    return log_of_chunk(document["_id"]), int(start)


def blob_document(name: str, content: bytes) -> dict[str, Any]:
    """The document of immutable content."""
    crc = zlib.crc32(content)
    return {"_id": name, "format": DOCUMENT_VERSION, "content": content, "crc": crc}


def blob_content(document: Any, *, where: str) -> bytes:
    """Inverse of `blob_document`."""
    content = checked_content(document, where=f"{where}: the blob")
    if digest(content) != document["_id"]:
        what = "the content is not that of its name, it is damaged"
        raise DecodeError(f"{where}: the blob {document['_id']}: {what}")
    return content


def checked_content(document: Any, *, where: str) -> bytes:
    """The content of a document, checked by its checksum."""
    at = f"{where} {document['_id']}"
    check_format(document, at)
    content = document.get("content")
    if not isinstance(content, bytes) or zlib.crc32(content) != document.get("crc"):
        raise DecodeError(f"{at}: checksum does not match, it is damaged")
    return content


def check_format(document: Any, at: str) -> None:
    """Check that this release can read a document."""
    version = document.get("format", 0)
    if version != DOCUMENT_VERSION:
        what = (
            "an older release wrote; bring the store up to date: jamboree-gym migrate"
            if isinstance(version, int) and version < DOCUMENT_VERSION
            else f"this release, which reads {DOCUMENT_VERSION}, does not know"
        )
        raise DecodeError(f"{at} is of format version {version!r}, which {what}")


def crc_of(batches: Iterable[bytes]) -> int:
    """CRC-32 over all batches."""
    return reduce(lambda crc, batch: zlib.crc32(batch, crc), batches, 0)
