"""Bundles as documents: up to a hundred short episodes that have ended, as pure functions."""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from jamboree_gym.keys import digest
from jamboree_gym.store.backups.records import NewLog, StoredLog
from jamboree_gym.store.log import identity, or_error
from jamboree_gym.store.mongo.documents import (
    DOCUMENT_VERSION,
    FoundLog,
    birth_of,
    check_format,
    checked_batches,
    checked_head,
    crc_of,
    slot_of,
)

__all__ = [
    "MIN_LOGS",
    "Member",
    "bundle_documents",
    "can_be_bundled",
    "entries_of",
    "found_in_bundle",
    "members_of",
    "slots_of",
]

MAX_LOGS = 100
MIN_LOGS = 8  # fewer are quicker with a document each
MAX_LOG_BYTES = 16 << 10  # so a bundle has at most 1.6 MB


class Member(NamedTuple):
    """An episode in a bundle, without its content; -inf and 0 where its entry is damaged."""

    bundle: str
    key: str
    born: float
    revision: int
    records: int


def can_be_bundled(key: str, log: NewLog) -> bool:
    """Whether a log is short, will hardly grow, and can be found in a bundle."""
    if not log.has_ended or slot_of(key) is None:
        return False
    return len(log.head.note) + sum(map(len, log.batches)) <= MAX_LOG_BYTES


def bundle_documents(logs: Mapping[str, NewLog]) -> Iterator[dict[str, Any]]:
    """Documents for logs that can be bundled, each for one run; few of a run get none."""
    by_run = defaultdict[str | None, list[str]](list)
    for key in sorted(logs):
        by_run[logs[key].run].append(key)
    for run, keys in by_run.items():
        if len(keys) >= MIN_LOGS:
            size = math.ceil(len(keys) / math.ceil(len(keys) / MAX_LOGS))
            for first in range(0, len(keys), size):
                yield _document(run, {key: logs[key] for key in keys[first : first + size]})


def _document(run: str | None, logs: Mapping[str, NewLog]) -> dict[str, Any]:
    names = [f"{identity(key, log.head.born)}#{log.head.revision}" for key, log in logs.items()]
    return {
        "_id": digest("\n".join(names).encode()),  # the same again if an answer was lost
        "run": run,
        "format": DOCUMENT_VERSION,
        "slots": slots_of(logs),
        "logs": [_entry(key, log) for key, log in logs.items()],
    }


def slots_of(keys: Iterable[str]) -> list[str]:
    """The slots of these logs, sorted, each once."""
    return sorted({slot for slot in map(slot_of, keys) if slot is not None})


def _entry(key: str, log: NewLog) -> dict[str, Any]:
    head = log.head.encode()
    return {
        "key": key,
        "born": log.head.born,
        "revision": log.head.revision,
        "count": log.head.count,
        "head": head,
        "crc": zlib.crc32(head),
        "frames": list(log.batches),
        "frames_crc": crc_of(log.batches),
    }


def members_of(document: Any) -> Iterator[Member]:
    """The episodes in a bundle."""
    for entry in entries_of(document):
        revision, records = (
            number if isinstance(number, int) else 0
            for number in (entry.get("revision"), entry.get("count"))
        )
        yield Member(document["_id"], entry["key"], birth_of(entry), revision, records)


def entries_of(document: Any) -> list[dict[str, Any]]:
    """The entries that can be told apart."""
    entries = document.get("logs", [])
    if not isinstance(entries, list):
        return []
    return [one for one in entries if isinstance(one, dict) and isinstance(one.get("key"), str)]


def found_in_bundle(document: Any, entry: Mapping[str, Any], *, where: str) -> FoundLog:
    """The log in an entry of a bundle."""
    key = entry["key"]
    log = or_error(partial(_stored_log, document, entry, f"{where}: {key}"))
    return FoundLog(key, birth_of(entry), document.get("run"), log)


def _stored_log(document: Any, entry: Mapping[str, Any], at: str) -> StoredLog:
    check_format(document, at)
    return StoredLog(
        checked_head(entry, ("born", "revision", "count"), at=at), checked_batches(entry, at=at)
    )
